"""What the looks of a run say of it: no row has a say in which look it is judged by."""

from __future__ import annotations

import numpy as np
import pytest

from attune.core import catalog
from attune.core.events import Events
from attune.stages import finetune
from attune.stages.finetune.looks import Looks
from attune.stages.finetune.stage import Session

from .conftest import make_dataset, make_rows


def rows_of(right):
    """Contributions of accuracy, [n, 2]."""
    return np.stack([np.asarray(right), np.ones(len(right))], axis=1).astype(np.float64)


def test_the_best_of_many_looks_flatters_and_this_does_not():
    """Five looks at 200 rows, each right on 58 % of them: the best one says more, by 2.6 points."""
    draw, accuracy = np.random.default_rng(0), catalog.build("metrics", "accuracy")
    said: dict[str, list[float]] = {"best": [], "looks": []}
    for seed in range(400):
        looks, values = Looks(accuracy, 200, seed), []
        common = draw.normal(size=200)
        for _ in range(5):
            right = np.sqrt(0.8) * common + np.sqrt(0.2) * draw.normal(size=200) < 0.2019  # the normal quantile of 0.58
            values.append(right.mean())
            looks.see(rows_of(right), 1.0)
        said["best"].append(max(values))
        said["looks"].append(accuracy.value(looks.rows.sum(0)))
    assert np.mean(said["best"]) - 0.58 > 0.02
    assert abs(np.mean(said["looks"]) - 0.58) < 0.006


def test_a_half_is_judged_by_the_look_that_the_other_half_chose():
    accuracy = catalog.build("metrics", "accuracy")
    looks = Looks(accuracy, 40, 7)
    half = looks._half
    assert (half == 0).sum() == (half == 1).sum() == 20
    first, second = np.zeros(40), np.where(half == 0, 1.0, 0.0)
    looks.see(rows_of(first), 1.0)
    looks.see(rows_of(second), 1.0)  # better on the first half: the second half is judged by it, and is wrong there
    assert looks.rows[:, 0].sum() == 0
    looks.see(rows_of(np.where(half == 1, 1.0, 0.0)), 1.0)
    assert (looks.rows[half == 0, 0] == 0).all()  # where the third look, which the second half chose, is wrong
    looks.see(rows_of(np.ones(40)), 2.0)  # as good in each half as the best, at a higher loss
    assert looks.rows[:, 0].sum() == 0
    looks.see(rows_of(np.ones(40)), 0.5)
    assert looks.rows[:, 0].sum() == 40


def test_lower_may_be_better_and_a_value_may_be_missing():
    accuracy = catalog.build("metrics", "accuracy")
    accuracy.higher_is_better = False
    looks = Looks(accuracy, 10, 7)
    for right in (1, 0, 1):
        looks.see(rows_of(np.full(10, right)), 1.0)
    assert looks.rows[:, 0].sum() == 0
    undefined = Looks(catalog.build("metrics", "accuracy"), 10, 7)
    undefined.see(np.zeros((10, 2)), 1.0)  # no row counts
    undefined.see(rows_of(np.ones(10)), 1.0)
    assert undefined.rows[:, 0].sum() == 10


def test_where_the_last_step_is_kept_the_last_look_counts():
    looks = Looks(catalog.build("metrics", "accuracy"), 10, 7, last=True)
    for right in (1, 0):
        looks.see(rows_of(np.full(10, right)), 1.0)
    assert looks.rows[:, 0].sum() == 0


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_are_enough(rows):
    looks = Looks(catalog.build("metrics", "accuracy"), rows, 7)
    looks.see(rows_of(np.zeros(rows)), 1.0)
    looks.see(rows_of(np.ones(rows)), 0.5)
    assert looks.rows[:, 0].sum() == rows


def test_a_checkpoint_of_a_trial_carries_them(recipe_of, workspace, monkeypatch):
    from attune.core.recipe import make_recipe

    recipe = make_recipe({**recipe_of().given, "method": "auto"}, folder=recipe_of().folder)
    recipe.candidates = recipe.candidates[:2]
    dataset, seen = make_dataset(workspace, recipe, make_rows(60)), []
    see = Looks.see
    monkeypatch.setattr(Looks, "see", lambda self, rows, loss: (see(self, rows, loss), seen.append(self.rows.copy()))[0])
    finetune.run(recipe, workspace, dataset, Events(None), run="search")
    looked = len(seen)
    opened = []
    start = Session._start
    monkeypatch.setattr(Session, "_start", lambda self, train: (start(self, train), opened.append(self))[0])
    finetune.run(recipe, workspace, dataset, Events(None), run="search")
    assert len(seen) == looked  # nothing is looked at again
    assert any((one.seen == seen[-1]).all() for one in opened)
