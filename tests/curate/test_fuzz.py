"""Any bytes may come in: nothing crashes, every record is accounted for, and rows that were not touched survive."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attune.core import catalog
from attune.core.contracts import RawRecord
from attune.core.errors import DataError
from attune.core.events import Events
from attune.core.recipe import make_recipe
from attune.core.workspace import Workspace
from attune.stages import curate as stage
from tests.curate.conftest import as_csv, clean_rows

CSV = as_csv(clean_rows()).encode()
JSONL = "\n".join(json.dumps({"text": text, "label": label}) for text, label in clean_rows()).encode()
PIECES = [
    b'"',
    b",",
    b"\n",
    b"\r\n",
    b"\x00",
    b"\xff",
    b"\xe2\x80\x8b",
    b"\xe9",
    b'""',
    b",,,",
    b"{",
    b"}",
    b"[",
    b"NaN",
    b"\\ud800",
    b"\t",
    b'"text"',
    b"\xef\xbb\xbf",
    b"1e999",
    b"9" * 400,
    b"\xf0\x9f\x98\x80",
]
mutations = st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 6), st.sampled_from(PIECES) | st.binary(max_size=4)), min_size=1, max_size=8)
quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def mutate(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, cut, piece in changes:
        place = at % (len(data) + 1)
        data = data[:place] + piece + data[place + cut :]
    return data


def read_all(source: str, name: str, data: bytes) -> list[RawRecord]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        return list(catalog.build("sources", source).read(name, Path(folder)))


@pytest.mark.parametrize(("source", "name", "data"), [("csv", "rows.csv", CSV), ("json", "rows.jsonl", JSONL), ("json", "rows.json", b"[" + JSONL.replace(b"\n", b",\n") + b"]")])
def test_sources_survive_mutated_bytes(source, name, data):
    @quick
    @given(mutations)
    def check(changes):
        try:
            records = read_all(source, name, mutate(data, changes))
        except DataError:
            return
        places = [record.place for record in records]
        assert len(places) == len(set(places))
        for record in records:
            assert (record.values is None) == (record.problem is not None)
            assert record.problem is None or record.fix

    check()


@pytest.mark.parametrize(("name", "data"), [("rows.csv", CSV), ("rows.jsonl", JSONL)])
def test_one_mutation_costs_few_rows_and_the_counts_add_up(name, data):
    @settings(quick, max_examples=12)
    @given(mutations)
    def check(changes):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(mutate(data, changes))
            recipe = make_recipe({"name": "t", "task": "text_classification", "data": {"path": name}}, folder=Path(folder))
            workspace = Workspace(Path(folder) / "workspace")
            try:
                counts = stage.run(recipe, workspace, Events()).counts
            except DataError:
                return
            finally:
                workspace.close()
            assert counts["read"] == counts["kept"] + counts["repaired"] + counts["quarantined"]
            assert counts["kept"] + counts["repaired"] == counts["train"] + counts["validation"] + counts["test"]

    check()


@quick
@given(st.integers(1, 178), st.sampled_from(['"never closed,refund', "a,b,c", "x\x00y,refund", "", "lonely", '"closed"then,refund', '"""odd,refund']))
def test_one_broken_csv_line_costs_no_other_row(at, broken):
    lines = CSV.decode().splitlines()
    lines.insert(at, broken)
    records = read_all("csv", "rows.csv", "\n".join(lines).encode())
    good = [(r.values["text"], r.values["label"]) for r in records if r.values]
    assert good == clean_rows()
    assert [r.place for r in records if r.problem] == [f"rows.csv:{at + 1}"]


@quick
@given(st.integers(0, 179), st.sampled_from(['{"text": "a", "label": "b"', '{"text": NaN, "label": "b"}', '{"text": "a", "text": "b", "label": "c"}', "[1, 2]", "null", '"text"', "", "{'text': 'a'}"]))
def test_one_broken_json_line_costs_no_other_row(at, broken):
    lines = JSONL.decode().splitlines()
    lines.insert(at, broken)
    records = read_all("json", "rows.jsonl", "\n".join(lines).encode())
    assert [(r.values["text"], r.values["label"]) for r in records if r.values] == clean_rows()
    assert [r.place for r in records if r.problem] == [f"rows.jsonl:{at + 1}"]
