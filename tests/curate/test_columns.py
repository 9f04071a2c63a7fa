"""Which column plays which role: a name that says it wins over what the values look like, and nothing that could matter is left out in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attune.core import catalog
from attune.core.contracts import RawRecord
from attune.core.errors import DataError
from attune.stages.curate.columns import detect, named, profiles, suggestions


def records(rows: list[dict[str, Any]]) -> list[RawRecord]:
    return [RawRecord(f"rows:{number}", row) for number, row in enumerate(rows)]


def columns(rows: list[dict[str, Any]], objective: Any = None) -> Any:
    """What the roles of a task that writes are, by its own objective or another one."""
    task: Any = catalog.build("tasks", "text_generation")
    if objective is not None:
        task = catalog.build("objectives", objective).shaped(task)
    read = records(rows)
    return detect(task, profiles(read), {}, [], read[:20])


def told(rows: list[dict[str, Any]], task: str = "text_generation") -> list[str]:
    """Columns of which it is said that they read like text and are not used."""
    plug: Any = catalog.build("tasks", task)
    read = records(rows)
    found = profiles(read)
    chosen = detect(plug, found, {}, [], read[:20])
    return [one.split("'")[1] for one in suggestions(plug, found, named(chosen), chosen, read) if "reads like text and is not used" in one]


def sums(**answer: str) -> list[dict[str, Any]]:
    """Sixty additions; in `answer` {n} is the sum."""
    return [{"prompt": f"what is {n} plus {n * n}?", **{name: text.format(n=n + n * n) for name, text in answer.items()}} for n in range(60)]


@pytest.mark.parametrize("name", ["completion", "output", "response", "answer", "Completion"])
@pytest.mark.parametrize("form", ["{n}", "{n}.50", "2024-01-02"])
def test_an_answer_may_be_a_number_or_a_date(name, form):
    assert columns(sums(**{name: form})) == {"prompt": "prompt", "completion": name}


def test_a_column_called_completion_is_not_passed_over_for_a_longer_text():
    assert columns(sums(completion="{n}", explanation="we add the two and say {n} at last", response="{n} tokens"))["completion"] == "completion"
    assert columns(sums(answer="the sum of both is {n}", output="{n}"))["completion"] == "answer", "of other names, one that holds a text comes first"
    assert columns(sums(response="that makes {n} in all", answer_id="{n}"))["completion"] == "response"


def test_a_reward_reads_numbers():
    rows = [{"prompt": f"what is {n} plus {n}?", "answer": 2 * n} for n in range(30)]
    assert columns(rows, {"name": "grpo", "rewards": ["numeric_answer"]}) == {"prompt": "prompt", "completion": "answer"}


@pytest.mark.parametrize("written", ["42", "1.50", "-0.10", "1e5", "123456789012345678901234567890", "3.14159265358979323846264338327950288"])
def test_a_number_is_learned_as_the_file_writes_it(curate, written):
    lines = [f'{{"prompt": {json.dumps(f"say number {n} of {n * 7} things")}, "completion": {written}}}' for n in range(30)]
    result = curate({"rows.jsonl": "\n".join(lines)}, task="text_generation", checks=["types"])
    assert {row["completion"] for row in result.rows()} == {written}
    assert result.dataset.counts["kept"] == 30


def test_conversations_that_a_table_holds_as_something_else_than_json_are_named_with_the_way_out(curate):
    talks = [[{"role": "user", "content": f"say number {n}"}, {"role": "assistant", "content": f"number {n} it is"}] for n in range(30)]

    def table(written: Any) -> str:
        return "id,messages\n" + "\n".join(f'{n},"' + written(talk).replace('"', '""') + '"' for n, talk in enumerate(talks))

    assert curate({"rows.csv": table(repr)}, task="text_generation", checks=["types"]).dataset.counts["kept"] == 30
    with pytest.raises(DataError, match="no JSON") as caught:
        curate({"rows.csv": table(lambda talk: str(talk).replace("}, {", "}\n {"))}, task="text_generation")
    assert "json.dumps" in str(caught.value.fix)


def test_every_text_that_is_not_read_is_told():
    rows = [{"title": f"page {n} of the book", "question": f"what stands on page {n}?", "context": f"page {n} is on leaf {n // 2}" * (n % 2), "answer": f"leaf {n // 2} tells it"} for n in range(60)]
    assert told(rows) == ["title"]
    assert told([{**row, "context": [row["title"]]} for row in rows]) == ["title"]
    assert told([{"passage": row["title"], "question": row["question"], "answer": row["answer"]} for row in rows]) == ["passage"]
    same = [{"question": f"what stands on page {n}?", "rules": f"the rules of house {n % 3} hold here as they do elsewhere", "answer": f"rule {n} it is"} for n in range(60)]
    assert told(same) == ["rules"], "a long text is one, however often it comes again"


def test_what_the_task_reads_by_itself_is_not_told():
    rows = [{"instruction": f"shorten text {n}", "input": f"it is a text of {n} words", "system": f"you are helper number {n}", "output": f"text {n}, {n} words"} for n in range(60)]
    assert told(rows) == []
    assert told([{"text": row["input"], "label": ("long", "short")[n % 2], "remark": row["system"]} for n, row in enumerate(rows)], "text_classification") == ["remark"]
