"""The grading stage on real small models: what it measures, what it refuses, what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from attune.core import rows as core_rows
from attune.core.contracts import Prediction, coarse_label
from attune.core.errors import DataError, IntegrityError, Problems
from attune.core.events import Events
from attune.core.recipe import GateKeys
from attune.core.records import Scorecard
from attune.core.specialist import open_bundle
from attune.core.workspace import Workspace
from attune.stages import grade
from attune.stages.grade.stage import plugs_of
from attune.testing.models import tiny_llama
from tests.grade.conftest import LABELS, cut, make_dataset, recipe, release_of, ticket_rows, tuned

RIVALS = ["majority", "linear", "untouched_base", "retrieval"]


@pytest.fixture(scope="module")
def graded(tickets):
    """The tickets graded with every label metric, next to a release that is the same model."""
    made = recipe(grade={"resamples": 400, "metrics": ["accuracy", "f1_macro", "f1_weighted", "precision_macro", "recall_macro", "log_loss", "ece"], "probes": [{"name": "robustness", "rows": 10}]})
    heard = []
    card = grade.run(made, tickets.workspace, tickets.dataset, tickets.checkpoint, Events(listeners=(heard.append,)), current=release_of(tickets.workspace, tickets.checkpoint))
    return card, tickets.workspace.store.path(card.store_key), heard


def test_everyone_answers_the_same_sealed_rows(graded, tickets):
    card, folder, _ = graded
    assert list(card.results) == ["tuned", "current", *RIVALS]
    assert card.test_rows == tickets.dataset.counts["test"]
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    test_rows = core_rows.read_rows(tickets.workspace.store.path(tickets.dataset.store_key) / "test.parquet", tickets.recipe.task)
    assert table["row_id"] == [row["row_id"] for row in test_rows]
    for who in card.results:
        right = np.mean([json.loads(said) == json.loads(truth) for said, truth in zip(table[who], table["truth"], strict=True)])
        assert card.results[who]["accuracy"].value == pytest.approx(right)
    for estimates in card.results.values():
        for estimate in estimates.values():
            assert estimate.low <= estimate.value <= estimate.high


def test_long_answers_say_how_far_they_are(graded, tickets):
    _, _, heard = graded
    told = [event for event in heard if event["kind"] == "progress"]
    assert {"tuned model reads texts", "approved release reads texts", "untouched base reads texts"} <= {event["message"] for event in told}
    reading = [event["done"] for event in told if event["message"] == "tuned model reads texts"][: tickets.dataset.counts["test"]]
    assert reading[0] > 0
    assert all(event["done"] <= event["total"] for event in told)


def test_the_tuned_answers_are_those_of_the_bundle(graded, tickets):
    _, folder, _ = graded
    model = open_bundle(tickets.workspace.store.path(tickets.checkpoint.store_key))
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    expected = model.predict([{"text": text} for text in table["text"]])
    assert [json.loads(one) for one in table["tuned"]] == [p.output for p in expected]
    assert table["confidence"] == pytest.approx([p.confidence for p in expected], abs=1e-5)


def test_the_tuned_model_beats_chance_and_equals_itself(graded):
    card, _, _ = graded
    found = {(one.rival, one.metric): one for one in card.comparisons}
    assert len(found) == 5 * 7
    assert found["majority", "accuracy"].low > 0.4
    assert found["majority", "accuracy"].p_value < 0.01
    assert found["majority", "log_loss"].difference > 0
    same = found["current", "accuracy"]
    assert (same.difference, same.p_value) == (0, 1)
    assert same.low < 0 < same.high


def test_verdict_gates_and_reasons_hang_together(graded):
    card, folder, heard = graded
    assert [gate.gate for gate in card.gates] == ["accuracy better than best rival", "accuracy not worse than current by more than 1.0 point"]
    worst = {"fail": "NO-SHIP", "inconclusive": "INCONCLUSIVE", "pass": "SHIP"}[min((gate.outcome for gate in card.gates), key=["fail", "inconclusive", "pass"].index)]
    assert card.verdict == worst
    assert sorted(card.reasons) == sorted(gate.reason for gate in card.gates)
    assert heard[-1]["kind"] == "result"
    assert heard[-1]["verdict"] == card.verdict
    written = json.loads((folder / "scorecard.json").read_text())
    assert written["verdict"] == card.verdict
    assert written["results"]["tuned"]["accuracy"]["value"] == card.results["tuned"]["accuracy"].value
    assert written["metrics"]["log_loss"] == {"higher_is_better": False, "percent": False}


def test_per_class_figures_are_scikit_learns(graded):
    from sklearn.metrics import classification_report

    card, folder, _ = graded
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    report = classification_report([json.loads(t) for t in table["truth"]], [json.loads(t) for t in table["tuned"]], output_dict=True, zero_division=0)
    assert card.per_class["f1_macro"] == pytest.approx({label: report[label]["f1-score"] for label in LABELS})
    assert card.results["tuned"]["f1_weighted"].value == pytest.approx(report["weighted avg"]["f1-score"])


def test_the_reference_is_what_watching_will_see_of_the_same_rows(graded, tickets):
    _, folder, _ = graded
    reference = pq.read_table(folder / "reference.parquet").to_pydict()
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    assert reference["text"] == table["text"]
    assert reference["label"] == [coarse_label(json.loads(one)) for one in table["tuned"]]
    assert reference["confidence"] == table["confidence"]
    assert reference["correct"] == [float(a == b) for a, b in zip(table["tuned"], table["truth"], strict=True)]
    vectors = load_file(folder / "reference_embeddings.safetensors")["embeddings"]
    model = open_bundle(tickets.workspace.store.path(tickets.checkpoint.store_key))
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, model.embed(reference["text"]), atol=1e-4)


def test_probes_are_in_the_scorecard(graded):
    card, _, _ = graded
    assert card.probes["robustness"]["rows"] == 10
    assert 0.5 < card.probes["robustness"]["value"] <= 1


def test_every_opening_of_the_test_rows_is_counted_and_told(tickets):
    made = recipe(grade={"resamples": 200, "rivals": ["majority"], "probes": []})
    heard = []

    def opened():
        return len([e for e in tickets.workspace.ledger.audit_log() if (e["action"], e["subject"]) == ("test_rows.open", tickets.dataset.id)])

    ids = core_rows.ids_of(tickets.workspace.store.path(tickets.dataset.store_key) / "test.parquet")
    known = tickets.workspace.ledger.opened_rows(tickets.dataset.specialist)
    before, looks = opened(), max(known.get(name, 0) for name in ids)
    card = grade.run(made, tickets.workspace, tickets.dataset, tickets.checkpoint, Events(listeners=(heard.append,)))
    assert opened() == before + 1
    assert card.test_uses == looks + 1
    again = grade.run(made, tickets.workspace, tickets.dataset, tickets.checkpoint, Events(listeners=(heard.append,)))
    assert again.test_uses == card.test_uses + 1
    assert again.results == card.results
    assert any("opened" in event["message"] for event in heard)


def test_another_dataset_version_does_not_make_opened_rows_fresh(tmp_path):
    made, workspace = recipe(), Workspace(tmp_path / "space")
    splits = cut(ticket_rows(20), len(LABELS))
    first = make_dataset(workspace, made, splits)
    assert [core_rows.open_test_rows(workspace, first, made.task, "grade")[1] for _ in range(3)] == [1, 2, 3]
    moved = {**splits, "train": [*splits["train"], *splits["test"][1:]], "test": [*splits["test"][:1], *splits["validation"]]}  # as another seed would
    second = make_dataset(workspace, made, moved)
    assert second.id != first.id
    rows, uses = core_rows.open_test_rows(workspace, second, made.task, "grade")
    assert (len(rows), uses) == (1 + len(splits["validation"]), 4), "one row of them was looked at three times before"
    fresh = make_dataset(workspace, made, {**splits, "test": splits["train"], "train": splits["test"]})
    assert core_rows.open_test_rows(workspace, fresh, made.task, "grade")[1] == 1, "the clean twin: rows that nobody looked at"
    other = recipe(name="other")
    assert core_rows.open_test_rows(workspace, make_dataset(workspace, other, splits), other.task, "grade")[1] == 1
    workspace.close()


def test_the_workspace_grades_again_only_when_something_changed(tickets):
    made = recipe(grade={"resamples": 200, "rivals": ["majority"], "probes": []})
    known = grade.inputs(made, tickets.dataset, tickets.checkpoint, None)
    assert known == grade.inputs(recipe(grade={"resamples": 200, "rivals": ["majority"], "probes": []}), tickets.dataset, tickets.checkpoint, None)
    others = [
        recipe(grade={"resamples": 201, "rivals": ["majority"], "probes": []}),
        recipe(grade={"resamples": 200, "rivals": [], "probes": []}),
        recipe(grade={"resamples": 200, "rivals": ["majority"], "probes": []}, gates=[{"metric": "accuracy", "at_least": 0.5}]),
        recipe(grade={"resamples": 200, "rivals": ["majority"], "probes": []}, seed=8),
    ]
    assert all(grade.inputs(other, tickets.dataset, tickets.checkpoint, None) != known for other in others)
    assert grade.inputs(made, tickets.dataset, tickets.checkpoint, release_of(tickets.workspace, tickets.checkpoint)) != known
    run = lambda: grade.run(made, tickets.workspace, tickets.dataset, tickets.checkpoint, Events())  # noqa: E731
    first = tickets.workspace.stage("grade", known, Scorecard, run, events=Events())
    uses = first.test_uses
    assert tickets.workspace.stage("grade", known, Scorecard, run, events=Events()).test_uses == uses


def test_gates_of_the_recipe_decide(tickets):
    for limit, verdict in ((0.3, "SHIP"), (1.0, "NO-SHIP")):
        made = recipe(grade={"resamples": 200, "rivals": [], "probes": []}, gates=[{"metric": "f1_micro", "at_least": limit}, {"metric": "ece", "at_most": 0.9}])
        card = grade.run(made, tickets.workspace, tickets.dataset, tickets.checkpoint, Events())
        assert card.verdict == verdict
        assert {"f1_micro", "ece"} <= set(card.results["tuned"])


def test_a_gate_on_something_that_does_not_exist_is_never_passed(tickets):
    made = recipe(grade={"resamples": 200, "rivals": [], "probes": []})
    made.keys = made.keys.model_copy(update={"gates": [GateKeys(metric="acuracy", at_least=0.1), GateKeys(metric="accuracy", at_least=0.1)]})
    card = grade.run(made, tickets.workspace, tickets.dataset, tickets.checkpoint, Events())
    assert card.verdict == "NO-SHIP"
    assert "did you mean 'accuracy'" in card.reasons[0]


def test_a_default_that_does_not_fit_the_task_is_refused_by_name(monkeypatch):
    made = recipe()
    monkeypatch.setattr(type(made.task), "defaults", dataclasses.replace(made.task.defaults, metrics=("exact_match",), probes=("nonsense",)))
    with pytest.raises(Problems, match="there is no probe 'nonsense'") as problems:
        plugs_of(made)
    assert "needs text-out" in str(problems.value)


def test_two_rivals_of_a_kind_have_two_names():
    plugs = plugs_of(recipe(grade={"rivals": [{"name": "linear", "strength": 1.0}, {"name": "linear", "strength": 100.0}]}))
    assert list(plugs.rivals) == ["linear", "linear_2"]
    assert plugs.facts()["rivals"]["linear_2"] == ["linear", {"strength": 100.0, "min_rows": 1}]


def test_a_checkpoint_is_graded_only_on_its_own_test_rows(tickets):
    other = make_dataset(tickets.workspace, tickets.recipe, cut(ticket_rows(20), len(LABELS)))
    with pytest.raises(IntegrityError, match="was tuned on"):
        grade.run(recipe(), tickets.workspace, other, tickets.checkpoint, Events())


def test_without_test_rows_there_is_nothing_to_grade(tickets):
    empty = make_dataset(tickets.workspace, tickets.recipe, {**cut(ticket_rows(20), len(LABELS)), "test": []})
    with pytest.raises(DataError, match="no test rows"):
        grade.run(recipe(), tickets.workspace, empty, tickets.checkpoint.model_copy(update={"dataset_id": empty.id}), Events())


def test_few_test_rows_never_ship(tmp_path, tickets):
    splits = cut(ticket_rows(24), len(LABELS))
    few = make_dataset(tickets.workspace, tickets.recipe, {**splits, "test": splits["test"][:29]})
    made = recipe(grade={"resamples": 200, "rivals": ["majority"], "probes": []})
    card = grade.run(made, tickets.workspace, few, tickets.checkpoint.model_copy(update={"dataset_id": few.id}), Events())
    assert card.verdict == "INCONCLUSIVE"
    assert "29 independent test rows are too few" in card.reasons[0]


def test_a_gate_that_is_easy_to_pass_does_not_hide_an_equal_rival(tickets):
    """The linear model of these rows is not clearly behind; a gate against the majority alone passes, and the report says what it leaves out."""
    made = recipe(grade={"resamples": 200, "rivals": ["majority", "linear"], "probes": []}, gates=[{"metric": "accuracy", "better_than": "majority"}])
    card = grade.run(made, tickets.workspace, tickets.dataset, tickets.checkpoint, Events())
    page = (tickets.workspace.store.path(card.store_key) / "report.html").read_text(encoding="utf-8")
    assert card.verdict == "SHIP"
    assert ("No gate asks about linear" in page) == (len(card.reasons) == 2) == any(one.rival == "linear" and one.metric == "accuracy" and one.low <= 0 for one in card.comparisons)
    strict = made.keys.model_copy(update={"gates": [GateKeys(metric="accuracy", better_than="best_rival")]})
    made.keys = strict
    assert len(grade.run(made, tickets.workspace, tickets.dataset, tickets.checkpoint, Events()).reasons) == 1


def test_rows_of_one_customer_count_once(tickets):
    """Every test row eight times under one customer: eight times the rows, the same evidence."""
    splits = cut(ticket_rows(24), len(LABELS))
    copies = [{**row, "row_id": f"{row['row_id']}-{n}", "group": row["row_id"]} for row in splits["test"] for n in range(8)]
    made = recipe(grade={"resamples": 400, "rivals": ["majority"], "probes": []})
    width = {}
    for name, test in (("once", splits["test"]), ("grouped", copies), ("copied", [{**row, "group": None} for row in copies])):
        dataset = make_dataset(tickets.workspace, made, {**splits, "test": test})
        card = grade.run(made, tickets.workspace, dataset, tickets.checkpoint.model_copy(update={"dataset_id": dataset.id}), Events())
        estimate = card.results["tuned"]["f1_macro"]
        width[name] = estimate.high - estimate.low
    assert width["grouped"] == pytest.approx(width["once"], rel=0.15)
    assert width["copied"] < 0.6 * width["once"]


def test_a_rival_that_answers_too_few_rows_stops_the_grading(tickets, monkeypatch):
    from attune.core import catalog

    majority = catalog.load("rivals", "majority")
    monkeypatch.setattr(majority, "predict", lambda self, rows: [Prediction("refund_status")] * (len(rows) - 1))
    with pytest.raises(IntegrityError, match="majority gave 59 answers to 60 rows"):
        grade.run(recipe(grade={"rivals": ["majority"], "probes": []}), tickets.workspace, tickets.dataset, tickets.checkpoint, Events())


def test_rivals_see_no_test_answer(tickets, monkeypatch):
    from attune.core import catalog

    seen = {}
    majority = catalog.load("rivals", "majority")
    before = majority.fit

    def fit(self, context):
        seen["rows"] = {row["row_id"] for row in [*context.train, *context.validation]}
        before(self, context)

    monkeypatch.setattr(majority, "fit", fit)
    grade.run(recipe(grade={"resamples": 200, "rivals": ["majority"], "probes": []}), tickets.workspace, tickets.dataset, tickets.checkpoint, Events())
    test = {row["row_id"] for row in core_rows.read_rows(tickets.workspace.store.path(tickets.dataset.store_key) / "test.parquet", tickets.recipe.task)}
    assert test
    assert not test & seen["rows"]


def test_rivals_learn_from_the_general_rows_of_a_pass_and_probes_know_all(tickets, monkeypatch):
    from attune.core import catalog

    splits = cut(ticket_rows(24), len(LABELS))
    splits["train"] = [{**row, core_rows.GENERAL: i % 2 == 1} for i, row in enumerate(splits["train"])]
    made = recipe(data={"path": "rows.csv", "replay": {"path": "general.csv", "share": 0.25, "passes": 3}}, grade={"resamples": 200, "rivals": ["majority"], "probes": ["robustness"]})
    dataset = make_dataset(tickets.workspace, made, splits)
    checkpoint = tuned(tickets.workspace, made, dataset, "general")
    seen = {}
    for kind, name, method in (("rivals", "majority", "fit"), ("probes", "robustness", "run")):
        plug = catalog.load(kind, name)
        own_way = getattr(plug, method)

        def watched(self, context, kind=kind, before=own_way):
            seen[kind] = [row["row_id"] for row in context.train]
            return before(self, context)

        monkeypatch.setattr(plug, method, watched)
    grade.run(made, tickets.workspace, dataset, checkpoint, Events())
    own, general = ([row["row_id"] for row in splits["train"] if row[core_rows.GENERAL] == wanted] for wanted in (False, True))
    assert [name for name in seen["rivals"] if name in own] == own
    assert len(set(seen["rivals"]) & set(general)) == made.keys.data.replay.beside(len(own)) == 12
    assert len(general) == 36
    assert len(seen["probes"]) == 72


def test_several_labels_a_row_go_all_the_way(tickets):
    groups = {"cancel_order": "order", "track_order": "order", "damaged_item": "order"}
    all_rows = [{**row, "label": sorted({row["label"], groups.get(row["label"], "account")}) if n % 12 else []} for n, row in enumerate(ticket_rows(20))]
    made = recipe(task={"name": "text_classification", "multi_label": True}, grade={"resamples": 200, "probes": []})
    dataset = make_dataset(tickets.workspace, made, cut(all_rows, len(LABELS)))
    card = grade.run(made, tickets.workspace, dataset, tuned(tickets.workspace, made, dataset, "several"), Events())
    assert card.results["tuned"]["f1_micro"].value > 0.7
    assert card.results["tuned"]["f1_micro"].value > card.results["majority"]["f1_micro"].value
    assert set(card.per_class["f1_macro"]) == {*LABELS, "order", "account"}
    page = (tickets.workspace.store.path(card.store_key) / "report.html").read_text()
    assert "Class by class" in page
    assert "What it confuses" not in page


def test_vectors_go_all_the_way(tickets):
    texts = [row["text"] for row in ticket_rows(20)]
    all_rows = [{"row_id": f"r{i}", "place": f"pairs:{i}", "anchor": text, "positive": " ".join(text.split()[::-1]) or text} for i, text in enumerate(texts[:96])]
    splits = {"train": all_rows[:48], "validation": all_rows[48:60], "test": all_rows[60:]}
    made = recipe(task="embedding", method="full", objective="contrastive", grade={"resamples": 200, "rivals": ["lexical", "untouched_base"]}, train={"max_length": 32, "epochs": 0.2})
    dataset = make_dataset(tickets.workspace, made, splits)
    card = grade.run(made, tickets.workspace, dataset, tuned(tickets.workspace, made, dataset, "vectors"), Events())
    assert list(card.results["tuned"]) == ["mrr", "hit_at_1", "recall_at_10", "ndcg_at_10"]
    assert card.results["lexical"]["mrr"].value > 0.9
    folder = tickets.workspace.store.path(card.store_key)
    reference = pq.read_table(folder / "reference.parquet").to_pydict()
    assert set(reference["label"]) == {""}
    assert reference["correct"] == [None] * 36
    assert load_file(folder / "reference_embeddings.safetensors")["embeddings"].shape == (36, 384)
    page = (folder / "report.html").read_text()
    assert "Against its rivals" in page
    assert "What it confuses" not in page


def test_texts_go_all_the_way(tickets, tmp_path):
    all_rows = [{"row_id": f"r{i}", "place": f"chat:{i}", "prompt": [{"role": "user", "content": row["text"]}], "completion": row["label"].replace("_", " ")} for i, row in enumerate(ticket_rows(14))]
    base = tiny_llama(tmp_path / "base", [text for row in all_rows for text in (row["prompt"][0]["content"], row["completion"])])
    made = recipe(
        task={"name": "text_generation", "max_new_tokens": 4}, method="lora", objective="sft", base_model=str(base), train={"max_length": 64, "epochs": 0.5}, grade={"resamples": 200, "probes": []}
    )
    dataset = make_dataset(tickets.workspace, made, cut(all_rows, len(LABELS)))
    card = grade.run(made, tickets.workspace, dataset, tuned(tickets.workspace, made, dataset, "texts"), Events())
    assert list(card.results) == ["tuned", "majority", "untouched_base", "prompted_base", "retrieval", "retrieval_augmented_base"]
    assert card.results["majority"]["exact_match"].value == pytest.approx(1 / 6)
    assert card.verdict == "NO-SHIP"
    page = (tickets.workspace.store.path(card.store_key) / "report.html").read_text()
    assert "Answers in other words" in page
    assert "What it confuses" not in page


def test_an_undefined_metric_is_null_on_disk_and_survives_the_ledger(tickets, monkeypatch):
    from attune.core import catalog

    majority = catalog.load("rivals", "majority")
    monkeypatch.setattr(majority, "predict", lambda self, rows: [Prediction("refund_status")] * len(rows))
    made = recipe(grade={"resamples": 200, "rivals": ["majority"], "probes": [], "metrics": ["accuracy", "log_loss"]}, gates=[{"metric": "log_loss", "better_than": "best_rival"}])
    card = grade.run(made, tickets.workspace, tickets.dataset, tickets.checkpoint, Events())
    assert card.verdict == "NO-SHIP"
    assert card.reasons[0].startswith("no rival has a value of log_loss (majority)")
    assert json.loads((tickets.workspace.store.path(card.store_key) / "scorecard.json").read_text())["results"]["majority"]["log_loss"]["value"] is None
    stored = tickets.workspace.ledger.add(card)
    assert math.isnan(tickets.workspace.ledger.get(stored.id).results["majority"]["log_loss"].value)


def test_the_folder_holds_what_the_contract_says(graded):
    _, folder, _ = graded
    assert {path.name for path in Path(folder).iterdir()} == {"COMMIT.json", "predictions.parquet", "reference.parquet", "reference_embeddings.safetensors", "report.html", "scorecard.json"}


def test_an_approved_release_that_learned_from_the_test_rows_is_not_compared(tickets):
    """The split has changed since the release was tuned: judged on its own training rows it would win by memory."""
    splits = cut(ticket_rows(24), len(LABELS))
    swapped = make_dataset(tickets.workspace, tickets.recipe, {"train": splits["test"], "validation": splits["validation"], "test": splits["train"]})
    release = release_of(tickets.workspace, tickets.checkpoint)
    other = release.model_copy(update={"dataset_id": swapped.id, "version": 2})
    heard = []
    made = recipe(grade={"resamples": 200, "metrics": ["accuracy"], "rivals": ["majority"], "probes": []})
    card = grade.run(made, tickets.workspace, tickets.dataset, tickets.checkpoint, Events(listeners=(heard.append,)), current=tickets.workspace.ledger.add(other))
    assert "current" not in card.results
    (about,) = [gate for gate in card.gates if "current" in gate.gate]
    assert about.outcome == "inconclusive"
    assert f"{len(splits['test'])} of these {len(splits['test'])} test rows were among its training rows" in about.reason
    assert "--from-request" in about.reason
    assert card.verdict == "INCONCLUSIVE"
    assert any(event["kind"] == "warning" and "cannot be compared" in event["message"] for event in heard)
