"""From rows for language models to a recipe: a shape that only they have settles the task, and so does a base that writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attune.core.recipe import read_recipe
from attune.core.shapes import shapes_of
from attune.stages.curate.preview import preview
from attune.testing.models import tiny_bert, tiny_llama

TALKS = [(f"how do I find page {n}", f"turn to leaf {n} of the book") for n in range(40)]


def turns(question: str, answer: str | None = None) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, *([{"role": "assistant", "content": answer}] if answer else [])]


SHAPES: dict[str, tuple[Any, str]] = {
    "dolly": (lambda q, a, n: {"instruction": q, "context": "", "response": a, "category": ("open", "closed")[n % 2]}, "sft"),
    "tulu": (lambda q, a, n: {"id": f"r{n}", "messages": turns(q, a), "source": ("flan", "oasst")[n % 2]}, "sft"),
    "messages with a mark": (lambda q, a, n: {"messages": turns(q, a), "label": n % 2 == 0}, "kto"),
    "messages with 0 and 1": (lambda q, a, n: {"messages": turns(q, a), "label": n % 2}, "kto"),
    "answers with 0 and 1": (lambda q, a, n: {"prompt": q, "completion": a, "label": n % 2}, "kto"),
    "question and answer": (lambda q, a, n: {"question": q, "answer": a}, "sft"),
    "sums": (lambda q, a, n: {"prompt": f"what is {n} plus {n}?", "answer": 2 * n}, "sft"),
    "prompts": (lambda q, a, n: {"prompt": q}, "grpo"),
    "prompts as turns": (lambda q, a, n: {"messages": turns(q)}, "grpo"),
    "prompts with tests": (lambda q, a, n: {"prompt": q, "tests": [f"assert f({n}) == {n}"]}, "grpo"),
    "prompts with solutions": (lambda q, a, n: {"prompt": q, "solution": n}, "grpo"),
    "texts": (lambda q, a, n: {"text": f"{q}: {a}"}, "pretraining"),
    "texts of sources": (lambda q, a, n: {"text": f"{q}: {a}", "source": ("web", "books")[n % 2]}, "pretraining"),
    "texts with titles": (lambda q, a, n: {"title": q, "text": a}, "pretraining"),
    "texts with summaries": (lambda q, a, n: {"text": f"{a} and read it", "summary": a}, "sft"),
}


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    """rows(function of question, answer and number) writes rows.jsonl."""

    def write(row: Any) -> None:
        (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row(q, a, n)) for n, (q, a) in enumerate(TALKS)))

    return write


@pytest.mark.parametrize("shape", SHAPES)
def test_a_base_that_writes_is_to_write(attune, tmp_path, rows, shape):
    row, objective = SHAPES[shape]
    rows(row)
    tiny_llama(tmp_path / "small", [text for pair in TALKS for text in pair])
    answer = attune("init", "mine", "--data", "rows.jsonl", "--base", "small", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["task"], answer.json["objective"], answer.json["data"]["unreadable"]) == ("text_generation", objective, [])
    checked = attune("check", "--quick", "mine")
    if shape in ("prompts", "prompts as turns"):
        assert "there is no reward 'YOUR-REWARD'" in checked.err
        checked = attune("check", "--quick", "mine", "--set", "objective.rewards=[regex]")
    assert checked.code == 0, checked.err


def test_tests_of_programs_are_what_an_answer_is_worth(attune, tmp_path, rows):
    rows(SHAPES["prompts with tests"][0])
    assert attune("init", "mine", "--data", "rows.jsonl", "--json").json["objective"] == "grpo"
    assert [reward.name for reward in read_recipe(tmp_path / "mine").objective.parts()] == ["unit_tests"]


def test_what_prompts_alone_do_not_say_is_asked_for(attune, tmp_path, rows):
    rows(SHAPES["prompts"][0])
    answer = attune("init", "mine", "--data", "rows.jsonl")
    assert "write your base model (base_model) and what an answer is worth (objective.rewards) into" in answer.out
    assert "prompts alone do not say it" in (tmp_path / "mine" / "recipe.yaml").read_text()


@pytest.mark.parametrize("shape", ["dolly", "tulu", "messages with 0 and 1"])
def test_a_shape_of_conversations_needs_no_base_to_be_known(attune, rows, shape):
    rows(SHAPES[shape][0])
    found = attune("init", "mine", "--data", "rows.jsonl", "--json").json
    assert (found["task"], found["objective"]) == ("text_generation", SHAPES[shape][1])


@pytest.mark.parametrize("base", ["writer", "reader", ""])
def test_texts_with_a_label_are_classes_whatever_the_base(attune, tmp_path, rows, base):
    rows(lambda q, a, n: {"text": f"{q}, please", "label": ("lost", "found")[n % 2]})
    tiny_llama(tmp_path / "writer", [text for pair in TALKS for text in pair])
    tiny_bert(tmp_path / "reader")
    answer = attune("init", "mine", "--data", "rows.jsonl", *(["--base", base] if base else []), "--json")
    assert answer.code == 0, answer.err
    assert answer.json["task"] == "text_classification"


def test_a_base_that_reads_classifies_instructions(attune, tmp_path, rows):
    rows(lambda q, a, n: {"instruction": q, "output": ("yes", "no")[n % 2], "category": ("lost", "found")[n // 2 % 2]})
    tiny_bert(tmp_path / "reader")
    answer = attune("init", "mine", "--data", "rows.jsonl", "--base", "reader", "--json")
    assert answer.json["task"] == "text_classification"
    assert attune("init", "other", "--data", "rows.jsonl", "--json").json["task"] == "text_generation"


def test_columns_that_the_user_names_say_the_task(attune, tmp_path, rows):
    rows(SHAPES["dolly"][0])
    tiny_llama(tmp_path / "writer", [text for pair in TALKS for text in pair])
    answer = attune("init", "mine", "--data", "rows.jsonl", "--base", "writer", "--column", "text=instruction", "--column", "label=category", "--json")
    assert answer.json["task"] == "text_classification", answer.err


def test_a_table_is_not_taken_for_talk(attune, tmp_path, rows):
    rows(lambda q, a, n: {"age": 20 + n % 7, "city": ("Rome", "Oslo")[n % 2], "remark": q, "left": ("yes", "no")[n % 2]})
    tiny_llama(tmp_path / "writer", [text for pair in TALKS for text in pair])
    answer = attune("init", "mine", "--data", "rows.jsonl", "--base", "writer")
    assert answer.code == 3
    assert "no column looks like the completion" in answer.err
    rows(lambda q, a, n: {"text": f"{q} ({n * n})", "target": n * 1.5})
    assert attune("init", "mine", "--data", "rows.jsonl").code == 3, "a measured number is no answer"


def test_labels_mark_answers_where_there_are_two_kinds_and_no_other():
    def shapes(*labels: Any) -> dict[str, int]:
        return dict(shapes_of([{"messages": turns("q", "a"), "label": label} for label in labels]))

    assert shapes(0, 1, 1) == shapes("0", "1", "1") == shapes("True", "False", "true") == shapes(True, False, True) == {"labelled answers (KTO)": 3}
    assert shapes(0, 1, 2) == shapes(1, 1, 1) == shapes("yes", "no", "maybe") == {"messages": 3}
    assert shapes(0, 1, None) == {"labelled answers (KTO)": 2, "messages": 1}


def squad(question: str, answer: str, n: int, **more: Any) -> dict[str, Any]:
    context = f"The book says of page {n}: {answer}."
    return {"id": f"q{n}", "title": "The book", "context": context, "question": question, "answers": {"text": [answer, f"leaf {n}"], "answer_start": [23, 31]}, **more}


@pytest.mark.parametrize("passages", [False, True])
def test_questions_about_a_passage_with_answers_in_a_list(attune, tmp_path, rows, passages):
    """As SQuAD writes them; unanswerable rows are set aside with a way out, the others stay."""

    def row(q, a, n):
        made = squad(q, a, n, **({"answers": {"text": [], "answer_start": []}} if n % 8 == 7 else {}))
        return {**made, "context": [made["context"], "Another book says nothing of it."]} if passages else made

    rows(row)
    tiny_llama(tmp_path / "small", [text for pair in TALKS for text in pair])
    answer = attune("init", "mine", "--data", "rows.jsonl", "--base", "small", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["task"], answer.json["objective"]) == ("text_generation", "sft")
    recipe = read_recipe(tmp_path / "mine" / "recipe.yaml")
    seen = preview(recipe)
    assert {one["completion"] for one in seen.rows} <= {a for n, (_, a) in enumerate(TALKS) if n % 8 != 7}
    first = seen.rows[0]["prompt"][0]["content"]
    assert first.startswith(TALKS[0][0])
    assert "The book says of page 0" in first
    assert ("Another book" in first) == passages
    assert len(seen.unreadable) == 5
    assert "answers" in str(seen.unreadable[0])
