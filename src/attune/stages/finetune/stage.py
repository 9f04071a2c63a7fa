"""The loop: it iterates, steps, evaluates, checkpoints and reports. Objectives own batches and losses, methods own weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from attune.core import catalog, pages, tripwires, waiting
from attune.core.commit import read_checked, write_checked
from attune.core.contents import contents
from attune.core.contracts import Example, Method, Metric, Row, TripwireContext
from attune.core.cost import forecast_of
from attune.core.errors import DataError, IntegrityError, MachineError, PlugError
from attune.core.events import Events
from attune.core.learner import Learner, LearnerContext, Unsteady, words_of_start
from attune.core.long_rows import rule_of
from attune.core.models import Base, require_base, resolve_base
from attune.core.recipe import Recipe
from attune.core.records import Checkpoint, DatasetVersion, digest
from attune.core.rows import GENERAL, dataset_rows
from attune.core.specialist import Specialist, write_bundle
from attune.core.turns import Turns
from attune.core.workspace import Workspace
from attune.stages.finetune.checkpoints import Checkpoints
from attune.stages.finetune.defence import SKIPS, diverging, overfitting
from attune.stages.finetune.interrupt import Interrupt
from attune.stages.finetune.looks import BEST, ROWS, Looks
from attune.stages.finetune.meter import Meter, size_of
from attune.stages.finetune.plan import patience, start_plan
from attune.stages.finetune.preflight import unloaded
from attune.stages.finetune.receipts import Receipts, pieces
from attune.stages.finetune.saver import Saver

if TYPE_CHECKING:
    import numpy as np

LOOK = 4
"""Steps after which the tripwires look once more."""
VERSION = 8
"""Raised when a change here changes results, so that kept results are not taken for new ones."""


def inputs(recipe: Recipe, dataset: DatasetVersion) -> dict[str, Any]:
    """Everything the checkpoint depends on."""
    return _inputs(recipe, dataset, resolve_base(recipe.keys.base_model, recipe.keys.revision, recipe.folder), _named(recipe))


def _named(recipe: Recipe) -> dict[str, str]:
    """Digests of what the recipe's plugs read and learn from beside the base: a teacher, a reward's bundle."""
    return contents([recipe.task, recipe.objective, *(recipe.candidates or [recipe.method])])


def _inputs(recipe: Recipe, dataset: DatasetVersion, base: Base, named: dict[str, str]) -> dict[str, Any]:
    parts = recipe.part("task", "objective", "method", "seed", "train", *(("budget",) if recipe.candidates else ()))
    return {"recipe": parts, "main_metric": recipe.main_metric, "dataset": dataset.id, "base": base.identity, **({"contents": named} if named else {}), "version": VERSION}


def run(recipe: Recipe, workspace: Workspace, dataset: DatasetVersion, events: Events, *, run: str) -> Checkpoint:
    """Tune the base on the dataset's training rows; a run with this name that was killed goes on where its last checkpoint stands."""
    meter = Meter()
    folder = workspace.run_folder(run)
    base = resolve_base(recipe.keys.base_model, recipe.keys.revision, recipe.folder)
    require_base(recipe.task, base)
    train = dataset_rows(workspace, dataset, recipe.task, "train")
    validation = dataset_rows(workspace, dataset, recipe.task, "validation")
    if not train or not validation:
        raise DataError(f"{len(train)} training and {len(validation)} validation rows", place=f"dataset {dataset.id}", fix="give more rows, or a larger data.splits.validation")

    named = _named(recipe)
    receipts = Receipts(folder, events)
    passes = max(_passes(recipe, method) for method in recipe.candidates or [recipe.method])
    train = receipts.sift(recipe, base, dataset, [train[i] for i in Turns(train, recipe.keys.data.replay, recipe.keys.seed).until(passes)], "train")
    validation = receipts.sift(recipe, base, dataset, validation, "validation")

    def session(of: Recipe, at: Path) -> Session:
        return Session(of, dataset, base, train, validation, at, workspace.root / "cache", receipts, meter, named=named, trial=of is not recipe)

    if recipe.candidates:
        from attune.stages.finetune.autopilot import Autopilot

        pilot = Autopilot(recipe, session, folder, events)
        return pilot.best().checkpoint(workspace, run, trials=pilot.trials)
    only = session(recipe, folder)
    only.loop()
    return only.checkpoint(workspace, run)


