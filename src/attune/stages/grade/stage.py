"""The grading of one checkpoint: open the sealed rows once, let everyone answer them, measure, test, judge, and write it all down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.answers import label_set
from attune.core.contents import contents
from attune.core.contracts import Metric, Plug, Prediction, Probe, ProbeContext, ProbeResult, Rival, Row, Signature, require_fit
from attune.core.errors import AttuneError, DataError, IntegrityError, Problems, RecipeError
from attune.core.events import Events
from attune.core.receipts import FILE, words
from attune.core.receipts import write as write_receipts
from attune.core.recipe import Recipe
from attune.core.records import Checkpoint, DatasetVersion, Release, Scorecard
from attune.core.releases import open_release
from attune.core.resampling import groups_of
from attune.core.rows import dataset_rows, open_test_rows
from attune.core.specialist import Specialist
from attune.core.workspace import Workspace
from attune.stages.grade.contestants import Tuned, context_of, heard, rival_answers, usable_rows
from attune.stages.grade.gates import BEST, CURRENT, TUNED, Evidence, decide
from attune.stages.grade.outputs import Grading, write
from attune.stages.grade.probing import measured_probes
from attune.stages.grade.statistics import Measured, measure

VERSION = 9
"""Raised when a change here changes results, so that kept results are not taken for new ones."""


@dataclass
class Plugs:
    """What a recipe grades with, by name in the scorecard."""

    metrics: dict[str, Metric]
    rivals: dict[str, Rival]
    probes: dict[str, Probe]

    def facts(self) -> dict[str, Any]:
        """Names and keys, for the stage's fingerprint and the report."""
        return {kind: {name: [plug.name, plug.keys.model_dump(mode="json")] for name, plug in getattr(self, kind).items()} for kind in ("metrics", "rivals", "probes")}

    def samples(self) -> tuple[int, float]:
        """How many sampled answers to each row the metrics read at most, and their temperature; raises where they want several temperatures."""
        wanted = [one for metric in self.metrics.values() if (one := metric.samples())[0]]
        if len({temperature for _, temperature in wanted}) > 1:
            raise RecipeError("the metrics want answers that are sampled at several temperatures", place="grade.metrics", fix="give all of them the same")
        return max(wanted, default=(0, 0.0))

    def every(self) -> list[Plug]:
        """All of them."""
        return [*self.metrics.values(), *self.rivals.values(), *self.probes.values()]


def plugs_of(recipe: Recipe) -> Plugs:
    """Metrics, rivals and probes of a recipe; the main metric and every gate's metric are measured whether listed or not.

    Raises Problems with every plug that is unknown, wrong or does not fit the task. A gate's metric that does not exist is left to the gate.
    """
    keys, defaults, problems = recipe.keys.grade, recipe.task.defaults, []
    built: dict[str, dict[str, Any]] = {}
    for kind, given, default in (("metrics", keys.metrics, defaults.metrics), ("rivals", keys.rivals, defaults.rivals), ("probes", keys.probes, defaults.probes)):
        wanted = list(given if given is not None else default)
        if kind == "metrics":
            known = {entry.name for entry in catalog.entries("metrics")}
            named = {catalog.spec_parts(spec, "grade.metrics")[0] for spec in wanted}
            extra = [recipe.main_metric, *(gate.metric for gate in recipe.keys.gates or [] if gate.metric in known)]
            wanted += [name for name in dict.fromkeys(extra) if name not in named]
        try:
            found = recipe.plugs(kind, wanted, ())
        except Problems as error:
            problems += error.problems
            continue
        for plug in found:
            try:
                require_fit(recipe.task, plug)
            except AttuneError as error:
                problems.append(error)
        built[kind] = catalog.named(found, (TUNED, CURRENT, BEST))
    if problems:
        raise Problems(problems, title=f"grading of '{recipe.name}' cannot start:")
    return Plugs(**built)


def check(recipe: Recipe) -> None:
    """Raise what would keep this recipe from being graded, before anything is trained: metrics, rivals, probes or gates that do not exist or do not
    fit the task, and files of probes that cannot be read."""
    plugs = plugs_of(recipe)
    plugs.samples()
    problems: list[AttuneError] = []
    for probe in plugs.probes.values():
        try:
            probe.prepare(recipe.task, [*plugs.rivals, CURRENT])
        except Problems as error:
            problems += error.problems
        except AttuneError as error:
            problems.append(error)
    if problems:
        raise Problems(problems, title=f"grading of '{recipe.name}' cannot start:")


def contents_of(recipe: Recipe, plugs: Plugs) -> dict[str, str]:
    """Digests of what is read for grading beside the rows: the plugs' files and judges, and the rewards of an objective that grades by them."""
    return contents([recipe.objective, *plugs.every()])


