"""The model card: a README in Hugging Face form that says what the model is for, what it was made from, how good it is and where it stops."""

from __future__ import annotations

import importlib.metadata
import math
from typing import Any

from attune.core.contracts import Task
from attune.core.errors import AttuneError
from attune.core.learner import words_of_start
from attune.core.models import NO_BASE, resolve_base
from attune.core.recipe import Recipe
from attune.core.records import Checkpoint, DatasetVersion, Estimate, Scorecard
from attune.core.yaml_reader import dump_yaml, read_yaml

LICENCE_NAME = "not-chosen"


def model_card(recipe: Recipe, dataset: DatasetVersion, checkpoint: Checkpoint, scorecard: Scorecard, version: int, bundle_digest: str, hashes: dict[str, str]) -> str:
    """The card's text; `hashes` holds the sha256 of each of the bundle's files by name."""
    parts = [
        "---\n" + dump_yaml(_metadata(recipe, dataset, checkpoint, scorecard, hashes)) + "---",
        f"# {recipe.name}, release {version}",
        f"**Verdict: {scorecard.verdict}.** " + " ".join(_sentence(reason) for reason in scorecard.reasons),
        "## Intended use",
        _intended_use(recipe.task, dataset),
        "## Data",
        _data(dataset),
        "## Training",
        _training(recipe, checkpoint),
        "## Evaluation",
        _evaluation(scorecard, recipe.main_metric),
        "## Limits",
        _limits(recipe, dataset, checkpoint, scorecard),
        "## Licence",
        _licence(recipe, checkpoint),
        "## How to load",
        _loading(recipe),
        "## Hashes",
        f"Bundle: `{bundle_digest}` (sha256 over names, sizes and hashes of the files below).\n\n"
        + _table(["file", "sha256"], [[f"`{name}`", f"`{value}`"] for name, value in sorted(hashes.items())]),
    ]
    return "\n\n".join(parts) + "\n"


def pipeline_tag(task: Task) -> str:
    """The Hugging Face name of the task: the task's own word for it, or its name with hyphens."""
    return task.pipeline_tag or task.name.replace("_", "-")


def _metadata(recipe: Recipe, dataset: DatasetVersion, checkpoint: Checkpoint, scorecard: Scorecard, hashes: dict[str, str]) -> dict[str, Any]:
    reference = str(checkpoint.base["reference"])
    tag = pipeline_tag(recipe.task)
    facts: dict[str, Any] = {"license": "other", "license_name": LICENCE_NAME}
    if _on_hub(recipe, reference):
        facts["base_model"] = reference
    metrics = [
        {"type": name, "name": f"{name}, {scorecard.confidence:.0%} interval {estimate.low:.4f} to {estimate.high:.4f}", "value": round(estimate.value, 6)}
        for name, estimate in scorecard.results.get("tuned", {}).items()
        if math.isfinite(estimate.value)
    ]
    facts |= {
        "library_name": "peft" if any(name.endswith("adapter_config.json") for name in hashes) else recipe.method.library,
        "pipeline_tag": tag,
        "tags": ["attune", recipe.name, checkpoint.method, checkpoint.objective],
    }
    if metrics:
        facts["model-index"] = [
            {
                "name": recipe.name,
                "results": [{"task": {"type": tag}, "dataset": {"type": "private", "name": f"sealed test rows of {dataset.id}", "split": "test"}, "metrics": metrics}],
            }
        ]
    return facts


def _on_hub(recipe: Recipe, reference: str) -> bool:
    return not (recipe.folder / reference).is_dir() and reference.count("/") == 1 and not reference.startswith((".", "/", "~")) and ":" not in reference


def _licence(recipe: Recipe, checkpoint: Checkpoint) -> str:
    """What the base's licence is, as far as it says; the specialist's own is its owner's choice, and nothing here can know it."""
    reference = str(checkpoint.base["reference"])
    stated = _stated_licences(recipe, checkpoint)
    base = (
        ""
        if reference == NO_BASE
        else f"The base model `{reference}` is under: {'; '.join(stated)}."
        if stated
        else f"The base model `{reference}` states no licence that could be read here: look where it comes from."
    )
    return (
        f"`license: other` stands above because nobody has chosen a licence for this specialist yet (`license_name: {LICENCE_NAME}`). Whoever publishes it chooses one that the base "
        f"model's licence and the rights in the training rows allow, and changes the lines above.{' ' + base if base else ''}"
        + (" The language of the rows is not stated either; add `language` if you know it." if "text-in" in recipe.task.traits else "")
    )


