"""The parts of the report that say where its figures come from: the training, the data, how it was made, and what it does not say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core.answers import label_set
from attune.core.cost import words
from attune.core.learner import words_of_start
from attune.stages.grade.words import plain, sentence

if TYPE_CHECKING:
    from attune.stages.grade.outputs import Grading

MOST_LABELS = 40


def training(grading: Grading) -> list[tuple[str, str]]:
    """What was kept of the training, what it took, and what was chosen on the way."""
    checkpoint = grading.checkpoint
    kept = f"step {checkpoint.best_step} of {checkpoint.steps}, the best by {plain(checkpoint.main_metric)} on the validation rows"
    start, means = words_of_start(checkpoint.chosen)
    helped = f"{start}: {means}, none of {checkpoint.steps} steps was better by {plain(checkpoint.main_metric)} on the validation rows"
    facts = [("kept", kept if checkpoint.best_step else helped)]
    facts += [("took", words(checkpoint.cost, checkpoint.steps))] if checkpoint.cost else []
    return facts + [(plain(name), value) for name, value in sorted(checkpoint.chosen.items())]


def trials(grading: Grading) -> list[dict[str, str]]:
    """What `method: auto` tried, as it is shown."""
    return [
        {
            "method": one["method"] + (" (sweep)" if one["kind"] == "sweep" else ""),
            "rate": f"{one['learning_rate']:.2g}",
            "steps": f"{one['steps']:,}",
            "seconds": f"{one['seconds']:.1f}",
            "value": f"{one['validation']:.4f}" if one["validation"] is not None else "",
            "loss": f"{one['loss']:.4f}" if one["loss"] is not None else "",
            "outcome": one["outcome"],
        }
        for one in grading.checkpoint.trials
    ]


def data(grading: Grading, dataset_folder: Path) -> dict[str, Any]:
    """Counts, findings and labels as curation wrote them down."""
    path = dataset_folder / "curation.json"
    curation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    counts = grading.dataset.counts
    flow = [(name, counts[name]) for name in ("read", "kept", "repaired", "quarantined") if name in counts]
    splits = [(name, counts[name]) for name in ("train", "validation", "test") if name in counts]
    findings = []
    for section in curation.get("findings", []):
        if section.get("findings"):
            reasons = [
                f"{reason['reason']}: {reason['rows']} ({ {'flag': 'told only', 'repair': 'repaired', 'quarantine': 'set aside'}.get(reason['action'], reason['action']) })"
                for reason in section.get("reasons", [])[:4]
            ]
            findings.append({"check": plain(section["check"]), "purpose": section.get("purpose", ""), "rows": section["findings"], "reasons": reasons})
    if not findings:
        findings = [{"check": plain(name), "purpose": "", "rows": rows, "reasons": []} for name, rows in sorted(grading.dataset.findings.items()) if rows]
    labels = {label: sum(parts.values()) for label, parts in curation.get("labels", {}).items()}
    if not labels:
        labels = dict(Counter(label for truth in grading.truth for label in label_set(truth))) if "label-out" in grading.recipe.task.traits else {}
    most = max(labels.values(), default=1)
    ordered = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
    return {
        "flow": flow,
        "splits": splits,
        "split_total": sum(rows for _, rows in splits),
        "by": curation.get("split_by", grading.recipe.keys.data.splits.by),
        "findings": findings,
        "labels": [{"label": label, "rows": rows, "bar": round(100 * rows / most, 1)} for label, rows in ordered[:MOST_LABELS]],
        "more_labels": max(len(ordered) - MOST_LABELS, 0),
        "notes": [sentence(note) for note in curation.get("notes", [])],
        "words": curation.get("words", {}),
    }


def made(grading: Grading) -> list[tuple[str, str]]:
    """Everything that is needed to make the figures again, and how they were computed."""
    facts, checkpoint, recipe = grading.facts, grading.checkpoint, grading.recipe
    base = checkpoint.base
    return [
        ("base model", f"{base['reference']}" + (f" at {base['revision']}" if base.get("revision") else "")),
        ("digest of the base", str(base["digest"])),
        ("task, objective, method", f"{checkpoint.task}, {checkpoint.objective}, {checkpoint.method}"),
        ("seed", str(recipe.keys.seed)),
        ("recipe", f"{recipe.name}, sha256 {recipe.digest}"),
        ("dataset", f"{grading.dataset.id}, rows {grading.dataset.rows_digest}"),
        ("checkpoint", f"{checkpoint.id}, tuned {checkpoint.created_at[:10]}"),
        ("approved release", grading.current.id if grading.current else "none yet"),
        (
            "test rows",
            f"{facts['test_rows']:,}, "
            + ("opened for the first time" if facts["test_uses"] == 1 else f"some opened {facts['test_uses']} times")
            + (f", {grading.evidence_rows:,} independent groups" if grading.evidence_rows != facts["test_rows"] else ""),
        ),
        (
            "intervals",
            f"{facts['confidence']:.0%}, percentile bootstrap with {facts['resamples']:,} resamples, the same for every contestant; shares of rows are widened to Wilson's (one model) and Agresti and Min's (a difference)",
        ),
        ("paired test", f"two-sided permutation of the two answers of each row, {facts['resamples']:,} times"),
        (
            "what the verdict uses",
            "thresholds read the interval; 'better than' wants the interval of the paired difference above the margin and the permutation test to agree; all gates must pass; no correction for their number",
        ),
    ]


def limits(grading: Grading) -> list[str]:
    """What the figures do not say."""
    facts = grading.facts
    found = ["The figures hold for rows like the test rows. The world moves: watch the endpoint, and grade again when it does."]
    for name, rows in grading.counted.items():
        if rows < grading.evidence_rows:
            found.append(f"For {plain(name)} only {rows:,} of the {grading.evidence_rows:,} independent test rows count; the others say nothing of it.")
    if grading.evidence_rows < 300:
        found.append(f"{grading.evidence_rows} independent test rows give wide intervals; a few hundred more would make small differences visible.")
    if facts["test_uses"] > 1:
        found.append(f"Some of the test rows were opened {facts['test_uses']} times. Figures picked among several looks are a little too good; fresh test rows cure that.")
    if grading.evidence_rows != facts["test_rows"]:
        found.append("Rows of one group (a customer, a patient) were resampled together, because they are not independent.")
    if grading.dataset.signature.get("labels"):
        found.append("A text that belongs to none of the labels still gets one, unless several labels (or none) are allowed.")
    if "label-out" in grading.recipe.task.traits:
        found.append("Wrong labels among the test rows count against a right model; the list of surest mistakes is the place to find them.")
    if not facts["probes"]:
        found.append("No behaviour suite was run: nothing is said here about robustness, bias or safety.")
    return found
