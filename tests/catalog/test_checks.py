"""Every check: the planted fault is found, the clean twin gives no alarm, and each key does what it says."""

from __future__ import annotations

from typing import Any

import pytest

from attune.core import catalog
from attune.core.contracts import CheckContext, Finding, Row
from attune.core.errors import Problems, RecipeError

TASK = catalog.build("tasks", "text_classification")
MULTI = catalog.build("tasks", {"name": "text_classification", "multi_label": True})
CHAT = catalog.build("tasks", "text_generation")
PAIRS = catalog.build("tasks", "embedding")


def rows(*items: Any, **more: Any) -> list[Row]:
    """Rows from texts or (text, label) pairs."""
    pairs = [item if isinstance(item, tuple) else (item, "a") for item in items]
    return [{"row_id": f"r{i}", "place": f"f.csv:{i + 2}", "text": text, "label": label, **more} for i, (text, label) in enumerate(pairs)]


def look(spec: Any, found: list[Row], task: Any = TASK, splits: dict[str, str] | None = None) -> list[Finding]:
    before = [dict(row) for row in found]
    findings = list(catalog.build("checks", spec).examine(found, CheckContext(task, {}, 7, splits)))
    assert found == before, "a check may not change rows"
    assert all(one.reason and one.fix for one in findings)
    return findings


def short(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(one.row_id, one.action, one.reason) for one in findings]


CLEAN = [
    ("Where is my parcel?", "delivery"),
    ("I'd like my money back: it's broken :(", "refund"),
    ("Größe 42 passt nicht — bitte tauschen 😀👩‍👩‍👧", "exchange"),
    ("क्षेत्र می‌خواهم", "exchange"),
    ("No. 5 costs 12,50 €", "refund"),
    ("ok", "delivery"),
    ("The lamp came without a plug", "refund"),
]


@pytest.mark.parametrize("name", [entry.name for entry in catalog.entries("checks") if entry.origin == "attune"])
def test_clean_rows_raise_no_alarm(name):
    found = rows(*CLEAN)
    assert look(name, found, splits={row["row_id"]: "train" if i % 2 else "test" for i, row in enumerate(found)}) == []


# ---------------------------------------------------------------- encoding


@pytest.mark.parametrize(
    ("text", "mended", "why"),
    [
        ("Itâ€™s cafÃ©", "It's café".replace("'", "’"), "mojibake undone"),
        ("pass\u200bword\ufeff", "password", "invisible characters removed"),
        ("a\u00a0b\u202fc", "a b c", "special spaces made plain"),
        ("bell\x07 and \x1bescape", "bell and escape", "control characters removed"),
        ("cafe\u0301", "café", "characters composed (NFC)"),
        ("ab\u202edc", "abdc", "invisible characters removed"),
    ],
)
def test_encoding_repairs(text, mended, why):
    (finding,) = look("encoding", rows(text))
    assert (finding.action, finding.replacement, finding.column) == ("repair", mended, "text")
    assert why in finding.reason
    (told,) = look({"name": "encoding", "repair": False}, rows(text))
    assert (told.action, told.replacement) == ("flag", None)


@pytest.mark.parametrize("text", ["", "   ", "\u200b\u00a0", "N/A", "null", " NaN ", "#REF!"])
def test_encoding_sets_empty_rows_aside(text):
    (finding,) = look("encoding", rows(text))
    assert finding.action == "quarantine"


@pytest.mark.parametrize("text", ["asdf", "asdfgh jkl", "qwertz", "hjkl jkl jklö", "12345", "???", "...", "aaaaaaa", "xkcdqrtz", "0123 456"])
def test_encoding_tells_what_is_no_language(text):
    (finding,) = look("encoding", rows(text))
    assert finding.action == "flag"
    assert finding.reason.startswith("not language")
    assert look({"name": "encoding", "not_language": "quarantine"}, rows(text))[0].action == "quarantine"
    assert look({"name": "encoding", "not_language": "ignore"}, rows(text)) == []


@pytest.mark.parametrize("text", ["were", "help", "yes please", "rhythm", "TV", "退款", "hi!", "my order 12345", "pop", "no", "wtf", "asdf is what I typed into the field"])
def test_encoding_leaves_language(text):
    assert look("encoding", rows(text)) == []