def _passes(recipe: Recipe, method: Method) -> int:
    """Over the training rows, of a method; one where there is no descent: trees."""
    return math.ceil(recipe.keys.train.epochs or method.epochs) if "torch" in recipe.task.traits else 1


class Session:
    """One run of the loop."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: DatasetVersion,
        base: Base,
        train: Sequence[Row],
        validation: Sequence[Row],
        folder: Path,
        cache: Path,
        receipts: Receipts,
        meter: Meter,
        *,
        named: dict[str, str],
        trial: bool = False,
    ) -> None:
        self.cache, self.meter, self.trial = cache, meter, trial
        self.recipe, self.dataset, self.base, self.receipts, self.events = recipe, dataset, base, receipts, receipts.events
        self.keys = recipe.keys.train
        self.descends = "torch" in recipe.task.traits
        """Whether a torch model learns by gradient descent: number format and refit are asked about there alone."""
        self.max_length = self.keys.max_length if "text-in" in recipe.task.traits else 0
        self.validation = validation
        self.metric: Metric = catalog.build("metrics", recipe.main_metric, "grade.main_metric")
        self.purpose = digest(_inputs(recipe, dataset, base, named))
        """What the checkpoints are checkpoints of: those of another recipe, dataset or base are not gone on from."""
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.checkpoints.clear()
        self.found = self._find()
        self.plan = self._plan(folder / "plan.json")
        self.saver = Saver(self.checkpoints, self.events, self.keys.wait_for_disk)
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.waited = 0
        self.patience = patience(recipe)
        self.looks = Looks(self.metric, validation, recipe.keys.seed, last=self.patience == math.inf)
        """Of a trial of `method: auto` alone."""
        self.recent = [0.0, 0.0]
        """Sum of losses and supervised items since the last evaluation."""
        self.next_step = 0
        self.deadline = math.inf
        """When the loop ends at the latest, on the clock of `time.monotonic`."""
        self.kept = False
        """Whether the best weights were set for good."""
        self._start(train)

    def _find(self) -> tuple[str, dict[str, Any]] | None:
        """The checkpoint to go on from; each that had to be passed over is named."""
        found = self.checkpoints.find()
        refused = self.checkpoints.refused
        for error in refused:
            name = Path(error.place or "").name
            self.events.warn(f"checkpoint {name} is refused: {error.what}", refused=name, why=error.what)
        if refused:
            self.events.warn(f"going on from the next older checkpoint, {found[0]}" if found else "no checkpoint of this run is whole: it starts from the beginning", refused=len(refused))
        if found and found[1].get("purpose", self.purpose) != self.purpose:
            raise DataError(f"checkpoint {found[0]} belongs to another recipe, dataset or base", place=str(self.checkpoints.folder), fix="run with --fresh")
        self.checkpoints.go_on_after(found[1]["step"] if found else -1)
        return found

    def _plan(self, path: Path) -> dict[str, Any]:
        """The choices of the run's first start, read again on a resume; a checkpoint carries them too."""
        import torch

        wanted = self.keys.precision if self.descends else None
        plan: dict[str, Any] | None = self.found[1].get("plan") if self.found else None
        written = None
        if path.is_file():
            try:
                written = read_checked(path)
            except IntegrityError as error:
                self.events.warn(f"{error.what}; " + ("the checkpoint's own copy is used" if plan else "the choices of the run's start are made again"), refused=path.name, why=error.what)
        plan = plan or written or start_plan(wanted)
        if plan != written:
            try:
                write_checked(path, plan)
            except OSError as error:
                raise MachineError(f"cannot write {path.name}: {error}", place=str(path.parent), fix="free disk space or mend the permissions, then run again") from error
        torch.set_num_threads(plan["threads"])
        return plan

    def _start(self, train: Sequence[Row]) -> None:
        recipe = self.recipe
        train = [train[i] for i in Turns(train, recipe.keys.data.replay, recipe.keys.seed).until(_passes(recipe, recipe.method))]
        self.watched = TripwireContext(unloaded(recipe, self.base, self.dataset.signature), recipe.objective, train)
        self._look("rows")
        self.specialist = self.watched.specialist = self.untuned()
        self.examples = self.watched.examples = examples = self.receipts.encode(recipe, self.specialist, train, self.max_length, "train")
        general = {row["row_id"] for row in train if row.get(GENERAL)}
        for one in examples:
            one[GENERAL] = one["row_id"] in general
        self._look("start")
        self.validation_examples: list[Example] = self.receipts.encode(recipe, self.specialist, self.validation, self.max_length, "validation")
        self.receipts.write()
        in_pieces = pieces(examples, self.max_length)
        if in_pieces:
            self.events.note(in_pieces)
        kept, self.features_in_use = self._keep_features() if self.descends else ("", None)
        done = recipe.objective.precompute(self.specialist, examples)
        recipe.objective.precompute(self.specialist, self.validation_examples)
        own = recipe.method.learner(LearnerContext(self.specialist, recipe.objective, self.of_a_pass(examples), self.keys, recipe.keys.seed, self.plan["threads"]))
        self.refit = own is None and (recipe.method.refit if self.keys.refit is None else self.keys.refit)
        self.learner: Learner = own or self.torch_learner(examples)
        precision = {"precision": f"{self.plan['precision']}: {self.plan['precision_why']}"} if self.descends else {}
        self.chosen = {
            **precision,
            "threads": f"{self.plan['threads']} ({waiting.words()})",
            **({"pages": pages.words()} if self.descends else {}),
            "checkpoints": f"every {self.keys.checkpoint_every} steps and at each evaluation, in the background",
            **({"features": "; ".join(filter(None, (done, kept)))} if done else {}),
            **({"rows": in_pieces} if in_pieces else {}),
            **self.receipts.chosen(),
            **self.learner.chosen,
        }
        if self.found is not None:
            facts = self._load(*self.found)
            self.chosen = facts["chosen"] | self.learner.chosen  # what a learner chooses at every start may be otherwise now
            self.meter.go_on(facts.get("used", {}))
            recipe.objective.keys.assume_read()  # what only `begin` reads was read by the start that this run goes on from
            self.events.note(f"resumed at step {self.next_step} of {self.learner.total_steps}", step=self.next_step)

    def _load(self, name: str, facts: dict[str, Any]) -> dict[str, Any]:
        """Back to the moment of a checkpoint; returns its facts."""
        tensors = self.checkpoints.read(name)
        self.looks.load_state(tensors)
        self.learner.load_state({name: one for name, one in tensors.items() if name not in (ROWS, BEST)}, facts["learner"])
        self.next_step, self.best, self.curve, self.waited, self.recent = (facts[key] for key in ("step", "best", "curve", "waited", "recent"))
        return facts

    def _look(self, phase: str) -> None:
        """Let the tripwires of a phase speak; one that blocks ends the run."""
        tripwires.settle(tripwires.alarms(self.watched, phase, judges=False), self.keys.accept, self.events)

    def _keep_features(self) -> tuple[str, IO[bytes] | None]:
        """Where a frozen body's answers to the rows lie, for the record, and what keeps them there."""
        from attune.stages.finetune.features import keep_features

        return keep_features(self.specialist, [*self.examples, *self.validation_examples], self.cache, self.keys, self.events)

    def torch_learner(self, examples: Sequence[Example]) -> Learner:
        """Gradient descent over these rows."""
        from attune.stages.finetune.torch_learner import TorchLearner

        if not self.descends:
            raise PlugError(
                f"method '{self.recipe.method.name}' brings no learner, and task '{self.recipe.task.name}' has no torch model to descend with",
                place="method",
                fix="give the method a learner of its own",
            )
        return TorchLearner(self.specialist, self.recipe.objective, examples, self.keys, self.recipe.keys.seed, self.plan["precision"], self.cache, self.events, self.recipe.keys.data.replay)

    def of_a_pass(self, examples: Sequence[Example]) -> list[Example]:
        """The examples of the first pass: of general ones no more than their share."""
        return [examples[i] for i in Turns(examples, self.recipe.keys.data.replay, self.recipe.keys.seed).of(0)]

    def untuned(self) -> Specialist:
        """The base put together for the task, with the method's weights marked."""
        recipe = self.recipe
        model = recipe.method.prepare(recipe.task.build(self.base, self.dataset.signature), recipe.keys.seed)
        own = {"method": recipe.method, "samples": self.metric.samples(), "long_rows": rule_of(recipe)}
        return Specialist(recipe.task, self.dataset.signature, model, self.base.tokenizer(), self.base, self.max_length, recipe.name, **own)

    def loop(self) -> None:
        """Step until the plan or patience ends, or somebody asks to stop; evaluate and checkpoint on the way. Everything is committed on return."""
        with Interrupt() as interrupt:
            self.saver.stop = lambda: interrupt.asked is not None
            with self.saver:
                self._steps(interrupt)
            if interrupt.asked is not None:
                self.events.note(f"{interrupt.name}: step {self.next_step} of {self.learner.total_steps} is saved; the same command goes on from there", step=self.next_step)
        interrupt.follow()

    def _steps(self, interrupt: Interrupt) -> None:
        learner, total = self.learner, self.learner.total_steps
        every, save_every = max(1, learner.steps_per_epoch // self.keys.evaluations_per_epoch), self.keys.checkpoint_every
        first = True
        if self.found is None:
            started = self.recipe.objective.begin(self.specialist, self.of_a_pass(self.examples))
            learner.begin()
            self.chosen |= ({"start": started} if started else {}) | learner.chosen
            self._evaluate(0, 0.0)
            self._commit(0)
        unseen = self.next_step < LOOK  # also on a resume: an earlier start may have ended before its look, or by it
        if unseen:
            tripwires.remember(self.watched)
            self.watched.taught = False
        while self.next_step < total and self.waited < self.patience:
            try:
                report = learner.step(self.next_step)
            except Unsteady as unsteady:
                self._go_back(unsteady)
                continue
            self.next_step += 1
            if report.get("skipped"):
                self.events.warn(f"step {self.next_step} was skipped: {report['skipped']}", rows=report["rows"])
            if report.get("warning"):
                self.events.warn(report["warning"], step=self.next_step)
            if first:  # one step has read whatever will be read: a key without effect is told before hours go by
                self.chosen |= learner.chosen
                if not self.trial:
                    self.recipe.require_read("train", "objective", "method")
                first = False
            step = self.next_step
            self.watched.taught = self.watched.taught or report.get("gradient_norm", 1.0) > 0
            if unseen and step >= min(LOOK, total) and not report.get("skipped"):
                self._look("steps")
                unseen = False
            if not report.get("skipped"):
                self.recent = [self.recent[0] + report["loss"] * report["items"], self.recent[1] + report["items"]]
            self.events.progress("train", step, total, loss=report["loss"], learning_rate=report["learning_rate"])
            late = time.monotonic() > self.deadline
            if step % every == 0 or step == total or late:
                self._evaluate(step, report["learning_rate"])
                self._commit(step)
            elif step % save_every == 0 or interrupt.asked is not None:
                self._commit(step)
            self.saver.poll()
            if interrupt.asked is not None:
                return
            if late:
                self.events.note(f"stopped at step {step} of {total}: the budget is used up")
                return
        if self.waited >= self.patience and self.next_step < total:
            self.events.note(f"stopped at step {self.next_step} of {total}: no better {self.recipe.main_metric} in {self.waited} evaluations")

    def _go_back(self, unsteady: Unsteady) -> None:
        """Once: to the last checkpoint, on with a lower rate. The second time the run stops with what it knows."""
        if self.learner.lowered:
            raise DataError(
                f"training is not steady at step {unsteady.step + 1}, though the learning rate was halved already: {unsteady.why}",
                place="train.learning_rate",
                fix="lower it to a third, raise train.warmup_ratio, set train.precision to fp32, or look at the rows named above",
            ) from unsteady
        self.saver.wait()
        found = self.checkpoints.find()
        if found is None:
            raise IntegrityError("there is no whole checkpoint to go back to", place=str(self.checkpoints.folder), fix="run with --fresh")
        self._load(*found)
        self.learner.lower()
        self.chosen["went back"] = f"to step {self.next_step} from step {unsteady.step + 1}, and on with half the learning rate: {unsteady.why}"
        self.events.warn(f"{SKIPS} of the last steps had to be skipped ({unsteady.why}): back to step {self.next_step}, on with half the learning rate")

    def _evaluate(self, step: int, rate: float) -> None:
        with self.learner.settled() as specialist:
            rows = self.contributions(specialist)
            value = self._value(rows)
            validation_loss = self.learner.validation_loss(self.validation_examples)
            if self.trial:
                self.looks.see(rows)
            better = not self.best or self.patience == math.inf or (value > self.best["value"] if self.metric.higher_is_better else value < self.best["value"])
            tied = bool(self.best) and value == self.best["value"] and validation_loss < self.best["loss"]
            if better or tied:
                self.best = {"step": step, "value": value, "loss": validation_loss}
                self.saver.save_best(step, self.learner.weights())
        self.waited = 0 if better else self.waited + 1
        point = {"step": float(step), "epoch": step / self.learner.steps_per_epoch, "validation_loss": validation_loss, f"validation_{self.recipe.main_metric}": value}
        if step:
            point |= {"loss": self.recent[0] / self.recent[1] if self.recent[1] else math.nan, "learning_rate": rate}
        self.recent = [0.0, 0.0]
        self.curve.append(point)
        if self.recipe.objective.loss_falls:
            for wrong in filter(None, (overfitting(self.curve), diverging(self.curve))):
                self.events.warn(wrong)
        self.events.note(f"step {step}: {self.recipe.main_metric} {value:.4f}, validation loss {validation_loss:.4f}", **point)

    @property
    def seen(self) -> np.ndarray:
        """What the looks of a trial say of each validation row, [n, 2k]."""
        if self.looks.halves is None:
            raise IntegrityError("no whole checkpoint of this trial is left", place=str(self.checkpoints.folder), fix="run with --fresh")
        return self.looks.halves

    def contributions(self, specialist: Specialist) -> np.ndarray:
        """What each validation row adds to the main metric, float64 [n, k]."""
        truth = [self.recipe.task.truth(row) for row in self.validation]
        told, specialist.told = specialist.told, lambda what, done, total: self.events.progress(f"validation: {what}", done, total)
        try:
            answers = specialist.answers_for(self.metric, self.validation)
        finally:
            specialist.told = told
        return self.metric.of_rows(self.validation, truth, answers, self.dataset.signature)

    def _value(self, rows: np.ndarray) -> float:
        value = float(self.metric.value(rows.sum(0)))
        if math.isnan(value):
            raise DataError(f"{self.recipe.main_metric} is undefined on the validation rows", place="grade.main_metric", fix="choose another main metric or give more validation rows")
        return value

    def _commit(self, step: int) -> None:
        tensors, facts = self.learner.state()
        self.meter.saw(self.checkpoints.most)
        own = {"step": step, "used": self.meter.facts(), "best": self.best, "curve": self.curve, "waited": self.waited, "recent": self.recent, "learner": facts, "chosen": self.chosen}
        self.saver.save(step, {**tensors, **self.looks.state()}, {**own, "plan": self.plan, "purpose": self.purpose})

    def _train_again(self, best: int) -> None:
        """From the base once more, on training and validation rows, for as many passes as the best step had seen; a kill starts this over.
        Where that is not steady, the budget is used up or memory runs out, the model of the first pass is kept."""
        settled, objective = self.specialist, self.recipe.objective
        bad: frozenset[str] = getattr(self.learner, "left_out", frozenset())
        examples = [one for one in (*self.examples, *self.validation_examples) if one["row_id"] not in bad]
        self.specialist = self.untuned()
        self.specialist.signature, self.specialist.known_features = settled.signature, settled.known_features
        self.specialist.tokenizer = settled.tokenizer
        learner = self.torch_learner(examples)
        objective.begin(self.specialist, self.of_a_pass(examples))
        learner.begin()
        if self.learner.lowered:
            learner.lower()
        steps = round(best / self.learner.steps_per_epoch * learner.steps_per_epoch)
        why = ""
        for index in range(steps):
            if time.monotonic() > self.deadline:
                why = "training once more would take longer than the budget"
                break
            try:
                report = learner.step(index)
            except Unsteady as unsteady:
                why = f"training once more was not steady ({unsteady.why})"
                break
            except MachineError as error:  # the first model is held beside the second
                why = f"training once more needs more memory than there is ({error.what})"
                break
            self.events.progress("refit", index + 1, steps, loss=report["loss"], learning_rate=report["learning_rate"])
        if why:
            self.specialist = settled
            self.chosen["refit"] = f"{why}: the model of the first pass is kept"
            self.events.warn(self.chosen["refit"])
            return
        with learner.settled():
            weights = learner.weights()
        learner.load_weights(weights)
        self.chosen["refit"] = f"trained once more on all {len(examples):,} training and validation rows, as far as step {best} of the first pass"
        self.events.note(self.chosen["refit"])
        self._finish(examples)

    def _finish(self, examples: Sequence[Example]) -> None:
        done = self.recipe.objective.finish(self.specialist, self.of_a_pass(examples))
        if done:
            self.chosen["finish"] = f"{done}; the validation figures are from before that"

    def keep_best(self) -> Specialist:
        """The specialist with its best weights, for good: training cannot go on."""
        if not self.kept:
            self.learner.load_weights(self.checkpoints.best(int(self.best["step"])))
            self.kept = True
        return self.specialist

    def checkpoint(self, workspace: Workspace, run: str, trials: Sequence[dict[str, Any]] = ()) -> Checkpoint:
        """The best weights as a bundle in the store, and its record."""
        self.saver.tell()
        best = int(self.best["step"])
        self.keep_best()
        self._finish(self.examples)
        self.specialist.signature = self.recipe.task.settle(self.specialist, self.validation)  # it needs rows that did not train
        if self.refit:
            self._train_again(best)
        store_key = workspace.store.put("bundle", lambda folder: write_bundle(self.specialist, folder))
        start, means = words_of_start(self.chosen)
        told = (
            f"the last step, {best}, is kept"
            if self.patience == math.inf
            else f"best at step {best}"
            if best
            else f"{means}: no step was better on the validation rows than {start}, which is kept (step 0 of {self.next_step})"
        )
        (self.events.note if best or {"start", "features"} <= self.chosen.keys() else self.events.warn)(
            f"{told}: {self.recipe.main_metric} {self.best['value']:.4f} on {len(self.validation)} validation rows"
        )
        return Checkpoint(
            specialist=self.recipe.name,
            parents=(self.dataset.id,),
            store_key=store_key,
            dataset_id=self.dataset.id,
            task=self.recipe.task.name,
            objective=self.recipe.objective.name,
            method=self.recipe.method.name,
            base=self.base.identity,
            recipe_digest=digest(self.recipe.part("task", "objective", "method", "seed", "train")),
            best_step=best,
            steps=self.next_step,
            main_metric=self.recipe.main_metric,
            validation={self.recipe.main_metric: self.best["value"], "loss": self.best["loss"]},
            curve=tuple(self.curve),
            chosen=self.chosen,
            trials=tuple(trials),
            run=run,
            cost=self._cost(workspace.run_folder(run), workspace.store.root / store_key),
        )

    def _cost(self, folder: Path, bundle: Path) -> dict[str, Any]:
        """What the run in `folder` took, and what was forecast of it."""
        self.meter.saw(max(self.checkpoints.most, size_of(folder)) + size_of(bundle) + getattr(self.learner, "cached_bytes", 0))
        try:
            predicted = forecast_of(folder)
        except IntegrityError as error:
            self.events.warn(f"the forecast is left out of the record: {error.what}")
            predicted = None
        taken = {name: value for name, value in self.meter.facts().items() if name != "since"}
        if predicted and "none" in predicted:
            return taken | {"not_predicted": predicted["none"]}
        return taken | ({"predicted": predicted} if predicted else {})
