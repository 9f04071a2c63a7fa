"""`attune check` for language models: shapes per file, tripwires before anything is trained, and what each token teaches."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from attune.cli import mask
from attune.testing.faults import CLEAN, FAULTS, World, answer, question, talk
from attune.testing.row_faults import ROW_FAULTS


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A clean world; `ready` writes its recipe file."""
    return World(tmp_path, rows=[{"messages": talk(i)} if i % 2 else {"instruction": question(i), "output": answer(i)} for i in range(40)])


def ready(world: World) -> None:
    recipe = world.made()
    (world.folder / "recipe.yaml").write_text(json.dumps(recipe.given), encoding="utf-8")


def test_shapes_are_told_per_file_with_parsed_rows(attune: Any, world: World) -> None:
    ready(world)
    said = attune("check", "recipe.yaml", "--quick", "--json").json
    assert said["ok"], said["problems"]
    assert said["tripwires"] == []
    assert said["data"]["shapes"] == {"rows.jsonl": {"alpaca": 20, "messages": 20}}
    assert len(said["data"]["rows"]) == 3
    shown = attune("check", "recipe.yaml", "--quick")
    assert "alpaca 20, messages 20  (mixed: each row is read by its own)" in shown.out


def test_general_rows_that_do_not_fit_are_told_and_do_not_end_the_check(attune: Any, world: World) -> None:
    general = [{"prompt": f"Tell {i}.", "completion": "word " * (2 if i % 2 else 300)} for i in range(40)]
    (world.folder / "general.jsonl").write_text("\n".join(map(json.dumps, general)), encoding="utf-8")
    ready(world)
    answer = attune("check", "recipe.yaml", "--set", "data.replay.path=general.jsonl")
    assert answer.code == 0, answer.err
    assert "rows would be set aside (train.long_rows): the row has an answer that does not fit into train.max_length" in " ".join((answer.out + answer.err).split())


@pytest.mark.parametrize(("length", "way_out"), [(64, "raise train.max_length"), (256, "shorten them: the base reads 256 tokens")])
def test_a_length_that_the_base_does_not_have_is_not_advised(attune: Any, world: World, length: int, way_out: str) -> None:
    world.rows[0] = {"instruction": "word " * 400, "output": answer(0)}
    ready(world)
    said = attune("check", "recipe.yaml", "--set", f"train.max_length={length}")
    assert f"would lose the oldest part of their question -> {way_out}" in " ".join((said.out + said.err).split())


def test_files_of_one_shape_take_one_line(attune: Any, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.md").write_text(f"# Page {number}\n\n" + f"This is leaf {number} of the book. " * 30, encoding="utf-8")
    said = attune("init", "reader", "--data", "papers").out
    assert "raw text in each of 3 files" in said
    assert "0.md: " not in said


def test_the_mask_is_that_of_training(attune: Any, world: World) -> None:
    ready(world)
    rows = attune("check", "recipe.yaml", "--quick", "--show-mask", "2", "--json").json["mask"]
    assert [row["place"] for row in rows] == ["rows.jsonl:1", "rows.jsonl:2"]
    for number, row in enumerate(rows):
        assert "".join(text for _, text, state in row["tokens"] if state == "learned") == answer(number)
        assert [text for _, text, state in row["tokens"] if state == "end"] == ["<|end|>"]
        assert row["learned"] == sum(state in ("learned", "end") for _, _, state in row["tokens"])
        assert question(number) in "".join(text for _, text, state in row["tokens"] if state == "not learned")
        assert row["tokens"][0][1:] == ["<s>", "special"]
    shown = attune("check", "recipe.yaml", "--quick", "--show-mask", "1").out
    assert f"[{answer(0)}<|end|>]" in shown, "without colours what is learned stands in brackets"


def bare(number: int) -> dict[str, Any]:
    return {"prompt": question(number), "completion": answer(number)}


PAIRS = [{"prompt": question(i), "chosen": answer(i), "rejected": f"No, see {i}."} for i in range(40)]
MARKED = [{**bare(i), "label": i >= 6} for i in range(40)]


@pytest.mark.parametrize(
    ("objective", "rows", "names", "texts"),
    [
        ("dpo", PAIRS, ["chosen", "rejected"], [answer(0), "No, see 0."]),
        ("kto", MARKED, ["bad"], [answer(0)]),
        ("pretraining", [{"text": answer(i)} for i in range(40)], [""], [answer(0)]),
    ],
)
def test_the_mask_of_every_objective_that_learns_texts(attune: Any, tmp_path: Path, objective: str, rows: list[dict[str, Any]], names: list[str], texts: list[str]) -> None:
    ready(World(tmp_path, rows=rows, recipe={"objective": objective}))
    masks = attune("check", "recipe.yaml", "--quick", "--show-mask", "1", "--json").json["mask"]
    assert [one["answer"] for one in masks] == names
    assert ["".join(text for _, text, state in one["tokens"] if state == "learned") for one in masks] == texts
    assert all(one["tokens"][-1][2] == "end" for one in masks)
    shown = attune("check", "recipe.yaml", "--quick", "--show-mask", "1").out
    assert all(f"{name} answer" in shown for name in names if name)


def test_an_objective_that_tries_answers_itself_has_no_mask(attune: Any, tmp_path: Path) -> None:
    ready(World(tmp_path, rows=[bare(i) for i in range(40)], recipe={"objective": {"name": "grpo", "group": 2, "max_new_tokens": 4, "rewards": ["exact_match"]}}))
    said = attune("check", "recipe.yaml", "--quick", "--show-mask", "1")
    assert said.code == 2
    assert "answers that the model tries" in said.err


def test_the_mask_in_colours(world: World) -> None:
    row = {"place": "rows.jsonl:1", "cut": True, "learned": 2, "of": 4, "tokens": [[0, "<s>", "special"], [7, "a\n", "not learned"], [8, "b", "learned"], [1, "</s>", "end"]]}
    console = Console(record=True, force_terminal=True, width=80, file=io.StringIO())
    console.print(mask.legend(True), mask.shown(row, True))
    page = console.export_html(inline_styles=True)
    assert "the beginning is cut away" in page
    assert "a⏎" in page
    assert page.count("background-color") >= 4
    assert "1 of 1 rows learn their end token" in mask.summary([row])
    assert mask.summary([{**row, "tokens": row["tokens"][:3]}]).endswith("does not stop")


@pytest.mark.parametrize(("name", "quick"), [("system_refused_mostly", True), ("begin_token_twice", False)])
def test_a_tripwire_is_told_before_anything_runs(attune: Any, tmp_path: Path, name: str, quick: bool) -> None:
    world = World(tmp_path)
    next(fault for fault in (*FAULTS, *ROW_FAULTS) if fault.name == name).plant(world)
    ready(world)
    said = attune("check", "recipe.yaml", "--json", *(["--quick"] if quick else []))
    assert said.code == 2
    (problem,) = said.json["problems"]
    assert "tripwire" in problem["what"]
    assert "rows.jsonl:" in problem["place"]
    assert problem["fix"]
    assert "stages" not in said.json


@pytest.mark.parametrize("quick", [True, False])
def test_rows_that_a_run_would_set_aside_are_told(attune: Any, tmp_path: Path, quick: bool) -> None:
    world = World(tmp_path)
    next(fault for fault in FAULTS if fault.name == "system_refused").plant(world)
    ready(world)
    said = attune("check", "recipe.yaml", "--json", *(["--quick"] if quick else []))
    assert said.code == 0, said.err
    assert {one["place"] for one in said.json["set_aside"]} == {f"rows.jsonl:{i + 1}" for i in world.bad}
    assert all(one["check"] == "template_refuses" and one["reason"] and one["fix"] for one in said.json["set_aside"])
    assert f"{world.planted} of 48 rows would be set aside (template_refuses)" in " ".join(said.err.split())


def test_rows_that_curation_would_set_aside_raise_no_alarm(attune: Any, tmp_path: Path) -> None:
    world = World(tmp_path)
    next(fault for fault in FAULTS if fault.name == "begin_token_in_text").plant(world)
    ready(world)
    assert attune("check", "recipe.yaml", "--quick").code == 0


def test_a_mask_for_a_task_without_text_is_refused(attune: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"words of row {i},{'ab'[i % 2]}\n" for i in range(40)))
    (tmp_path / "recipe.yaml").write_text("name: claims\ntask: text_classification\ndata: {path: rows.csv}\n")
    said = attune("check", "recipe.yaml", "--quick", "--show-mask", "1")
    assert said.code == 2
    assert "learns no text" in said.err


