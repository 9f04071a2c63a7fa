"""Every source: what it recognises, what it reads, and that one broken record is one problem."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from attune import lifecycle
from attune.core import catalog
from attune.core.addresses import hidden, opened
from attune.core.contracts import RawRecord
from attune.core.errors import AttuneError, DataError, MachineError
from attune.core.recipe import make_recipe, read_recipe
from attune.core.workspace import Workspace
from attune.stages import curate

ROWS = [("the lamp is broken", "broken"), ('she said "no, never"', "refund"), ("line one\nline two", "broken"), ("café zürich €5", "refund"), ("plain", "broken"), ("other", "refund")]


def source(spec: Any) -> Any:
    return catalog.build("sources", spec)


def read(spec: Any, folder: Path, location: str) -> list[RawRecord]:
    return list(source(spec).read(location, folder))


def values(records: list[RawRecord]) -> list[tuple[Any, ...]]:
    return [tuple(record.values.values()) for record in records if record.values is not None]


def problems(records: list[RawRecord]) -> list[tuple[str, str | None]]:
    return [(record.place, record.problem) for record in records if record.values is None]


def quoted(rows: list[tuple[str, str]], sign: str = ",", ends: str = "\n") -> str:
    return ends.join(["text" + sign + "label", *('"' + one.replace('"', '""') + '"' + sign + label for one, label in rows)]) + ends


def test_exactly_one_source_recognises_each_location(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "a.jsonl").write_text("{}")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    for label in ("x", "y"):
        (tmp_path / "texts" / label).mkdir(parents=True)
        (tmp_path / "texts" / label / "1.txt").write_text("t")
    expected = {"a.csv": "csv", "*.csv": "csv", "a.jsonl": "json", "a.parquet": "parquet", "texts": "folders", "sqlite:///a.db": "sql", "owner/name": "huggingface", "hf:owner/name": "huggingface"}
    for location, name in expected.items():
        assert [e.name for e in catalog.entries("sources") if source(e.name).recognises(location, tmp_path)] == [name], location
    for location in ("missing.csv", "a.xlsx", "texts/missing.txt", "https://example.org/a.csv"):
        assert not [e.name for e in catalog.entries("sources") if source(e.name).recognises(location, tmp_path)], location


# ---------------------------------------------------------------- csv


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_csv_in_any_delimiter_and_encoding(tmp_path, sign, encoding, ends):
    (tmp_path / "a.csv").write_bytes(quoted(ROWS, sign, ends).encode(encoding))
    records = read("csv", tmp_path, "a.csv")
    assert values(records) == ROWS
    assert [r.place for r in records] == [f"a.csv:{i}" for i in (2, 3, 4, 6, 7, 8)]
    assert [bool(r.repaired) for r in records] == [encoding == "cp1252" and not one.isascii() for one, _ in ROWS]


def test_csv_put_together_from_two_encodings(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,label\n" + "größe,a\n".encode() + "größe,b\n".encode("cp1252"))
    records = read("csv", tmp_path, "a.csv")
    assert values(records) == [("größe", "a"), ("größe", "b")]
    assert [r.repaired for r in records] == [(), ("not UTF-8: read as cp1252",)]


def test_csv_gzip_and_old_line_ends(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(quoted(ROWS[:2]).encode()))
    (tmp_path / "b.csv").write_bytes(quoted(ROWS[4:], ends="\r").encode())
    assert values(read("csv", tmp_path, "a.csv.gz")) == ROWS[:2]
    assert values(read("csv", tmp_path, "b.csv")) == ROWS[4:]


def test_csv_broken_records_are_named_and_cost_no_other(tmp_path):
    body = quoted(ROWS * 3) + '"never closed,refund\nafter it,broken\n\na,b,c\nonly\nnul\x00byte,broken\n"closed"then,refund\nlast,broken\ntail,refund,,\n'
    (tmp_path / "a.csv").write_text(body)
    records = read("csv", tmp_path, "a.csv")
    assert values(records) == [*ROWS * 3, ("after it", "broken"), ("last", "broken"), ("tail", "refund")]
    assert problems(records) == [
        ("a.csv:23", "a quote is opened and not closed on this line"),
        ("a.csv:25", "the line is blank"),
        ("a.csv:26", "3 field(s) where the header has 2"),
        ("a.csv:27", "1 field(s) where the header has 2"),
        ("a.csv:28", "the line holds NUL bytes"),
        ("a.csv:29", "text follows a closing quote"),
    ]
    assert records[-1].repaired == ("2 empty field(s) at the end dropped",)
    assert all(r.fix and isinstance(r.raw, str) for r in records if r.problem)


def test_csv_a_quote_may_not_swallow_rows_up_to_the_next_stray_quote(tmp_path):
    (tmp_path / "a.csv").write_text(quoted(ROWS[4:] * 5) + '"never closed,refund\nfirst,broken\nsecond,refund\nthird",broken\nfourth,broken\n')
    records = read("csv", tmp_path, "a.csv")
    assert [v[0] for v in values(records)][10:] == ["first", "second", 'third"', "fourth"]
    assert [p for p, _ in problems(records)] == ["a.csv:12"]


def test_csv_real_line_breaks_in_quotes_stay(tmp_path):
    rows = [("\nHow do I, please,\nunblock it?", "pin"), ("a\n\nb", "card")] * 4
    (tmp_path / "a.csv").write_text(quoted(rows))
    records = read("csv", tmp_path, "a.csv")
    assert values(records) == rows
    assert not problems(records)


def test_tsv_without_quoting(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"unfair" and `` so on\tOther\nsay, what\tOther\n"open\tFair\n')
    assert values(read("csv", tmp_path, "a.tsv")) == [('"unfair" and `` so on', "Other"), ("say, what", "Other"), ('"open', "Fair")]


def test_csv_without_header(tmp_path):
    (tmp_path / "a.csv").write_text("".join(f"text number {i},{'ab'[i % 2]}\n" for i in range(10)))
    assert read("csv", tmp_path, "a.csv")[0].values == {"column1": "text number 0", "column2": "a"}
    assert len(read("csv", tmp_path, "a.csv")) == 10
    assert len(read({"name": "csv", "header": "yes"}, tmp_path, "a.csv")) == 9
    (tmp_path / "b.csv").write_text("text,label\nx,a\ny,b\n")
    assert len(read({"name": "csv", "header": "no"}, tmp_path, "b.csv")) == 3


def test_csv_column_names_are_made_distinct(tmp_path):
    (tmp_path / "a.csv").write_text("text,text,, label \na,b,c,d\n")
    assert list(read("csv", tmp_path, "a.csv")[0].values) == ["text", "text (again)", "column3", "label"]


def test_csv_delimiter_can_be_given(tmp_path):
    (tmp_path / "a.csv").write_text("a|b,c\n1|2,3\n")
    assert read({"name": "csv", "delimiter": "|"}, tmp_path, "a.csv")[0].values == {"a": "1", "b,c": "2,3"}


def test_empty_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf\n")
    for name in ("csv", "json"):
        with pytest.raises(DataError, match="is empty"):
            read(name, tmp_path, "a.csv")
    for name in ("csv", "json", "parquet"):
        with pytest.raises(DataError, match="no file matches"):
            read(name, tmp_path, "missing.x")


def test_fingerprints_follow_the_bytes(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    before = source("csv").fingerprint("a.csv", tmp_path)
    assert before == source("csv").fingerprint("*.csv", tmp_path)
    (tmp_path / "a.csv").write_text("a,b\n1,3\n")
    assert source("csv").fingerprint("a.csv", tmp_path) != before


# ---------------------------------------------------------------- json


def test_jsonl_with_broken_lines(tmp_path):
    lines = ['{"text": "a", "label": "x"}', '{"text": "a", "text": "b"}', '{"n": NaN}', "[1]", "{broken", "", '{"text": "b\\ud800", "label": null}', "[" * 100_000, '{"n": ' + "9" * 5000 + "}"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n")
    records = read("json", tmp_path, "a.jsonl")
    assert values(records) == [("a", "x"), ("b\ufffd", None)]
    found = dict(problems(records))
    assert list(found) == [f"a.jsonl:{i}" for i in (2, 3, 4, 5, 6, 8, 9)]
    assert "'text' stands twice" in str(found["a.jsonl:2"])
    assert "NaN" in str(found["a.jsonl:3"])
    assert "list where an object" in str(found["a.jsonl:4"])
    assert records[6].repaired


def test_json_list_goes_on_behind_a_broken_element(tmp_path):
    (tmp_path / "a.json").write_text('[\n{"text": "a"},\n{"text": broken, "x": [1,\n{"text": "b"},\n 7,\n{"text": "c"}\n]\n')
    records = read("json", tmp_path, "a.json")
    assert values(records) == [("a",), ("b",), ("c",)]
    assert [p for p, _ in problems(records)] == ["a.json:2", "a.json:4"]
    assert [r.place for r in records] == [f"a.json:{i}" for i in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{\n"data": [{"t": "a"}, {"t": "b"}], "version": 1}', [("a",), ("b",)]),
        ('{\n"t": ["a", "b"], "l": ["x", "y"]}', [("a", "x"), ("b", "y")]),
        ('{\n"17": {"t": "a"}, "18": {"t": "b"}}', [("17", "a"), ("18", "b")]),
        ('{"t": "a"}\n{"t": "b"}\n', [("a",), ("b",)]),
        ('[{"t": "a"}, {"t": "b"}]', [("a",), ("b",)]),
    ],
)
def test_json_shapes(tmp_path, body, expected):
    (tmp_path / "a.json").write_text(body)
    assert values(read("json", tmp_path, "a.json")) == expected


def test_json_field_key_and_hopeless_documents(tmp_path):
    (tmp_path / "a.json").write_text('{\n"p": [{"t": 1}], "q": [{"t": 2}]}')
    assert values(read({"name": "json", "field": "q"}, tmp_path, "a.json")) == [(2,)]
    with pytest.raises(DataError, match="no single list"):
        read("json", tmp_path, "a.json")
    with pytest.raises(DataError, match="there is no list 'r'"):
        read({"name": "json", "field": "r"}, tmp_path, "a.json")
    (tmp_path / "b.json").write_text("{\n'not': json}")
    with pytest.raises(DataError, match="not JSON"):
        read("json", tmp_path, "b.json")


# ---------------------------------------------------------------- parquet, folders, sql, hugging face


def test_parquet(tmp_path):
    for name, rows in (("b.parquet", ROWS[3:]), ("a.parquet", ROWS[:3])):
        pq.write_table(pa.table({"text": [t for t, _ in rows], "label": [label for _, label in rows]}), tmp_path / name)
    records = read("parquet", tmp_path, "*.parquet")
    assert values(records) == ROWS
    assert [r.place for r in records][2:4] == ["a.parquet:3", "b.parquet:1"]
    assert values(read({"name": "parquet", "columns": ["label"]}, tmp_path, "a.parquet")) == [(label,) for _, label in ROWS[:3]]
    with pytest.raises(DataError, match="there is no column 'x'"):
        read({"name": "parquet", "columns": ["x"]}, tmp_path, "a.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match="not a whole Parquet file"):
        read("parquet", tmp_path, "c.parquet")


def test_folders(tmp_path):
    for label, name, body in (("b", "1.txt", "first\nsecond\n"), ("a", "2.txt", "größe".encode("cp1252")), ("a", "1.txt", ""), ("a", "x.bin", "skipped")):
        (tmp_path / "t" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / label / name).write_bytes(body if isinstance(body, bytes) else body.encode())
    records = read("folders", tmp_path, "t")
    assert values(records) == [("größe", "a"), ("first\nsecond", "b")]
    assert problems(records) == [("t/a/1.txt:1", "the file is empty")]
    assert records[1].repaired
    assert values(read({"name": "folders", "rows": "line"}, tmp_path, "t"))[1:] == [("first", "b"), ("second", "b")]
    before = source("folders").fingerprint("t", tmp_path)
    (tmp_path / "t" / "b" / "1.txt").rename(tmp_path / "t" / "a" / "3.txt")
    assert source("folders").fingerprint("t", tmp_path) != before
    with pytest.raises(DataError, match="one folder per label"):
        read("folders", tmp_path, "t/a")


def test_sql(tmp_path):
    url = f"sqlite:///{tmp_path / 'rows.db'}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("create table tickets (id integer, body text, kind text)"))
        for i, (body, kind) in enumerate(ROWS):
            connection.execute(text("insert into tickets values (:i, :b, :k)"), {"i": i, "b": body, "k": kind})
    query = {"name": "sql", "query": "select body, kind from tickets order by id"}
    records = read(query, tmp_path, "sqlite:///rows.db")
    assert values(records) == ROWS
    assert records[0].place == "rows.db:1"
    before = source(query).fingerprint("sqlite:///rows.db", tmp_path)
    assert before == source(query).fingerprint("sqlite:///rows.db", tmp_path)
    with engine.begin() as connection:
        connection.execute(text("update tickets set kind = 'x' where id = 0"))
    assert source(query).fingerprint("sqlite:///rows.db", tmp_path) != before
    with pytest.raises(DataError, match="needs a query"):
        read("sql", tmp_path, "sqlite:///rows.db")
    with pytest.raises(DataError, match="no such table"):
        read({"name": "sql", "query": "select * from nowhere"}, tmp_path, "sqlite:///rows.db")
    with pytest.raises(DataError, match="no database file"):
        read(query, tmp_path, "sqlite:///missing.db")
    engine.dispose()


def test_sql_never_shows_the_password(tmp_path):
    with pytest.raises((DataError, MachineError)) as error:
        read({"name": "sql", "query": "select 1"}, tmp_path, "postgresql+psycopg://bob:s3cret@127.0.0.1:9/base")
    assert "s3cret" not in str(error.value)


def test_sql_takes_what_is_secret_from_the_environment(tmp_path, monkeypatch):
    """The recipe names a variable; what it holds reaches the database and stands nowhere in the workspace."""
    secret = "s3cret p@ss:%word"
    (tmp_path / "hidden-4711").mkdir()
    engine = create_engine(f"sqlite:///{tmp_path / 'hidden-4711' / 'rows.db'}")
    with engine.begin() as connection:
        connection.execute(text("create table tickets (body text, kind text)"))
        for i in range(80):
            connection.execute(text("insert into tickets values (:b, :k)"), {"b": f"the {'lamp' if i % 2 else 'parcel'} of order {i * 37} is late", "k": "ab"[i % 2]})
    engine.dispose()
    path = "sqlite:///${HIDDEN_NAME}/rows.db"
    values = {"name": "claims", "task": "text_classification", "method": "head", "data": {"path": path, "source": {"name": "sql", "query": "select body, kind from tickets"}, "checks": ["types"]}}
    monkeypatch.delenv("HIDDEN_NAME", raising=False)
    with pytest.raises(MachineError, match="HIDDEN_NAME is not set"):
        read(values["data"]["source"], tmp_path, path)
    monkeypatch.setenv("HIDDEN_NAME", "hidden-4711")
    recipe = make_recipe(values, folder=tmp_path)
    workspace = Workspace(tmp_path / "workspace")
    cycle = lifecycle.run(recipe, workspace, until="curate")
    inputs = curate.inputs(recipe)
    workspace.close()
    assert cycle.dataset.counts["kept"] == 80
    resolved = workspace.root / "runs" / cycle.run / "recipe.resolved.yaml"
    assert path in resolved.read_text()
    assert read_recipe(resolved).keys.data.path == path, "what was written can be run again"
    assert "4711" not in json.dumps(inputs)
    assert [file for file in workspace.root.rglob("*") if file.is_file() and b"hidden-4711" in file.read_bytes()] == []
    monkeypatch.setenv("DATABASE_PASSWORD", secret)
    assert make_url(opened("postgresql+psycopg://bob:${DATABASE_PASSWORD}@host/base")).password == secret


@pytest.mark.parametrize(
    "address", ["postgresql+psycopg://bob:s3cret@127.0.0.1:9/base", "postgresql://127.0.0.1/base?user=bob&password=s3cret", "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3Ds3cret"]
)
@pytest.mark.parametrize("data", [{"path": "{}"}, {"path": ["rows.csv", "{}"]}, {"path": "rows.csv", "test_path": "{}"}, {"path": "rows.csv", "replay": {"path": "{}"}}])
def test_a_password_in_a_recipe_is_refused_and_not_repeated(tmp_path, address, data):
    data = json.loads(json.dumps(data).replace("{}", address))
    with pytest.raises(AttuneError) as told:
        make_recipe({"name": "claims", "task": "text_classification", "data": data}, folder=tmp_path)
    assert "s3cret" not in str(told.value)
    assert "${DATABASE_PASSWORD}" in str(told.value)
    with pytest.raises(AttuneError) as told:
        make_recipe({"name": "claims", "task": "text_classification", "data": {"path": "rows.csv"}, "seed": address}, folder=tmp_path)
    assert "s3cret" not in str(told.value), "nor where the address stands in a wrong place"


@pytest.mark.parametrize("address", ["sqlite:///rows.db", "postgresql://bob@host/base", "postgresql://bob:${PW}@host:5432/base?sslmode=require&password=${PW}", "data/a:b@c.csv", "owner/name"])
def test_an_address_without_a_password_is_left_alone(address):
    assert hidden(address) == address


@pytest.mark.parametrize(
    ("line", "problem"), [("[1]", "a list where"), ("3", "a number where"), ("null", "null where"), ("true", "a truth value where"), ('{"a": ' + "9" * 5000 + "}", "more than 4,300 digits")]
)
def test_a_line_that_is_no_object_is_named_in_words(tmp_path, line, problem):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + line + "\n")
    [(place, said)] = problems(read("json", tmp_path, "a.jsonl"))
    assert place == "a.jsonl:2"
    assert problem in said


@pytest.mark.parametrize("at", [12, 20, 40, -5, -1])
def test_a_broken_gzip_file_is_told(tmp_path, at):
    packed = bytearray(gzip.compress(quoted(ROWS * 50).encode()))
    packed[at] ^= 0xFF
    (tmp_path / "a.csv.gz").write_bytes(bytes(packed))
    with pytest.raises(DataError, match="cannot be read") as told:
        read("csv", tmp_path, "a.csv.gz")
    assert "copy it again" in told.value.fix


def _saved(folder: Path, rows: list[dict[str, Any]]) -> None:
    """A folder as `datasets.Dataset.save_to_disk` writes it: Arrow stream, state and info."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": None}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}))


