"""General rows train beside the domain's own, in the share that was asked for, and never validate or test."""

from __future__ import annotations

import json

import pytest

from attune.core.errors import AttuneError, DataError
from attune.core.recipe import make_recipe
from attune.stages.curate.preview import preview

from .conftest import as_csv, clean_rows

GENERAL = [(f"a general sentence about subject {number} of the {place}", ("refund", "delivery", "broken")[number % 3]) for number in range(200) for place in ("north", "south")]


def files(general: str = "") -> dict[str, str]:
    return {"rows.csv": as_csv(clean_rows()), "general.csv": general or as_csv(GENERAL)}


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_is_kept_and_only_training_rows_are_general(curate, share):
    result = curate(files(), replay={"path": "general.csv", "share": share, "passes": 1})
    general = [row for row in result.rows() if row["place"].startswith("general.csv")]
    train = result.rows("train")
    assert {row["split"] for row in general} == {"train"}
    assert abs(len(general) / len(train) - share) < 0.01
    assert all(row["replay"] for row in general)
    assert not any(row["replay"] for row in train if row["place"].startswith("rows.csv"))
    said = [event["message"] for event in result.heard if "general rows of general.csv train beside" in event.get("message", "")]
    assert len(said) == 1
    assert f"{len(general)} general rows" in said[0]
    assert any("general rows of general.csv" in note for note in json.loads((result.folder / "curation.json").read_text())["notes"])


@pytest.mark.parametrize(("passes", "said"), [(3, "others in each of the first 3 passes"), (40, "there are no more")])
def test_later_passes_find_other_general_rows(curate, passes, said):
    result = curate(files(), replay={"path": "general.csv", "share": 0.4, "passes": passes})
    train = result.rows("train")
    general = [row for row in train if row["replay"]]
    each = round((len(train) - len(general)) * 0.4 / 0.6)
    assert len(general) == (3 * each if passes == 3 else len({row["text"] for row in general}))
    [told] = [event["message"] for event in result.heard if "general rows of general.csv train beside" in event.get("message", "")]
    assert told.startswith(f"{len(general)} general rows")
    assert f"{each} in a pass (40% of its rows)" in told
    assert said in told


def test_the_domains_rows_are_divided_as_without_replay(curate):
    plain = {row["row_id"]: row["split"] for row in curate(files()).rows()}
    again = curate(files(), replay={"path": "general.csv"})
    assert {row["row_id"]: row["split"] for row in again.rows() if row["place"].startswith("rows.csv")} == plain


def test_the_draw_comes_from_the_seed_and_not_from_the_order(curate):
    def drawn(general, seed):
        return {row["text"] for row in curate(files(as_csv(general)), seed=seed, replay={"path": "general.csv"}).rows("train") if row["replay"]}

    first = drawn(GENERAL, 7)
    assert drawn(GENERAL[::-1], 7) == first
    assert drawn(GENERAL, 8) != first


def test_rows_in_the_way_of_the_domains_own_are_set_aside_with_a_receipt(curate):
    """The same text as a row of the domain, a label that the domain lacks, nearly the text of a test row: none of them trains."""
    test = curate(files()).rows("test")[0]["text"]
    strange = [(clean_rows()[0][0].upper(), "delivery"), ("something about the weather", "weather"), (test + " !", "refund")]
    result = curate(files(as_csv([*strange, *GENERAL[:20]])), replay={"path": "general.csv", "share": 0.3})
    reasons = {one["reason"] for one in result.quarantine if one["file"] == "general.csv"}
    assert any("text of a row of the domain" in reason for reason in reasons), reasons
    assert any("label that no row of the domain has: 'weather'" in reason for reason in reasons)
    left = {row["text"] for row in result.rows()}
    assert test in left, "the domain's own row stays"
    assert clean_rows()[0][0] in left
    assert "something about the weather" not in left
    assert {label for row in result.rows() for label in [row["label"]]} == {"refund", "delivery", "broken"}
    assert not [row for row in result.rows("train") if row["text"].startswith(test)]


