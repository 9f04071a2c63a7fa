"""The whole stage: counts, receipts, determinism, columns, retune."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from attune.core.errors import DataError, IntegrityError, Problems, RecipeError
from attune.core.events import Events
from attune.core.recipe import make_recipe
from attune.core.workspace import Workspace
from attune.stages import curate as stage
from attune.stages.curate import card
from attune.stages.curate.gate import Gate
from tests.curate.conftest import as_csv, clean_rows


def test_clean_rows_go_through_unchanged(curate):
    result = curate({"rows.csv": as_csv(clean_rows())}, checks=["encoding", "types", "pii", "exact_duplicates", "label_typos"])
    assert result.dataset.counts["kept"] == result.dataset.counts["read"] == 180
    assert result.receipts == []
    assert {(row["text"], row["label"]) for row in result.rows()} == set(clean_rows())
    assert result.dataset.columns == {"text": "text", "label": "label"}
    assert result.dataset.signature["labels"] == ["broken", "delivery", "refund"]
    assert min(result.dataset.counts[split] for split in ("train", "validation", "test")) > 0


def test_three_parsed_rows_are_shown(curate):
    result = curate({"rows.csv": as_csv(clean_rows())})
    shown = next(event for event in result.heard if event["kind"] == "receipt")
    assert len(shown["rows"]) == 3
    assert shown["rows"][0] == {"text": clean_rows()[0][0], "label": "refund"}
    assert shown["columns"] == {"text": "text", "label": "label"}


def test_what_is_shown_and_logged_is_masked(curate):
    rows = [("reach me at eva.lang@example.org today", "refund"), *clean_rows()]
    result = curate({"rows.csv": as_csv(rows)})
    assert "eva.lang" not in json.dumps(result.heard, default=str)
    with pytest.raises(DataError) as error:
        curate({"rows.csv": "a,b\n" + "\n".join(f'"{text}","{text}"' for text, _ in rows)})
    assert "eva.lang" not in str(error.value)
    assert "[EMAIL]" in str(error.value)


def test_same_input_twice_gives_the_same_version_also_elsewhere(tmp_path):
    ids = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "rows.csv").write_text(as_csv([*clean_rows(), ("asdf", "refund"), ("mail me at a.b@example.org now", "refund")]))
        recipe = make_recipe({"name": "t", "task": "text_classification", "data": {"path": "rows.csv"}}, folder=folder)
        dataset = stage.run(recipe, Workspace(folder / "workspace"), Events())
        ids.append(dataset.id)
    assert ids[0] == ids[1]


def test_every_problem_has_place_reason_and_fix_and_the_raw_text_is_kept(curate):
    broken = 'text,label\n"unclosed,refund\nthree,fields,here\n\nonly one\n' + as_csv(clean_rows()).partition("\n")[2]
    result = curate({"rows.csv": broken})
    aside = result.quarantine
    assert [one["row"] for one in aside] == [2, 3, 4, 5]
    assert all(one["file"] == "rows.csv" and one["reason"] and one["fix"] for one in aside)
    assert aside[0]["raw"] == '"unclosed,refund'
    assert len(result.rows()) == 180


def test_card_and_json_say_what_happened(curate):
    result = curate({"rows.csv": as_csv([*clean_rows(), ("call me on 555-234-5678", "refund"), ("", "refund")])})
    card = (result.folder / "card.md").read_text()
    facts = json.loads((result.folder / "curation.json").read_text())
    assert "182 rows were read. 180 went on unchanged, 1 were repaired and went on, 1 were set aside" in card
    assert "555-234-5678" not in card
    assert "[PHONE]" in card
    assert "| refund |" in card
    assert facts["counts"]["read"] == 182
    assert facts["labels"]["refund"]["train"] > 0


def test_text_of_rows_cannot_break_the_card(curate):
    result = curate({"rows.csv": as_csv([*clean_rows(), ("<script>alert(1)</script> | x\u200b", "refund")])})
    card = (result.folder / "card.md").read_text()
    assert "<script>" not in card
    assert "\\|" in card


def test_gate_refuses_counts_that_do_not_add_up():
    gate = Gate(read=3)
    with pytest.raises(IntegrityError, match="do not add up"):
        gate.counts()
    assert Gate(read=0).counts() == {"read": 0, "kept": 0, "repaired": 0, "quarantined": 0}


def test_unread_split_key_is_an_error(curate):
    with pytest.raises(Problems, match=r"data\.splits\.time"):
        curate({"rows.csv": as_csv(clean_rows())}, splits={"time": "label"})


def test_inputs_change_with_rows_recipe_and_extra_rows(tmp_path):
    (tmp_path / "rows.csv").write_text(as_csv(clean_rows()))

    def inputs(**more):
        recipe = make_recipe({"name": "t", "task": "text_classification", "data": {"path": "rows.csv"}, **more}, folder=tmp_path)
        return stage.inputs(recipe)

    first = inputs()
    assert first == inputs() == json.loads(json.dumps(first))
    assert inputs(seed=8) != first
    recipe = make_recipe({"name": "t", "task": "text_classification", "data": {"path": "rows.csv"}}, folder=tmp_path)
    extra = tmp_path / "new_rows.jsonl"
    extra.write_text('{"text": "a", "label": "b"}\n')
    assert stage.inputs(recipe, extra_rows=extra) != first
    (tmp_path / "rows.csv").write_text(as_csv(clean_rows()[:-1]))
    assert inputs() != first


@pytest.mark.parametrize("changed", ["shapes.py", "conversation.py", "programs.py", "unit_tests.py", "_roles.py", "grpo.py", "text_generation.py", "encoding.py", "json.py"])
def test_inputs_change_with_the_code_that_reads_rows(tmp_path, monkeypatch, changed):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "write double", "tests": "assert double(2) == 4"}\n')
    recipe = make_recipe({"name": "c", "task": "text_generation", "objective": {"name": "grpo", "rewards": ["unit_tests"]}, "data": {"path": "rows.jsonl"}}, folder=tmp_path)
    before, digest_of = stage.inputs(recipe), stage.sha256_file
    assert stage.inputs(recipe) == before
    monkeypatch.setattr(stage, "sha256_file", lambda path: "changed" if path.name == changed else digest_of(path))
    assert stage.inputs(recipe) != before


# ---------------------------------------------------------------- retune


def test_retune_keeps_the_splits_of_old_rows_and_appends_new_ones(curate, tmp_path):
    files = {"rows.csv": as_csv(clean_rows())}
    old = curate(files)
    extra = tmp_path / "new" / "new_rows.jsonl"
    extra.parent.mkdir()
    new = [{"text": f"the app shows error {word} when I pay", "label": "payment"} for word in ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")]
    extra.write_text("\n".join(json.dumps(row) for row in new) + "\n{broken\n")
    result = curate(files, extra_rows=extra, previous=old.dataset)
    before = {row["row_id"]: row["split"] for row in old.rows()}
    after = {row["row_id"]: row["split"] for row in result.rows()}
    assert all(after[name] == split for name, split in before.items())
    places = [row["place"] for row in result.rows() if row["label"] == "payment"]
    assert sorted(places) == sorted(f"new_rows.jsonl:{i}" for i in range(1, 9))
    assert result.dataset.parents == (old.dataset.id,)
    assert [(one["file"], one["row"]) for one in result.quarantine] == [("new_rows.jsonl", 9)]


def test_a_new_row_nearly_equal_to_a_test_row_goes_to_the_test(curate, tmp_path):
    files = {"rows.csv": as_csv(clean_rows())}
    old = curate(files)
    sealed = next(row for row in old.rows("test") if len(row["text"]) > 30)
    extra = tmp_path / "new_rows.jsonl"
    extra.write_text(json.dumps({"text": "Hi, " + sealed["text"], "label": sealed["label"]}))
    result = curate(files, extra_rows=extra, previous=old.dataset)
    assert {row["split"] for row in result.rows() if row["place"] == "new_rows.jsonl:1"} == {"test"}
    assert not result.findings("leakage")


# ---------------------------------------------------------------- columns


def test_odd_column_names_are_found_by_their_values(curate):
    rows = "\n".join(f'{i};"{text}";{label}' for i, (text, label) in enumerate(clean_rows()))
    result = curate({"anfragen.csv": "Nr;Kundenanfrage;col3\n" + rows})
    assert result.dataset.columns == {"text": "Kundenanfrage", "label": "col3"}


def test_columns_can_be_given_and_extra_columns_are_suggested(curate):
    rows = "\n".join(f'K-{i % 40},2026-01-{i % 28 + 1:02d},"{text}","{text} (copy)",{label}' for i, (text, label) in enumerate(clean_rows()))
    result = curate({"rows.csv": "customer,when,body,other,kind\n" + rows}, columns={"text": "other", "label": "kind"}, splits={"by": "stratified"})
    assert result.dataset.columns == {"text": "other", "label": "kind"}
    told = " ".join(event["message"] for event in result.heard if event["kind"] == "note")
    assert "by: group, group: customer" in told
    assert "by: time, time: when" in told


def test_ambiguous_labels_list_the_columns_and_what_to_write(curate):
    rows = "\n".join(f'"{text}",{label},{"ab"[i % 2]}' for i, (text, label) in enumerate(clean_rows()))
    with pytest.raises(DataError) as error:
        curate({"rows.csv": "c1,c2,c3\n" + rows})
    said = str(error.value)
    assert "'c2', 'c3'" in said
    assert "columns: {text: c1, label: c2 or c3}" in said
    assert clean_rows()[0][0][:20] in said


def test_wrong_names_in_columns_are_told_with_the_nearest(curate):
    with pytest.raises(DataError, match="did you mean 'label'"):
        curate({"rows.csv": as_csv(clean_rows())}, columns={"label": "labl"})
    with pytest.raises(RecipeError, match="did you mean 'text'"):
        curate({"rows.csv": as_csv(clean_rows())}, columns={"txt": "text"})


def test_differing_columns_over_files_are_told(curate):
    half = len(clean_rows()) // 2
    other = "\n".join(f'"{text}",{label},x' for text, label in clean_rows()[half:])
    result = curate({"a.csv": as_csv(clean_rows()[:half]), "b.csv": "text,label,more\n" + other}, path="*.csv")
    assert any("a.csv has no column 'more'" in event["message"] for event in result.heard if event["kind"] == "warning")
    assert len(result.rows()) == 180


# ---------------------------------------------------------------- mistakes of a new user


@pytest.mark.parametrize(
    ("files", "path", "words"),
    [
        ({"tickets.csv": as_csv(clean_rows())}, "ticket.csv", ["there is no file", "did you mean 'tickets.csv'"]),
        ({"rows.csv": ""}, "rows.csv", ["the file is empty"]),
        ({"rows.csv": "text,label\n"}, "rows.csv", ["there are no rows"]),
        ({"rows.xlsx": b"PK\x03\x04"}, "rows.xlsx", ["spreadsheet", "CSV UTF-8"]),
        ({"rows.pdf": b"%PDF"}, "rows.pdf", ["document", "CSV"]),
        ({"rows.csv": "text\n" + "\n".join(text for text, _ in clean_rows())}, "rows.csv", ["one column only", "delimiter"]),
        ({"rows.csv": as_csv([(text, f"id-{i}") for i, (text, _) in enumerate(clean_rows())])}, "rows.csv", ["look like ids"]),
        ({"rows.csv": as_csv([(text, "same") for text, _ in clean_rows()])}, "rows.csv", ["every row has the same label, 'same'"]),
        ({"rows.csv": as_csv(clean_rows()[::12])}, "rows.csv", ["15 usable row(s) are too few", "at least 25"]),
        ({"rows.csv": as_csv(clean_rows())}, "https://example.org/rows.csv", ["cannot be read", "download"]),
        ({"data/rows.csv": as_csv(clean_rows()), "data/rows.jsonl": "{}"}, "data", ["could be read by 'csv', 'json'", "source: csv"]),
    ],
)
def test_mistakes_are_explained_with_a_way_out(curate, files, path, words):
    with pytest.raises(DataError) as error:
        curate(files, path=path)
    for word in words:
        assert word in str(error.value)
    assert error.value.fix
    assert error.value.exit_code == 3


def test_a_missing_folder_says_where_paths_start(curate, tmp_path):
    with pytest.raises(DataError, match="paths are taken from the recipe's folder"):
        curate({"rows.csv": "x"}, path="nowhere/rows.csv")


def test_checks_are_as_strict_about_their_keys_as_the_recipe(curate):
    with pytest.raises(Problems, match="did you mean 'threshold'"):
        curate({"rows.csv": as_csv(clean_rows())}, checks=[{"name": "near_duplicates", "treshold": 0.9}])


def test_rows_may_be_shuffled_or_cut_into_files_without_changing_a_split(curate):
    rows = clean_rows()
    whole = curate({"rows.csv": as_csv(rows)}, path="rows.csv")
    shuffled = list(rows)
    random.Random(3).shuffle(shuffled)
    parts = curate({"p/1.csv": as_csv(shuffled[:70]), "p/2.csv": as_csv(shuffled[70:])}, path=["p/1.csv", "p/2.csv"])
    assert {(r["text"], r["split"]) for r in whole.rows()} == {(r["text"], r["split"]) for r in parts.rows()}
    assert whole.dataset.rows_digest == parts.dataset.rows_digest


def test_a_folder_per_label(curate, tmp_path):
    files: dict[str, str] = {f"texts/{label}/{i}.txt": text for i, (text, label) in enumerate(clean_rows())}
    result = curate(files, path="texts")
    assert len(result.rows()) == 180
    assert Path(tmp_path / "texts").is_dir()


# ---------------------------------------------------------------- other tasks


def test_generation_reads_chat_and_instruction_shapes(curate):
    chat = "\n".join(
        json.dumps({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"It is about {label}: write to a{i}@example.org"}]})
        for i, (text, label) in enumerate(clean_rows())
    )
    result = curate({"chat.jsonl": chat + '\n{"messages": [{"role": "user", "content": ""}]}\n'}, task="text_generation")
    rows = result.rows()
    assert len(rows) == 180
    assert all("[EMAIL]" in row["completion"] and json.loads(row["prompt"])[0]["role"] == "user" for row in rows)
    assert [one["row"] for one in result.quarantine] == [181]
    plain = "Frage,Antwort\n" + "\n".join(f'"{text}","You asked about {label} with number {i}"' for i, (text, label) in enumerate(clean_rows()))
    assert curate({"plain.csv": plain}, task="text_generation").dataset.columns == {"prompt": "Frage", "completion": "Antwort"}


def test_pairs_for_embeddings_are_read_by_the_order_of_columns(curate):
    rows = "col1,col2\n" + "\n".join(f'"{text}","The answer about {label} number {i} is on page {i}"' for i, (text, label) in enumerate(clean_rows()))
    result = curate({"pairs.csv": rows}, task="embedding")
    assert result.dataset.columns == {"anchor": "col1", "positive": "col2"}
    assert len(result.rows()) + len(result.findings("leakage")) == 180


@pytest.mark.parametrize("several", [False, True])
def test_truth_values_are_labels(curate, several):
    rows = "\n".join(json.dumps({"text": text, "late": [label == "delivery", "any"] if several else label == "delivery"}) for text, label in clean_rows())
    task = {"name": "text_classification", "multi_label": several}
    result = curate({"rows.jsonl": rows}, task=task, columns={"label": "late"})
    assert result.dataset.signature["labels"] == (["any", "false", "true"] if several else ["false", "true"])
    assert not result.quarantine


def test_labels_in_the_plural_and_as_lists(curate):
    rows = "\n".join(json.dumps({"Text": text, "Labels": [label, "any"]}) for text, label in clean_rows())
    result = curate({"rows.jsonl": rows}, task={"name": "text_classification", "multi_label": True})
    assert result.dataset.columns == {"text": "Text", "label": "Labels"}
    assert result.dataset.signature["labels"] == ["any", "broken", "delivery", "refund"]


def test_a_saved_dataset_with_splits_is_not_mistaken_for_labels(curate):
    rows = "body,kind,part\n" + "\n".join(f'"{text}",{label},{["train", "test"][i % 2]}' for i, (text, label) in enumerate(clean_rows()))
    result = curate({"rows.csv": rows})
    assert result.dataset.columns == {"text": "body", "label": "kind"}
    assert any("by: given, given: part" in event["message"] for event in result.heard if event["kind"] == "note")


def test_one_class_left_after_curation_says_what_became_of_the_others(curate):
    rows = [(text, "refund") for text, label in clean_rows() if label == "refund"] + [("  ", "delivery"), ("null", "delivery"), ("", "broken")]
    with pytest.raises(DataError, match="only the class 'refund' is left after curation") as caught:
        curate({"rows.csv": as_csv(rows)})
    assert "'broken': 1 rows, 1 " in caught.value.what
    assert "'delivery': 2 rows, 1 the text is empty, 1 the text is a placeholder" in caught.value.what
    assert "data.checks" in caught.value.fix


def test_classes_that_stay_are_no_trouble(curate):
    rows = [*[(text, label) for text, label in clean_rows() if label != "broken"], ("  ", "broken")]
    assert curate({"rows.csv": as_csv(rows)}).dataset.signature["labels"] == ["delivery", "refund"]


def test_too_few_rows_say_what_became_of_the_others(curate):
    text = clean_rows()[0][0]
    with pytest.raises(DataError, match=r"0 usable row\(s\) are too few") as caught:
        curate({"rows.csv": as_csv([(text, label) for _, label in clean_rows()])})
    assert "180 of 180 were set aside: 180 " in caught.value.what


def test_a_plain_text_among_questions_and_answers_says_what_it_is(curate):
    own = [{"messages": [{"role": "user", "content": f"what about order {n} of lamp {n * 7}?"}, {"role": "assistant", "content": f"order {n} is on its way"}]} for n in range(60)]
    result = curate({"rows.jsonl": "\n".join(json.dumps(row) for row in [*own, {"text": "the river runs past the hill"}])}, task="text_generation")
    [one] = result.quarantine
    assert (one["row"], one["column"], one["reason"]) == (61, "text", "the row is a text without an answer")
    assert "pretraining" in one["fix"]
    assert "data.replay" in one["fix"]


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("the text holds '<|end|>', a sign of a chat template", "the text holds …, a sign of a chat template"),
        ("'maybe' does not say whether the answer is good", "… does not say whether the answer is good"),
        ("turn 2 is the system's, behind the user's", "turn 2 is the system's, behind the user's"),
        ("rare label: 'refnd' (1 row(s))", "rare label"),
    ],
)
def test_equal_reasons_count_together_and_stay_sentences(reason, said):
    assert card.general(reason) == said