def test_encoding_mends_labels_and_messages():
    (label,) = look("encoding", rows(("fine", "cafÃ©")))
    assert (label.column, label.replacement) == ("label", "café")
    chat = [{"row_id": "r", "place": "f:1", "prompt": [{"role": "user", "content": "hi\u200b"}], "completion": "yes"}]
    (message,) = look("encoding", chat, CHAT)
    assert message.replacement == [{"role": "user", "content": "hi"}]
    (empty,) = look("encoding", [{**chat[0], "prompt": [{"role": "user", "content": " "}]}], CHAT)
    assert empty.action == "quarantine"


# ---------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("text", "label", "reason"),
    [
        (None, "a", "no text"),
        (12, "a", "the text is a number, not text"),
        ({"x": 1}, "a", "the text is a group of values, not text"),
        ("t", None, "no label"),
        ("t", "  ", "the label is blank"),
        ("t", "NaN", "the label is blank"),
        ("t", True, "the label is a truth value, not a name"),
    ],
)
def test_types_set_unusable_rows_aside(text, label, reason):
    assert short(look("types", rows((text, label)))) == [("r0", "quarantine", reason)]


def test_types_tell_over_long_rows():
    (finding,) = look("types", rows("word " * 351))
    assert (finding.action, finding.reason) == ("flag", "over-long: 351 words")
    assert look("types", rows("word " * 350)) == []
    assert look({"name": "types", "max_words": 2}, rows("a b c"))[0].reason == "over-long: 3 words"


def test_types_of_messages_and_several_labels():
    good = {"row_id": "r", "place": "f:1", "prompt": [{"role": "user", "content": "hi"}], "completion": "yes"}
    assert look("types", [good], CHAT) == []
    assert look("types", [{**good, "prompt": "hi"}], CHAT)[0].reason == "the prompt are a text, not a list of messages"
    assert look("types", [{**good, "prompt": [{"role": "user", "content": ""}]}], CHAT)[0].action == "quarantine"
    assert look("types", rows(("t", ["a", "b"])), MULTI) == []
    assert look("types", rows(("t", [])), MULTI) == []
    assert look("types", rows(("t", ["a", ""])), MULTI)[0].reason == "the label is blank"


# ---------------------------------------------------------------- pii

PERSONAL = "mail a.b@example.org or 555-234-5678, my name is Eva Lang"


def test_answers_that_differ_in_personal_data_only_are_set_aside():
    task = catalog.build("objectives", "dpo").shaped(CHAT)
    pair = {"prompt": [{"role": "user", "content": "How do I reach you?"}], "completion": "You reach us at 030 12345001.", "rejected": "You reach us at 030 98765001."}
    chat = [{"row_id": "r0", "place": "f:1", **pair}, {"row_id": "r1", "place": "f:2", **pair, "rejected": "Ring 030 98765001 at night."}]
    found = [one for one in look("pii", chat, task) if one.action == "quarantine"]
    assert [(one.row_id, one.reason) for one in found] == [("r0", "equal after personal data was replaced")]
    assert all(one.action == "flag" for one in look({"name": "pii", "action": "flag"}, chat, task))


def test_pii_masks_flags_or_sets_aside():
    (masked,) = look("pii", rows(PERSONAL))
    assert (masked.action, masked.replacement) == ("repair", "mail [EMAIL] or [PHONE], my name is [NAME]")
    assert "EMAIL, NAME, PHONE" in masked.reason
    assert "guess" in masked.reason
    assert look({"name": "pii", "action": "flag"}, rows(PERSONAL))[0].action == "flag"
    assert look({"name": "pii", "action": "quarantine"}, rows(PERSONAL))[0].action == "quarantine"


def test_pii_kinds_and_names_can_be_chosen():
    (only,) = look({"name": "pii", "kinds": ["email"]}, rows(PERSONAL))
    assert only.replacement == "mail [EMAIL] or 555-234-5678, my name is Eva Lang"
    (nameless,) = look({"name": "pii", "names": False}, rows(PERSONAL))
    assert "Eva Lang" in nameless.replacement
    with pytest.raises(RecipeError, match="did you mean 'EMAIL'"):
        look({"name": "pii", "kinds": ["emial"]}, rows(PERSONAL))


