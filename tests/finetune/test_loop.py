"""The loop learns, is exact, and refuses what it cannot learn from."""

from __future__ import annotations

import math

import pytest
import torch

from attune.core.errors import RecipeError
from attune.core.events import Events
from attune.core.rows import dataset_rows
from attune.core.specialist import Specialist, open_bundle
from attune.stages import finetune
from attune.stages.finetune import plan, torch_learner
from attune.stages.finetune.plan import choose_precision, group_of, length_grouped, rate_factor
from attune.stages.finetune.torch_learner import TorchLearner

from .conftest import make_dataset, make_rows


def tuned(recipe, workspace, all_rows, run="run", events=None):
    dataset = make_dataset(workspace, recipe, all_rows)
    return dataset, finetune.run(recipe, workspace, dataset, events or Events(), run=run)


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_learns_and_the_bundle_answers_like_the_run(recipe_of, workspace, method):
    dataset, checkpoint = tuned(recipe_of(method, epochs=6, refit=False), workspace, make_rows(160))
    assert checkpoint.validation["accuracy"] > 0.7
    specialist = open_bundle(workspace.store.path(checkpoint.store_key))
    rows = dataset_rows(workspace, dataset, specialist.task, "validation")
    answers = specialist.predict(rows)
    accuracy = sum(a.output == r["label"] for a, r in zip(answers, rows, strict=True)) / len(rows)
    assert accuracy == pytest.approx(checkpoint.validation["accuracy"])
    alone = [specialist.predict([row])[0] for row in rows[:5]]
    for one, among in zip(alone, answers, strict=False):
        assert one.output == among.output
        assert one.scores == pytest.approx(among.scores, abs=1e-5)
        assert sum(one.scores.values()) == pytest.approx(1, abs=1e-5)


def test_several_labels(recipe_of, workspace):
    rows = make_rows(160, multi=True)
    for i, row in enumerate(rows):
        if i % 7 == 0:
            row["label"] = []
            row["text"] = "the weather is nice and sunny"
    _, checkpoint = tuned(recipe_of(task={"name": "text_classification", "multi_label": True}, epochs=6), workspace, rows)
    specialist = open_bundle(workspace.store.path(checkpoint.store_key))
    assert len(specialist.signature["thresholds"]) == 4
    answers = specialist.predict([{"text": "the weather is nice and sunny"}, {"text": "refund please now"}])
    assert answers[0].output == []
    assert answers[1].output == ["refund"]


def test_same_seed_same_bundle_other_seed_other_bundle(recipe_of, workspace):
    rows = make_rows(80)
    first = tuned(recipe_of(), workspace, rows, "a")[1]
    second = tuned(recipe_of(), workspace, rows, "b")[1]
    other = tuned(recipe_of(seed=8), workspace, rows, "c")[1]
    assert first.store_key == second.store_key
    assert first.curve == second.curve
    assert other.store_key != first.store_key


def learner_of(recipe, workspace, rows):
    dataset = make_dataset(workspace, recipe, rows)
    from attune.core.models import resolve_base

    base = resolve_base(recipe.keys.base_model)
    model = recipe.method.prepare(recipe.task.build(base, dataset.signature), recipe.keys.seed)
    specialist = Specialist(recipe.task, dataset.signature, model, base.tokenizer(), base, recipe.keys.train.max_length, method=recipe.method)
    examples = recipe.objective.examples(specialist, rows, recipe.keys.train.max_length)
    return TorchLearner(specialist, recipe.objective, examples, recipe.keys.train, recipe.keys.seed, "fp32")


def test_accumulation_does_not_change_the_step(recipe_of, workspace):
    """One batch of 8 and eight micro-batches of 1 give the same weights beyond rounding (dropout off: its draws are per micro-batch)."""
    rows = make_rows(40)
    quiet = {"name": "supervised", "head_dropout": 0.0}
    learners = [learner_of(recipe_of(objective=quiet, micro_batch_size=size, epochs=1), workspace, rows) for size in (8, 3, 1)]
    for learner in learners:
        for module in learner.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for step in range(4):
            report = learner.step(step)
            assert report["items"] == 8
    whole, thirds, single = (learner.weights() for learner in learners)
    for name in whole:
        torch.testing.assert_close(thirds[name], whole[name], atol=2e-5, rtol=1e-3)
        torch.testing.assert_close(single[name], whole[name], atol=2e-5, rtol=1e-3)


