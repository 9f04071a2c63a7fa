"""The end of a run: what was set aside and why, and a start that no step bettered."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

from rich.console import Console

from attune.cli.summary import contestants, many_set_aside, set_aside
from attune.core.records import Estimate


def dataset(aside, read=100):
    return SimpleNamespace(counts={"read": read, "quarantined": aside})


def curation(folder):
    reasons = [("quarantine", "no text", 4), ("quarantine", "the text is empty", 2), ("repair", "mojibake undone", 50), ("quarantine", "a", 1), ("quarantine", "b", 1)]
    sections = [{"check": "x", "reasons": [{"action": action, "reason": reason, "rows": rows} for action, reason, rows in reasons]}]
    (folder / "curation.json").write_text(json.dumps({"findings": sections}))


def test_many_rows_set_aside_are_told_with_reasons_counts_and_receipts(tmp_path):
    curation(tmp_path)
    said = many_set_aside(dataset(8), tmp_path)
    assert said.startswith("8 of 100 rows (8.0%) were set aside: no text 4, the text is empty 2, a 1 and other reasons 1; ")
    assert "receipts.parquet" in said
    assert "mojibake" not in said


def test_few_rows_set_aside_are_not_told(tmp_path):
    curation(tmp_path)
    assert many_set_aside(dataset(5), tmp_path) is None
    assert many_set_aside(dataset(0, 0), tmp_path) is None
    assert many_set_aside(dataset(6), tmp_path) is not None


def test_reasons_without_a_rest():
    assert set_aside(3, 10, Counter({"no text": 3})) == "3 of 10 rows (30.0%) were set aside: no text 3"


def test_a_metric_that_is_measured_twice_is_shown_twice():
    def estimate(value):
        return Estimate(value=value, low=value - 0.1, high=value + 0.1)

    results = {"tuned": {"hit_at_1": estimate(0.5), "hit_at_1_2": estimate(0.25)}, "majority": {"hit_at_1": estimate(0.1), "hit_at_1_2": estimate(0.2)}}
    scorecard = SimpleNamespace(results=results, comparisons=(), confidence=0.95, test_rows=8)
    console = Console(width=200, record=True)
    console.print(contestants("hit_at_1", scorecard))
    shown = console.export_text()
    assert "hit at 1 2" in shown
    assert "50.0%" in shown
    assert "25.0%" in shown
