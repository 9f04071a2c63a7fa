"""What tuning will cost on this machine: a short probe with the real base, rows and settings, in a process of its own.

The probe runs a few optimizer steps, the longest batch among them, and measures. Time of a step is fitted as a line over its tokens; memory is
the probe's own peak plus what a whole run holds besides (copies for saving); disk follows from the sizes of what is written.
"""

from __future__ import annotations

import math
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core import catalog
from attune.core.contracts import Example, Method, Metric, Row, TripwireContext
from attune.core.errors import AttuneError, MachineError
from attune.core.events import Events
from attune.core.learner import Unsteady
from attune.core.memory import available_memory, peak_memory
from attune.core.randomness import generator
from attune.core.recipe import Recipe, by_rung, make_recipe

if TYPE_CHECKING:
    from attune.stages.finetune.saver import Saver
    from attune.stages.finetune.torch_learner import TorchLearner

PROBED, MOST, PATIENCE = 8, 48, 10.0
"""Batches that are timed, of all sizes: at least, at most, and the seconds after which no more are."""
STARTED = 1024
"""Rows on which the start of the head is timed."""
ANSWERED = 64
"""Rows on which answering is timed."""
Counts = tuple[int, int]
"""Rows of the domain that train, and rows that validate."""
PARTS = (8, 1)
"""Rows of a micro-batch that are tried where memory does not suffice."""


@dataclass(frozen=True)
class Forecast:
    """Of the finetune stage."""

    seconds: float
    memory_bytes: float
    disk_bytes: float
    steps: int
    """For `method: auto` those of all methods together."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds by what they are for."""
    looks: int = 0
    """At the validation rows, step 0 included."""
    upper: str = ""
    """Of what it is the most, in words, where it is no more than that."""
    may_stop_early: bool = False
    """True where patience may end the run before its plan does: then `seconds` is the most."""
    free_memory: float = 0.0
    free_disk: float = 0.0
    fits: bool = True
    way_out: str = ""
    """What it would fit with, where it does not: the first setting of the ladder whose memory does, more free disk; empty where no setting does."""

    def as_json(self) -> dict[str, Any]:
        """For --json and records."""
        return asdict(self)


def forecast(recipe: Recipe, rows: Sequence[Row], train: int, validation: int, workspace: Path) -> Forecast:
    """Probe a recipe.

    Args:
        recipe: as it would run.
        rows: parsed rows, a fair sample of all.
        train: how many rows of the domain would train.
        validation: how many would validate; the sample stands for all of them.
        workspace: where checkpoints would be written.

    Raises:
        AttuneError: what the first steps of a run would raise.
        MachineError: the probe's process was killed, which on most machines means that memory ran out.
    """
    counts = (train, validation)
    free_memory, free_disk = available_memory(), float(shutil.disk_usage(_existing(workspace)).free)
    try:
        if recipe.candidates:
            from attune.stages.finetune.forecast_auto import at_most

            first = at_most(recipe, lambda changes: _apart(recipe, rows, counts, changes, workspace))
        else:
            first = _apart(recipe, rows, counts, {}, workspace)
    except _Killed as error:
        rung = _rung(recipe, rows, counts, free_memory, free_disk, workspace)
        if rung:
            error.fix = f"most likely memory ran out; it would fit with {rung}"
        raise
    fits = first.memory_bytes <= free_memory and first.disk_bytes <= free_disk
    way_out = _rung(recipe, rows, counts, free_memory, free_disk, workspace) if first.memory_bytes > free_memory else _more_disk(first, free_disk)
    return Forecast(**{**first.as_json(), "free_memory": free_memory, "free_disk": free_disk, "fits": fits, "way_out": way_out})


class _Killed(MachineError):
    """The probe's process ended without a word."""


def _rung(recipe: Recipe, rows: Sequence[Row], counts: Counts, free_memory: float, free_disk: float, workspace: Path) -> str:
    """The first setting of the ladder that fits into `free_memory` bytes, with the disk that it lacks; or nothing."""
    for words, changes in _ladder(recipe):
        with suppress(AttuneError):
            found = _apart(recipe, rows, counts, changes, workspace)
            if found.memory_bytes <= free_memory:
                return " and ".join(filter(None, (words, _more_disk(found, free_disk))))
    return ""


