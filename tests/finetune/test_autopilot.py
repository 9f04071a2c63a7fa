"""`method: auto`: small first, only what pays, within the budget, and a killed search goes on where it was."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from attune.core import catalog, pages
from attune.core.commit import read_checked, write_checked
from attune.core.errors import DataError, MachineError, Problems
from attune.core.events import Events
from attune.core.recipe import make_recipe
from attune.core.resampling import chance_better
from attune.core.specialist import open_bundle
from attune.stages import finetune
from attune.stages.finetune import autopilot

from .conftest import make_dataset, make_rows


@pytest.fixture
def auto_of(recipe_of):
    """Recipes with `method: auto`; without a rate of their own unless one is given."""

    def make(budget=None, **train):
        values = {**recipe_of(**train).given, "method": "auto"} | ({"budget": budget} if budget else {})
        if "learning_rate" not in train:
            del values["train"]["learning_rate"]
        return make_recipe(values, folder=recipe_of().folder)

    return make


def searched(recipe, workspace, rows, run="search", listeners=()):
    dataset = make_dataset(workspace, recipe, rows)
    return dataset, finetune.run(recipe, workspace, dataset, Events(None, listeners), run=run)


def trained(checkpoint):
    return [one for one in checkpoint.trials if one["kind"] == "train"]


def test_what_is_kept_is_in_the_record_and_answers(auto_of, workspace):
    recipe = auto_of()
    _, checkpoint = searched(recipe, workspace, make_rows(120))
    assert [one.name for one in recipe.candidates] == ["head", "lora", "full"]
    assert [one["method"] for one in trained(checkpoint)] == ["head", "lora", "full"][: len(trained(checkpoint))]
    kept = [one for one in checkpoint.trials if one["outcome"].endswith("kept")]
    assert [one["method"] for one in kept] == [checkpoint.method]
    assert kept[0]["validation"] == checkpoint.validation["accuracy"]
    assert checkpoint.chosen["pages"] == pages.words()
    specialist = open_bundle(workspace.store.path(checkpoint.store_key))
    assert specialist.method.name == checkpoint.method
    assert specialist.predict([{"text": "refund please"}])[0].output in recipe.task.signature(make_rows(20))["labels"]


def test_a_sweep_leaves_a_rate_that_is_far_too_high(auto_of, workspace, monkeypatch):
    lora = catalog.load("methods", "lora")
    monkeypatch.setattr(lora, "learning_rate", 0.1)
    _, checkpoint = searched(auto_of(), workspace, make_rows(120))
    rates = [one["learning_rate"] for one in checkpoint.trials if (one["method"], one["kind"]) == ("lora", "sweep")]
    assert rates[0] == 0.1
    assert len(rates) == autopilot.SWEPT_RATES
    assert next(one["learning_rate"] for one in trained(checkpoint) if one["method"] == "lora") < 0.05


@pytest.mark.parametrize("epochs", [1, 20])
def test_a_trial_of_a_sweep_tries_a_rate_as_its_length_asks(auto_of, workspace, monkeypatch, epochs):
    """Higher than in the run where the run has more steps, lower where it has fewer."""
    tried, short = [], autopilot.Autopilot._short

    def seen(self, session, few, rate, start):
        tried.append((session.recipe.method.name, rate, session.learner.total_steps))
        return short(self, session, few, rate, start)

    monkeypatch.setattr(autopilot.Autopilot, "_short", seen)
    _, checkpoint = searched(auto_of(epochs=epochs), workspace, make_rows(60))
    own = catalog.load("methods", "lora").learning_rate
    name, rate, steps = tried[0]
    assert (name, steps) == ("lora", 6 * epochs)
    assert rate == pytest.approx(own * (6 * epochs / 30) ** 0.32)
    assert (rate > own) == (epochs == 20)
    first = next(one for one in checkpoint.trials if one["kind"] == "sweep")
    assert (first["learning_rate"], first["tried_at"]) == (own, rate)


def test_all_trials_of_a_sweep_start_from_the_same_weights(auto_of, workspace, monkeypatch):
    starts, losses = [], autopilot.Autopilot._losses

    def seen(self, session, learner, *given):
        starts.append((session.recipe.method.name, {name: one.clone() for name, one in learner.weights().items()}))
        return losses(self, session, learner, *given)

    monkeypatch.setattr(autopilot.Autopilot, "_losses", seen)
    monkeypatch.setattr(autopilot, "SWEPT_RATES", 3)
    searched(auto_of(epochs=1), workspace, make_rows(60))
    first, *others = [weights for name, weights in starts if name == "lora"]
    assert len(others) == 2
    assert all(bool((one[name] == first[name]).all()) for one in others for name in first)


def test_a_rate_of_the_user_is_not_swept(auto_of, workspace):
    _, checkpoint = searched(auto_of(learning_rate=1.5e-3), workspace, make_rows(80))
    assert {one["learning_rate"] for one in checkpoint.trials} == {1.5e-3}


@pytest.mark.parametrize(("others", "kept"), [(-1.005, True), (-1.05, False), (-0.9, True)])
def test_another_rate_has_to_be_clearly_better_also_where_losses_are_negative(auto_of, workspace, monkeypatch, others, kept):
    def losses(self, session, learner, asked, place, until):
        return [-1.0 if place[0] == 1 else others] * autopilot.LOOKS, learner.total_steps

    monkeypatch.setattr(autopilot.Autopilot, "_losses", losses)
    monkeypatch.setattr(autopilot, "SWEPT_RATES", 2)
    _, checkpoint = searched(auto_of(epochs=1), workspace, make_rows(60))
    swept = [one["learning_rate"] for one in checkpoint.trials if (one["method"], one["kind"]) == ("lora", "sweep")]
    [chosen] = [one["learning_rate"] for one in trained(checkpoint) if one["method"] == "lora"]
    assert chosen == swept[0 if kept else 1]


@pytest.mark.parametrize("at", ["lora", "learning rate 3"])
def test_a_killed_search_goes_on_and_ends_the_same(auto_of, workspace, at):
    recipe, rows = auto_of(), make_rows(100)
    _, whole = searched(recipe, workspace, rows, "whole")
    seen = []

    def killer(event):
        seen.append(event)
        sweeping = event["kind"] == "progress" and event["message"].startswith(at)
        training = event["kind"] == "progress" and event["message"] == "train" and any(one["kind"] == "note" and one["message"].startswith(at) for one in seen)
        if sweeping or (training and event["done"] == 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(recipe, workspace, rows, "killed", [killer])
    journal = read_checked(workspace.run_folder("killed") / "trials.json")
    assert journal[0]["method"] == "head"
    assert journal[0]["validation"] is not None
    told = []
    _, again = searched(recipe, workspace, rows, "killed", [told.append])
    assert again.store_key == whole.store_key
    timeless = [[{name: value for name, value in one.items() if name != "seconds"} for one in made.trials] for made in (whole, again)]
    assert timeless[0] == timeless[1]
    assert not any(event["kind"] == "progress" and event["message"] == "train" and event["done"] == 1 for event in told if at == "lora" and event is told[0])


def test_a_sweep_that_was_killed_goes_on_where_it_was(auto_of, workspace):
    recipe, rows = auto_of(), make_rows(100)
    _, whole = searched(recipe, workspace, rows, "whole")
    seen = []

    def killer(event):
        if event["kind"] == "progress" and event["message"].startswith("learning rate 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(recipe, workspace, rows, "killed", [killer])
    journal = read_checked(workspace.run_folder("killed") / "trials.json")
    assert [(one["method"], one["kind"]) for one in journal] == [("head", "train"), ("lora", "sweep"), ("lora", "sweep")]
    assert all(one["seconds"] > 0 for one in journal)
    _, again = searched(recipe, workspace, rows, "killed", [seen.append])
    assert next(event["message"] for event in seen if event["kind"] == "progress" and event["message"] != "train").startswith("learning rate 3")
    assert again.store_key == whole.store_key


def test_the_time_of_a_start_that_could_write_nothing_down_counts(auto_of, workspace, monkeypatch):
    """After a kill the journal says 0 seconds of the trial that ran; its checkpoint knows better."""
    from attune.stages.finetune.meter import Meter

    recipe, rows = auto_of(budget="2000s"), make_rows(80)
    facts = Meter.facts
    monkeypatch.setattr(Meter, "facts", lambda self: {**facts(self), "seconds": facts(self)["seconds"] + 900})

    def killer(event):
        if event["kind"] == "progress" and event["message"] == "train" and event["done"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(recipe, workspace, rows, "killed", [killer])
    path = workspace.run_folder("killed") / "trials.json"
    journal = read_checked(path)
    assert journal[-1]["outcome"] == "running"
    write_checked(path, [{**one, "seconds": 0.0} for one in journal])
    monkeypatch.setattr(Meter, "facts", facts)
    left = []
    train = autopilot.Autopilot._train
    monkeypatch.setattr(autopilot.Autopilot, "_train", lambda self, *given, **named: (train(self, *given, **named), left.append(self.left))[0])
    _, checkpoint = searched(recipe, workspace, rows, "killed")
    assert left[0] < 1100
    assert trained(checkpoint)[0]["seconds"] > 900


def test_a_damaged_journal_is_told_and_the_search_begins_again(auto_of, workspace):
    recipe, rows = auto_of(), make_rows(80)
    _, whole = searched(recipe, workspace, rows)
    path = workspace.run_folder("search") / "trials.json"
    path.write_text(path.read_text().replace("head", "herd", 1))
    told = []
    _, again = searched(recipe, workspace, rows, listeners=[told.append])
    assert any(event["kind"] == "warning" and "the search starts again" in event["message"] for event in told)
    assert again.store_key == whole.store_key


def failing(monkeypatch, method, *, memory):
    """Every step of a method fails for want of memory, or because training is not steady."""
    from attune.core.learner import Unsteady
    from attune.stages.finetune.torch_learner import TorchLearner

    sums, tried = TorchLearner._sums, []

    def broken(self, index, *given):
        if self._specialist.method.name != method:
            return sums(self, index, *given)
        tried.append(index)
        raise MemoryError("not enough memory") if memory else Unsteady(index, "the loss is no number")

    monkeypatch.setattr(TorchLearner, "_sums", broken)
    return tried


@pytest.mark.parametrize(
    ("method", "memory", "said"),
    [("full", True, "memory ran out with 1 row at once"), ("full", False, "training is not steady at step 1"), ("lora", True, "memory ran out"), ("lora", False, "training is not steady")],
)
def test_one_that_cannot_be_trained_leaves_what_was_trained_before(auto_of, workspace, monkeypatch, method, memory, said):
    monkeypatch.setattr(autopilot, "SWEPT_RATES", 1)
    monkeypatch.setattr(autopilot, "chance_better", lambda *given: 0.6)  # each improves, and not clearly
    tried = failing(monkeypatch, method, memory=memory)
    recipe, rows, told = auto_of(epochs=1), make_rows(60), []
    _, checkpoint = searched(recipe, workspace, rows, listeners=[told.append])
    outcomes = {one["method"]: one["outcome"] for one in trained(checkpoint)}
    assert checkpoint.method == "head"
    assert outcomes["head"] == "kept"
    assert outcomes[method].startswith("could not be trained: ")
    assert said in outcomes[method]
    assert f"{method} could not be trained" in checkpoint.chosen["method"]
    assert any(event["kind"] == "warning" and f"{method} could not be trained" in event["message"] for event in told)
    if method == "lora":
        assert outcomes["full"] == ("not tried: lora needed more memory than there is" if memory else "better than head with a chance of 60%")
    before = len(tried)
    _, again = searched(recipe, workspace, rows)
    assert (again.store_key, again.trials) == (checkpoint.store_key, checkpoint.trials)
    assert len(tried) == before


def test_the_first_for_which_memory_runs_out_ends_the_run_until_there_is_more(auto_of, workspace, monkeypatch):
    recipe, rows = auto_of(epochs=1, learning_rate=1e-3), make_rows(60)
    with monkeypatch.context() as little:
        failing(little, "head", memory=True)
        with pytest.raises(MachineError, match="memory ran out"):
            searched(recipe, workspace, rows)
    _, checkpoint = searched(recipe, workspace, rows)
    assert trained(checkpoint)[0]["outcome"].startswith("kept")


def test_nothing_that_can_be_trained_is_an_error(auto_of, workspace, monkeypatch):
    recipe, rows = auto_of(epochs=1, learning_rate=1e-3), make_rows(60)
    failing(monkeypatch, "head", memory=False)
    recipe.candidates = recipe.candidates[:1]
    for _ in range(2):
        with pytest.raises(DataError, match="head could not be trained: training is not steady"):
            searched(recipe, workspace, rows)


def test_a_budget_that_is_used_up_leaves_the_smallest(auto_of, workspace):
    told = []
    _, checkpoint = searched(auto_of(budget="0.01s"), workspace, make_rows(80), listeners=[told.append])
    assert checkpoint.method == "head"
    assert checkpoint.steps == 1
    assert [one["outcome"] for one in trained(checkpoint)[1:]] == ["the budget is used up"] * 2
    assert any("the budget is used up" in event["message"] for event in told)


@pytest.mark.parametrize("budget", ["1h", None])
def test_what_is_kept_trains_once_more_within_the_budget_too(auto_of, workspace, monkeypatch, budget):
    from attune.stages.finetune.stage import Session

    ends = []
    checkpoint = Session.checkpoint
    monkeypatch.setattr(Session, "checkpoint", lambda self, *given, **named: (ends.append(self.deadline), checkpoint(self, *given, **named))[1])
    searched(auto_of(budget, epochs=1, learning_rate=1e-3), workspace, make_rows(60))
    assert math.isfinite(ends[0]) == (budget is not None)


def test_passes_are_cut_to_the_budget(auto_of, workspace, monkeypatch):
    """As if a pass took 4 of the 10 seconds that are left."""
    monkeypatch.setattr(autopilot.Autopilot, "left", property(lambda self: 10.0))
    monkeypatch.setattr(autopilot.Autopilot, "_sweep", lambda self, method, given: (1e-3, 4.0))
    _, checkpoint = searched(auto_of(budget="1h", epochs=6), workspace, make_rows(80))
    assert [one["epochs"] for one in trained(checkpoint)] == [6.0, 2.0, 2.0][: len(trained(checkpoint))]


@pytest.mark.parametrize(
    ("epochs", "left", "seconds", "first", "refit", "planned", "said"),
    [
        (0.5, 3000, 60, True, False, 0.5, ""),
        (0.5, 3000, 60, False, False, 0.5, ""),
        (0.25, 10, 20, False, False, 0.25, ""),
        (2.5, 27, 10, False, False, 2.5, ""),
        (6, 27, 10, False, False, 2.0, "6 passes would take longer than what is left of the budget; 2 are made"),
        (6, 27, 10, False, True, 1.0, "6 passes and training once more would take longer than what is left of the budget; 1 is made"),
        (6, 9, 10, False, False, 0.0, "6 passes would take longer than what is left of the budget, and so would one"),
        (0.5, 4, 10, False, False, 0.0, "0.5 passes would take longer than what is left of the budget"),
        (0.5, 4, 10, True, False, 0.5, ""),
        (6, 4, 10, True, False, 1.0, "6 passes would take longer than what is left of the budget; 1 is made"),
    ],
)
def test_as_many_passes_are_planned_as_there_is_time_for(auto_of, monkeypatch, tmp_path, epochs, left, seconds, first, refit, planned, said):
    from attune.stages.finetune.autopilot import Autopilot

    monkeypatch.setattr(Autopilot, "left", property(lambda self: left))
    monkeypatch.setattr(Autopilot, "_sweep", lambda self, method, given: (1e-3, seconds))
    recipe, told = auto_of(budget="1h", epochs=epochs, refit=refit), []
    trial = Autopilot(recipe, lambda recipe, folder: None, tmp_path, Events(None, [told.append]))._planned(recipe.candidates[1], first=first)
    assert trial["epochs"] == planned
    assert [event["message"] for event in told] == ([f"lora: {said}"] if said else [])


def test_a_sweep_ends_with_its_share_of_the_budget(auto_of, workspace, monkeypatch):
    """As if every step took a minute, of a budget of 100: the sweep has its quarter of what is left, the training the rest."""
    from attune.stages.finetune import stage
    from attune.stages.finetune.torch_learner import TorchLearner

    minutes, step = [0.0], TorchLearner.step
    clock = SimpleNamespace(monotonic=lambda: 60 * minutes[0])
    monkeypatch.setattr(autopilot, "time", clock)
    monkeypatch.setattr(stage, "time", clock)

    def slow(self, index):
        minutes[0] += 1
        return step(self, index)

    monkeypatch.setattr(TorchLearner, "step", slow)
    _, checkpoint = searched(auto_of(budget="100m", epochs=1, refit=False), workspace, make_rows(60))  # a pass has 6 steps, a trial of a sweep 30
    swept = [one for one in checkpoint.trials if (one["method"], one["kind"]) == ("lora", "sweep")]
    assert [(one["steps"], one["of"], one["outcome"]) for one in swept] == [(24, 30, "given up")]
    assert [one["steps"] for one in trained(checkpoint)][:2] == [6, 6]
    assert minutes[0] <= 101


def test_time_is_set_aside_for_training_once_more(auto_of, monkeypatch, tmp_path):
    monkeypatch.setattr(autopilot, "time", SimpleNamespace(monotonic=lambda: 0.0))
    recipe = auto_of(budget="100s")
    session = SimpleNamespace(meter=SimpleNamespace(earlier=0.0))
    pilot = autopilot.Autopilot(recipe, lambda recipe, folder: session, tmp_path, Events())
    head, lora, _ = recipe.candidates  # of these the head trains once more
    assert pilot.left == 100
    assert pilot._open(head, {"learning_rate": 1e-3, "epochs": 1}).deadline == 50
    trial = pilot._note(head, "train", 1e-3, steps=4, seconds=30.0)
    pilot.used = 30.0
    assert pilot.left == 40
    assert pilot._open(lora, {"learning_rate": 1e-3, "epochs": 1}).deadline == 40
    assert pilot._open(head, trial, last=True).deadline == 70


def test_an_exact_tie_is_no_improvement(auto_of, workspace, monkeypatch):
    monkeypatch.setattr(autopilot, "chance_better", lambda *given: 0.5)
    monkeypatch.setattr(autopilot, "SWEPT_RATES", 1)
    _, checkpoint = searched(auto_of(epochs=1), workspace, make_rows(60))
    assert [one["method"] for one in trained(checkpoint)] == ["head", "lora"]
    assert checkpoint.method == "head"


def test_the_smallest_that_is_not_clearly_worse_is_kept(auto_of, workspace, tmp_path):
    from attune.stages.finetune.autopilot import Autopilot

    pilot = Autopilot(auto_of(), lambda recipe, folder: None, tmp_path, Events())
    metric = catalog.build("metrics", "accuracy")

    def rows(right, of=200):
        return np.stack([np.arange(of) < right, np.ones(of)], axis=1).astype(np.float64)

    def tried(*right):
        return [({"method": str(one), "validation": one / 200}, rows(one)) for one in right]

    assert pilot._smallest(tried(150, 150, 150), metric)["method"] == "150"
    assert pilot._smallest(tried(150, 190), metric)["method"] == "190"
    assert pilot._smallest(tried(100, 150, 150), metric)["method"] == "150"
    assert pilot._smallest(tried(190, 150), metric)["method"] == "190"
    flattered = [({"method": "looked at often", "validation": 0.9}, rows(150)), ({"method": "truly better", "validation": 0.85}, rows(170))]
    assert pilot._best_of(flattered, metric)[0]["method"] == "truly better"
    assert pilot._smallest(flattered, metric)["method"] == "truly better"


def test_chance_better_knows_the_direction():
    ones, zeros = np.array([[1.0, 1.0]] * 40), np.array([[0.0, 1.0]] * 40)
    accuracy = catalog.build("metrics", "accuracy")
    assert chance_better(ones, zeros, accuracy, 7) == 1.0
    assert chance_better(zeros, ones, accuracy, 7) == 0.0
    assert chance_better(ones, ones, accuracy, 7) == 0.5
    accuracy.higher_is_better = False
    assert chance_better(ones, zeros, accuracy, 7) == 0.0


def test_what_a_trial_reads_counts_as_read(auto_of):
    recipe = auto_of(average=0.5)
    assert "train.average" in recipe.keys.unread()
    assert recipe.tried(recipe.candidates[0], epochs=3.0).keys.train.average == 0.5
    assert "train.average" not in recipe.keys.unread()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budget": "10 minutes"}, "budget"),
        ({"budget": "10m", "method": "lora"}, "a budget is for `method: auto` alone"),
        ({"method": {"name": "auto", "rank": 8}}, "takes no keys"),
    ],
)
def test_what_auto_cannot_be_given(auto_of, change, said):
    with pytest.raises(Problems, match=said):
        make_recipe({**auto_of().given, **change}, folder=auto_of().folder)


def test_auto_fits_the_task_and_travels_with_the_recipe(auto_of):
    trees = make_recipe({"name": "rows", "task": "tabular_classification", "base_model": "none", "method": "auto", "data": {"path": "rows.csv"}}, folder=auto_of().folder)
    assert [one.name for one in trees.candidates] == ["boosted_trees"]
    recipe = auto_of(budget="5m")
    again = make_recipe(recipe.resolved(), folder=recipe.folder)
    assert (again.digest, again.keys.budget, len(again.candidates)) == (recipe.digest, "5m", 3)
    assert finetune.inputs(recipe, _dataset())["recipe"]["budget"] == "5m"
    assert finetune.inputs(auto_of(), _dataset()) != finetune.inputs(recipe, _dataset())


def _dataset():
    class Known:
        id = "dataset-1"

    return Known()
