"""Detectors: the fast form equals the plain one, a moved world scores higher than an unmoved one, and what moved is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attune.core import catalog
from attune.core.contracts import Detector, WindowData
from attune.core.randomness import generator

NAMES = ("embedding_shift", "label_shift", "performance_drop")
LABELS = [f"intent_{i}" for i in range(6)]


def made(rows: int, seed: int, *, moved: bool = False, feedback: float = 1.0) -> WindowData:
    """Rows of a world; the moved one has other words, vectors, labels and errors."""
    draw = generator(seed, "world", rows)
    shares = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]) if moved else np.full(6, 1 / 6)
    vectors = draw.normal(size=(rows, 16)).astype(np.float32)
    vectors[:, :4] += 1.0 * moved
    right = (draw.random(rows) < (0.7 if moved else 0.95)).astype(float)
    right[draw.random(rows) >= feedback] = np.nan
    words = ["battery trouble with the wall unit", "where is the parcel"] if moved else ["the parcel is late", "where is the parcel"]
    texts = [f"{words[int(draw.integers(2))]} {i}" for i in range(rows)]
    confidence = np.clip(draw.normal(0.6 if moved else 0.85, 0.1, rows), 0, 1)
    return WindowData(texts, vectors, [LABELS[i] for i in draw.choice(6, rows, p=shares)], confidence, right)


@pytest.mark.parametrize(
    "spec", [*NAMES, {"name": "embedding_shift", "distance": "energy"}, {"name": "label_shift", "look_at": "total"}, {"name": "performance_drop", "measure": "confidence"}], ids=str
)
def test_many_divisions_at_once_equal_one_by_one(spec):
    detector = catalog.build("detectors", spec)
    rows = made(40, 1).joined(made(30, 2, moved=True))
    chosen = np.array([generator(3, "division", i).permutation(70) < 30 for i in range(5)])
    assert detector.statistics(rows, chosen) == pytest.approx(Detector.statistics(detector, rows, chosen), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_moved_world_scores_higher_than_any_of_twenty_unmoved_ones(name):
    detector = catalog.build("detectors", name)
    reference = made(200, 0)
    unmoved = [detector.statistic(reference, made(120, seed)) for seed in range(1, 21)]
    assert detector.statistic(reference, made(120, 30, moved=True)) > max(unmoved)


def test_mmd_is_the_textbook_estimate():
    """Lemma 6 of Gretton et al., written out with loops, for one width of one median."""
    detector = catalog.build("detectors", {"name": "embedding_shift", "widths": [1.0]})
    before, after = made(12, 1), made(9, 2, moved=True)
    every = np.concatenate([before.embeddings, after.embeddings]).astype(np.float64)
    squared = ((every[:, None] - every[None]) ** 2).sum(2)
    kernel = np.exp(-squared / (2 * np.median(squared[np.triu_indices(21, 1)])))
    a = sum(kernel[i, j] for i in range(12) for j in range(12) if i != j) / (12 * 11)
    b = sum(kernel[i, j] for i in range(12, 21) for j in range(12, 21) if i != j) / (9 * 8)
    assert detector.statistic(before, after) == pytest.approx(a + b - 2 * kernel[:12, 12:].mean(), abs=1e-6)


def test_embedding_shift_names_the_rows_and_words_that_are_new():
    detector = catalog.build("detectors", {"name": "embedding_shift", "examples": 3, "words": 2})
    reference, window = made(200, 1), made(100, 2)
    window.embeddings[:10] += 6
    window.texts[:10] = [f"the battery hums {i}" for i in range(10)]
    found = detector.explain(reference, window)
    assert all("battery" in text for text in found["examples"])
    assert len(found["examples"]) == 3
    assert set(found["words"]) == {"battery", "hums"}
    assert "battery" in found["summary"]
    assert 0.1 <= found["effect"] <= 0.3


def test_embedding_shift_finds_nothing_unfamiliar_in_more_of_the_same():
    found = catalog.build("detectors", "embedding_shift").explain(made(400, 1), made(400, 2))
    assert found["effect"] == pytest.approx(0.05, abs=0.05)


def test_embedding_shift_thins_large_windows_the_same_way_every_time():
    detector = catalog.build("detectors", {"name": "embedding_shift", "max_rows": 100})
    window = made(500, 1)
    index = detector.usable(window)
    assert len(index) == len(set(index.tolist())) == 100
    assert (index == detector.usable(made(500, 2))).all()
    assert len(detector.usable(made(100, 1))) == 100


def test_embedding_shift_has_nothing_to_use_without_embeddings():
    window = made(50, 1)
    window.embeddings = np.zeros((50, 0), dtype=np.float32)
    assert len(catalog.build("detectors", "embedding_shift").usable(window)) == 0


def test_label_shift_says_which_labels_grew_and_shrank():
    detector = catalog.build("detectors", {"name": "label_shift", "shown": 1})
    reference = WindowData(["t"] * 100, np.zeros((100, 0)), ["late"] * 60 + ["refund"] * 40, np.zeros(100), np.zeros(100))
    window = WindowData([f"text {i}" for i in range(50)], np.zeros((50, 0)), ["late"] * 10 + ["refund"] * 20 + ["login"] * 20, np.zeros(50), np.zeros(50))
    found = detector.explain(reference, window)
    assert found["grew"] == {"login": [0.0, 0.4]}
    assert found["shrank"] == {"late": [0.6, 0.2]}
    assert found["effect"] == pytest.approx(0.4)
    assert found["examples"] == [f"text {i}" for i in range(30, 35)]
    assert "'login' 0% -> 40% (+40 points)" in found["summary"]


def test_label_shift_sees_one_large_move_that_the_total_overlooks():
    """One of sixty labels grows by nine points: lost in the sum over all labels, plain in the largest."""
    labels = [f"l{i:02}" for i in range(60)]

    def rows(counts: list[int]) -> WindowData:
        named = [label for label, count in zip(labels, counts, strict=True) for _ in range(count)]
        return WindowData(named, np.zeros((len(named), 0)), named, np.zeros(len(named)), np.zeros(len(named)))

    before, after = rows([5] * 60), rows([30, *[5] * 54, *[0] * 5])
    score = {look: catalog.build("detectors", {"name": "label_shift", "look_at": look}).statistic(before, after) for look in ("total", "largest", "both")}
    assert score["largest"] > score["total"]
    assert score["both"] == max(score.values())


def test_label_shift_of_one_label_is_no_shift():
    rows = WindowData(["t"] * 40, np.zeros((40, 0)), ["only"] * 40, np.zeros(40), np.zeros(40))
    assert catalog.build("detectors", "label_shift").statistic(rows, rows) == 0


def test_performance_drop_uses_accuracy_where_there_is_feedback_and_says_so():
    detector = catalog.build("detectors", "performance_drop")
    window = made(200, 2, moved=True, feedback=0.5)
    labelled = window.take(detector.usable(window))
    assert np.isfinite(labelled.correct).all()
    assert 60 < len(labelled) < 140
    found = detector.explain(made(200, 1), labelled)
    assert found["measure"] == "accuracy"
    assert found["effect"] < -0.1
    wrong = {text for text, right in zip(labelled.texts, labelled.correct, strict=True) if right == 0}
    assert set(found["examples"]) <= wrong


def test_performance_drop_falls_back_to_confidence_and_says_so():
    detector = catalog.build("detectors", "performance_drop")
    window = made(200, 2, moved=True, feedback=0.05)
    assert len(detector.usable(window)) == 200
    found = detector.explain(made(200, 1), window)
    assert found["measure"] == "confidence"
    assert "too little feedback" in found["summary"]
    assert found["effect"] == pytest.approx(-0.25, abs=0.05)


def test_performance_drop_by_confidence_never_looks_at_feedback():
    """For endpoints where people only report wrong answers: accuracy on those rows would be zero."""
    window = made(100, 2)
    window.correct[:] = np.nan
    window.correct[:40] = 0.0
    by_feedback, by_confidence = (catalog.build("detectors", {"name": "performance_drop", "measure": measure}) for measure in ("auto", "confidence"))
    reference = made(200, 1)
    assert by_feedback.statistic(reference, window.take(by_feedback.usable(window))) > 10
    assert abs(by_confidence.statistic(reference, window.take(by_confidence.usable(window)))) < 3


def test_performance_drop_by_accuracy_alone_waits_for_feedback():
    detector = catalog.build("detectors", {"name": "performance_drop", "measure": "accuracy", "min_labelled": 40})
    window = made(100, 2)
    window.correct[30:] = np.nan
    assert len(detector.usable(window)) == 0


def test_a_rise_is_no_drop():
    detector = catalog.build("detectors", "performance_drop")
    assert detector.statistic(made(200, 2, moved=True), made(200, 1)) < 0


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_is_json_with_the_three_promised_facts(name):
    found = catalog.build("detectors", name).explain(made(100, 1), made(60, 2, moved=True))
    assert {"summary", "effect", "examples"} <= set(json.loads(json.dumps(found, allow_nan=False)))
    assert found["summary"].endswith(".")
    assert found["examples"]