def _more_disk(found: Forecast, free: float) -> str:
    """How much disk has to be freed, or nothing."""
    return f"{math.ceil((found.disk_bytes - free) / 1e7) / 100:.2f} GB more of free disk" if found.disk_bytes > free else ""


def _ladder(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings that need less memory, in words and as changes, the least change of the result first: smaller parts, then methods of lower rungs."""
    if recipe.objective.divisible:
        yield from ((f"train.micro_batch_size={rows}", {"train": {"micro_batch_size": rows}}) for rows in PARTS)
    for method in reversed(by_rung(recipe.task)):
        if not recipe.method.rung or method.rung < recipe.method.rung:
            yield f"method={method.name}" + (" without a budget" if recipe.given.get("budget") else ""), instead(recipe, method)


def instead(recipe: Recipe, method: Method) -> dict[str, Any]:
    """The changes with which a recipe uses this method; a budget is for `auto` alone."""
    return {"method": method.name, **({"budget": None} if recipe.given.get("budget") else {})}


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def _apart(recipe: Recipe, rows: Sequence[Row], counts: Counts, changes: dict[str, Any], workspace: Path) -> Forecast:
    """The probe in a process of its own, so that its memory is its own and gone afterwards."""
    values = dict(recipe.given)
    for name, change in changes.items():
        values[name] = {**(values.get(name) or {}), **change} if isinstance(change, dict) and name == "train" else change
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, values, str(recipe.folder), list(rows), counts, str(_existing(workspace))), daemon=True)
    process.start()
    theirs.close()
    try:
        kind, found = ours.recv()
    except EOFError:
        process.join(10)
        raise _Killed(
            f"the probe ended without an answer (exit code {process.exitcode})",
            place="forecast",
            fix="most likely memory ran out: lower train.micro_batch_size or train.max_length, or choose a method that trains fewer weights",
        ) from None
    process.join()
    if kind == "error":
        raise MachineError(found["what"], place=found["place"] or "forecast", fix=found["fix"] or "see above")
    return Forecast(**found)


def _child(pipe: Any, values: dict[str, Any], folder: str, rows: list[Row], counts: Counts, place: str) -> None:
    try:
        pipe.send(("forecast", _measured(make_recipe(values, folder=Path(folder)), rows, counts, Path(place)).as_json()))
    except AttuneError as error:
        pipe.send(("error", {"what": error.what, "place": error.place, "fix": error.fix}))
    except Exception as error:  # it has to reach the parent, whatever it is
        pipe.send(("error", {"what": f"the probe failed: {type(error).__name__}: {error}", "place": "forecast", "fix": "a run would most likely fail the same way"}))
    finally:
        pipe.close()


def _measured(recipe: Recipe, rows: Sequence[Row], counts: Counts, place: Path) -> Forecast:
    """The probe of the learner that the method brings, or of gradient descent."""
    if recipe.method.brings_learner:
        from attune.stages.finetune.forecast_own import probe

        found = probe(recipe, rows, counts, place)
        if found is not None:
            return found
    return _probe(recipe, rows, counts, place)


def _probe(recipe: Recipe, rows: Sequence[Row], counts: Counts, place: Path) -> Forecast:
    """Do once, in a folder of its own inside `place`, what a run does often, and measure: read rows, start the head, step, evaluate, save, make a bundle."""
    clock = Clock()  # a run's time has the imports in it
    import numpy as np

    from attune.core.long_rows import encoded as as_examples
    from attune.core.long_rows import rule_of
    from attune.core.models import resolve_base
    from attune.core.rows import read_rows, write_rows
    from attune.core.specialist import Specialist, write_bundle
    from attune.core.tripwires import sifted
    from attune.core.workspace import Workspace
    from attune.stages.finetune.checkpoints import Checkpoints
    from attune.stages.finetune.meter import size_of
    from attune.stages.finetune.plan import patience, start_plan
    from attune.stages.finetune.preflight import unloaded
    from attune.stages.finetune.saver import Saver
    from attune.stages.finetune.torch_learner import TorchLearner

    for library in ("torch", "transformers"):  # so that building a model is timed without them
        import_module(library)
    rows = [rows[i] for i in generator(recipe.keys.seed, "forecast").permutation(len(rows))]  # files are often sorted; parts of the sample must be fair too
    keys, objective = recipe.keys.train, recipe.objective
    base = resolve_base(recipe.keys.base_model, recipe.keys.revision, recipe.folder)
    signature = recipe.task.signature(rows)
    parts = {"loading": clock.lap()}
    rows = sifted(TripwireContext(unloaded(recipe, base, signature), objective, rows), keys.accept).rows
    model = recipe.method.prepare(recipe.task.build(base, signature), recipe.keys.seed)
    parts["building"] = clock.lap()
    metric: Metric = catalog.build("metrics", recipe.main_metric, "grade.main_metric")
    own = {"method": recipe.method, "samples": metric.samples(), "long_rows": rule_of(recipe)}
    specialist = Specialist(recipe.task, signature, model, base.tokenizer(), base, keys.max_length, recipe.name, **own)
    plan = start_plan(keys.precision)
    frozen = model.body_is_frozen()
    parts["building"] += clock.lap()
    again = keys.refit or (keys.refit is None and recipe.method.refit)

    own_rows, validation_rows = (max(1, count) for count in counts)
    replay = recipe.keys.data.replay
    epochs = keys.epochs or recipe.method.epochs
    general_rows = replay.beside(own_rows)
    all_general = general_rows * min(replay.passes, math.ceil(epochs))
    examples, _ = as_examples(objective, specialist, rows, keys.max_length)
    parts["reading rows"] = clock.lap() / len(rows) * (own_rows + all_general + validation_rows)
    per_row = len(examples) / len(rows)  # a row may become several examples, or none; from here on examples are counted
    of_a_pass, encoded = (own_rows + general_rows) * per_row, (own_rows + all_general) * per_row
    every = encoded + validation_rows * per_row
    sample = examples[: max(keys.batch_size, round(of_a_pass))]
    few = sample[: max(STARTED, 4 * keys.batch_size)]
    learned = few if frozen else sample
    ready = examples[: max(len(learned), math.ceil(ANSWERED * per_row))]  # what is learned from, and what is looked at
    if frozen:  # the longest rows of all are computed together, and meet the memory's peak
        ready = [*ready, *_longest(examples, [one["size"] for one in examples], round(every))]
    clock.lap()
    if objective.precompute(specialist, ready):
        parts["computed once"] = clock.lap() / len(ready) * every
    with tempfile.TemporaryDirectory(dir=place, prefix=".probe-") as name:
        folder = Path(name)
        workspace = Workspace(folder / "workspace")
        write_rows(folder / "rows.parquet", rows, recipe.task)
        read_rows(folder / "rows.parquet", recipe.task)  # what reads a dataset takes memory too
        clock.lap()
        learner = TorchLearner(specialist, objective, learned, keys, recipe.keys.seed, plan["precision"], folder / "cache")
        if "frozen layers" in learner.chosen:
            parts["frozen layers"] = clock.lap() / len(learned) * encoded
        clock.lap()
        started = []
        for count in (len(few) // 4, len(few)):  # fitting the head has a cost of its own, whatever the number of rows
            objective.begin(specialist, few[: max(1, count)])
            started.append((float(count), clock.lap()))
        parts["start of the head"] = at(started, of_a_pass)
        steps_per_epoch = math.ceil(of_a_pass / keys.batch_size)
        learner.total_steps = steps = math.ceil(epochs * steps_per_epoch)
        learner.begin()
        if learner.compiling is not None:
            parts["compiling"] = clock.lap()

        sizes = np.array([sum(one["size"] for one in learner.batch_at(i)) for i in range(learner.steps_per_epoch)], dtype=float)
        order = np.argsort(sizes)
        spread = sorted({int(order[round(q * (len(order) - 1))]) for q in np.linspace(0, 1, MOST)})
        chosen = [spread[i] for i in generator(recipe.keys.seed, "forecast", 1).permutation(len(spread))]
        clock.lap()
        _step(learner, int(order[-1]))  # the longest first: it meets the memory's peak, and warms up
        parts["first step"] = clock.lap()
        validating = list(rows[:ANSWERED])
        with Saver(Checkpoints(folder / "checkpoints"), Events(), 0) as saver:
            _evaluate(learner, metric, validating[: ANSWERED // 4], examples, per_row, saver)  # all that a run holds at once is there from here on
            saver.wait()
            with learner.settled() as settled:  # the longest rows are answered together, and meet the memory's peak
                settled.answers_for(metric, _longest(rows, [len(recipe.task.text(row)) for row in rows], validation_rows))
            clock.lap()
            evaluated = []
            for count in (len(validating) // 4, len(validating)):
                _evaluate(learner, metric, validating[: max(1, count)], examples, per_row, None)
                evaluated.append((float(max(1, count)), clock.lap()))
            taken: list[tuple[float, float]] = []
            for index in chosen:  # ever new sizes, as in a run: memory gets its holes from them
                if len(taken) >= PROBED and sum(seconds for _, seconds in taken) > PATIENCE:
                    break
                _step(learner, index)
                taken.append((float(sizes[index]), clock.lap()))
            usual = int(order[len(order) // 2])
            usual_seconds = _expected(taken, sizes[usual : usual + 1])
            saver.save_best(1, learner.weights())
            saver.save(1, *learner.state())
            beside = 0
            while saver.busy():  # what a save in the background costs the steps beside it
                _step(learner, usual)
                beside += 1
            saver.wait()
            one_save = max(0.0, clock.lap() - beside * usual_seconds)
        parts["steps"] = _expected(taken, sizes) * steps
        evaluations = math.ceil(steps / max(1, steps_per_epoch // keys.evaluations_per_epoch)) + 1
        parts["evaluations"] = at(evaluated, validation_rows) * evaluations
        saves = evaluations + steps // keys.checkpoint_every
        parts["saving"] = one_save * saves
        tensors, weights = learner.state()[0], learner.weights()
        state, best = (sum(t.numel() * t.element_size() for t in held.values()) for held in (tensors, weights))
        more, table = _more_embedding(learner, learned, encoded)
        copies = sum(name.endswith(f"/{table}") and tensor.ndim == 2 for name, tensor in tensors.items())
        clock.lap()
        learner.load_weights(weights)
        recipe.task.settle(specialist, validating)
        parts["settling"] = clock.lap() / len(validating) * validation_rows
        bundle = size_of(workspace.store.path(workspace.store.put("bundle", lambda place: write_bundle(specialist, place))))
        parts["bundle"] = clock.lap()
        cached = learner.cached_bytes / len(learned) * encoded
        features = sum(one.numel() * one.element_size() for one in (specialist.known_features or {}).values()) / len(ready) * every
        workspace.close()
    if again:  # from a second model, while the first is there
        clock.lap()
        second = recipe.method.prepare(recipe.task.build(base, signature), recipe.keys.seed)
        _ = second.fit  # how it reads rows is tried out, as in a run
        del second
        parts["loading again"] = clock.lap()
        parts["training again"] = parts["steps"] * (of_a_pass + validation_rows * per_row) / of_a_pass + at(started, of_a_pass + validation_rows * per_row)
    memory = peak_memory() + max(0.0, cached - learner.cached_bytes) + more * (2 * copies + 2)  # in the model and in the saver's copies, one gradient, one copy of the best
    memory += _in_memory(examples) * (every / len(examples) - 1) + _in_memory(specialist.known_features or {}) * (every / len(ready) - 1)
    disk = min(saves - 1, 3) * (state + more * copies) + min(evaluations, 3) * (best + more) + bundle + cached + features
    if saves <= 3:  # the checkpoint before the first step is still there: it has no moments
        disk += sum(t.numel() * t.element_size() for name, t in tensors.items() if not name.startswith("optimizer/"))
    return Forecast(sum(parts.values()), memory, disk, steps, {name: round(value, 3) for name, value in parts.items()}, looks=evaluations, may_stop_early=evaluations - 1 > patience(recipe))


class Clock:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """So many, and from now on anew."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds


def _step(learner: TorchLearner, index: int) -> None:
    """A step that counts for its time alone: the plan's rates in another order may well be unsteady."""
    with suppress(Unsteady):
        learner.step(index)


def _evaluate(learner: TorchLearner, metric: Metric, rows: Sequence[Row], examples: Sequence[Example], per_row: float, saver: Saver | None) -> None:
    """Look at validation rows, and as many examples as they would be, as the loop does, and keep the weights as the best and the state where there is a saver."""
    with learner.settled() as settled:
        settled.answers_for(metric, rows)
        learner.validation_loss(examples[: max(1, round(len(rows) * per_row))])
        if saver is not None:
            saver.save_best(0, learner.weights())
    if saver is not None:
        saver.save(0, *learner.state())


def _longest(rows: Sequence[Row], sizes: Sequence[int], total: int) -> list[Row]:
    """The batch that `total` rows, of which these are a fair sample, would have of their longest."""
    order = sorted(range(len(rows)), key=lambda i: -sizes[i])
    top = order[: max(ANSWERED, round(len(rows) * ANSWERED / max(ANSWERED, total)))]
    return [rows[top[len(top) * i // min(ANSWERED, len(top))]] for i in range(min(ANSWERED, len(top)))]


def _more_embedding(learner: TorchLearner, examples: Sequence[Example], total: float) -> tuple[float, str]:
    """Bytes by which the computed part of the embedding is larger with all `total` examples than with these examples, and the name of its weight.

    By Heaps' law (1978, section 7.5), V = K x n^b, with b from the second half of the examples; never more than the whole table."""
    if learner.compact is None:
        return 0.0, ""
    tokens = [row for one in examples for row in (one["ids"].values() if isinstance(one["ids"], dict) else [one["ids"]])]
    half, whole = (len({token for row in part for token in row}) for part in (tokens[: len(tokens) // 2], tokens))
    entries, width = learner.compact.whole[0].weight.shape
    distinct = min(float(entries), whole * max(1.0, total / len(examples)) ** max(0.0, math.log2(whole / max(1, half))))
    used = float(entries) if distinct > entries // 2 else distinct  # `compacted` leaves the table whole from there on
    return max(0.0, used - whole) * width * 4, next(name for name, parameter in learner.trained.items() if parameter is learner.compact.weight)


def _in_memory(value: Any) -> float:
    """Bytes that examples take, about: lists, texts and the numbers in them, features as views of a tensor."""
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(_in_memory(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return sys.getsizeof(value) + sum(_in_memory(one) for one in value)
    if hasattr(value, "numel"):
        return sys.getsizeof(value) + float(value.numel() * value.element_size())
    return 0.0 if isinstance(value, int) and -6 < value < 257 else float(sys.getsizeof(value))  # Python has small numbers once


def at(measured: Sequence[tuple[float, float]], count: float) -> float:
    """Seconds for `count` rows: a line through two measurements (rows, seconds), where neither the rows nor what comes before them are free of charge."""
    (few, short), (many, long) = measured
    if many <= few or long <= short:
        return max(short, long)
    each = (long - short) / (many - few)
    return max(0.0, short - each * few) + each * count if short > each * few else long / many * count


def _expected(taken: Sequence[tuple[float, float]], sizes: Any) -> float:
    """Mean seconds of a step over batches of `sizes` tokens: a line through what was measured, never falling with size."""
    import numpy as np

    tokens, seconds = np.array([t for t, _ in taken]), np.array([s for _, s in taken])
    if len(set(tokens.tolist())) < 2:
        return float(seconds.mean())
    slope, start = np.polyfit(tokens, seconds, 1)
    if slope < 0:
        return float(np.median(seconds))
    return float(np.maximum(start + slope * sizes, seconds.min()).mean())
