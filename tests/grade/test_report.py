"""The report: one page that needs nothing else, shows what was measured, and treats every text of the data as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from attune.core.contracts import Prediction
from attune.core.events import Events
from attune.stages import grade
from attune.stages.grade import plots
from attune.stages.grade.words import amount, interval, points, signed
from tests.grade.conftest import LABELS, cut, make_dataset, recipe, ticket_rows, tuned

EVIL = '<script>alert("1")</script><img src=x onerror=alert(2)> & "quoted" {{ 7*7 }} $\\frac{1}{2}$'


class Page(HTMLParser):
    """Tags, attributes and text of a page; void tags aside, every tag must be closed in order."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.problems: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(tickets):
    """A report whose rows, labels, places and curation facts all hold markup."""
    renamed = {"refund_status": EVIL}
    all_rows = [
        {**row, "label": renamed.get(row["label"], row["label"]), "text": f"{row['text']} {EVIL}" if n % 7 == 0 else row["text"], "place": f"<b>{row['place']}"}
        for n, row in enumerate(ticket_rows(24))
    ]
    curation = {
        "labels": {EVIL: {"train": 1, "validation": 0, "test": 0}},
        "notes": [EVIL],
        "split_by": "stratified",
        "words": {"shortest": 1, "median": 5, "longest": 9},
        "findings": [{"check": "pii", "purpose": "x", "findings": 3, "reasons": [{"action": "repair", "reason": EVIL, "rows": 3}]}],
    }
    made = recipe(grade={"resamples": 200, "rivals": ["majority", "linear"], "probes": [{"name": "robustness", "rows": 5}]})
    dataset = make_dataset(tickets.workspace, made, cut(all_rows, len(LABELS)), json.dumps(curation))
    card = grade.run(made, tickets.workspace, dataset, tuned(tickets.workspace, made, dataset, "markup"), Events())
    text = (tickets.workspace.store.path(card.store_key) / "report.html").read_text(encoding="utf-8")
    return SimpleNamespace(text=text, card=card, parsed=Page(text))


def test_it_is_well_formed_and_asks_for_nothing(page):
    assert page.parsed.problems == []
    assert page.parsed.open == []
    assert {"script", "img", "link", "iframe", "object", "base", "form"}.isdisjoint(tag for tag, _ in page.parsed.tags)
    for tag, attributes in page.parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("#"), (tag, value)
    assert "@import" not in page.text
    assert set(re.findall(r"https?://[^\"' <)]+", page.text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    policy = next(attributes["content"] for tag, attributes in page.parsed.tags if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert len(page.text) < 400_000


def test_markup_in_the_data_stays_text(page):
    assert EVIL in page.parsed.text
    assert "<script>alert" not in page.text
    assert "{{ 7*7 }}" in page.text
    assert ">49<" not in page.text


def test_it_says_the_verdict_the_figures_and_how_it_was_made(page):
    text, card = page.parsed.text, page.card
    assert card.verdict in text
    for reason in card.reasons:
        assert reason[1:] in text
    assert f"{100 * card.results['tuned']['accuracy'].value:.1f}%" in text
    for words in (
        "Against its rivals",
        "Every metric",
        "What it confuses",
        "Class by class",
        "Surest mistakes",
        "Can its confidence be trusted?",
        "Learning",
        "Behaviour",
        "The data",
        "Limits",
        "How this was made",
        card.dataset_id,
        card.checkpoint_id,
        "200 resamples",
    ):
        assert words in text, words
    assert page.text.index(card.verdict) < page.text.index("Against its rivals")


def test_ids_of_drawings_do_not_clash(page):
    ids = [attributes["id"] for _, attributes in page.parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page.text))
    assert used <= set(ids)


def test_a_drawing_is_the_same_for_the_same_data():
    curve = [{"step": 0.0, "validation_loss": 1.0, "validation_accuracy": 0.5}, {"step": 5.0, "loss": 0.9, "validation_loss": 0.8, "validation_accuracy": 0.7}]
    assert plots.curves(curve, 5, "accuracy") == plots.curves(curve, 5, "accuracy")
    assert len(plots.curves(curve, 5, "accuracy")) == 2
    assert plots.curves([], 0, "accuracy") == []
    assert plots.confusion(np.eye(3), ["a", "b", "c"]).count("<svg") == 1
    assert "image" not in plots.confusion(np.eye(3), ["a", "b", "c"])


def test_the_mark_of_the_kept_step_stands_above_the_curve():
    """A curve may reach every corner of its frame, so the mark is outside of it."""
    curve = [{"step": float(step), "validation_accuracy": 0.5 + step / 24} for step in range(13)]
    for best in (0, 6, 12):
        (svg,) = plots.curves(curve, best, "accuracy")
        frame = re.search(r'patch_2">\s*<path d="([^"]+)', svg)[1]
        top = min(float(y) for y in re.findall(r"[ML] \S+ (\S+)", frame))
        baseline = float(re.search(r'y="([\d.]+)"[^>]*>kept<', svg)[1])
        assert baseline < top


def test_nothing_that_is_said_of_a_rival_is_cut_off(page):
    assert "line-clamp" not in page.text


def test_many_classes_show_the_most_confused():
    from attune.stages.grade import report

    labels = [f"c{i:02}" for i in range(30)]
    truth = labels * 3
    said = ["c01" if label == "c29" else label for label in truth]
    grading = SimpleNamespace(
        recipe=SimpleNamespace(task=SimpleNamespace(traits={"label-out"})),
        dataset=SimpleNamespace(signature={"multi_label": False}),
        truth=truth,
        answers={"tuned": [Prediction(label) for label in said]},
        texts=[f"text {i}" for i in range(90)],
    )
    found = report._confusion(grading)
    assert (found["shown"], found["all"]) == (20, 30)
    assert found["pairs"] == [{"truth": "c29", "said": "c01", "rows": 3, "of": 3, "examples": ["text 29", "text 59"]}]
    assert ">c29<" in found["svg"]


def test_a_mistake_that_every_reading_rival_shares_is_marked():
    from attune.stages.grade import report

    def grading(second):
        answers = {"tuned": ["x", "x", "y"], "linear": ["x", "x", "y"], "retrieval": [second, "x", "y"], "majority": ["z", "z", "z"]}
        return SimpleNamespace(
            recipe=SimpleNamespace(task=SimpleNamespace(traits={"label-out"})),
            rivals=("linear", "retrieval", "majority"),
            truth=["y", "x", "y"],
            texts=["a", "b", "c"],
            rows=[{"row_id": str(i)} for i in range(3)],
            answers={who: [Prediction(one, confidence=0.9) for one in many] for who, many in answers.items()},
        )

    assert report._mistakes(grading("x"), [False, True, True])["rows"][0]["agree"] == ["linear", "retrieval"]
    assert report._mistakes(grading("y"), [False, True, True])["rows"][0]["agree"] == []


def test_numbers_read_like_numbers():
    share, loss = SimpleNamespace(percent=True), SimpleNamespace(percent=False)
    assert amount(0.9213, share) == "92.1%"
    assert amount(float("nan"), share) == "undefined"
    assert interval(SimpleNamespace(value=0.5, low=0.4, high=0.6), loss) == "0.500 (0.400–0.600)"
    assert amount(30559.403, loss) == "30,559.4"
    assert [points(-0.01, share), points(0.09, share), points(0.1, loss)] == ["1.0 point", "9.0 points", "0.100"]
    assert [signed(0.05, share), signed(-0.05, share), signed(-0.0001, share), signed(0.0, loss)] == ["+5.0", "−5.0", "0.0", "0.000"]
