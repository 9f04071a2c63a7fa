"""What the looks of a run say of it: a half of the rows is judged by the look that did best on the other half."""

from __future__ import annotations

import numpy as np
import pytest

from attune.core import catalog
from attune.core.errors import IntegrityError
from attune.core.events import Events
from attune.core.recipe import make_recipe
from attune.stages import finetune
from attune.stages.finetune import autopilot
from attune.stages.finetune.looks import BEST, ROWS, Halves, Looks
from attune.stages.finetune.stage import Session

from .conftest import make_dataset, make_rows


def rows_of(right):
    """Contributions of accuracy, [n, 2]."""
    return np.stack([np.asarray(right), np.ones(len(right))], axis=1).astype(np.float64)


def looks_of(count, metric="accuracy", **given):
    return Looks(catalog.build("metrics", metric), [{}] * count, 7, **given)


def test_the_best_of_many_looks_flatters_and_this_does_not():
    """Five looks at 200 rows, each right on 58 % of them: the best one says more, by 2.6 points."""
    draw, accuracy = np.random.default_rng(0), catalog.build("metrics", "accuracy")
    said: dict[str, list[float]] = {"best": [], "looks": []}
    for seed in range(400):
        looks, values = Looks(accuracy, [{}] * 200, seed), []
        common = draw.normal(size=200)
        for _ in range(5):
            right = np.sqrt(0.8) * common + np.sqrt(0.2) * draw.normal(size=200) < 0.2019  # the normal quantile of 0.58
            values.append(right.mean())
            looks.see(rows_of(right))
        said["best"].append(max(values))
        said["looks"].append(float(Halves(accuracy).value(looks.halves.sum(0))))
    assert np.mean(said["best"]) - 0.58 > 0.02
    assert abs(np.mean(said["looks"]) - 0.58) < 0.006


def test_a_half_is_judged_by_the_look_that_did_best_on_the_other():
    looks = looks_of(40)
    first = looks.half == 0
    assert first.sum() == 20
    looks.see(rows_of(np.zeros(40)))
    looks.see(rows_of(first))  # better on the first half: it judges the second, which is wrong there
    assert looks.rows[:, 0].sum() == 0
    looks.see(rows_of(np.where(first, 0.5, 0.5)))  # better on the second half alone: it judges the first
    assert (looks.rows[first, 0] == 0.5).all()
    assert (looks.rows[~first, 0] == 0).all()
    looks.see(rows_of(~first))  # the same for the second half, and better still
    assert looks.rows[:, 0].sum() == 0
    looks.see(rows_of(np.ones(40)))  # as good as the best on either half: the earlier ones stay
    assert looks.rows[:, 0].sum() == 0