def test_long_rows_are_computed_in_parts_and_the_step_stays_the_same(recipe_of, workspace, monkeypatch):
    rows = make_rows(40)
    quiet = {"name": "supervised", "head_dropout": 0.0}
    found = []
    for most in (2048, 40, 1):
        monkeypatch.setattr(torch_learner, "AT_ONCE", most)
        learner = learner_of(recipe_of(objective=quiet, epochs=1), workspace, rows)
        whole, sizes = learner.batch_at(0), [len(batch["tokens"].lengths) for batch in learner._parts(learner.batch_at(0))]
        assert sum(sizes) == len(whole)
        assert (max(sizes) == len(whole)) == (most == 2048)
        assert (max(sizes) == 1) == (most == 1)
        for step in range(3):
            assert learner.step(step)["items"] == len(learner.batch_at(step))
        found.append(learner.weights())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, atol=2e-5, rtol=1e-3)
        torch.testing.assert_close(found[2][name], tensor, atol=2e-5, rtol=1e-3)


def test_order_is_pure_covers_every_row_once_and_wastes_little():
    sizes = [5 + (i * 37) % 60 for i in range(1003)]
    batches = length_grouped(sizes, 16, 7, 2)
    assert batches == length_grouped(sizes, 16, 7, 2)
    assert batches != length_grouped(sizes, 16, 7, 3)
    assert sorted(i for batch in batches for i in batch) == list(range(1003))
    padded = sum(max(sizes[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(sizes)


def test_long_rows_without_padding_are_not_sorted_by_length():
    sizes = [100 + (i * 37) % 600 + 1000 * (i % 50 == 0) for i in range(403)]
    assert group_of(sizes, unpadded=True) == 1
    assert group_of(sizes, unpadded=False) == group_of([20, 30], unpadded=True) == 50
    mixed, sorted_ = (max(sum(sizes[i] for i in batch) for batch in length_grouped(sizes, 8, 7, 2, group)) for group in (1, 50))
    assert mixed < 0.85 * sorted_  # the largest batch is what needs the most memory
    assert sorted(i for batch in length_grouped(sizes, 8, 7, 2, 1) for i in batch) == list(range(403))


def test_rate_rises_then_falls():
    rates = [rate_factor(i, 100, 0.1, "linear") for i in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates.index(1.0) == 9
    assert rates[-1] == pytest.approx(1 / 90)
    assert rate_factor(99, 100, 0.1, "cosine") < 0.01
    assert rate_factor(99, 100, 0.1, "constant") == 1.0
    assert rate_factor(0, 100, 0.0, "linear") == 1.0


def test_precision_is_chosen_with_a_reason():
    name, why = choose_precision("auto")
    assert name in ("fp32", "bf16")
    assert "times as fast" in why
    assert choose_precision("bf16") == ("bf16", "set in the recipe")


@pytest.mark.parametrize(("fp32", "bf16", "chosen", "words"), [(1.5, 1.0, "bf16", "run 1.5 times as fast"), (1.2, 1.0, "fp32", "1.2 times as fast: not enough"), (1.0, 2.0, "fp32", "0.5 times")])
def test_the_faster_number_format_is_chosen(monkeypatch, fp32, bf16, chosen, words):
    """By a clock that says how long five products of each take; one of them was disturbed."""
    ticks = [tick for seconds in (fp32, bf16) for one in (seconds, 9 * seconds, seconds, seconds, seconds) for tick in (0.0, one)]
    monkeypatch.setattr(plan.time, "perf_counter", iter(ticks).__next__)
    name, why = choose_precision("auto")
    assert name == chosen
    assert words in why


def test_patience_stops_and_the_best_is_kept(recipe_of, workspace):
    rows = make_rows(80)
    _, checkpoint = tuned(recipe_of("head", epochs=50, patience=2, learning_rate=1e-30, head_learning_rate=1e-30, average=0.0), workspace, rows)
    assert checkpoint.steps <= 3 * 7
    assert checkpoint.best_step <= checkpoint.steps
    values = [point["validation_accuracy"] for point in checkpoint.curve]
    assert checkpoint.validation["accuracy"] == max(values)


def test_a_loss_that_is_not_a_number_names_the_rows(recipe_of, workspace):
    learner = learner_of(recipe_of(), workspace, make_rows(20))
    with torch.no_grad():
        learner.model.head.weight.fill_(math.nan)
    named = learner.batch_at(0)
    report = learner.step(0)
    assert "nan" in report["skipped"]
    assert report["rows"] == [one["row_id"] for one in named]


def test_cut_rows_are_told(recipe_of, workspace):
    told = []
    rows = make_rows(60)
    rows[0]["text"] = "word " * 200
    tuned(recipe_of("head", epochs=1), workspace, rows, events=Events(None, [lambda e: told.append(e) if e["kind"] == "warning" else None]))
    assert any("longer than train.max_length = 32" in e["message"] and rows[0]["row_id"] in e["rows"] for e in told)


def test_progress_and_reasons_are_in_the_record(recipe_of, workspace):
    seen = []
    _, checkpoint = tuned(recipe_of("head"), workspace, make_rows(80), events=Events(None, [seen.append]))
    progress = [e for e in seen if (e["kind"], e["message"]) == ("progress", "train")]
    assert progress[-1]["done"] <= progress[-1]["total"]
    assert {"loss", "learning_rate"} <= progress[-1].keys()
    assert "computed once" in checkpoint.chosen["features"]
    assert checkpoint.chosen["precision"].startswith("fp32: set in the recipe")


@pytest.mark.usefixtures("any_length")
def test_what_a_step_computes_with_is_in_the_record(recipe_of, workspace, request):
    dataset = make_dataset(workspace, recipe_of(), make_rows(80))
    full, head = (finetune.run(recipe_of(method, epochs=1), workspace, dataset, Events(), run=method).chosen for method in ("full", "head"))
    assert full["attention"].startswith("of each row to itself: explicit products below 64 tokens")
    assert full["optimizer"].startswith("AdamW, one fused operation")
    assert ("lengths" in full) == ("filled up" in request.node.name)
    assert not {"attention", "lengths"} & set(head)


@pytest.mark.parametrize(
    ("objective", "trained"), [({"name": "supervised", "head_start": "probe"}, True), ({"name": "supervised", "head_start": "zero"}, False), ("few_shot", True)], ids=["probe", "zero", "few_shot"]
)
def test_a_run_that_does_not_help_says_so_and_a_trained_start_is_no_failure(recipe_of, workspace, objective, trained):
    """Steps of almost no size change no answer: the start stays the best."""
    heard = []
    dataset = make_dataset(workspace, recipe_of(), make_rows(80))
    made = recipe_of("head", objective=objective, learning_rate=1e-12, head_learning_rate=1e-12, average=0.0, keep="best")
    checkpoint = finetune.run(made, workspace, dataset, Events(listeners=[heard.append]), run="still")
    assert checkpoint.best_step == 0
    [said] = [event for event in heard if "which is kept (step 0 of" in event["message"]]
    assert ("tuning did not help" in said["message"]) != trained
    assert ("than the start (a logistic regression on" in said["message"]) == trained == ("start" in checkpoint.chosen)
    assert said["kind"] == ("note" if trained else "warning")


@pytest.mark.parametrize(("objective", "keep", "last"), [("supervised", None, False), ("supervised", "last", True), ("few_shot", None, True), ("few_shot", "best", False)])
def test_the_last_step_is_kept_where_that_is_asked_for_or_rows_are_few(recipe_of, workspace, objective, keep, last):
    """No step changes an answer, so the best one is the first, and patience would end the run."""
    heard = []
    dataset = make_dataset(workspace, recipe_of(), make_rows(80))
    made = recipe_of("head", objective=objective, epochs=6, learning_rate=1e-12, head_learning_rate=1e-12, average=0.0, **({"keep": keep} if keep else {}))
    checkpoint = finetune.run(made, workspace, dataset, Events(listeners=[heard.append]), run="still")
    assert (checkpoint.best_step == checkpoint.steps == 6 * 7) == last
    assert (checkpoint.best_step == 0) != last
    assert any("the last step, 42, is kept" in event["message"] for event in heard) == last


def test_patience_beside_the_last_step_has_no_effect_and_is_refused(recipe_of, workspace):
    with pytest.raises(RecipeError, match=r"train\.patience"):
        tuned(recipe_of("head", keep="last", patience=2), workspace, make_rows(80))


def test_a_look_at_the_validation_rows_tells_how_far_it_is(recipe_of, workspace):
    heard = []
    dataset = make_dataset(workspace, recipe_of(), make_rows(80))
    finetune.run(recipe_of("full", epochs=1, refit=False), workspace, dataset, Events(listeners=[heard.append]), run="r")
    looks = [event for event in heard if event["kind"] == "progress" and event["message"] == "validation: reads texts"]
    assert looks
    assert (looks[-1]["done"], looks[-1]["total"]) == (16, 16)
    assert not any("reads texts" in event["message"] for event in heard if event not in looks)