def _stated_licences(recipe: Recipe, checkpoint: Checkpoint) -> list[str]:
    """Licences that the base's model card and, for a base in a Python package, the package's metadata state."""
    reference, found = str(checkpoint.base["reference"]), []
    if reference == NO_BASE:
        return []
    try:
        card = resolve_base(reference, checkpoint.base["revision"], recipe.folder).folder / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        said = read_yaml(text[4 : text.index("\n---", 4)], card.name)[0].get("license") if text.startswith("---\n") and "\n---" in text[4:] else None
    except AttuneError:
        said = None
    if isinstance(said, str):
        found.append(f"{said} (its model card)")
    if reference.startswith("package:"):
        package = reference.removeprefix("package:").split(".")[0]
        for name in importlib.metadata.packages_distributions().get(package, [])[:1]:
            metadata: Any = importlib.metadata.metadata(name)
            licence = metadata.get("License-Expression") or metadata.get("License")
            if licence and len(licence) <= 80:
                found.append(f"{licence} (the Python package {name})")
    return found


def _intended_use(task: Task, dataset: DatasetVersion) -> str:
    targets = [role.name for role in task.roles if role.target]
    used = {*dataset.columns, *([] if any(name in dataset.columns for name in targets) else targets[:1])}  # a conversation holds its answer itself
    roles = [role for role in task.roles if role.required or role.name in used]
    given = ", ".join(f"`{role.name}` ({role.meaning})" for role in roles if not role.target)
    asked = ", ".join(f"`{role.name}` ({role.meaning})" for role in roles if role.target)
    text = f"Task: {task.name}. From {given}" + (f" it answers {asked}." if asked else " it answers.")
    labels = dataset.signature.get("labels")
    if labels:
        text += f" It knows {len(labels)} labels: {', '.join(f'`{label}`' for label in labels)}."
    return text + " It is meant for inputs like the rows it was tuned and graded on; it is not meant for decisions about people without a person who answers for them."


def _data(dataset: DatasetVersion) -> str:
    order = ["read", "kept", "repaired", "quarantined", "train", "validation", "test"]
    counts = _table(["rows", "number"], [[name, str(dataset.counts[name])] for name in order if name in dataset.counts])
    findings = ", ".join(f"{name} {number}" for name, number in sorted(dataset.findings.items()) if number) or "nothing"
    columns = ", ".join(f"{role} from " + (f"column `{column}`" if isinstance(column, str) else "columns " + ", ".join(f"`{one}`" for one in column)) for role, column in dataset.columns.items())
    return f"Dataset version `{dataset.id}`{': ' + columns if columns else ''}.\n\n{counts}\n\nThe checks found: {findings}. Every row that was repaired or set aside has a receipt in the dataset."


def _training(recipe: Recipe, checkpoint: Checkpoint) -> str:
    base = checkpoint.base
    lines = [
        ["base model", f"`{base['reference']}`" + (f" at `{base['revision']}`" if base.get("revision") else "")],
        ["digest of the base", f"`{base['digest']}`"],
        ["objective", checkpoint.objective],
        ["method", checkpoint.method],
        ["steps", _steps(checkpoint)],
        ["seed", str(recipe.keys.seed)],
        *[[name, value] for name, value in sorted(checkpoint.chosen.items())],
        *[[f"validation {name}", f"{value:.4f}"] for name, value in sorted(checkpoint.validation.items())],
    ]
    return _table(["", ""], lines) + "\n\nThe resolved recipe is in `recipe.yaml` beside this card."


def _steps(checkpoint: Checkpoint) -> str:
    if not checkpoint.best_step:
        start, means = words_of_start(checkpoint.chosen)
        return f"0 of {checkpoint.steps}: {means}; by {checkpoint.main_metric} on the validation rows no step was better than {start}, which is kept"
    return f"{checkpoint.best_step} of {checkpoint.steps} (best by {checkpoint.main_metric} on the validation rows)"