def test_pii_in_messages_and_pairs_but_not_in_labels():
    chat = [{"row_id": "r", "place": "f:1", "prompt": [{"role": "user", "content": PERSONAL}], "completion": PERSONAL}]
    assert [one.column for one in look("pii", chat, CHAT)] == ["prompt", "completion"]
    assert look("pii", chat, CHAT)[0].replacement[0]["role"] == "user"
    assert [one.column for one in look("pii", [{"row_id": "r", "place": "f:1", "anchor": "x", "positive": PERSONAL}], PAIRS)] == ["positive"]
    assert look("pii", rows(("fine", "a@example.org"))) == []


# ---------------------------------------------------------------- duplicates


def test_exact_duplicates_keep_the_first():
    found = look("exact_duplicates", rows("Where is it?", "where  is it", "WHERE IS IT!", "where was it"))
    assert [(one.row_id, one.action, one.related) for one in found] == [("r1", "quarantine", "r0"), ("r2", "quarantine", "r0")]
    assert look({"name": "exact_duplicates", "normalised": False}, rows("Where is it?", "where is it", "Where is it?"))[0].row_id == "r2"


def test_signs_that_carry_meaning_are_not_normalised_away():
    assert look("exact_duplicates", rows("great :)", "great :(", "2+3", "2-3")) == []


def test_conflicting_labels_set_all_copies_aside():
    found = look("exact_duplicates", rows(("same text", "a"), ("Same text.", "b"), ("same text", "a"), ("another", "a")))
    assert [one.row_id for one in found] == ["r0", "r1", "r2"]
    assert all(one.action == "quarantine" and "conflicting labels for the same text: a / b" in one.reason for one in found)
    assert {one.action for one in look({"name": "exact_duplicates", "conflicts": "flag"}, rows(("x y", "a"), ("x y", "b")))} == {"flag"}


def test_given_test_rows_are_told_and_kept_and_splits_are_looked_at_apart():
    inside = rows("same", "same", split="test")
    assert [one.action for one in look("exact_duplicates", inside)] == ["flag"]
    across = [rows("same")[0] | {"split": "test"}, rows("x", "same")[1]]
    assert look("exact_duplicates", across) == []


@pytest.mark.parametrize(("one", "other"), [("def f():\n    return x1", "def f():\n  return X1"), ("Yes", "yes!"), ("a b", "a  b")])
def test_written_answers_are_compared_as_they_are(one, other):
    def chat(*pairs):
        return [{"row_id": f"r{i}", "place": f"f:{i}", "prompt": [{"role": "user", "content": question}], "completion": answer} for i, (question, answer) in enumerate(pairs)]

    assert look("exact_duplicates", chat(("Write it", one), ("Write it", other)), CHAT) == []
    assert [found.row_id for found in look("exact_duplicates", chat(("Write it", one), ("write  it!", one)), CHAT)] == ["r1"]


def test_equal_prompts_with_other_answers_are_no_duplicates():
    chat = [{"row_id": f"r{i}", "place": f"f:{i}", "prompt": [{"role": "user", "content": "tell a joke"}], "completion": answer} for i, answer in enumerate(("one", "two", "one"))]
    assert [one.row_id for one in look("exact_duplicates", chat, CHAT)] == ["r2"]


NEAR = ("Please cancel my order for the green lamp today", "Hi! please cancel my order for the green lamp today", "The courier never rang the bell", "please cancel my order for the green lamp, today")


def test_near_duplicates_are_linked_or_set_aside():
    found = look("near_duplicates", rows(*NEAR))
    assert {(one.row_id, one.action) for one in found} == {("r1", "flag"), ("r3", "flag")}
    assert all(one.related in ("r0", "r1") for one in found)
    assert "similarity 0." in " ".join(one.reason for one in found)
    aside = look({"name": "near_duplicates", "action": "quarantine"}, rows(*NEAR))
    assert [(one.row_id, one.action, one.related) for one in aside] == [("r1", "quarantine", "r0"), ("r3", "quarantine", "r0")]
    assert look({"name": "near_duplicates", "action": "ignore"}, rows(*NEAR)) == []
    assert [one.row_id for one in look({"name": "near_duplicates", "threshold": 0.99}, rows(*NEAR))] == ["r3"]