def test_a_general_row_that_a_verdict_has_looked_at_never_trains(curate, tmp_path):
    from attune.core.workspace import Workspace

    workspace = Workspace(tmp_path / "workspace")
    first = curate(files(), workspace=workspace, replay={"path": "general.csv", "share": 0.5})
    seen = [row["row_id"] for row in first.rows("train") if row["replay"]][:3]
    workspace.ledger.use_test_rows("tickets", first.dataset.id, seen, "a test")
    second = curate(files(), workspace=workspace, replay={"path": "general.csv", "share": 0.5})
    assert not set(seen) & {row["row_id"] for row in second.rows()}
    assert sum("has looked at" in one["reason"] for one in second.quarantine) == 3
    workspace.close()


def test_too_few_general_rows_are_told_and_broken_ones_set_aside(curate):
    general = json.dumps({"text": "one general row", "label": "refund"}) + "\nnot JSON\n"
    result = curate({"rows.csv": as_csv(clean_rows()), "general.jsonl": general}, replay={"path": "general.jsonl", "share": 0.4})
    assert any("there are no more" in event.get("message", "") for event in result.heard)
    assert [one for one in result.quarantine if one["file"] == "general.jsonl"]
    assert sum(bool(row["replay"]) for row in result.rows("train")) == 1


def test_rows_that_are_set_aside_are_replaced_as_long_as_there_are_more(curate):
    """Two of three general rows have a label that the domain lacks: drawing goes on until the share is reached, and nobody says that there are no more."""
    general = [(text, label if n % 3 == 0 else "weather") for n, (text, label) in enumerate(GENERAL)]
    result = curate(files(as_csv(general)), replay={"path": "general.csv", "share": 0.3, "passes": 1})
    train = result.rows("train")
    assert abs(sum(bool(row["replay"]) for row in train) / len(train) - 0.3) < 0.01
    assert not any("there are no more" in event.get("message", "") for event in result.heard)
    assert len({(one["file"], one["row"]) for one in result.quarantine}) == len(result.quarantine), "what was drawn twice has one receipt"
    plain = {row["row_id"]: row["split"] for row in curate(files()).rows()}
    assert {row["row_id"]: row["split"] for row in result.rows() if row["place"].startswith("rows.csv")} == plain


TALK = "\n".join(json.dumps({"prompt": f"Where is parcel {number} of {place}?", "completion": f"At gate {number}, {place}."}) for number in range(30) for place in ("Bonn", "Kiel", "Ulm"))


@pytest.mark.parametrize(
    ("general", "said", "place"),
    [
        ('{"foo": 1}\n{"foo": 2}\n', "the general rows of 'general.jsonl' cannot be read: there is one column only", "data.replay.path"),
        (
            '{"messages": [{"role": "user", "content": "a"}]}\n' * 3,
            "the general rows of 'general.jsonl' cannot be read: none of the first 3 rows can be used: the conversation has no",
            "data.replay.path",
        ),
    ],
)
def test_general_rows_that_cannot_be_read_are_named_as_such(curate, tmp_path, general, said, place):
    with pytest.raises(DataError, match=said) as told:
        curate({"rows.jsonl": TALK, "general.jsonl": general}, path="rows.jsonl", task="text_generation", replay={"path": "general.jsonl"})
    assert told.value.place == place
    recipe = make_recipe({"name": "talk", "task": "text_generation", "data": {"path": "rows.jsonl", "replay": {"path": "general.jsonl"}}}, folder=tmp_path)
    with pytest.raises(DataError, match=said):
        preview(recipe)


def test_a_preview_looks_at_general_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text(TALK, encoding="utf-8")
    (tmp_path / "general.jsonl").write_text("\n".join(json.dumps({"text": f"The sun rises {i} times."}) for i in range(50)) + '\n{"foo": 1}\n', encoding="utf-8")
    seen = preview(make_recipe({"name": "talk", "task": "text_generation", "data": {"path": "rows.jsonl", "replay": {"path": "general.jsonl", "share": 0.1}}}, folder=tmp_path))
    assert seen.shapes["general rows of general.jsonl"]["raw text"] == 50
    assert [row["completion"] for row in seen.general][:1] == ["The sun rises 0 times."]
    assert 10 <= len(seen.general) <= 20
    assert seen.warnings[0].startswith("1 of the first 51 general rows (data.replay.path) cannot be read and would be left out, the first at general.jsonl:51: ")