def inputs(recipe: Recipe, dataset: DatasetVersion, checkpoint: Checkpoint, current: Release | None) -> dict[str, Any]:
    """Everything the scorecard depends on."""
    plugs = plugs_of(recipe)
    return {
        "recipe": recipe.part("task", "seed", "grade", "gates"),
        "plugs": plugs.facts(),
        "contents": contents_of(recipe, plugs),
        "main_metric": recipe.main_metric,
        "dataset": dataset.id,
        "checkpoint": checkpoint.id,
        "current": current.id if current else None,
        "version": VERSION,
    }


def run(recipe: Recipe, workspace: Workspace, dataset: DatasetVersion, checkpoint: Checkpoint, events: Events, *, current: Release | None = None) -> Scorecard:
    """Grade a checkpoint on the dataset's sealed test rows, next to its rivals and the approved release.

    Args:
        recipe: what is measured and what must be passed.
        workspace: holds dataset, checkpoint and release; counts the opening of the test rows.
        dataset: the rows; rivals learn from train and validation.
        checkpoint: what is graded.
        events: told what happens.
        current: the approved release, graded on the same rows as 'current'.
    """
    if checkpoint.dataset_id != dataset.id:
        raise IntegrityError(
            f"checkpoint {checkpoint.id} was tuned on {checkpoint.dataset_id}",
            place="grade",
            fix=f"grade it on that dataset, not on {dataset.id}: its test rows may be training rows of the checkpoint",
        )
    keys, plugs, task = recipe.keys.grade, plugs_of(recipe), recipe.task
    tuned = Tuned(workspace, recipe, checkpoint, events, plugs.samples())
    rows, uses = open_test_rows(workspace, dataset, task, f"grade {checkpoint.id}")
    if not rows:
        raise DataError("there are no test rows", place=f"dataset {dataset.id}", fix="give more rows or a larger data.splits.test")
    if uses > 1:
        events.note(f"some of the {len(rows)} test rows have now been opened {uses} times; a model chosen after many looks is judged too kindly")
    opened = len(rows)
    rows, aside = usable_rows(tuned.reader(), recipe, rows)
    left_out = words(aside, opened, "test rows")
    for sentence in left_out:
        events.warn(sentence)
    if not rows:
        raise DataError("no test row can be asked", place=f"dataset {dataset.id}", fix=left_out[0])
    truth = [task.truth(row) for row in rows]
    answers = {TUNED: tuned().examine(rows)}
    texts = [task.text(row) for row in rows]
    embeddings = tuned().embed(texts) if "embeds" in task.traits else None
    signature, max_length = tuned().signature, tuned().max_length
    tuned.put_away()
    not_comparable = _not_comparable(workspace, recipe, current, dataset, rows) if current is not None else None
    if not_comparable:
        events.warn(not_comparable)
    elif current is not None:
        events.note(f"the approved release {current.id} answers the same rows")
        answers[CURRENT] = heard(_current(workspace, recipe, current, tuned.samples), "approved release", events).examine(rows)
    probed: dict[str, ProbeResult] = {}
    if plugs.rivals or plugs.probes:
        context = context_of(recipe, workspace, dataset, checkpoint, signature, max_length, tuned)
        answers |= rival_answers(plugs.rivals, context, rows, events)
        _require_answers(answers, len(rows))
        train = usable_rows(tuned.reader(), recipe, dataset_rows(workspace, dataset, task, "train"))[0] if plugs.probes else []
        for name, probe in plugs.probes.items():
            events.note(f"probe {name}")
            probed[name] = probe.run(ProbeContext(tuned(), rows, context.seed, train, context.untuned, answers))
        del context
        tuned.put_away()
    _require_answers(answers, len(rows))
    space = _label_space(signature, truth, answers)
    groups = groups_of(rows)
    events.note(f"{keys.resamples} resamples of {len(rows)} test rows, {len(answers)} contestants, {len(plugs.metrics)} metrics")
    contributions = {name: {who: metric.of_rows(rows, truth, one, space) for who, one in answers.items() if _answered(one, metric)} for name, metric in plugs.metrics.items()}
    measured = measure(plugs.metrics, contributions, first=TUNED, groups=groups, resamples=keys.resamples, confidence=keys.confidence, seed=recipe.keys.seed)
    probes, gated = measured_probes(plugs.probes, probed, keys.resamples, keys.confidence, recipe.keys.seed)
    opponents = tuple(name for name, rival in plugs.rivals.items() if rival.opponent)
    evidence = Evidence({**gated, **measured}, len(set(groups)) if groups is not None else len(rows), opponents, current is not None and not not_comparable, keys.confidence, not_comparable)
    gates, verdict, why = decide(recipe.keys.gates, recipe.main_metric, evidence)
    reasons = (*why, *left_out)
    facts: dict[str, Any] = {
        "specialist": recipe.name,
        "checkpoint_id": checkpoint.id,
        "dataset_id": dataset.id,
        "test_rows": len(rows),
        "test_uses": uses,
        "confidence": keys.confidence,
        "resamples": keys.resamples,
        "results": {who: {name: one.estimates[who] for name, one in measured.items() if who in one.estimates} for who in answers},
        "comparisons": tuple(comparison for one in measured.values() for comparison in one.comparisons.values()),
        "per_class": _per_class(plugs.metrics, measured, space),
        "probes": probes,
        "gates": gates,
        "verdict": verdict,
        "reasons": reasons,
    }
    counted = {name: evidence.rows_of(name) for name in measured}
    grading = Grading(recipe, dataset, checkpoint, current, plugs.metrics, plugs.rivals, rows, texts, truth, answers, embeddings, evidence.rows, counted, facts, plugs.facts())

    def fill(folder: Path) -> None:
        write(folder, grading, workspace.store.path(dataset.store_key))
        if aside:
            write_receipts(folder / FILE, [("test", one) for one in aside])

    store_key = workspace.store.put("scorecards", fill)
    events.emit("result", f"{verdict}: {reasons[0]}", verdict=verdict, reasons=list(reasons))
    parents = (checkpoint.id, dataset.id, *((current.id,) if current else ()))
    return Scorecard(store_key=store_key, parents=parents, **facts)