def _evaluation(scorecard: Scorecard, main_metric: str) -> str:
    metrics = sorted({name for results in scorecard.results.values() for name in results}, key=lambda name: (name != main_metric, name))
    contestants = sorted(scorecard.results, key=lambda name: (name != "tuned", -_value(scorecard.results[name].get(main_metric)), name))
    rows = [[name, *(_estimate(scorecard.results[name].get(metric)) for metric in metrics)] for name in contestants]
    parts = [
        f"{scorecard.test_rows} sealed test rows, {'opened for the first time' if scorecard.test_uses == 1 else f'some of them opened {scorecard.test_uses} times so far'}. "
        f"Values with {scorecard.confidence:.0%} intervals: percentiles of {scorecard.resamples} bootstrap resamples of the rows (of whole groups where rows belong together); "
        "plain shares of rows, and values of exactly 0 or 1, are widened to Wilson's score interval.",
        _table(["", *metrics], rows),
    ]
    against = [c for c in scorecard.comparisons if c.metric == main_metric]
    if against:
        parts.append(
            f"Difference of the tuned model on {main_metric}, on the same rows: paired bootstrap intervals, widened to Agresti and Min's where rows are right or wrong or all answers "
            "agree; p is of a paired permutation test. Positive means that the tuned model is better."
        )
        parts.append(_table(["against", "difference", "interval", "p"], [[c.rival, f"{c.difference:+.4f}", f"{c.low:+.4f} to {c.high:+.4f}", f"{c.p_value:.4f}"] for c in against]))
    if scorecard.gates:
        parts.append(_table(["gate", "outcome", "reason"], [[g.gate, g.outcome, g.reason] for g in scorecard.gates]))
    return "\n\n".join(parts)


def _limits(recipe: Recipe, dataset: DatasetVersion, checkpoint: Checkpoint, scorecard: Scorecard) -> str:
    points = [f"Inputs are cut at {recipe.keys.train.max_length} tokens."] if "text-in" in recipe.task.traits else []
    points += ["The figures hold for rows like the test rows; the world moves, so watch the endpoint."]
    if dataset.signature.get("labels"):
        points.append("An input that belongs to none of the labels still gets one of them.")
    if scorecard.test_uses > 1:
        points.append(f"Some of the test rows were opened {scorecard.test_uses} times: figures chosen among several looks are a little too good.")
    main = scorecard.results.get("tuned", {}).get(recipe.main_metric)
    if main is not None and math.isfinite(main.value):
        points.append(f"On {scorecard.test_rows} test rows the {recipe.main_metric} is known only to within {main.low:.4f} to {main.high:.4f}.")
    for metric, classes in sorted(scorecard.per_class.items()):
        whole = _value(scorecard.results.get("tuned", {}).get(metric))
        weakest = sorted((value, name) for name, value in classes.items() if math.isfinite(value) and value < min(whole, 1.0))[:3]
        if weakest and len(classes) > 3:
            points.append(f"Weakest classes by {metric}: " + ", ".join(f"`{name}` ({value:.3f})" for value, name in weakest) + ".")
    for gate in scorecard.gates:
        if gate.outcome != "pass":
            points.append(f"Gate {gate.gate}: {gate.outcome}. {gate.reason}")
    for name, probe in sorted(scorecard.probes.items()):
        if probe.get("meaning"):
            points.append(f"Probe {name}: {_rounded(probe.get('value'))}, the {_sentence(probe['meaning'])}")
    if checkpoint.base.get("revision") is None and _on_hub(recipe, str(checkpoint.base["reference"])):
        points.append("The base model is pinned by its file hashes only; no revision was named.")
    return "\n".join(f"- {point}" for point in points)


def _loading(recipe: Recipe) -> str:
    name, library = recipe.name, recipe.method.library
    return (
        f"As an endpoint: `attune serve {name}`.\n\n"
        "In Python, from this folder:\n\n```python\nfrom pathlib import Path\n\nfrom attune.core.specialist import open_bundle\n\n"
        'specialist = open_bundle(Path("."))  # every hash is checked first\n```\n\n'
        + (
            f"Without Attune: `attune export {name} --to FOLDER --format transformers` writes a plain transformers or PEFT folder with a `predict.py`."
            if library == "transformers"
            else f"Without Attune: the folder `model` is in the format of the library {library}, with a JSON file beside it that names inputs and labels."
        )
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."


def _rounded(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) and math.isfinite(value) else "not defined"


def _value(estimate: Estimate | None) -> float:
    return estimate.value if estimate is not None and math.isfinite(estimate.value) else -math.inf


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None or not math.isfinite(estimate.value):
        return "not defined"
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a cell's own bars and line breaks cannot break it."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])
