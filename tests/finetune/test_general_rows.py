"""General rows (`data.replay`) have their share of every pass, in each pass others, and the domain's own rows stand in all of them."""

from __future__ import annotations

from collections import Counter

import pytest

from attune.core import catalog
from attune.core.contracts import Objective
from attune.core.events import Events
from attune.core.models import resolve_base
from attune.core.recipe import make_recipe
from attune.core.recipe_data import ReplayKeys
from attune.core.recipe_train import TrainKeys
from attune.core.rows import GENERAL, dataset_rows
from attune.core.specialist import Specialist
from attune.core.turns import Turns
from attune.stages import finetune
from attune.stages.finetune import torch_learner
from attune.stages.finetune.forecast import _probe
from attune.stages.finetune.plan import evened

from .conftest import make_dataset, make_rows

OWN, EACH, PASSES = 60, 15, 3
"""Training rows of the domain, general rows beside them where a fifth of a pass is general, and passes that find others."""


REPLAY = ReplayKeys(path="general.csv", share=0.2, passes=PASSES)


def examples(own: int, general: int) -> list[dict]:
    return [{"row_id": str(i), "size": 4, GENERAL: i >= own} for i in range(own + general)]


def ids(turns: Turns, epoch: int, own: int) -> tuple[list[int], list[int]]:
    there = turns.of(epoch)
    return [i for i in there if i < own], [i for i in there if i >= own]


def test_every_pass_has_its_share_of_general_rows_and_others_than_the_last():
    turns = Turns(examples(OWN, PASSES * EACH), REPLAY, 7)
    seen = Counter()
    for epoch in range(PASSES):
        own, general = ids(turns, epoch, OWN)
        assert own == list(range(OWN))
        assert len(general) == len(set(general)) == EACH
        seen.update(general)
    assert set(seen.values()) == {1}
    assert len(seen) == PASSES * EACH
    assert turns.of(PASSES) == turns.of(0), "after all had their turn they come again"
    assert Turns(examples(OWN, PASSES * EACH), REPLAY, 8).of(0) != turns.of(0)


def test_too_few_general_rows_stand_in_every_pass():
    turns = Turns(examples(OWN, 4), REPLAY, 7)
    assert turns.of(0) == turns.of(5) == list(range(OWN + 4))


def test_without_general_rows_a_pass_is_all_rows():
    assert Turns(examples(OWN, 0), REPLAY, 7).of(3) == list(range(OWN))


@pytest.mark.parametrize("own", [17, 40, 49, 50, 1000])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_pass_has_as_many_general_rows_as_the_recipe_says(own, share):
    replay = ReplayKeys(path="general.csv", share=share)
    each = replay.beside(own)
    assert each >= 1
    turns = Turns(examples(own, each * replay.passes), replay, 7)
    assert [len(turns.of(epoch)) for epoch in range(replay.passes)] == [own + each] * replay.passes


@pytest.mark.parametrize(("own", "pieces"), [([10] * 60, [1] * 28), ([1] * 60, [10] * 28), ([1, 4] * 30, [1, 3, 12, 4] * 7)])
def test_general_rows_in_pieces_are_counted_as_rows_and_all_have_their_turn(own, pieces):
    """60 rows of the domain, 7 general ones in each of 4 passes, whatever number of pieces they are learned in."""
    line = [(f"own {i}", False) for i, many in enumerate(own) for _ in range(many)] + [(f"general {i}", True) for i, many in enumerate(pieces) for _ in range(many)]
    found = [{"row_id": name, GENERAL: general} for name, general in line]
    replay = ReplayKeys(path="general.csv", share=0.1, passes=4)
    turns = Turns(found, replay, 7)
    passes = [[i for i in turns.of(epoch) if i >= sum(own)] for epoch in range(4)]
    assert all(turns.of(epoch)[: sum(own)] == list(range(sum(own))) for epoch in range(4))
    assert sorted(i for one in passes for i in one) == list(range(sum(own), len(found))), "every piece once"
    if len(set(pieces)) == 1:
        assert [len({found[i]["row_id"] for i in one}) for one in passes] == [replay.beside(60)] * 4


def test_what_is_left_out_does_not_change_the_turns_of_the_others():
    whole, fewer = examples(OWN, PASSES * EACH), examples(OWN, PASSES * EACH)
    del fewer[OWN + 3]
    order = [[found[i]["row_id"] for i in Turns(found, REPLAY, 7).general] for found in (whole, fewer)]
    assert [name for name in order[0] if name != str(OWN + 3)] == order[1]