def test_a_threshold_that_minhash_cannot_reach_is_refused():
    with pytest.raises(Problems, match="threshold"):
        look({"name": "near_duplicates", "threshold": 0.3}, rows(*NEAR))


# ---------------------------------------------------------------- labels

LABELS = ["reset_password"] * 30 + ["cancel_order"] * 30 + ["refund"] * 30


def labelled(*more: str) -> list[Row]:
    return rows(*((f"text {i}", label) for i, label in enumerate([*LABELS, *more])))


@pytest.mark.parametrize("typo", ["reset_pasword", "reset_passwrod", "Reset Password", " reset_password ", "RESET-PASSWORD", "resett_password", "reset-pasword"])
def test_label_typos_are_repaired(typo):
    (finding,) = look("label_typos", labelled(typo))
    assert (finding.row_id, finding.action, finding.replacement) == ("r90", "repair", "reset_password")
    (told,) = look({"name": "label_typos", "repair": False}, labelled(typo))
    assert told.action == "flag"


@pytest.mark.parametrize("label", ["invoice", "unrefund", "track_order"])
def test_other_rare_labels_are_told_only(label):
    (finding,) = look("label_typos", labelled(label))
    assert (finding.action, finding.replacement) == ("flag", None)


def test_labels_that_are_as_frequent_or_differ_in_a_number_are_different():
    assert look("label_typos", rows(*((f"t{i}", label) for i, label in enumerate(["class_1"] * 40 + ["class_2"] * 3 + ["affect"] * 20 + ["effect"] * 20)))) == []


def test_label_typos_in_several_labels_and_how_rare_is_a_key():
    found = look("label_typos", rows(*((f"t{i}", ["refund", "urgent"]) for i in range(40)), ("x", ["refnud", "urgent"])), MULTI)
    assert [one.replacement for one in found] == [["refund", "urgent"]]
    five = rows(*((f"t{i}", label) for i, label in enumerate(["refund"] * 30 + ["refnud"] * 5)))
    assert look("label_typos", five) == []
    assert len(look({"name": "label_typos", "rare": 0.2}, five)) == 5


def test_label_typos_say_nothing_about_tasks_without_labels():
    chat = [{"row_id": "r", "place": "f:1", "prompt": [{"role": "user", "content": "a"}], "completion": "b"}]
    assert look("label_typos", chat, CHAT) == []


# ---------------------------------------------------------------- leakage


def test_leaks_are_found_and_the_lesser_copy_goes():
    """The must-fail twin of splits without leaks."""
    found = rows("the parcel is lost", "The parcel is lost!", *NEAR[:3], "something else entirely")
    splits = {"r0": "train", "r1": "test", "r2": "validation", "r3": "train", "r4": "test", "r5": "train"}
    leaks = look("leakage", found, splits=splits)
    assert {(one.row_id, one.action, one.related) for one in leaks} == {("r0", "quarantine", "r1"), ("r3", "quarantine", "r2")}
    assert "train row leaks into test: the same text as f.csv:3" in leaks[0].reason
    assert {one.action for one in look({"name": "leakage", "action": "block"}, found, splits=splits)} == {"block"}
    assert {one.row_id for one in look({"name": "leakage", "threshold": 1.0}, found, splits=splits)} == {"r0"}
    assert look("leakage", found, splits=dict.fromkeys(splits, "train")) == []


def test_groups_across_splits_leak():
    found = [row | {"group": group} for row, group in zip(rows("one text", "another thing", "third words"), ("K1", "K1", "K2"), strict=True)]
    (leak,) = look("leakage", found, splits={"r0": "train", "r1": "test", "r2": "train"})
    assert (leak.row_id, leak.column) == ("r0", "group")
    assert "the same group 'K1'" in leak.reason


def test_every_copy_of_a_leaking_row_goes():
    found = rows("the parcel is lost again", "the parcel is lost again", "Hi, the parcel is lost again")
    leaks = look({"name": "leakage", "threshold": 0.7}, found, splits={"r0": "train", "r1": "train", "r2": "test"})
    assert {one.row_id for one in leaks} == {"r0", "r1"}
