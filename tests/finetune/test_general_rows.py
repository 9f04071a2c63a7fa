"""General rows (`data.replay`) have their share of every pass, in each pass others, and the domain's own rows stand in all of them."""

from __future__ import annotations

from collections import Counter

import pytest

from attune.core.events import Events
from attune.core.recipe import make_recipe
from attune.core.rows import GENERAL, dataset_rows
from attune.stages import finetune
from attune.stages.finetune import torch_learner
from attune.stages.finetune.forecast import _probe
from attune.stages.finetune.plan import Turns

from .conftest import make_dataset, make_rows

OWN, EACH, PASSES = 60, 15, 3
"""Training rows of the domain, general rows beside them where a fifth of a pass is general, and passes that find others."""


def examples(own: int, general: int) -> list[dict]:
    return [{"row_id": str(i), "size": 4, "general": i >= own} for i in range(own + general)]


def ids(turns: Turns, epoch: int, own: int) -> tuple[list[int], list[int]]:
    there = turns.of(epoch)
    return [i for i in there if i < own], [i for i in there if i >= own]


def test_every_pass_has_its_share_of_general_rows_and_others_than_the_last():
    turns = Turns(examples(OWN, PASSES * EACH), 0.2, 7)
    seen = Counter()
    for epoch in range(PASSES):
        own, general = ids(turns, epoch, OWN)
        assert own == list(range(OWN))
        assert len(general) == len(set(general)) == EACH
        seen.update(general)
    assert set(seen.values()) == {1}
    assert len(seen) == PASSES * EACH
    assert turns.of(PASSES) == turns.of(0), "after all had their turn they come again"
    assert Turns(examples(OWN, PASSES * EACH), 0.2, 8).of(0) != turns.of(0)


def test_too_few_general_rows_stand_in_every_pass():
    turns = Turns(examples(OWN, 4), 0.2, 7)
    assert turns.of(0) == turns.of(5) == list(range(OWN + 4))


def test_without_general_rows_a_pass_is_all_rows():
    assert Turns(examples(OWN, 0), 0.2, 7).of(3) == list(range(OWN))


@pytest.fixture
def dataset(recipe_of, workspace):
    """A recipe with replay and a dataset whose training rows are for two thirds general, more than a pass has room for."""

    def make(method="full", **train):
        recipe = recipe_of(method, epochs=PASSES, refit=False, **train)
        recipe = make_recipe({**recipe.given, "data": {"path": "rows.csv", "replay": {"path": "general.csv", "share": 0.2, "passes": PASSES}}}, folder=workspace.root)
        rows = make_rows(150)
        train_places = [i for i in range(len(rows)) if i % 10 != 9 and i % 5 != 3]
        for i, row in enumerate(rows):
            row[GENERAL] = i in train_places[OWN:]
        return recipe, make_dataset(workspace, recipe, rows)

    return make


def passes_of(monkeypatch, recipe, workspace, made) -> list[Counter]:
    """How often each row was learned from, pass by pass."""
    found: dict[int, Counter] = {}
    step = torch_learner.TorchLearner.step

    def watched(self, index):
        found.setdefault(index // self.steps_per_epoch, Counter()).update(one["row_id"] for one in self.batch_at(index))
        return step(self, index)

    monkeypatch.setattr(torch_learner.TorchLearner, "step", watched)
    finetune.run(recipe, workspace, made, Events(), run="r")
    return [found[number] for number in sorted(found)]


def test_a_run_learns_others_in_each_pass(dataset, workspace, monkeypatch):
    recipe, made = dataset()
    rows = dataset_rows(workspace, made, recipe.task, "train")
    own, general = ({row["row_id"] for row in rows if bool(row[GENERAL]) == wanted} for wanted in (False, True))
    assert (len(own), len(general)) == (OWN, PASSES * EACH)
    seen = passes_of(monkeypatch, recipe, workspace, made)
    assert len(seen) == PASSES
    for one in seen:
        assert own <= one.keys()
        assert len(one.keys() & general) == EACH
        assert set(one.values()) == {1}
    assert set().union(*seen) == own | general, "every general row had its turn"


def test_with_the_same_rows_in_each_pass_the_others_would_never_be_learned(dataset, workspace, monkeypatch):
    """The must-fail twin of the test above."""
    of = Turns.of
    monkeypatch.setattr(Turns, "of", lambda self, epoch: of(self, 0))
    recipe, made = dataset()
    assert len(set().union(*passes_of(monkeypatch, recipe, workspace, made))) == OWN + EACH


def test_a_learner_of_its_own_gets_no_more_than_the_share(dataset, workspace, monkeypatch):
    recipe, made = dataset()
    given = []

    class Method(type(recipe.method)):
        def learner(self, context):
            given.append(context.examples)

    monkeypatch.setattr(recipe.method, "__class__", Method)
    finetune.run(recipe, workspace, made, Events(), run="r")
    assert Counter(one["general"] for one in given[0]) == {False: OWN, True: EACH}


def test_a_killed_run_goes_on_with_the_same_rows(dataset, workspace):
    from attune.stages.finetune.stage import Session

    recipe, made = dataset()
    whole = finetune.run(recipe, workspace, made, Events(), run="whole")
    step, stop = Session._commit, 0

    def stops(self, at):
        nonlocal stop
        step(self, at)
        stop = max(stop, at)
        if at >= 12:
            self.saver.wait()
            raise KeyboardInterrupt

    Session._commit = stops
    try:
        with pytest.raises(KeyboardInterrupt):
            finetune.run(recipe, workspace, made, Events(), run="killed")
    finally:
        Session._commit = step
    assert 12 <= stop < whole.steps
    assert finetune.run(recipe, workspace, made, Events(), run="killed").store_key == whole.store_key


def test_the_forecast_counts_general_rows(recipe_of, tmp_path):
    recipe = recipe_of("full", epochs=2)
    plain = _probe(recipe, make_rows(80), 1000, tmp_path)
    replayed = make_recipe({**recipe.given, "data": {"path": "rows.csv", "replay": {"path": "general.csv", "share": 0.5}}}, folder=tmp_path)
    assert plain.steps == 2 * 88  # 700 of 1,000 rows train, 8 a batch
    assert _probe(replayed, make_rows(80), 1000, tmp_path).steps == 2 * 175
