"""A detector's statistic grows when the world moves, and the calibration may ask it in bulk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.core.contracts import WindowData
from attune.core.randomness import generator

if TYPE_CHECKING:
    import numpy as np

    from attune.testing.suite import Subject

PER_TASK = False
LABELS = ("a", "b", "c", "d")


def _window(number: int, rows: int, *, moved: bool = False) -> WindowData:
    """Rows of a made-up world; a moved one differs in texts, vectors, labels, confidence and right answers at once."""
    import numpy as np

    draw = generator(11, "window", number)
    vectors = draw.normal(size=(rows, 8)).astype(np.float32) + (1.5 if moved else 0.0)
    shares = [0.7, 0.1, 0.1, 0.1] if moved else [0.25] * 4
    confidence = np.clip(draw.normal(0.55 if moved else 0.9, 0.05, rows), 0, 1)
    correct = (draw.random(rows) < (0.4 if moved else 0.9)).astype(np.float64)
    texts = [f"text {number} {i} " + "word " * int(draw.integers(6, 12) if moved else draw.integers(2, 8)) for i in range(rows)]
    return WindowData(texts, vectors, [str(one) for one in draw.choice(LABELS, rows, p=shares)], confidence, correct)


def _usable(subject: Subject, window: WindowData) -> WindowData:
    return window.take(subject.plug.usable(window))


def _statistic(subject: Subject, reference: WindowData, window: WindowData) -> float:
    return float(subject.plug.statistic(_usable(subject, reference), _usable(subject, window)))


def check_statistic_is_larger_for_a_moved_world(subject: Subject) -> None:
    """Finite for windows of the same world, and larger for each of three moved ones than for any of five unmoved ones."""
    import math

    reference = _window(0, 300)
    still = [_statistic(subject, reference, _window(number, 100)) for number in range(1, 6)]
    moved = [_statistic(subject, reference, _window(number, 100, moved=True)) for number in range(6, 9)]
    assert all(map(math.isfinite, still + moved)), f"statistics are not finite: {still + moved}"
    assert min(moved) > max(still), f"unmoved windows reach {max(still):.4g}, moved ones only {min(moved):.4g}"


def check_in_bulk_as_one_by_one(subject: Subject) -> None:
    """`statistics` over many divisions gives what `statistic` gives for each."""
    import numpy as np

    plug = subject.plug
    rows = _usable(subject, _window(0, 80).joined(_window(1, 40, moved=True)))
    draw = generator(11, "divisions")
    chosen = np.stack([draw.permutation(len(rows)) < 40 for _ in range(4)])
    bulk = np.asarray(plug.statistics(rows, chosen))
    one_by_one = [plug.statistic(rows.take(np.flatnonzero(~one)), rows.take(np.flatnonzero(one))) for one in chosen]
    assert bulk.shape == (4,), f"4 divisions give values of shape {bulk.shape}"
    assert np.allclose(bulk, one_by_one, rtol=1e-3, atol=1e-6), f"in bulk {bulk}, one by one {one_by_one}"


def check_usable_names_rows(subject: Subject) -> None:
    """`usable` gives row numbers, each once, and none of rows that hold nothing."""
    import numpy as np

    window = _window(0, 60)
    found: np.ndarray = np.asarray(subject.plug.usable(window))
    assert len(set(found.tolist())) == len(found) > 0, "rows are named twice, or none is usable"
    assert found.min() >= 0, "there are no negative rows"
    assert found.max() < 60, "there are no such rows"
    assert subject.plug.min_rows > 1, "min_rows lets it speak about a single row"
    nothing = np.full(60, np.nan)
    empty = WindowData([""] * 60, np.full((60, 8), np.nan, dtype=np.float32), [""] * 60, nothing, nothing)
    assert len(subject.plug.usable(empty)) <= 60


def check_explains_itself(subject: Subject) -> None:
    """A summary in words, a finite effect, and examples that are texts of the window."""
    import math

    reference, window = _usable(subject, _window(0, 120)), _usable(subject, _window(1, 60, moved=True))
    found = subject.plug.explain(reference, window)
    assert isinstance(found["summary"], str), "the summary is not a text"
    assert len(found["summary"]) > 10, f"the summary says little: {found['summary']!r}"
    assert math.isfinite(found["effect"]), f"the effect is {found['effect']}"
    strangers = [text for text in found["examples"] if text not in window.texts]
    assert not strangers, f"examples are not texts of the window: {strangers[:2]}"
