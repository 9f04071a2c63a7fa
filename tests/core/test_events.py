"""Run events: every line whole, whoever writes at the same time and whatever a crash tore."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from attune.core.events import HELD, Events, read_events


def test_events_are_written_and_passed_on_and_progress_is_only_passed_on(tmp_path):
    heard = []
    events = Events(tmp_path / "deep" / "events.jsonl", [heard.append])
    events.note("größer", rows=3)
    events.warn("careful", place="a:1")
    assert list(events.track(["x", "y"], "rows", 2)) == ["x", "y"]
    events.emit("stage", "curate", state="finished")
    written = read_events(tmp_path / "deep" / "events.jsonl")
    assert [(e["kind"], e["message"]) for e in written] == [("note", "größer"), ("warning", "careful"), ("stage", "curate")]
    assert written[0]["rows"] == 3
    assert [(e["kind"], e.get("done")) for e in heard] == [("note", None), ("warning", None), ("progress", 1), ("progress", 2), ("stage", None)]


def test_what_was_said_before_the_file_was_known_is_written_first(tmp_path):
    events = Events()
    for number in range(HELD + 5):
        events.note(str(number))
    events.write_to(tmp_path / "e.jsonl")
    events.note("last")
    written = [event["message"] for event in read_events(tmp_path / "e.jsonl")]
    assert written == [*map(str, range(5, HELD + 5)), "last"]  # a bounded memory keeps the newest


def test_a_torn_last_line_costs_only_itself(tmp_path):
    path = tmp_path / "e.jsonl"
    events = Events(path)
    events.note("one")
    with path.open("a") as stream:
        stream.write('{"at": 1, "kind": "no')  # a crash in the middle of a line
    events.note("two")
    Events(path).note("three")
    assert [event["message"] for event in read_events(path)] == ["one", "two", "three"]


def test_threads_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "e.jsonl"

    def write(number: int) -> None:
        events = Events(path)
        for turn in range(50):
            events.note(f"{number}-{turn}", filler="x" * 20_000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_text().splitlines()
    assert len(lines) == 300
    assert {json.loads(line)["message"] for line in lines} == {f"{a}-{b}" for a in range(6) for b in range(50)}


def test_what_is_not_json_is_written_as_text_and_half_a_surrogate_does_no_harm(tmp_path):
    events = Events(tmp_path / "e.jsonl")
    events.note("path", where=tmp_path)
    events.note("\ud800")
    written = read_events(tmp_path / "e.jsonl")
    assert written[0]["where"] == str(tmp_path)
    assert len(written) == 2


def test_a_full_disk_holds_events_back_and_loses_none(tmp_path):
    heard = []
    events = Events(Path("/dev/full"), [heard.append])  # every write there finds no room
    events.note("one")
    events.note("two")
    events.path = tmp_path / "e.jsonl"
    events.note("three")
    assert [event["message"] for event in read_events(tmp_path / "e.jsonl")] == ["one", "two", "three"]
    assert len(heard) == 3


def test_another_fault_of_the_disk_is_not_held_back(tmp_path):
    events = Events(tmp_path / "e.jsonl")
    (tmp_path / "e.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        events.note("one")