def _not_comparable(workspace: Workspace, recipe: Recipe, current: Release, tested: DatasetVersion, rows: Sequence[Row]) -> str | None:
    """A sentence when the approved release was tuned on some of these test rows (the split has changed since): it would be judged too kindly."""
    if current.dataset_id == tested.id:
        return None
    task = recipe.task
    dataset = workspace.ledger.get(current.dataset_id)
    assert isinstance(dataset, DatasetVersion)
    known = {task.text(row) for split in ("train", "validation") for row in dataset_rows(workspace, dataset, task, split)}
    seen = sum(task.text(row) in known for row in rows)
    if not seen:
        return None
    return (
        f"the approved release {current.id} cannot be compared: {seen} of these {len(rows)} test rows were among its training rows, because the split has changed since; "
        "use its seed and data.splits again, or make the next cycle with --from-request, which keeps old rows where they were"
    )


def _current(workspace: Workspace, recipe: Recipe, current: Release, samples: tuple[int, float]) -> Specialist:
    """The approved release with its own task's keys, as it serves, over the rows that the recipe's objective shapes."""
    specialist = open_release(workspace, current, base_folder=recipe.folder)
    specialist.task, specialist.samples = recipe.objective.shaped(specialist.task), samples
    if specialist.task.name != recipe.task.name:
        raise IntegrityError(f"the approved release {current.id} does '{specialist.task.name}', the recipe '{recipe.task.name}'", place="grade", fix="give the new specialist a name of its own")
    return specialist


def _require_answers(answers: dict[str, list[Prediction]], rows: int) -> None:
    """Every contestant must have answered every row: a shorter list would shift answers against truths."""
    for who, one in answers.items():
        if len(one) != rows:
            raise IntegrityError(f"{who} gave {len(one)} answers to {rows} rows", place="grade", fix=f"mend rival '{who}': predict() must answer every row, in order")


def _answered(answers: Sequence[Prediction], metric: Metric) -> bool:
    """False for a contestant that only prefers (`Prediction.output` None everywhere) and a metric of what was answered: it has no value."""
    return not metric.reads_outputs or any(one.output is not None for one in answers)


def _label_space(signature: Signature, truth: Sequence[Any], answers: dict[str, list[Prediction]]) -> Signature:
    """The signature with every label that occurs anywhere, so that all contestants are counted in the same columns."""
    if "labels" not in signature:
        return signature
    seen = set(signature["labels"]).union(*map(label_set, truth), *(label_set(one.output) for many in answers.values() for one in many))
    return {**signature, "labels": sorted(seen)}


def _per_class(metrics: dict[str, Metric], measured: dict[str, Measured], signature: Signature) -> dict[str, dict[str, float]]:
    """The tuned model's metrics per class, where a metric has them."""
    found = {name: metric.breakdown(measured[name].totals[TUNED], signature) for name, metric in metrics.items()}
    return {name: {label: value for label, value in parts.items() if math.isfinite(value)} for name, parts in found.items() if parts}
