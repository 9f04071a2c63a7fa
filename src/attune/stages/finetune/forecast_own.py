"""What tuning with a learner of the method's own (trees) will take: some of its real steps, through the same protocol as in a run.

The sample is laid out again and again until it is as many rows as there will be, so that memory and the time of a step are measured and not
guessed; beyond `LAID` rows they are a line through two sizes. Such a model grows with its steps, so looks and saves are measured at two sizes of it.
"""

from __future__ import annotations

import gc
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core import catalog
from attune.core.contracts import Example, Metric, Row
from attune.core.events import Events
from attune.core.learner import Learner, LearnerContext, Unsteady
from attune.core.memory import peak_memory
from attune.core.randomness import generator
from attune.core.recipe import Recipe
from attune.stages.finetune.forecast import Clock, Counts, Forecast, at

if TYPE_CHECKING:
    from attune.core.specialist import Specialist
    from attune.stages.finetune.saver import Saver

LAID = 40_000
"""Rows that are laid out at most, to train and to validate on each."""
STEPS, PATIENCE = 100, 6.0
"""Steps that are made at most, and the seconds after which no more are."""
FEWEST = 8
"""Steps that are made at least."""
SMALLER = 4
"""Where not all rows can be laid out, a part of them this much smaller is the second point of the line."""
GROWS = 4
"""How often a run holds what a model grows by: in the learner, as text, as a tensor, and in the saver's copy."""
POINT = {"step": 1000.0, "epoch": 10.123456789012345, "validation_loss": 0.12345678901234567, "validation": 0.12345678901234567, "loss": 0.12345678901234567, "learning_rate": 0.05}
"""A look as a checkpoint's curve holds it."""


