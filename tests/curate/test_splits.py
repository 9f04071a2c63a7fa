"""Who trains and who tests: shares, labels, units that stay together, group, time and given splits."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attune.core.errors import DataError
from attune.core.workspace import Workspace
from attune.stages.curate import splits
from tests.curate.conftest import as_csv, clean_rows


def test_shares_and_labels_are_kept(curate):
    result = curate({"rows.csv": as_csv(clean_rows())})
    by = Counter((row["split"], row["label"]) for row in result.rows())
    for label in ("refund", "delivery", "broken"):
        assert abs(by["test", label] - 12) <= 2
        assert abs(by["validation", label] - 6) <= 2


@pytest.mark.parametrize("objective", ["kto", "sft"])
def test_good_and_bad_answers_are_dealt_evenly_where_they_are_learned(curate, objective):
    rows = [{"prompt": f"what about order {n} of lamp {n * 7}?", "completion": f"order {n} is on its way", "label": n % 5 != 0} for n in range(200)]
    result = curate({"rows.jsonl": "\n".join(map(json.dumps, rows))}, task="text_generation", objective=objective, seed=3)
    bad = {row["place"] for row in result.rows() if int(row["place"].rpartition(":")[2]) % 5 == 1}
    shares = [len(bad & {row["place"] for row in result.rows(split)}) for split in ("test", "validation")]
    assert (shares == [8, 4]) == (objective == "kto")


def test_the_seed_decides(curate):
    first = curate({"rows.csv": as_csv(clean_rows())})
    again = curate({"rows.csv": as_csv(clean_rows())})
    other = curate({"rows.csv": as_csv(clean_rows())}, seed=8)
    tests = [{row["text"] for row in result.rows("test")} for result in (first, again, other)]
    assert tests[0] == tests[1]
    assert len(tests[0] & tests[2]) < 0.6 * len(tests[0])


def test_rare_labels_are_in_train_and_told(curate):
    rare = [(f"the invoice number {word} is wrong", "invoice") for word in ("one", "two", "three")] + [("nobody answers the telephone", "hotline")]
    result = curate({"rows.csv": as_csv([*clean_rows(), *rare])})
    by = Counter((row["label"], row["split"]) for row in result.rows())
    assert by["invoice", "train"] >= 1
    assert by["invoice", "test"] >= 1
    assert by["hotline", "train"] == 1
    told = " ".join(event["message"] for event in result.heard if event["kind"] == "warning")
    assert "'hotline' (1 rows)" in told
    assert "is not tested" in told


def test_copies_of_a_text_stand_in_one_split(curate):
    copies = [(f"{greeting} my new garden bench has a broken leg and wobbles", "broken") for greeting in ("Hello,", "Hi", "Dear all:", "Good day,", "hey", "Morning,", "Servus", "Hallo")]
    result = curate({"rows.csv": as_csv([*clean_rows(), *copies])})
    assert len({row["split"] for row in result.rows() if "garden bench" in row["text"]}) == 1
    assert not result.findings("leakage")


def _with_customers() -> str:
    return "customer,text,label\n" + "\n".join(f'K{i % 45},"{text}",{label}' for i, (text, label) in enumerate(clean_rows()))


def test_a_group_is_never_divided(curate):
    result = curate({"rows.csv": _with_customers()}, splits={"by": "group", "group": "customer"})
    where = defaultdict(set)
    for row in result.rows():
        where[row["group"]].add(row["split"])
    assert len(where) == 45
    assert all(len(splits) == 1 for splits in where.values())
    assert 20 <= result.dataset.counts["test"] <= 55


def test_without_the_group_column_groups_would_be_divided(curate):
    """The must-fail twin: the property above is not true by chance."""
    result = curate({"rows.csv": _with_customers()}, columns={"text": "text", "label": "label"})
    customer = {text: f"K{i % 45}" for i, (text, _) in enumerate(clean_rows())}
    where = defaultdict(set)
    for row in result.rows():
        where[customer[row["text"]]].add(row["split"])
    assert any(len(splits) > 1 for splits in where.values())


def test_the_newest_rows_are_the_test_rows(curate):
    rows = clean_rows()
    days = {text: (i * 37) % 180 for i, (text, _) in enumerate(rows)}
    table = "when,text,label\n" + "\n".join(f'{1 + days[text] % 28:02d}.{1 + days[text] // 28:02d}.2026,"{text}",{label}' for text, label in rows)
    result = curate({"rows.csv": table}, splits={"by": "time", "time": "when"})
    newest_train = max(days[row["text"]] for row in result.rows("train"))
    oldest_test = min(days[row["text"]] for row in result.rows("test"))
    assert newest_train < oldest_test
    assert not result.findings("reading")


def test_times_that_cannot_be_read_are_refused_or_set_aside(curate):
    rows = clean_rows()
    one_bad = "when,text,label\n" + "\n".join(f'{"soon" if i == 5 else f"2026-01-01T{i // 60:02d}:{i % 60:02d}"},"{text}",{label}' for i, (text, label) in enumerate(rows))
    result = curate({"rows.csv": one_bad}, splits={"by": "time", "time": "when"})
    assert [(one["row"], one["reason"]) for one in result.quarantine] == [(7, "no readable time")]
    all_bad = "when,text,label\n" + "\n".join(f'soon,"{text}",{label}' for text, label in rows)
    with pytest.raises(DataError, match="no readable time"):
        curate({"rows.csv": all_bad}, splits={"by": "time", "time": "when"})


@pytest.mark.parametrize(
    ("text", "day_first", "same"), [("2026-03-04", False, "2026-03-04T00:00:00Z"), ("04.03.2026", False, "2026-03-04"), ("04/03/2026", True, "2026-03-04"), ("03/04/2026", False, "2026-03-04")]
)
def test_moments(text, day_first, same):
    assert splits.moment(text, day_first) == splits.moment(same, False)


def test_moment_of_nonsense_is_none():
    assert splits.moment("yesterday", True) is None


def test_a_column_may_say_the_split(curate):
    table = "text,label,part\n" + "\n".join(f'"{text}",{label},{["train", "train", "dev", "TEST"][i % 4]}' for i, (text, label) in enumerate(clean_rows()))
    result = curate({"rows.csv": table + "\nan extra row,refund,holdout\n"}, splits={"by": "given", "given": "part"}, checks=["types"])
    assert Counter(row["split"] for row in result.rows()) == {"train": 90, "validation": 45, "test": 45}
    assert [one["reason"] for one in result.quarantine] == ["'holdout' is not a split"]


def test_a_given_column_without_test_rows_is_refused(curate):
    table = "text,label,part\n" + "\n".join(f'"{text}",{label},train' for text, label in clean_rows())
    with pytest.raises(DataError, match="no row is given as a test row"):
        curate({"rows.csv": table}, splits={"by": "given", "given": "part"})


@pytest.mark.parametrize("more", [0, 1])
def test_rows_of_a_retune_need_no_time(curate, tmp_path, more):
    """Rows that feedback made have roles alone; the old ones stay where they were, and one newer row of the file asks for no test of its own."""
    rows = [f'"{text}",{label},2026-01-{1 + i // 7:02d}' for i, (text, label) in enumerate(clean_rows())]
    splits = {"by": "time", "time": "when"}
    first = curate({"rows.csv": "text,label,when\n" + "\n".join(rows)}, splits=splits)
    extra = tmp_path / "new_rows.jsonl"
    extra.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in _new_rows(60)))
    newer = ["the invoice for the barn door is wrong,refund,2026-02-01"] * more
    second = curate({"rows.csv": "text,label,when\n" + "\n".join([*rows, *newer])}, splits=splits, extra_rows=extra, previous=first.dataset)
    where = {row["row_id"]: row["split"] for row in second.rows()}
    assert all(where[row["row_id"]] == row["split"] for row in first.rows())
    added = [row for row in second.rows() if row["place"].startswith("new_rows")]
    assert len(added) == 60
    assert not any("added" in row for row in added)
    assert not second.quarantine


@pytest.mark.parametrize("word", ["nan", "inf", "-Infinity", "1e999"])
def test_only_finite_numbers_are_times(curate, word):
    assert splits.moment(word, False) is None
    table = "text,label,when\n" + "\n".join(f'"{text}",{label},{word if i == 5 else i // 3}' for i, (text, label) in enumerate(clean_rows()))
    result = curate({"rows.csv": table}, splits={"by": "time", "time": "when"})
    assert [(one["row"], one["reason"]) for one in result.quarantine] == [(7, "no readable time")]
    assert min(float(row["time"]) for row in result.rows("test")) > max(float(row["time"]) for row in result.rows("train"))


def test_rows_without_a_group_are_not_one_group(curate, tmp_path):
    """A missing cell of a table of numbers is not a number (NaN), which is no customer."""
    pq.write_table(
        pa.table({"text": [t for t, _ in clean_rows()], "label": [n for _, n in clean_rows()], "customer": [float(i % 45) if i % 2 else float("nan") for i in range(180)]}), tmp_path / "rows.parquet"
    )
    result = curate({}, path="rows.parquet", splits={"by": "group", "group": "customer"})
    assert {row["split"] for row in result.rows() if row.get("group") is None} == {"train", "validation", "test"}
    assert result.dataset.counts["test"] < 60


def test_given_splits_may_come_from_a_file_of_test_rows_alone(curate):
    rows = clean_rows()
    result = curate({"train.csv": as_csv(rows[::2]), "test.csv": as_csv(rows[1::2])}, path="train.csv", test_path="test.csv", splits={"by": "given"})
    assert {row["text"] for row in result.rows("test")} <= {text for text, _ in rows[1::2]}
    assert result.dataset.counts["validation"] == 9


def test_official_test_rows_are_used_whole_and_validation_comes_from_train(curate):
    rows = clean_rows()
    train, test = rows[::2], rows[1::2]
    result = curate({"train.csv": as_csv(train), "test.csv": as_csv([*test, test[0]])}, path="train.csv", test_path="test.csv", checks=["types", "exact_duplicates"])
    assert sorted(row["text"] for row in result.rows("test")) == sorted(text for text, _ in [*test, test[0]])
    assert result.dataset.counts["validation"] == 9
    assert {row["text"] for row in result.rows("train", "validation")} == {text for text, _ in train}


def test_leaks_into_an_official_test_are_found_and_the_test_row_stays(curate):
    rows = clean_rows()
    test = [("Where is the PARCEL with my lamp?!", "delivery"), *rows[120:]]
    near = ("Hello there, the mattress does not switch on at all, sadly", "broken")
    result = curate({"train.csv": as_csv([*rows[:120], near]), "test.csv": as_csv([*test, ("Hello there, the mattress does not switch on at all", "broken")])}, path="train.csv", test_path="test.csv")
    found = result.findings("leakage")
    assert {(one["file"], one["row"]) for one in found} >= {("train.csv", rows.index(("where is the parcel with my lamp", "delivery")) + 2), ("train.csv", 122)}
    assert all(one["file"] == "train.csv" and one["action"] == "quarantine" for one in found)
    assert result.dataset.counts["test"] == len(test) + 1


def test_multi_label_rows_are_dealt_by_their_rarest_label(curate):
    rows = [f'"{text}",{label}{"|urgent" if i % 18 == 0 else ""}' for i, (text, label) in enumerate(clean_rows())]
    result = curate({"rows.csv": "text,label\n" + "\n".join(rows)}, task={"name": "text_classification", "multi_label": True})
    urgent = Counter(row["split"] for row in result.rows() if "urgent" in row["label"])
    assert urgent.total() == 10
    assert urgent["train"] >= 6
    assert urgent["test"] == 2
    assert result.dataset.signature["multi_label"]


# ---------------------------------------------------------------- rows that a verdict has looked at


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "workspace")
    yield made
    made.close()


def _new_rows(number: int) -> list[tuple[str, str]]:
    return [(f"{text}, please answer before day {n}", label) for n, (text, label) in enumerate(clean_rows()[:: 180 // number])]


def _ids(result, *parts):
    return {row["row_id"] for row in result.rows(*parts)}


def _open(workspace, result):
    workspace.ledger.use_test_rows(result.dataset.specialist, result.dataset.id, _ids(result, "test"), "grade")


@pytest.mark.parametrize("opened", [True, False])
def test_rows_that_a_verdict_looked_at_stay_sealed_when_rows_are_added(curate, workspace, opened):
    first = curate({"rows.csv": as_csv(clean_rows())}, workspace=workspace)
    if opened:
        _open(workspace, first)
    second = curate({"rows.csv": as_csv([*clean_rows(), *_new_rows(60)])}, workspace=workspace)
    moved = _ids(first, "test") & _ids(second, "train", "validation")
    told = [event["message"] for event in second.heard if "stay test rows" in event["message"]]
    if opened:
        assert not moved
        assert len(told) == 1
        assert abs(second.dataset.counts["test"] - 0.2 * len(second.rows())) <= 6, "rows that nobody looked at made room"
        by = Counter(row["label"] for row in second.rows("test"))
        assert max(by.values()) - min(by.values()) <= 8
    else:
        assert moved, "the must-fail twin: without the rule sealed rows would have moved"
        assert not told


def test_the_same_rows_again_are_split_as_before(curate, workspace):
    first = curate({"rows.csv": as_csv(clean_rows())}, workspace=workspace)
    _open(workspace, first)
    assert curate({"rows.csv": as_csv(clean_rows())}, workspace=workspace).dataset.id == first.dataset.id


def test_another_seed_tests_on_the_rows_that_were_opened(curate, workspace):
    first = curate({"rows.csv": as_csv(clean_rows())}, workspace=workspace)
    _open(workspace, first)
    other = curate({"rows.csv": as_csv(clean_rows())}, workspace=workspace, seed=8)
    assert _ids(other, "test") >= _ids(first, "test")
    assert other.dataset.counts["test"] <= first.dataset.counts["test"] + 3
    assert _ids(other, "validation") != _ids(first, "validation")


def test_a_group_with_an_opened_row_tests_whole(curate, workspace):
    files = {"rows.csv": _with_customers()}
    first = curate(files, workspace=workspace, splits={"by": "group", "group": "customer"})
    _open(workspace, first)
    other = curate(files, workspace=workspace, seed=8, splits={"by": "group", "group": "customer"})
    assert not _ids(first, "test") & _ids(other, "train", "validation")
    where = defaultdict(set)
    for row in other.rows():
        where[row["group"]].add(row["split"])
    assert all(len(splits) == 1 for splits in where.values())


def test_opened_rows_that_the_recipe_itself_gives_to_learn_from_are_told(curate, workspace):
    first = curate({"rows.csv": as_csv(clean_rows())}, workspace=workspace)
    _open(workspace, first)
    tested = _ids(first, "test")
    table = "text,label,part\n" + "\n".join(f'"{row["text"]}",{row["label"]},{"train" if row["row_id"] in tested or n % 3 else "test"}' for n, row in enumerate(first.rows()))
    given = curate({"rows.csv": table}, workspace=workspace, splits={"by": "given", "given": "part"})
    assert not tested & _ids(given, "test")
    told = [event["message"] for event in given.heard if event["kind"] == "warning"]
    assert any(f"{len(tested)} row(s) that a verdict on this specialist has looked at" in said for said in told)


INSTRUCTION = (
    "You answer for a shop of furniture in one or two friendly sentences, you promise no dates, you invent no prices, you name the opening hours where they help, and you keep the customer's language."
)


def chats(**shape):
    """The clean rows as questions and answers; `shape` gives each column's text with {} for the question."""
    return "\n".join(json.dumps({name: text.format(question) for name, text in shape.items()} | {"output": f"{label} {number}"}) for number, (question, label) in enumerate(clean_rows()))