@pytest.mark.parametrize(("sizes", "count"), [([4, 4, 4], 5), ([5, 1], 2), ([4, 4, 3, 1, 1], 3), ([1, 1, 1, 1], 2), ([3, 3, 3, 3], 12)])
def test_batches_are_evened_out(sizes, count):
    rows = iter(range(sum(sizes)))
    batches = [[next(rows) for _ in range(size)] for size in sizes]
    found = evened(batches, count)
    assert len(found) == count
    assert sorted(i for batch in found for i in batch) == list(range(sum(sizes)))
    assert all(found)
    assert max(map(len, found)) <= max(*sizes, -(-sum(sizes) // count))


def rows_that_share_texts(task) -> list[dict]:
    """64 rows of the domain, and 64 general ones of which many share one text."""
    if "label-out" in task.traits:
        return [{**row, "text": f"{row['text']} {i % 12 if i >= 64 else i}", GENERAL: i >= 64} for i, row in enumerate(make_rows(128))]
    return [{"row_id": str(i), "anchor": f"what about {i}", "positive": f"answer {i % 12 if i >= 64 else i}", GENERAL: i >= 64} for i in range(128)]


ORDERED = [entry.name for entry in catalog.entries("objectives") if catalog.load("objectives", entry.name).order is not Objective.order]


def test_some_objectives_have_an_order_of_their_own():
    assert set(ORDERED) >= {"contrastive", "few_shot"}


@pytest.mark.parametrize("objective", [*ORDERED, "supervised"])
@pytest.mark.parametrize("seed", range(4))
def test_every_pass_has_as_many_batches_and_each_row_once(tiny_base, objective, seed):
    base, way, one = resolve_base(str(tiny_base)), catalog.build("methods", "full"), catalog.build("objectives", objective)
    task = catalog.build("tasks", "embedding" if "vector-out" in one.requires else "text_classification")
    rows = rows_that_share_texts(task)
    signature = task.signature(rows)
    specialist = Specialist(task, signature, way.prepare(task.build(base, signature), seed), base.tokenizer(), base, 32, "x", method=way)
    found = one.examples(specialist, rows, 32)
    for example, row in zip(found, rows, strict=True):
        example[GENERAL] = row[GENERAL]
    learner = torch_learner.TorchLearner(specialist, one, found, TrainKeys(epochs=6, batch_size=16), seed, "fp32", replay=REPLAY)
    assert learner.total_steps == 6 * learner.steps_per_epoch
    for epoch in range(6):
        batches = [learner.batch_at(epoch * learner.steps_per_epoch + place) for place in range(learner.steps_per_epoch)]
        assert learner.steps_per_epoch == len(learner._batches(epoch))
        assert all(0 < len(batch) <= 16 for batch in batches)
        assert sorted(e["row_id"] for batch in batches for e in batch) == sorted(found[i]["row_id"] for i in learner.turns.of(epoch))


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


@pytest.mark.parametrize(("epochs", "passes"), [(2, 2), (1.5, 2), (7, PASSES)])
def test_no_more_rows_are_read_than_the_passes_of_the_run_learn_from(dataset, workspace, monkeypatch, epochs, passes):
    recipe, made = dataset()
    recipe = make_recipe({**recipe.given, "train": {**recipe.given["train"], "epochs": epochs}}, folder=workspace.root)
    read = []
    examples = type(recipe.objective).examples
    monkeypatch.setattr(type(recipe.objective), "examples", lambda self, specialist, rows, length: read.append({row["row_id"] for row in rows}) or examples(self, specialist, rows, length))
    seen = passes_of(monkeypatch, recipe, workspace, made)
    assert len(read[0]) == OWN + passes * EACH
    assert set().union(*seen) <= read[0]
    assert epochs == 1.5 or set().union(*seen) == read[0]


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
    assert Counter(one[GENERAL] for one in given[0]) == {False: OWN, True: EACH}


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
    plain = _probe(recipe, make_rows(80), (700, 100), tmp_path)
    replayed = make_recipe({**recipe.given, "data": {"path": "rows.csv", "replay": {"path": "general.csv", "share": 0.5}}}, folder=tmp_path)
    assert plain.steps == 2 * 88  # 700 of 1,000 rows train, 8 a batch
    assert _probe(replayed, make_rows(80), (700, 100), tmp_path).steps == 2 * 175