def test_huggingface_saved_folders(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    _saved(tmp_path / "one", rows)
    assert values(read("huggingface", tmp_path, "one")) == [("a", "pos"), ("b", "neg")]
    _saved(tmp_path / "many" / "train", rows)
    _saved(tmp_path / "many" / "test", rows[:1])
    (tmp_path / "many" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert source("huggingface").recognises("many", tmp_path)
    assert values(read("huggingface", tmp_path, "many")) == [("a", "pos", "train"), ("b", "neg", "train"), ("a", "pos", "test")]
    assert values(read({"name": "huggingface", "split": "test"}, tmp_path, "many")) == [("a", "pos", "test")]
    with pytest.raises(DataError, match="there is no split 'x'"):
        read({"name": "huggingface", "split": "x"}, tmp_path, "many")
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"torn")
    with pytest.raises(DataError, match="not whole"):
        read("huggingface", tmp_path, "one")


def test_huggingface_id_without_the_package_or_the_rows_says_what_to_do(tmp_path):
    with pytest.raises((MachineError, DataError)) as error:
        read("huggingface", tmp_path, "owner/name")
    assert error.value.fix
    assert source("huggingface").fingerprint("owner/name", tmp_path) is None
    assert source({"name": "huggingface", "revision": "abc"}).fingerprint("owner/name", tmp_path) is not None


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"PK\x03\x04\x14\x00\x06\x00[Content_Types].xml ... xl/workbook.xml", "Excel workbook"),
        (b"PK\x03\x04\x14\x00\x06\x00rows.csv", "zip archive"),
        (b"%PDF-1.7\n1 0 obj", "PDF"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "web page"),
        (b'[{"text": "a", "label": "b"}]', "JSON"),
        (b'{"text": "a", "label": "b"}\n', "JSON"),
    ],
)
def test_a_file_that_only_calls_itself_csv_is_named_for_what_it_is(tmp_path, start, words):
    (tmp_path / "rows.csv").write_bytes(start)
    with pytest.raises(DataError, match=words) as told:
        read("csv", tmp_path, "rows.csv")
    assert told.value.fix


@pytest.mark.parametrize("first", ["{name},kind", "<b>,kind", "PK,kind", "[id],kind"])
def test_a_table_with_an_odd_header_is_still_a_table(tmp_path, first):
    (tmp_path / "rows.csv").write_text(f"{first}\na,b\nc,d\n")
    assert len(read("csv", tmp_path, "rows.csv")) == 2
