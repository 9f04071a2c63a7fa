"""`method: auto`: the methods that fit, smallest first, each with a learning rate from a short sweep, as long as the validation rows say it
pays and the budget lasts. What is kept is the smallest model that is not clearly worse than the best.

The journal `trials.json` is written before and after each trial, so that a killed search goes on with the trial that it was in.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core import catalog
from attune.core.commit import read_checked, write_checked
from attune.core.contracts import Figure, Method
from attune.core.errors import AttuneError, DataError, IntegrityError
from attune.core.events import Events
from attune.core.learner import Unsteady
from attune.core.memory import ran_out
from attune.core.randomness import generator
from attune.core.recipe import Recipe
from attune.core.resampling import chance_better
from attune.stages.finetune.looks import Halves

if TYPE_CHECKING:
    import numpy as np

    from attune.stages.finetune.stage import Session
    from attune.stages.finetune.torch_learner import TorchLearner

CLEARLY = 0.75
"""A larger model is taken when its chance of being better, by paired resampling of the validation rows, is at least this;
each half of the rows is judged by the look that did best on the other half (`looks.py`)."""
SWEPT_RATES = 4
"""Learning rates that a sweep tries, the method's own first."""
SPAN = 5.0
"""It tries rates from the method's own divided by this to the method's own times this."""
SWEPT_STEPS, SWEPT_VALIDATION = 30, 400
"""A trial of a sweep makes so many steps, and looks at so many validation rows."""
HORIZON = 0.32
"""The best learning rate falls with the number of steps to this power (Bjorck et al. 2024, Scaling optimal LR across token horizons): a trial
tries a rate for the run at (steps of the run / steps of the trial) to this power times as much. The run's steps are those of all wanted passes,
also where a budget leaves time for fewer."""
LOOKS = 3
"""How often a trial of a sweep is looked at; after each look it may be given up."""
WORTH = 0.01
"""Another rate than the method's own is taken when its validation loss is lower by this share."""
FAILED = "could not be trained"
SHARE = 0.25
"""A sweep takes at most this share of the time that is left."""
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Autopilot:
    """The search of one run.

    Args:
        recipe: with its candidates.
        session: makes the loop of a recipe in a folder.
        folder: the run's.
    """

    def __init__(self, recipe: Recipe, session: Callable[[Recipe, Path], Session], folder: Path, events: Events) -> None:
        self.recipe, self.session, self.folder, self.events = recipe, session, folder, events
        budget = recipe.keys.budget
        self.budget = float(budget[:-1]) * UNITS[budget[-1]] if budget else math.inf
        self.began = time.monotonic()
        self.path = folder / "trials.json"
        self.trials: list[dict[str, Any]] = self._read()
        self.used = sum(one["seconds"] for one in self.trials)
        """Seconds that earlier, killed parts of this run took."""

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        try:
            found: list[dict[str, Any]] = read_checked(self.path)
        except IntegrityError as error:
            self.events.warn(f"{error.what}: the search starts again", refused=self.path.name, why=error.what)
            return []
        return found

    @property
    def left(self) -> float:
        """Seconds of the budget that are left for training; what training one of those that are done once more would take is set aside."""
        return self.budget - self.used - (time.monotonic() - self.began) - self._aside()

    def _aside(self) -> float:
        """Seconds that training once more takes, of the slowest of the methods done that do so: at most about as long as the first time."""
        again = {one.name for one in self.recipe.candidates if self._refits(one)}
        return max((one["seconds"] for one in self.trials if one["kind"] == "train" and one["steps"] and one["method"] in again), default=0.0)

    def _refits(self, method: Method) -> bool:
        """Whether a method trains once more when it is kept."""
        wanted = self.recipe.keys.train.refit
        return method.refit if wanted is None else wanted

    def best(self) -> Session:
        """Search, and give the loop of the model to keep, with its best weights."""
        tried: list[tuple[dict[str, Any], np.ndarray]] = []
        metric = Halves(catalog.build("metrics", self.recipe.main_metric, "grade.main_metric"))
        for method in self.recipe.candidates:
            trained = self._train(method, first=not tried)
            if trained is None:
                continue
            trial, rows = trained
            if tried:
                leader, theirs = self._best_of(tried, metric)
                chance = chance_better(rows, theirs, metric, self.recipe.keys.seed)
                trial["outcome"] = f"better than {leader['method']} with a chance of {chance:.0%}"
                self.events.note(f"{method.name}: {self.recipe.main_metric} {trial['validation']:.4f}, {trial['outcome']}")
            tried.append((trial, rows))
            self._write()
            if len(tried) > 1 and chance <= 0.5:
                larger = [one.name for one in self.recipe.candidates[self.recipe.candidates.index(method) + 1 :]]
                if larger:
                    self.events.note(f"{method.name} did not improve on what was smaller: {', '.join(larger)} is not tried")
                break
        failed = [f"{one['method']} {one['outcome']}" for one in self.trials if one["outcome"].startswith(FAILED)]
        if not tried:
            raise DataError(f"auto found no method that can be trained: {'; '.join(failed)}", place="method", fix="set a lower train.learning_rate, or look at the rows that the warnings above name")
        winner = self._smallest(tried, metric)
        winner["outcome"] = ", ".join(part for part in (winner["outcome"].removesuffix("kept").removesuffix(", "), "kept") if part)
        self._write()
        method = next(one for one in self.recipe.candidates if one.name == winner["method"])
        session = self._open(method, winner, last=True)
        chosen = f"{method.name}, the smallest of {', '.join(one['method'] for one, _ in tried)} that is not clearly worse on the validation rows than the best of them"
        session.chosen["method"] = "; ".join([chosen, *failed])
        self.events.note(f"auto keeps {method.name}: {self.recipe.main_metric} {winner['validation']:.4f} on the validation rows, learning rate {winner['learning_rate']:.2g}")
        return session

    @staticmethod
    def _best_of(tried: list[tuple[dict[str, Any], np.ndarray]], metric: Figure) -> tuple[dict[str, Any], np.ndarray]:
        sign = 1.0 if metric.higher_is_better else -1.0
        return max(tried, key=lambda one: (sign * float(metric.value(one[1].sum(0))), sign * one[0]["validation"]))

    def _smallest(self, tried: list[tuple[dict[str, Any], np.ndarray]], metric: Figure) -> dict[str, Any]:
        """The first than which the best is not clearly better."""
        best, rows = self._best_of(tried, metric)
        for trial, theirs in tried:
            if trial is best or chance_better(rows, theirs, metric, self.recipe.keys.seed) < CLEARLY:
                return trial
        return best

    def _train(self, method: Method, *, first: bool) -> tuple[dict[str, Any], np.ndarray] | None:
        """Sweep and train one method, or find it done, and what its looks say of each validation row; None where it was not or could not be trained.

        Args:
            first: whether none was trained so far; where memory runs out then, the run ends, and goes on from there when it is started again.
        """
        known = next((one for one in self.trials if one["method"] == method.name and one["kind"] == "train"), None)
        if known is not None and known["outcome"] != "running":
            return (known, self._open(method, known).seen) if known["steps"] else None
        try:
            return self._trained(method, known, first=first)
        except (AttuneError, MemoryError, RuntimeError, OSError) as error:
            memory = ran_out(error) or (error.__cause__ is not None and ran_out(error.__cause__))
            if (memory and first) or not (memory or isinstance(error.__cause__, Unsteady)):
                raise
            self._give_up(method, error.what if isinstance(error, AttuneError) else f"memory ran out ({error})", memory=memory)
        return None

    def _give_up(self, method: Method, why: str, *, memory: bool) -> None:
        """Write down that a method could not be trained; for want of memory those of higher rungs are not tried either."""
        planned = next((one for one in self.trials if one["method"] == method.name and one["kind"] == "train"), None)
        trial = planned or self._note(method, "train", self.recipe.keys.train.learning_rate or method.learning_rate)
        trial["outcome"] = f"{FAILED}: {why}"
        larger = [one for one in self.recipe.candidates if memory and one.rung > method.rung]
        for one in larger:
            self._note(one, "train", self.recipe.keys.train.learning_rate or one.learning_rate, outcome=f"not tried: {method.name} needed more memory than there is")
        self._write()
        self.events.warn(f"{method.name} {trial['outcome']}" + (f"; {', '.join(one.name for one in larger)} is not tried" if larger else ""))

    def _trained(self, method: Method, known: dict[str, Any] | None, *, first: bool) -> tuple[dict[str, Any], np.ndarray] | None:
        """As `_train`, for a method that is not done; `known` is its line of the journal where an earlier start began it."""
        again = known is not None
        if known is None:
            known = self._planned(method, first=first)
            if not known["epochs"]:
                return None
        session = self._open(method, known)
        if again:  # a killed start could not write down what it took
            known["seconds"] = max(known["seconds"], session.meter.earlier - sum(one["seconds"] for one in self.trials if one is not known))
        begun = time.monotonic()
        try:
            session.loop()
        finally:
            known["seconds"] += time.monotonic() - begun
            self._write()
        known |= {"steps": session.next_step, "validation": session.best["value"], "loss": session.best["loss"], "outcome": ""}
        self._write()
        return known, session.seen

    def _open(self, method: Method, trial: dict[str, Any], *, last: bool = False) -> Session:
        """The loop of a trial, as far as it has come, with the time that is left for it; the last has also what was set aside for training once more."""
        own = {"learning_rate": trial["learning_rate"], "epochs": trial["epochs"]}
        session = self.session(self.recipe.tried(method, **own), self.folder / "trials" / method.name)
        self.used = max(self.used, session.meter.earlier)
        session.deadline = time.monotonic() + max(0.0, self.left + self._aside() if last else self.left / (2 if self._refits(method) else 1)) if math.isfinite(self.budget) else math.inf
        return session

    def _planned(self, method: Method, *, first: bool) -> dict[str, Any]:
        """Rate and passes of a method, written down before its training begins; no passes where there is no time for one."""
        keys = self.recipe.keys.train
        wanted, rate = float(keys.epochs or method.epochs), keys.learning_rate or method.learning_rate
        epochs, why = wanted, ""
        if self.left <= 0 and not first:
            epochs, why = 0.0, "the budget is used up"
        elif method.sweeps:
            rate, seconds = self._sweep(method, keys.learning_rate)
            once_more = " and training once more" if self._refits(method) else ""
            fit = math.inf if math.isinf(self.left) else self.left / (2 * seconds if once_more else seconds)
            epochs = wanted if wanted <= fit else max(min(wanted, 1.0) if first else 0.0, float(math.floor(fit)))
            if epochs < wanted:
                why = f"{wanted:g} passes{once_more} would take longer than what is left of the budget" + (
                    f"; {epochs:g} {'is' if epochs == 1 else 'are'} made" if epochs else ", and so would one" if wanted > 1 else ""
                )
        trial = self._note(method, "train", rate, epochs=epochs, outcome="running" if epochs else why)
        self._write()
        if why:
            self.events.note(f"{method.name}: {why}")
        return trial

    def _note(self, method: Method, kind: str, rate: float, **facts: Any) -> dict[str, Any]:
        """A new line of the journal."""
        trial = {"method": method.name, "kind": kind, "learning_rate": rate, "epochs": 0.0, "steps": 0, "seconds": 0.0, "validation": None, "loss": None, **facts}
        self.trials.append(trial)
        return trial

    def _sweep(self, method: Method, given: float | None) -> tuple[float, float]:
        """The learning rate with the lowest validation loss after a short training, and the seconds that one pass over all rows will take."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        session = self.session(self.recipe.tried(method), self.folder / "sweeps" / method.name)
        own = given or method.learning_rate
        learned = session.of_a_pass(session.examples)
        steeper = (session.learner.total_steps / SWEPT_STEPS) ** HORIZON
        order = generator(self.recipe.keys.seed, "sweep rows").permutation(len(learned))[: SWEPT_STEPS * session.keys.batch_size]
        few = [learned[i] for i in sorted(order)]
        study = optuna.create_study(
            direction="minimize",
            sampler=optuna.samplers.TPESampler(seed=self.recipe.keys.seed, n_startup_trials=3),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
        )
        study.enqueue_trial({"learning_rate": own})
        known = [one for one in self.trials if (one["method"], one["kind"]) == (method.name, "sweep")]
        pace, rates = 0.0, 1 if given else SWEPT_RATES
        start: tuple[Any, Any] | None = None
        number, until = 0, time.monotonic() + SHARE * max(0.0, self.left)
        while number < rates and (number < max(1, len(known)) or time.monotonic() < until):
            number += 1
            asked = study.ask()
            rate = asked.suggest_float("learning_rate", own / SPAN, own * SPAN, log=True)
            if number <= len(known):  # a killed start came so far
                trial = known[number - 1]
                for look, loss in enumerate(trial["looks"]):
                    asked.report(math.inf if loss is None else loss, look + 1)
            else:
                learner, start = self._short(session, few, rate * steeper, start)
                since = time.monotonic()
                losses, made = self._losses(session, learner, asked, (number, rates), until)
                taken = time.monotonic() - since
                looks = [loss if math.isfinite(loss) else None for loss in losses]
                whole = len(looks) == LOOKS and looks[-1] is not None
                facts = {"tried_at": rate * steeper, "steps": made, "of": learner.total_steps, "looks": looks, "loss": looks[-1]}
                trial = self._note(method, "sweep", rate, seconds=taken, outcome="" if whole else "given up", **facts)
                self._write()
            pruned = bool(trial["outcome"])
            study.tell(asked, None if pruned else trial["loss"], state=optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE)
            if number == 1:
                pace = trial["seconds"] / trial["steps"] * math.ceil(len(learned) / session.keys.batch_size)
                more = (until - time.monotonic()) / trial["seconds"]
                rates = min(rates, max(len(known), 1 + int(max(0.0, more)))) if math.isfinite(more) else rates
        done = {one.params["learning_rate"]: float(one.value) for one in study.get_trials(states=[optuna.trial.TrialState.COMPLETE]) if one.value is not None}
        rate = min(done, key=lambda one: done[one] if one != own else done[one] - WORTH * abs(done[one]), default=own)
        self._write()
        self.events.note(f"{method.name}: learning rate {rate:.2g} of {number} tried" + ("" if rate != own else ", the method's own"))
        return rate, pace

    def _short(self, session: Session, few: list[Any], rate: float, start: tuple[Any, Any] | None) -> tuple[TorchLearner, tuple[Any, Any]]:
        """A learner of a few rows at a rate; all of a sweep start from the same weights."""
        from attune.stages.finetune.torch_learner import TorchLearner

        steps = math.ceil(len(few) / session.keys.batch_size)
        keys = session.keys.model_copy(update={"learning_rate": rate, "epochs": SWEPT_STEPS / steps, "compile": "off"})
        specialist = session.untuned()
        learner = TorchLearner(specialist, self.recipe.objective, few, keys, self.recipe.keys.seed, session.plan["precision"], replay=self.recipe.keys.data.replay)
        if start is None:
            self.recipe.objective.begin(specialist, few)
            learner.begin()
            return learner, copy.deepcopy(learner.state())  # training moves what it was given
        learner.load_state(*start)
        return learner, start

    def _losses(self, session: Session, learner: TorchLearner, asked: Any, place: tuple[int, int], until: float) -> tuple[list[float], int]:
        """Validation losses at the looks of one trial, and its steps; it ends early where the pruner says so, training is not steady or the sweep's time is up."""
        found: list[float] = []
        order = generator(self.recipe.keys.seed, "sweep validation").permutation(len(session.validation_examples))[:SWEPT_VALIDATION]
        seen = [session.validation_examples[i] for i in sorted(order)]
        looks = [round(learner.total_steps * (one + 1) / LOOKS) for one in range(LOOKS)]
        for index in range(learner.total_steps):
            try:
                learner.step(index)
            except Unsteady:
                asked.report(math.inf, len(found) + 1)
                return [*found, math.inf], index + 1
            self.events.progress(f"learning rate {place[0]} of {place[1]}", index + 1, learner.total_steps)
            if index + 1 in looks:
                with learner.settled():
                    loss = learner.validation_loss(seen)
                found.append(loss if math.isfinite(loss) else math.inf)
                asked.report(found[-1], len(found))
                if asked.should_prune():
                    return found, index + 1
            if time.monotonic() > until and index + 1 < learner.total_steps:
                return [*found, math.inf], index + 1
        return found, learner.total_steps

    def _write(self) -> None:
        write_checked(self.path, self.trials)
