"""What tuning will cost on this machine: a short probe with the real base, rows and settings, in a process of its own.

The probe runs a few optimizer steps, the longest batch among them, and measures. Time of a step is fitted as a line over its tokens; memory is
the probe's own peak plus what a whole run holds besides (copies for saving); disk follows from the sizes of what is written.
"""

from __future__ import annotations

import math
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attune.core.contracts import Row
from attune.core.errors import AttuneError, MachineError
from attune.core.memory import available_memory
from attune.core.recipe import Recipe, make_recipe

PROBED = 6
"""Batches that are timed, from the shortest to the longest."""
ANSWERED = 64
"""Rows on which answering is timed."""
LADDER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("train.micro_batch_size=8", {"train": {"micro_batch_size": 8}}),
    ("train.micro_batch_size=1", {"train": {"micro_batch_size": 1}}),
    ("method=lora", {"method": "lora", "train": {"micro_batch_size": 1}}),
    ("method=head", {"method": "head"}),
)
"""Settings that need less memory, the least change of the result first."""


@dataclass(frozen=True)
class Forecast:
    """Of the finetune stage."""

    seconds: float
    memory_bytes: float
    disk_bytes: float
    steps: int
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds by what they are for."""
    free_memory: float = 0.0
    free_disk: float = 0.0
    fits: bool = True
    way_out: str = ""
    """The first setting of the ladder that fits, where this one does not."""

    def as_json(self) -> dict[str, Any]:
        """For --json and records."""
        return asdict(self)


def forecast(recipe: Recipe, rows: Sequence[Row], total: int, workspace: Path) -> Forecast:
    """Probe a recipe.

    Args:
        recipe: as it would run.
        rows: parsed rows, a fair sample of all.
        total: how many rows there are, of which the sample stands for all.
        workspace: where checkpoints would be written.

    Raises:
        AttuneError: what the first steps of a run would raise.
        MachineError: the probe's process was killed, which on most machines means that memory ran out.
    """
    free_memory, free_disk = available_memory(), float(shutil.disk_usage(_existing(workspace)).free)
    try:
        first = _apart(recipe, rows, total, {})
    except _Killed as error:
        rung = _rung(recipe, rows, total, free_memory)
        if rung:
            error.fix = f"most likely memory ran out; it would fit with {rung}"
        raise
    fits = first.memory_bytes <= free_memory and first.disk_bytes <= free_disk
    way_out = _rung(recipe, rows, total, free_memory) if first.memory_bytes > free_memory else ""
    return Forecast(**{**first.as_json(), "free_memory": free_memory, "free_disk": free_disk, "fits": fits, "way_out": way_out})


class _Killed(MachineError):
    """The probe's process ended without a word."""


def _rung(recipe: Recipe, rows: Sequence[Row], total: int, free: float) -> str:
    """The first setting of the ladder that fits into `free` bytes, or nothing."""
    for words, changes in LADDER:
        with suppress(AttuneError):
            if _apart(recipe, rows, total, changes).memory_bytes <= free:
                return words
    return ""


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def _apart(recipe: Recipe, rows: Sequence[Row], total: int, changes: dict[str, Any]) -> Forecast:
    """The probe in a process of its own, so that its memory is its own and gone afterwards."""
    values = dict(recipe.given)
    for name, change in changes.items():
        values[name] = {**(values.get(name) or {}), **change} if isinstance(change, dict) and name == "train" else change
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, values, str(recipe.folder), list(rows), total), daemon=True)
    process.start()
    theirs.close()
    try:
        kind, found = ours.recv()
    except EOFError:
        process.join(10)
        raise _Killed(
            f"the probe ended without an answer (exit code {process.exitcode})",
            place="forecast",
            fix="most likely memory ran out: lower train.micro_batch_size or train.max_length, or choose method lora or head",
        ) from None
    process.join()
    if kind == "error":
        raise MachineError(found["what"], place=found["place"] or "forecast", fix=found["fix"] or "see above")
    return Forecast(**found)


def _child(pipe: Any, values: dict[str, Any], folder: str, rows: list[Row], total: int) -> None:
    try:
        pipe.send(("forecast", _probe(make_recipe(values, folder=Path(folder)), rows, total).as_json()))
    except AttuneError as error:
        pipe.send(("error", {"what": error.what, "place": error.place, "fix": error.fix}))
    except Exception as error:  # it has to reach the parent, whatever it is
        pipe.send(("error", {"what": f"the probe failed: {type(error).__name__}: {error}", "place": "forecast", "fix": "a run would most likely fail the same way"}))
    finally:
        pipe.close()