def test_a_file_that_is_not_there_is_named(curate):
    with pytest.raises(DataError, match=r"nothing\.csv") as told:
        curate(files(), replay={"path": "nothing.csv"})
    assert told.value.place == "data.replay.path"


def test_a_share_without_a_path_is_told(curate):
    with pytest.raises(AttuneError, match=r"data\.replay\.share"):
        curate(files(), replay={"share": 0.2})


def test_conversations_of_another_shape_are_replayed(curate):
    own = "\n".join(json.dumps({"prompt": f"what about order {number} of lamp {number * 7}?", "completion": f"order {number} is on its way"}) for number in range(60))
    general = "\n".join(
        json.dumps({"messages": [{"role": "user", "content": f"tell me of river {number} and hill {number * 3}"}, {"role": "assistant", "content": f"river {number} is long"}]}) for number in range(60)
    )
    result = curate({"own.jsonl": own, "general.jsonl": general}, task="text_generation", replay={"path": "general.jsonl", "share": 0.2})
    replayed = [row for row in result.rows("train") if row["replay"]]
    assert replayed
    assert all(row["completion"].startswith("river") for row in replayed)


@pytest.mark.parametrize("general", [{"text": "the river {} runs past hill {} in a wide bend"}, {"segments": [{"label": True, "text": "the river {} runs past hill {} in a wide bend"}]}])
def test_plain_texts_are_replayed_beside_conversations(curate, general):
    """The files that the forgetting probe reads hold plain texts; replay takes them too, as text without a template, and no check sets them aside."""
    own = "\n".join(json.dumps({"prompt": f"what about order {number} of lamp {number * 7}?", "completion": f"order {number} is on its way"}) for number in range(60))
    texts = "\n".join(json.dumps(general).replace("{}", f"{number}", 1).replace("{}", f"{number * 3}", 1) for number in range(60))
    result = curate({"own.jsonl": own, "general.jsonl": texts}, task="text_generation", replay={"path": "general.jsonl", "share": 0.2})
    replayed = [row for row in result.rows("train") if row["replay"]]
    assert len(replayed) > 5
    assert all(row["completion"].startswith("the river") and json.loads(row["prompt"]) == [] for row in replayed)
    assert not [one for one in result.quarantine if one["file"] == "general.jsonl"]
    assert not [one for one in result.receipts if one["check"] == "encoding" and one["place"].startswith("general")]


def test_a_text_without_an_answer_is_refused_among_the_domains_own_rows(curate):
    """Only general rows may be plain texts: of one's own they would teach something else than the recipe says."""
    own = "\n".join(json.dumps({"prompt": f"what about order {number}?", "completion": "on its way"} if number else {"text": "a plain text"}) for number in range(60))
    result = curate({"own.jsonl": own}, task="text_generation")
    assert sum("a plain text" in str(one) or "without an answer" in one["reason"] or "no prompt" in one["reason"] for one in result.quarantine) == 1


def test_documents_are_replayed_beside_documents(curate):
    own = "\n".join(json.dumps({"text": f"the order {number} of lamp {number * 7} is on its way"}) for number in range(60))
    general = "\n".join(json.dumps({"text": f"the river {number} runs past hill {number * 3}"}) for number in range(60))
    result = curate({"own.jsonl": own, "general.jsonl": general}, task="text_generation", objective="pretraining", replay={"path": "general.jsonl", "share": 0.2})
    assert any(row["replay"] and row["completion"].startswith("the river") for row in result.rows("train"))


def test_what_is_learned_from_the_rows_of_one_pass_gets_no_others(curate):
    """Trees have no passes: more general rows than the share would weigh in the classes' balance, and never be learned."""
    own, general = (as_csv([(f"{i * 7 % 83},{i}", ("paid", "lost")[i % 3 == 0]) for i in range(start, start + many)], "age,amount,label").replace('"', "") for start, many in ((0, 100), (1000, 300)))
    result = curate({"rows.csv": own, "general.csv": general}, task="tabular_classification", replay={"path": "general.csv", "share": 0.2})
    train = result.rows("train")
    replayed = sum(bool(row["replay"]) for row in train)
    assert replayed == round((len(train) - replayed) / 4)
    [told] = [event["message"] for event in result.heard if "general rows of general.csv train beside" in event.get("message", "")]
    assert "others in each" not in told
    assert f"{replayed} in a pass" in told