def test_rows_of_one_group_lie_in_one_half():
    looks = Looks(catalog.build("metrics", "accuracy"), [{"group": i // 4} for i in range(40)], 7)
    assert all(len(set(looks.half[4 * i : 4 * i + 4])) == 1 for i in range(10))
    assert set(looks.half) == {0, 1}


def test_lower_may_be_better_and_a_value_may_be_missing():
    looks = looks_of(10)
    looks.metric.higher_is_better = False
    for right in (1, 0, 1):
        looks.see(rows_of(np.full(10, right)))
    assert looks.rows[:, 0].sum() == 0
    assert Halves(looks.metric).higher_is_better is False
    undefined = looks_of(10)
    undefined.see(np.zeros((10, 2)))  # no row counts
    assert np.isnan(Halves(undefined.metric).value(undefined.halves.sum(0)))
    undefined.see(rows_of(np.ones(10)))
    assert undefined.rows[:, 0].sum() == 10


def test_where_the_last_step_is_kept_the_last_look_counts():
    looks = looks_of(10, last=True)
    for right in (1, 0):
        looks.see(rows_of(np.full(10, right)))
    assert looks.rows[:, 0].sum() == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_rows_are_enough(count):
    looks = looks_of(count)
    looks.see(rows_of(np.zeros(count)))
    looks.see(rows_of(np.ones(count)))
    assert Halves(looks.metric).value(looks.halves.sum(0)) == (1.0 if count > 1 else 0.0)  # one row has no others that could choose


def test_answers_at_two_looks_are_not_ranked_among_each_other():
    """Good answers are likelier than bad ones at either look, and all of them much likelier at the second."""
    from attune.core.contracts import Prediction

    metric = catalog.build("metrics", "desirable_auc")
    looks = looks_of(80, "desirable_auc")

    def at(shift):
        given = [Prediction("", 1.0, extra={"likelihood": shift + (0.5 if i % 2 else 0.0), "desirable": bool(i % 2)}) for i in range(80)]
        return metric.contributions([None] * 80, given, None)

    first, second = at(-3.0), at(-1.0)
    looks.see(first)
    looks.rows[looks.half == 1] = second[looks.half == 1]
    assert Halves(metric).value(looks.halves.sum(0)) == 1.0
    assert metric.value(looks.rows.sum(0)) < 0.8


@pytest.mark.parametrize("at", range(1, 6))
def test_they_go_on_from_their_state(at):
    draw = np.random.default_rng(3)
    seen = [rows_of(draw.random(30) < 0.9 - 0.15 * i) for i in range(6)]
    whole, before, after, half = looks_of(30), looks_of(30), looks_of(30), looks_of(30)
    for rows in seen:
        whole.see(rows)
    for rows in seen[:at]:
        before.see(rows)
    state = {name: one.clone() for name, one in before.state().items()}
    after.load_state(state)
    half.load_state({**state, BEST: state[BEST] - 1})  # what judged is known, and not how good it was
    for rows in seen[at:]:
        after.see(rows)
        half.see(rows)
    assert (after.rows == whole.rows).all()
    assert not (half.rows == whole.rows).all()


@pytest.mark.parametrize(("value", "size"), [(1.0, 1), (-128.0, 1), (128.0, 8), (0.25, 8), (1e300, 8), (np.nan, 8)])
def test_counts_are_kept_in_a_byte_each_and_come_back_as_they_were(value, size):
    before, after = looks_of(30), looks_of(30)
    rows = rows_of(np.ones(30))
    rows[3, 0] = value
    before.see(rows)
    state = before.state()
    assert state[ROWS].element_size() == size
    after.load_state({name: one.clone() for name, one in state.items()})
    assert after.rows.dtype == np.float64
    assert np.array_equal(after.rows, before.rows, equal_nan=True)


@pytest.fixture
def auto(recipe_of):
    def make(**train):
        recipe = make_recipe({**recipe_of(**train).given, "method": "auto"}, folder=recipe_of().folder)
        recipe.candidates = recipe.candidates[:2]
        return recipe

    return make


def scripted(monkeypatch):
    """Every look finds other rows right, by its step alone; returns what reaches the comparisons."""
    compared = []

    def contributions(self, specialist):
        return rows_of(np.random.default_rng([self.next_step, len(self.recipe.method.name)]).random(len(self.validation)) < 0.5)

    def chance(ours, theirs, metric, seed):
        compared.append((ours, theirs, metric))
        return 0.9

    monkeypatch.setattr(Session, "contributions", contributions)
    monkeypatch.setattr(autopilot, "chance_better", chance)
    monkeypatch.setattr(autopilot, "SWEPT_RATES", 1)
    return compared


def test_methods_are_compared_by_them_also_after_a_kill(auto, workspace, monkeypatch):
    compared = scripted(monkeypatch)
    recipe = auto(epochs=8, patience=50, learning_rate=1e-3)
    dataset = make_dataset(workspace, recipe, make_rows(120))
    looked: dict[str, Looks] = {}
    see = Looks.see

    def seeing(self, rows):
        see(self, rows)
        looked[str(id(self))] = self

    with monkeypatch.context() as watched:
        watched.setattr(Looks, "see", seeing)
        finetune.run(recipe, workspace, dataset, Events(None), run="whole")
    whole = compared.pop(0)
    assert [one.halves.tolist() for one in looked.values()] == [whole[1].tolist(), whole[0].tolist()]  # head first, then lora
    assert whole[0].shape == (24, 4)
    assert isinstance(whole[2], Halves)
    compared.clear()
    notes = []

    def killer(event):
        notes.append(event["message"])
        if event["kind"] == "progress" and event["message"] == "train" and sum(one.startswith("step ") for one in notes) in (5, 14):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            finetune.run(recipe, workspace, dataset, Events(None, [killer]), run="killed")
    finetune.run(recipe, workspace, dataset, Events(None), run="killed")
    assert [one.tolist() for one in compared[0][:2]] == [one.tolist() for one in whole[:2]]


def test_a_learner_is_given_back_only_what_it_gave(auto, workspace, monkeypatch):
    from attune.stages.finetune.torch_learner import TorchLearner

    given, load = [], TorchLearner.load_state
    monkeypatch.setattr(TorchLearner, "load_state", lambda self, tensors, facts: (given.append(set(tensors)), load(self, tensors, facts))[1])
    recipe = auto(epochs=1, learning_rate=1e-3)
    dataset = make_dataset(workspace, recipe, make_rows(60))
    for _ in range(2):
        finetune.run(recipe, workspace, dataset, Events(None), run="search")
    assert given
    assert not any({ROWS, BEST} & names for names in given)


def test_a_trial_without_a_whole_checkpoint_is_an_error(auto, workspace):
    recipe = auto(epochs=1, learning_rate=1e-3)
    dataset = make_dataset(workspace, recipe, make_rows(60))
    finetune.run(recipe, workspace, dataset, Events(None), run="search")
    for state in (workspace.run_folder("search") / "trials" / "head" / "checkpoints").glob("step-*/state.safetensors"):
        state.write_bytes(b"")
    with pytest.raises(IntegrityError, match="no whole checkpoint of this trial is left"):
        finetune.run(recipe, workspace, dataset, Events(None), run="search")


def test_a_session_that_keeps_the_last_step_looks_at_the_last(auto, workspace, monkeypatch):
    opened, start = [], Session._start
    monkeypatch.setattr(Session, "_start", lambda self, train: (opened.append(self), start(self, train))[1])
    for keep, last in (("last", True), ("best", False)):
        recipe = auto(epochs=1, learning_rate=1e-3, keep=keep)
        dataset = make_dataset(workspace, recipe, make_rows(60))
        finetune.run(recipe, workspace, dataset, Events(None), run=f"keeps-{keep}")
        assert {one.looks.last for one in opened} == {last}
        opened.clear()