@pytest.mark.parametrize("name", ["rewards", "rewards for right answers", "preferences, dpo", "the base teaches, so that what it knew is kept"])
def test_clean_recipes_of_every_objective_pass(attune: Any, tmp_path: Path, name: str) -> None:
    world = World(tmp_path)
    CLEAN[name](world)
    ready(world)
    said = attune("check", "recipe.yaml", "--json").json
    assert said["ok"], said["problems"]


@pytest.mark.parametrize(("name", "by", "what"), [("reward_never_paid", "reward_is_flat", "worth 0"), ("teacher_is_student", "teacher_is_student", "larger model")])
def test_what_cannot_teach_is_told_before_anything_is_trained(attune: Any, tmp_path: Path, name: str, by: str, what: str) -> None:
    world = World(tmp_path)
    next(fault for fault in FAULTS if fault.name == name).plant(world)
    ready(world)
    said = attune("check", "recipe.yaml", "--json")
    assert said.code == 2
    told = said.json["problems"][0]
    assert f"tripwire {by}" in told["what"]
    assert what in told["what"] + told["fix"]


def test_what_a_run_says_of_conversations_is_for_people_and_the_next_command_is_about_the_same_run(attune: Any, world: World) -> None:
    ready(world)
    (world.folder / "recipe.yaml").rename(world.folder / "my recipe.yaml")
    said = attune("curate", "my recipe.yaml", "--set", "seed=3")
    assert said.code == 0
    assert f"prompt: user: {question(0)}" in said.err
    assert "{'role'" not in said.err
    assert "attune finetune 'my recipe.yaml' --set seed=3" in said.out


def test_rows_that_would_be_cut_are_told_before_a_run(attune: Any, tmp_path: Path) -> None:
    long = [{"messages": [{"role": "user", "content": f"{question(i)} " * 12}, {"role": "assistant", "content": answer(i)}]} for i in range(40)]
    ready(World(tmp_path, rows=long, recipe={"train": {"max_length": 96}}))
    said = attune("check", "recipe.yaml")
    assert said.code == 0
    assert "40 of 40 rows are longer than train.max_length = 96 tokens" in said.err
    assert attune("check", "recipe.yaml", "--json").json["cut"] == {"rows": 40, "of": 40, "max_length": 96}


def test_a_base_without_a_chat_template_is_told(attune: Any, tmp_path: Path, world: World) -> None:
    ready(world)
    assert "template" not in attune("check", "recipe.yaml", "--quick").out
    (tmp_path / "bare").mkdir()
    bare = World(tmp_path / "bare", template=None)
    ready(bare)
    assert "template    the base has none, so a plain one is used" in attune("check", "bare/recipe.yaml", "--quick").out
    assert any("the base has none" in one for one in attune("check", "bare/recipe.yaml", "--quick", "--json").json["notices"])
