# SPDX-License-Identifier: Apache-2.0
"""The support-ticket example data is what its data card and planted.json say it is."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "src" / "attune" / "recipes" / "support_tickets"
COLUMNS = ["ticket_id", "received_at", "customer", "channel", "message", "category"]
BUILT = [
    "data/tickets_email.csv",
    "data/tickets_phone.csv",
    "data/tickets_web.csv",
    "later/tickets_same.csv",
    "later/tickets_later.csv",
    "planted.json",
]
BROKEN = {
    "broken_too_few_fields",
    "broken_too_many_fields",
    "broken_unclosed_quote",
    "broken_nul_byte",
    "broken_only_id",
}


def parse(line: str, delimiter: str) -> dict | None:
    """One record from one physical line, or None if the line is not well-formed."""
    if "\x00" in line:
        return None
    try:
        records = list(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    if len(records) != 1 or len(records[0]) != len(COLUMNS):
        return None
    return dict(zip(COLUMNS, records[0], strict=False))


def lines_of(path: Path, encoding: str) -> list[str]:
    lines = path.read_bytes().decode(encoding).split("\n")
    assert lines.pop() == "", "the file ends with a line break"
    return lines


def source() -> dict[str, list[str]]:
    return {path.stem: [s for s in path.read_text(encoding="utf-8").split("\n") if s.strip()] for path in sorted((ROOT / "tickets_source").glob("*.txt"))}


def later(name: str) -> list[dict]:
    lines = lines_of(ROOT / "later" / f"tickets_{name}.csv", "utf-8")
    assert lines[0].split(",") == COLUMNS
    rows = [parse(line, ",") for line in lines[1:]]
    assert None not in rows
    return rows


@pytest.fixture(scope="module")
def planted() -> dict:
    return json.loads((ROOT / "planted.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def lines(planted) -> dict[str, list[str]]:
    return {name: lines_of(ROOT / name, form["encoding"]) for name, form in planted["files"].items()}


@pytest.fixture(scope="module")
def rows(planted, lines) -> dict[tuple[str, int], dict]:
    """Every well-formed record by (file, line)."""
    out = {}
    for name, form in planted["files"].items():
        for number, line in enumerate(lines[name][1:], start=2):
            row = parse(line, form["delimiter"])
            if row is not None:
                out[name, number] = row
    return out


def items(planted: dict, kind: str) -> list[dict]:
    return planted["kinds"][kind]["items"]


def at(rows: dict, item: dict) -> dict:
    row = rows[item["file"], item["line"]]
    assert row["ticket_id"] == item["ticket_id"]
    return row


def squeeze(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower().replace("\u2019", "'")).strip()


# ------------------------------------------------------------ building


def test_build_gives_the_same_bytes(tmp_path):
    for run in ("one", "two"):
        out = tmp_path / run
        subprocess.run([sys.executable, str(ROOT / "build_data.py"), "--out", str(out)], check=True)
        made = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
        assert made == sorted(BUILT)
        for name in BUILT:
            assert (out / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_file_forms(planted):
    email, phone, web = ((ROOT / name).read_bytes() for name in BUILT[:3])
    assert email.startswith(b"\xef\xbb\xbf")
    assert not web.startswith(b"\xef\xbb\xbf")
    assert phone.startswith(b"ticket_id;received_at;")
    with pytest.raises(UnicodeDecodeError):
        phone.decode("utf-8")
    for character in "£€é\u2019":
        assert character in phone.decode("cp1252")
    for item in items(planted, "file_format"):
        form = planted["files"][item["file"]]
        assert (form["encoding"], form["delimiter"]) == (item["encoding"], item["delimiter"])


# ------------------------------------------------------------ the hand-written text


def test_source_has_enough_tickets():
    counts = {intent: len(texts) for intent, texts in source().items()}
    assert len(counts) == 16
    assert min(counts.values()) >= 62
    assert sum(counts.values()) >= 1000


def test_no_text_is_repeated():
    seen = Counter(squeeze(text) for texts in source().values() for text in texts)
    for name in ("same", "later"):
        seen.update(squeeze(row["message"]) for row in later(name))
    assert [text for text, count in seen.items() if count > 1] == []


def test_source_is_clean():
    for texts in source().values():
        for text in texts:
            assert text == text.strip()
            assert "@" not in text
            assert "\t" not in text
            assert "\r" not in text
            assert not re.search("[\u200b\u00a0\ufeff]|Ã|â€", text)
            assert not re.search(r"\d[\d -]{7,}\d", text), "a number that looks like a phone or a card"
            text.encode("cp1252")


# ------------------------------------------------------------ the messy files


def test_records_and_totals(planted, lines, rows):
    totals = planted["totals"]
    for name, form in planted["files"].items():
        assert len(lines[name]) == form["lines"] == form["records"] + 1
        assert lines[name][0].split(form["delimiter"]) == COLUMNS
    assert totals["records"] == sum(len(found) - 1 for found in lines.values())
    assert totals["readable"] == len(rows) == totals["records"] - totals["broken"]
    ids = [row["ticket_id"] for row in rows.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"T-1\d{5}", i) for i in ids)
    assert all(re.fullmatch(r"C-1\d{4}", row["customer"]) for row in rows.values())
    assert all("2026-01-05" <= row["received_at"] < "2026-06-30" for row in rows.values())
    for (name, _), row in rows.items():
        assert name == f"data/tickets_{row['channel']}.csv"


def test_usable_rows(planted, rows):
    dropped = {i["ticket_id"] for kind in planted["dropped_kinds"] for i in items(planted, kind)}
    usable = [row for row in rows.values() if row["ticket_id"] not in dropped]
    truth = planted["true_labels"]
    assert len(usable) == planted["totals"]["usable"] >= 900
    by_intent = Counter(truth[row["ticket_id"]] for row in usable)
    assert dict(by_intent) == planted["totals"]["usable_by_intent"]
    assert len(by_intent) >= 14
    # No two usable rows say the same thing: every copy is listed.
    said = Counter(squeeze(row["message"]) for row in usable)
    assert [text for text, count in said.items() if count > 1] == []


def test_enough_untouched_rows_in_every_intent(planted, rows):
    across = {"customer_in_several_rows", "file_format"}
    touched = {i["ticket_id"] for kind in planted["kinds"] if kind not in across for i in items(planted, kind)}
    clean = [row for row in rows.values() if row["ticket_id"] not in touched]
    by_intent = Counter(row["category"] for row in clean)
    assert len(by_intent) == 16
    assert min(by_intent.values()) >= 55
    written = source()
    for row in clean:
        assert planted["true_labels"][row["ticket_id"]] == row["category"]
        assert row["message"].replace("\u2019", "'") in {t.replace("\u2019", "'") for t in written[row["category"]]}


def test_each_row_has_at_most_one_fault(planted):
    across = {"customer_in_several_rows", "file_format"}
    ids = Counter(i["ticket_id"] for kind in planted["kinds"] if kind not in across for i in items(planted, kind))
    assert [i for i, count in ids.items() if count > 1] == []


def test_counts_in_planted(planted):
    for kind, entry in planted["kinds"].items():
        assert entry["count"] == len(entry["items"]) == planted["counts"][kind]
        assert entry["expected"]
    least = {
        "exact_duplicate": 25,
        "email": 20,
        "phone": 20,
        "card": 12,
        "name": 20,
        "label_typo": 8,
        "label_variant": 1,
        "over_long": 2,
        "mojibake": 10,
        "invisible_characters": 6,
        "non_language": 4,
        "near_duplicate": 10,
        "near_duplicate_same_customer": 10,
        "customer_in_several_rows": 100,
    }
    for kind, count in least.items():
        assert planted["counts"][kind] >= count, kind
    counts = planted["counts"]
    assert counts["near_duplicate"] + counts["near_duplicate_same_customer"] >= 25
    assert counts["empty_message"] + counts["blank_label"] >= 6
    assert sum(counts[kind] for kind in BROKEN) >= 6
    assert 0.025 <= counts["wrong_label"] / planted["totals"]["usable"] <= 0.035


# ------------------------------------------------------------ every fault where it is said to be


def test_broken_rows_and_only_those_are_unreadable(planted, lines, rows):
    said = {}
    for kind in BROKEN:
        for item in items(planted, kind):
            said[item["file"], item["line"]] = (kind, item)
    found = {(name, number) for name, text in lines.items() for number in range(2, len(text) + 1) if (name, number) not in rows}
    assert found == set(said)
    for (name, number), (kind, item) in said.items():
        line = lines[name][number - 1]
        delimiter = planted["files"][name]["delimiter"]
        assert line.startswith(item["ticket_id"])
        if kind == "broken_nul_byte":
            assert "\x00" in line
            assert parse(line.replace("\x00", ""), delimiter) is not None
        elif kind == "broken_only_id":
            assert line == item["ticket_id"]
        elif kind == "broken_unclosed_quote":
            assert line.count('"') == 1
            after = rows[name, number + 1]
            assert '"' in lines[name][number]
            assert after["message"]
        else:
            width = len(next(csv.reader([line], delimiter=delimiter)))
            assert width > 6 if kind == "broken_too_many_fields" else 1 < width < 6


def test_an_ordinary_reader_loses_little(planted):
    for name, form in planted["files"].items():
        with open(ROOT / name, encoding=form["encoding"], newline="") as stream:
            read = list(csv.reader(stream, delimiter=form["delimiter"]))
        assert form["lines"] - len(read) <= 1


@pytest.mark.parametrize("kind", ["email", "phone", "card", "name", "lookalike"])
def test_planted_values(planted, rows, kind):
    shape = {
        "email": r"[\w.+-]+@([\w-]+\.)*example\.(com|org|net)",
        "phone": r"[+(\d][\d ().-]{6,}\d",
        "card": r"\d[\d -]{12,}\d",
        "name": r"[^\d@]+",
        "lookalike": r"[\w-]+[\d -]+\d",
    }[kind]
    for item in items(planted, kind):
        assert item["value"] in at(rows, item)["message"]
        assert re.fullmatch(shape, item["value"], re.IGNORECASE), item["value"]


def test_no_personal_number_or_address_is_unlisted(planted, rows):
    listed = {i["ticket_id"] for kind in ("email", "phone", "card", "lookalike") for i in items(planted, kind)}
    for row in rows.values():
        if row["ticket_id"] not in listed:
            assert "@" not in row["message"]
            assert not re.search(r"\d[\d -]{7,}\d", row["message"])


def test_wrong_labels(planted, rows):
    for item in items(planted, "wrong_label"):
        row = at(rows, item)
        assert row["category"] == item["label"] != item["true_label"]
        assert item["label"] in source()
        assert item["true_label"] == planted["true_labels"][item["ticket_id"]]


def test_misspelt_and_blank_labels(planted, rows):
    intents = set(source())
    for kind in ("label_typo", "label_variant"):
        for item in items(planted, kind):
            assert at(rows, item)["category"] == item["label"]
            assert item["label"] not in intents
            assert item["true_label"] in intents
    for item in items(planted, "label_variant"):
        plain = re.sub(r"[\s-]+", "_", item["label"].strip().lower())
        assert plain == item["true_label"]
    for item in items(planted, "blank_label"):
        assert at(rows, item)["category"].strip() == ""
        assert item["true_label"] in intents
    spelt = {i["ticket_id"] for k in ("label_typo", "label_variant", "blank_label") for i in items(planted, k)}
    assert all(r["category"] in intents for r in rows.values() if r["ticket_id"] not in spelt)


def test_rows_without_content(planted, rows):
    for item in items(planted, "empty_message"):
        assert at(rows, item)["message"].strip() == ""
    for item in items(planted, "non_language"):
        assert len(at(rows, item)["message"].split()) <= 3
    empty = {i["ticket_id"] for i in items(planted, "empty_message")}
    assert {r["ticket_id"] for r in rows.values() if not r["message"].strip()} == empty


def test_over_long_rows(planted, rows):
    long = {i["ticket_id"] for i in items(planted, "over_long")}
    for item in items(planted, "over_long"):
        assert len(at(rows, item)["message"].split()) == item["words"] > 600
    assert {r["ticket_id"] for r in rows.values() if len(r["message"].split()) > 200} == long


def test_characters(planted, rows):
    for item in items(planted, "mojibake"):
        assert item["file"] == "data/tickets_web.csv"
        message = at(rows, item)["message"]
        assert message != item["original"]
        assert message.encode("cp1252").decode("utf-8") == item["original"]
    for item in items(planted, "invisible_characters"):
        message = at(rows, item)["message"]
        mark = {"U+200B": "\u200b", "U+00A0": "\u00a0"}[item["characters"]]
        assert mark in message
        assert message.replace("\u200b", "").replace("\u00a0", " ") == item["original"]


def test_duplicates(planted, rows):
    for kind in ("exact_duplicate", "conflicting_duplicate", "near_duplicate", "near_duplicate_same_customer"):
        for item in items(planted, kind):
            copy, first = at(rows, item), at(rows, item["copy_of"])
            assert copy["ticket_id"] != first["ticket_id"]
            same_customer = copy["customer"] == first["customer"]
            if kind.startswith("near"):
                assert copy["message"] != first["message"]
                alike = SequenceMatcher(None, copy["message"].lower(), first["message"].lower(), autojunk=False)
                assert alike.ratio() >= 0.8, (copy["message"], first["message"])
                assert copy["category"] == first["category"]
                assert same_customer == (kind == "near_duplicate_same_customer")
            else:
                assert copy["message"] == first["message"]
                assert (copy["category"] == first["category"]) == (kind == "exact_duplicate")
                assert same_customer == item.get("same_customer", True)


def test_customers_with_several_rows(planted, rows):
    by_customer: dict[str, set] = {}
    for (name, number), row in rows.items():
        by_customer.setdefault(row["customer"], set()).add((name, number, row["ticket_id"]))
    several = {c: found for c, found in by_customer.items() if len(found) > 1}
    said = {i["customer"]: {(r["file"], r["line"], r["ticket_id"]) for r in i["rows"]} for i in items(planted, "customer_in_several_rows")}
    assert said == several
    totals = planted["totals"]
    assert totals["customers"] == len(by_customer)
    assert totals["customers_with_several_rows"] == len(several)
    assert totals["rows_of_customers_with_several_rows"] == sum(map(len, several.values()))
    assert 0.25 <= len(several) / len(by_customer) <= 0.45


# ------------------------------------------------------------ the later sets


def test_later_sets(rows):
    intents = set(source())
    same, moved = later("same"), later("later")
    assert len(same) >= 190
    assert len(moved) >= 250
    newest = max(row["received_at"] for row in rows.values())
    assert newest < min(row["received_at"] for row in same)
    assert max(row["received_at"] for row in same) < min(row["received_at"] for row in moved)
    ids = [row["ticket_id"] for row in [*same, *moved, *rows.values()]]
    assert len(set(ids)) == len(ids)
    assert {row["category"] for row in same} == intents
    mix = Counter(row["category"] for row in moved)
    assert set(mix) < intents
    assert len(intents - set(mix)) == 3
    assert mix["damaged_item"] == mix["change_payment_method"] == 48
    assert sorted(mix.values())[:-2] == [15] * 11
    new = re.compile("HearthCell|Glimmo|Pockle", re.IGNORECASE)
    assert sum(bool(new.search(row["message"])) for row in moved) >= 60
    about = re.compile("HearthCell|Glimmo|Pockle|batter|inverter|lamp|bulb|hub|wallet|passkey", re.IGNORECASE)
    assert sum(bool(about.search(row["message"])) for row in moved) >= 150
    assert not any(new.search(row["message"]) for row in [*same, *rows.values()])


# ------------------------------------------------------------ the data card


def test_data_card(planted):
    card = (ROOT / "README.md").read_text(encoding="utf-8")
    table = {name: int(n) for name, n in re.findall(r"^\| `(\w+)` \| (\d+) \|", card, re.MULTILINE)}
    assert table == {**planted["counts"], **{intent: len(texts) for intent, texts in source().items()}}
    totals = planted["totals"]
    for key in ("records", "broken", "usable", "readable", "customers", "customers_with_several_rows", "rows_of_customers_with_several_rows"):
        assert re.search(rf"\b{totals[key]}\b", card), key
    for name, form in planted["files"].items():
        assert f"| `{name}` | {form['records']} records" in card
    assert f"{len(later('same'))} further tickets" in card
    assert f"{len(later('later'))} further tickets" in card
    assert "Apache-2.0" in card
    assert "Synthetic" in card