@pytest.mark.parametrize(
    "shape",
    [
        {"instruction": INSTRUCTION, "input": "{}"},
        {"prompt": INSTRUCTION + "\n{}"},
        {"prompt": "Question: {}\n" + INSTRUCTION},
        {"system": "You know this of the customer: {}", "prompt": "Write the reply."},
    ],
)
def test_rows_with_one_instruction_are_divided(curate, shape):
    counts = curate({"rows.jsonl": chats(**shape)}, task="text_generation").dataset.counts
    assert counts["test"] >= 30
    assert counts["validation"] >= 10


def test_rows_that_stay_together_are_named_with_the_way_out(curate):
    form = {"rows.csv": as_csv([(f"please send the monthly statement of my savings account to the usual address, thank you, number {i}", "ab"[i % 2]) for i in range(60)])}
    with pytest.raises(DataError, match="60 of 60 rows stay together in one split, because the check near_duplicates finds them alike") as error:
        curate(form)
    assert "leave out leakage and near_duplicates: `data: {checks: [" in str(error.value.fix).replace("near_duplicates and leakage", "leakage and near_duplicates")
    plain = [name.strip() for name in str(error.value.fix).split("checks: [")[1].split("]")[0].split(",")]
    assert curate(form, checks=plain).dataset.counts["test"] >= 5