def probe(recipe: Recipe, rows: Sequence[Row], counts: Counts, place: Path) -> Forecast | None:
    """Do some of a run in a folder of its own inside `place`, and measure; None where the method has no learner of its own for this recipe."""
    clock = Clock()  # a run's time has the imports in it
    from attune.core.models import resolve_base
    from attune.core.specialist import Specialist, write_bundle
    from attune.core.workspace import Workspace
    from attune.stages.finetune.checkpoints import KEEP, Checkpoints
    from attune.stages.finetune.meter import size_of
    from attune.stages.finetune.plan import patience, start_plan
    from attune.stages.finetune.saver import Saver

    keys, objective, task = recipe.keys.train, recipe.objective, recipe.task
    rows = [rows[i] for i in generator(recipe.keys.seed, "forecast").permutation(len(rows))]
    base = resolve_base(recipe.keys.base_model, recipe.keys.revision, recipe.folder)
    signature = task.signature(rows)
    length = keys.max_length if "text-in" in task.traits else 0
    metric: Metric = catalog.build("metrics", recipe.main_metric, "grade.main_metric")
    threads = start_plan(keys.precision if "torch" in task.traits else None)["threads"]

    def start(examples: Sequence[Example], specialist: Specialist) -> Learner | None:
        learner = recipe.method.learner(LearnerContext(specialist, objective, examples, keys, recipe.keys.seed, threads))
        if learner is not None:
            objective.begin(specialist, examples)
            learner.begin()
        return learner

    def untuned() -> Specialist:
        model = recipe.method.prepare(task.build(base, signature), recipe.keys.seed)
        return Specialist(task, signature, model, base.tokenizer(), base, length, recipe.name, method=recipe.method, samples=metric.samples())

    own_rows, validation_rows = (max(1, count) for count in counts)
    train_rows = own_rows + recipe.keys.data.replay.beside(own_rows)
    laid_train, laid_validation = min(train_rows, LAID), min(validation_rows, LAID)
    share = (train_rows + validation_rows) / (laid_train + laid_validation)
    specialist = untuned()
    parts = {"loading": clock.lap()}
    with tempfile.TemporaryDirectory(dir=place, prefix=".probe-") as name:
        folder = Path(name)
        layer = _Layer(recipe, rows, folder / "rows.parquet")
        smaller, earlier = None, 0.0
        if share > 1:
            part, few = untuned(), layer.laid(laid_train // SMALLER)
            encoded = objective.examples(part, few, length)
            clock.lap()
            learner = start(encoded, part)
            earlier = clock.lap()
            if learner is None:
                return None
            first, *more = _timed(learner, range(min(FEWEST, learner.total_steps)))
            smaller = _Size(len(few), first, more or [first], peak_memory())
            del part, few, encoded, learner
            gc.collect()

        both = layer.laid(laid_train + laid_validation, written=clock.lap)
        train, validation = both[:laid_train], both[laid_train:]
        examples, validating = (objective.examples(specialist, part, length) for part in (train, validation))
        parts["reading rows"] = clock.lap() * share
        if objective.precompute(specialist, examples):
            objective.precompute(specialist, validating)
            parts["computed once"] = clock.lap() * share
        clock.lap()
        learner = start(examples, specialist)
        if learner is None:
            return None
        started = clock.lap()
        parts["loading"] += max(0.0, earlier - started)  # the first start loads what the learner needs
        parts["start"] = started * train_rows / laid_train

        total, every = learner.total_steps, max(1, learner.steps_per_epoch // keys.evaluations_per_epoch)
        evaluations = math.ceil(total / every) + 1
        saves = 1 + sum(step % every == 0 or step == total or step % keys.checkpoint_every == 0 for step in range(1, total + 1))
        facts = {"chosen": learner.chosen, "curve": [POINT] * evaluations}
        with Saver(Checkpoints(folder / "checkpoints"), Events(), 0) as saver:
            looks = _Looks(specialist, learner, metric, validation, validating, saver, facts, clock)
            looks.see(0)  # all that a run holds at once is there from here on
            [first] = _timed(learner, range(1))
            looks.see(1)
            more = _timed(learner, range(1, min(STEPS, total)))
            if more:
                looks.see(1 + len(more))
            whole = _Size(laid_train, first, more or [first], peak_memory())
        middle = total / 2
        first, step = (_beyond(smaller, whole, train_rows, which) for which in ("first", "step"))
        parts |= {"first step": first, "steps": step * (total - 1)}
        parts["evaluations"] = at(looks.seen[-2:], middle) * evaluations * validation_rows / laid_validation
        parts["saving"] = (at(looks.handed[-2:], middle) + max(0.0, at(looks.written[-2:], middle) - every * step)) * saves
        kept, state = at(looks.kept[-2:], total), at(looks.states[-2:], total)

        workspace = Workspace(folder / "workspace")
        clock.lap()
        learner.load_weights(learner.weights())
        task.settle(specialist, validation)
        parts["settling"] = clock.lap() * validation_rows / laid_validation
        bundle = size_of(workspace.store.path(workspace.store.put("bundle", lambda to: write_bundle(specialist, to))))
        parts["bundle"] = clock.lap()
        workspace.close()
    grown = max(0.0, state - looks.states[-1][1])
    memory = peak_memory() + GROWS * grown
    if smaller is not None:  # of the rows that were not laid out
        memory += max(0.0, whole.memory - smaller.memory) / (laid_train + laid_validation - smaller.rows) * (train_rows + validation_rows - laid_train - laid_validation)
    disk = min(saves, KEEP + 1) * kept + bundle + grown
    return Forecast(sum(parts.values()), memory, disk, total, {name: round(value, 3) for name, value in parts.items()}, looks=evaluations, may_stop_early=evaluations - 1 > patience(recipe))


@dataclass(frozen=True)
class _Size:
    """What steps on so many rows took."""

    rows: int
    first: float
    taken: list[float]
    memory: float

    @property
    def step(self) -> float:
        """Mean seconds of a step behind the first."""
        return sum(self.taken) / len(self.taken)


def _beyond(smaller: _Size | None, whole: _Size, rows: int, which: str) -> float:
    """Seconds of a step on so many rows: as measured, or on the line through both sizes."""
    found: float = getattr(whole, which)
    return found if smaller is None else at([(smaller.rows, getattr(smaller, which)), (whole.rows, found)], rows)


def _timed(learner: Learner, steps: range) -> list[float]:
    """Seconds of each of these steps, or of as many as patience lasts for."""
    clock, found = Clock(), []
    for index in steps:
        with suppress(Unsteady):  # it counts for its time alone
            learner.step(index)
        found.append(clock.lap())
        if len(found) >= FEWEST and sum(found) > PATIENCE:
            break
    return found


class _Layer:
    """Rows as a dataset's file gives them, each an object of its own, the sample over and over."""

    def __init__(self, recipe: Recipe, rows: Sequence[Row], path: Path) -> None:
        self.recipe, self.rows, self.path = recipe, rows, path

    def laid(self, count: int, written: Callable[[], Any] = lambda: None) -> list[Row]:
        """So many rows; `written` is called when only reading is left."""
        from attune.core.rows import read_rows, write_rows

        write_rows(self.path, [self.rows[i % len(self.rows)] for i in range(max(1, count))], self.recipe.task)
        written()
        return read_rows(self.path, self.recipe.task)


@dataclass
class _Looks:
    """Looks at the validation rows with the saves behind them, each list as (steps made, what it took)."""

    specialist: Specialist
    learner: Learner
    metric: Metric
    rows: Sequence[Row]
    examples: Sequence[Example]
    saver: Saver
    facts: dict[str, Any]
    clock: Clock
    seen: list[tuple[float, float]] = field(default_factory=list)
    """Seconds of a look."""
    handed: list[tuple[float, float]] = field(default_factory=list)
    """Seconds for which the steps wait while a save is handed over."""
    written: list[tuple[float, float]] = field(default_factory=list)
    """Seconds that it then takes in the background."""
    states: list[tuple[float, float]] = field(default_factory=list)
    """Bytes of the state's tensors."""
    kept: list[tuple[float, float]] = field(default_factory=list)
    """Bytes of a checkpoint with the best weights beside it."""

    def see(self, steps: int) -> None:
        """One look and its save, as the loop makes them."""
        from attune.stages.finetune.meter import size_of

        self.clock.lap()
        with self.learner.settled() as settled:
            settled.answers_for(self.metric, self.rows)
            self.learner.validation_loss(self.examples)
        self.seen.append((steps, self.clock.lap()))
        self.saver.save_best(steps, self.learner.weights())
        tensors, facts = self.learner.state()
        self.saver.save(steps, tensors, {**self.facts, "learner": facts, "best": {"step": steps}})
        self.handed.append((steps, self.clock.lap()))
        self.saver.wait()
        self.written.append((steps, self.clock.lap()))
        self.states.append((steps, float(sum(t.numel() * t.element_size() for t in tensors.values()))))
        self.kept.append((steps, float(sum(size_of(self.saver.checkpoints.folder / f"{kind}-{steps:08d}") for kind in ("step", "best")))))