def _probe(recipe: Recipe, rows: Sequence[Row], total: int) -> Forecast:
    import numpy as np

    from attune.core.models import resolve_base
    from attune.core.specialist import Specialist
    from attune.stages.finetune.plan import start_plan
    from attune.stages.finetune.torch_learner import TorchLearner

    keys, splits = recipe.keys.train, recipe.keys.data.splits
    clock = [time.perf_counter()]

    def lap() -> float:
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    base = resolve_base(recipe.keys.base_model, recipe.keys.revision, recipe.folder)
    signature = recipe.task.signature(rows)
    model = recipe.method.prepare(recipe.task.build(base, signature), recipe.keys.seed)
    specialist = Specialist(recipe.task, signature, model, base.tokenizer(), base, keys.max_length, recipe.name, method=recipe.method)
    plan = start_plan(keys.precision)
    parts = {"loading": lap()}

    test = 0.0 if recipe.keys.data.test_path else splits.test
    train_rows = max(1, round(total * (1 - test) * (1 - splits.validation)))
    validation_rows = max(1, round(total * (1 - test) * splits.validation))
    examples = recipe.objective.examples(specialist, rows, keys.max_length)
    parts["reading rows"] = lap() / len(rows) * (train_rows + validation_rows)
    sample = examples[: max(keys.batch_size, round(len(examples) * train_rows / total))] if len(examples) > train_rows else examples
    few = sample[: 4 * keys.batch_size] if model.body_is_frozen() else sample
    recipe.objective.precompute(specialist, few)
    if model.body_is_frozen():
        parts["features"] = lap() / len(few) * (train_rows + validation_rows)
    with tempfile.TemporaryDirectory() as cache:
        learner = TorchLearner(specialist, recipe.objective, few, keys, recipe.keys.seed, plan["precision"], Path(cache))
        if "frozen layers" in learner.chosen:
            parts["frozen layers"] = lap() / len(few) * train_rows
        lap()
        recipe.objective.begin(specialist, few)
        parts["start of the head"] = lap() / len(few) * train_rows
        steps_per_epoch = math.ceil(train_rows / keys.batch_size)
        learner.total_steps = steps = math.ceil((keys.epochs or recipe.method.epochs) * steps_per_epoch)
        learner.begin()
        if learner.compiling is not None:
            parts["compiling"] = lap()
        sizes = np.array([sum(one["size"] for one in learner.batch_at(i)) for i in range(learner.steps_per_epoch)], dtype=float)
        order = np.argsort(sizes)
        chosen = sorted({int(order[round(q * (len(order) - 1))]) for q in np.linspace(0, 1, PROBED)}, key=lambda i: -sizes[i])
        learner.step(chosen[0])  # the longest first: it meets the memory's peak, and warms up
        taken = []
        for index in chosen:
            lap()
            learner.step(index)
            taken.append((sizes[index], lap()))
        parts["steps"] = _expected(taken, sizes) * steps
        lap()
        validating = list(rows[:ANSWERED])
        with learner.settled() as settled:
            settled.examine(validating)
            learner.validation_loss(examples[: len(validating)])
        evaluations = math.ceil(steps / max(1, steps_per_epoch // keys.evaluations_per_epoch)) + 1
        parts["evaluations"] = lap() / len(validating) * validation_rows * evaluations
        tensors, _ = learner.state()
        state = sum(t.numel() * t.element_size() for t in tensors.values())
        weights = sum(t.numel() * t.element_size() for t in learner.weights().values())
        lap()
        with tempfile.TemporaryDirectory() as folder:
            learner.load_weights(learner.weights())
            recipe.method.save(model, Path(folder))
            bundle = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        saves = evaluations + steps // keys.checkpoint_every
        parts["saving"] = lap() * (2 + 0.25 * saves)
        cached = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file()) / len(few) * train_rows
    if keys.refit or (keys.refit is None and recipe.method.refit):
        parts["training again"] = parts["steps"] + parts["start of the head"]
    peak = _peak() + state + weights
    return Forecast(sum(parts.values()), peak, 3 * state + 3 * weights + bundle + cached, steps, {name: round(value, 3) for name, value in parts.items()})


def _peak() -> float:
    """The most memory that this process held, in bytes. What `resource` says may be the parent's from before the start."""
    import resource
    import sys

    with suppress(OSError, StopIteration, ValueError):
        line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:"))
        return float(line.split()[1]) * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


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
