"""Rewards: right answers are paid, near misses are not; programs run in the jail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attune.core import catalog, jail
from attune.core.commit import committed_folder
from attune.core.errors import DataError, PlugError, RecipeError
from attune.core.models import resolve_base
from attune.core.specialist import Specialist, write_bundle
from attune.testing.models import tiny_bert


def worth(name: str, answers: list[str], *, keys: dict[str, Any] | None = None, **row: Any) -> list[float]:
    plug = catalog.build("rewards", {"name": name, **(keys or {})})
    plug.prepare()
    return plug.score([{"row_id": "r", "place": "rows.csv:2", **row}] * len(answers), answers)


def test_exact_match() -> None:
    assert worth("exact_match", ["The Refund!", "a refund, sir", ""], completion="refund") == [1.0, 0.0, 0.0]
    assert worth("exact_match", ["Refund", " refund "], keys={"normalise": False}, completion="refund") == [0.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "right", "value"),
    [
        ("so it is 1,000.", "#### 1000", 1.0),
        ("1/2", "0.5", 1.0),
        ("-3", "3", 0.0),
        ("first 7, then 8", "7", 0.0),
        ("no idea", "7", 0.0),
        ("1e3 apples", "1000", 1.0),
        ("x2", "2", 0.0),
        ("it is −3", "-3", 1.0),
        ("1/3", "0.3333333333", 1.0),
    ],
)
def test_numeric_answer(answer: str, right: str, value: float) -> None:
    assert worth("numeric_answer", [answer], completion=right) == [value]


def test_a_right_answer_without_a_number_is_told() -> None:
    with pytest.raises(DataError, match=r"rows\.csv:2.*no number"):
        worth("numeric_answer", ["7"], completion="seven")


def test_regex() -> None:
    assert worth("regex", ["<a>x</a>", "x"], keys={"pattern": "<a>.*</a>"}) == [1.0, 0.0]
    assert worth("regex", ["yes", "yes or no"], keys={"pattern": "yes|no", "whole": True}) == [1.0, 0.0]
    with pytest.raises(RecipeError, match="no regular expression"):
        worth("regex", ["x"], keys={"pattern": "("})


def test_json_schema() -> None:
    schema = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
    assert worth("json_schema", ['{"city": "Bern"}', '{"city": 3}', "Bern"], schema=schema) == [1.0, 0.5, 0.0]
    assert worth("json_schema", ["3", "{}"], keys={"for_all": {"type": "number"}, "for_json": 0.0}) == [1.0, 0.0]
    with pytest.raises(DataError, match="the schema is none"):
        worth("json_schema", ["3"], schema={"type": "nonsense"})


@pytest.mark.skipif(bool(jail.holds()), reason="this machine cannot shut the jail")
def test_unit_tests_pay_programs_that_pass_and_shut_the_others_in(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    answers = [
        "Here:\n```python\ndef add(a, b):\n    return a + b\n```",
        "def add(a, b):\n    return a - b",
        "def add(a, b:",
        "raise SystemExit(0)",
        f"open({str(secret)!r}).read()\ndef add(a, b):\n    return a + b",
        "while True: pass",
    ]
    found = worth("unit_tests", answers, keys={"seconds": 1.0}, tests=["assert add(2, 3) == 5", "assert add(0, 0) == 0"])
    assert found == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_embedding_similarity() -> None:
    near, far, none = worth("embedding_similarity", ["Your parcel arrives tomorrow.", "Bake the cake for an hour.", ""], completion="The package will come tomorrow.")
    assert near > far + 0.3
    assert none == 0.0


def test_reward_model(tmp_path: Path) -> None:
    """A classifier's label as a reward; a classifier without one, and a label that it has not, are refused."""
    task, method, base = catalog.build("tasks", "text_classification"), catalog.build("methods", "full"), resolve_base(str(tiny_bert(tmp_path / "bert")))
    signature = {"labels": ["polite", "rude"], "multi_label": False, "thresholds": None}
    judge = Specialist(task, signature, method.prepare(task.build(base, signature), 1), base.tokenizer(), base, 32, "judge", method=method)
    judge.model.head.bias.data[0] = 2.0
    with committed_folder(tmp_path / "judge") as folder:
        write_bundle(judge, folder)
    said = {"bundle": str(tmp_path / "judge")}
    assert worth("reward_model", ["thank you", "no"], keys={**said, "label": "polite"}) == [pytest.approx(0.88, abs=0.01)] * 2
    with pytest.raises(RecipeError, match="no label 'kind'"):
        worth("reward_model", ["x"], keys={**said, "label": "kind"})
    with pytest.raises(PlugError, match="answers with no number"):
        worth("reward_model", ["x"], keys=said)
    with pytest.raises(RecipeError, match="no bundle is named"):
        worth("reward_model", ["x"])
