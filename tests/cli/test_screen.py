"""Output: results on stdout, talk on stderr; a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from attune.cli.live import Live, clock
from attune.cli.screen import Screen, at_settings, console, json_text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def event(kind, message, at, **facts):
    return {"kind": kind, "message": message, "at": at, **facts}


def played(stream):
    live = Live(console(stream))
    live.hear(event("stage", "curate", 0.0, state="unchanged", record="x"))
    live.hear(event("stage", "finetune", 0.0, state="started"))
    for step in range(0, 101):
        live.hear(event("progress", "train", float(step), done=step, total=100, loss=1 - step / 200, learning_rate=0.001))
    live.hear(event("stage", "finetune", 101.0, state="finished", record="y"))
    live.stop()
    return stream.getvalue()


def test_plain_lines_tell_how_far_how_fast_and_how_long_still():
    lines = played(io.StringIO()).splitlines()
    assert lines[0] == "curate    unchanged"
    assert lines[1] == "finetune: train 10/100 · 1/s · 1:30 left · loss 0.95 · learning rate 0.001"
    assert lines[-1] == "finetune  101.0 s"
    assert len(lines) == 12


def test_a_long_thing_does_not_fill_a_log():
    stream = io.StringIO()
    live = Live(console(stream))
    for step in range(3601):
        live.hear(event("progress", "train", float(step), done=step, total=3600))
    assert 5 < len(stream.getvalue().splitlines()) < 50


def test_a_look_at_the_validation_rows_has_its_own_line_and_training_keeps_its_rate():
    """Training makes a step a second; every ten steps it waits six seconds for three validation rows."""
    stream, at = io.StringIO(), 0.0
    live = Live(console(stream))
    live.hear(event("stage", "finetune", at, state="started"))
    for step in range(41):
        live.hear(event("progress", "train", at, done=step, total=100))
        for row in range(4 if step and step % 10 == 0 else 0):
            at += 2 if row else 0
            live.hear(event("progress", "validation: writes answers", at, done=row, total=3))
        at += 1
    lines = stream.getvalue().splitlines()
    assert "finetune: train 20/100 · 1/s · 1:20 left" in lines
    assert "finetune: train 40/100 · 1/s · 1:00 left" in lines
    assert sum("validation: writes answers 3/3 · 0.5/s" in line for line in lines) == 4


def test_what_is_quick_is_not_talked_about():
    stream = io.StringIO()
    live = Live(console(stream))
    for step in range(50):
        live.hear(event("progress", "rows", step * 0.02, done=step + 1, total=50))
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_and_a_tick():
    text = played(Terminal())
    assert "\x1b[" in text
    assert "✓ finetune" in text


def test_no_color_is_honoured_on_a_terminal(monkeypatch):
    coloured, plain = Terminal(), Terminal()
    console(coloured).print("x", style="red")
    monkeypatch.setenv("NO_COLOR", "1")
    console(plain).print("x", style="red")
    assert "\x1b[31m" in coloured.getvalue()
    assert "\x1b[31m" not in plain.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01"), (360000, "100:00:00")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_text_is_printed_as_it_is():
    stream = io.StringIO()
    console(stream).print("[bold]not markup[/bold] :smile: [1, 2]")
    assert stream.getvalue() == "[bold]not markup[/bold] :smile: [1, 2]\n"


def test_quiet_and_json(capsys):
    quiet = Screen(quiet=True)
    quiet.show("result")
    quiet.note("talk")
    quiet.warn("danger")
    quiet.hear(event("note", "talk", 0.0))
    said = capsys.readouterr()
    assert said.out == "result\n"
    assert said.err == "warning: danger\n"
    machine = Screen(as_json=True)
    machine.show("result")
    machine.note("talk")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "talk\n"


def test_long_lines_are_not_broken_where_there_is_no_terminal(capsys):
    Screen().show("x" * 500)
    Screen().note("y " * 300)
    said = capsys.readouterr()
    assert said.out == "x" * 500 + "\n"
    assert said.err.count("\n") == 1


def test_tables_carry_no_trailing_spaces(capsys):
    from attune.cli.tables import add, table

    made = table("a", "b")
    add(made, "1", "[not markup]")
    add(made, "a long cell", "")
    Screen().show(made)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [line.rstrip() for line in lines]
    assert "[not markup]" in lines[1]


def test_the_run_folder_is_remembered_for_error_reports(tmp_path):
    screen = Screen()
    screen.hear(event("run", "claims-1", 0.0, folder=str(tmp_path)))
    assert screen.run_folder == tmp_path


def test_console_type():
    assert isinstance(Screen().out, Console)


EVIL = "a\x1b]0;owned\x07b\x9b2Jc\u202ed\re [bold]f[/bold]"
READABLE = "a\\x1b]0;owned\\x07b\\x9b2Jc\\u202ed\\x0de [bold]f[/bold]"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_data_cannot_command_the_terminal(monkeypatch, stream):
    from attune.cli.tables import add, facts, table

    monkeypatch.setenv("NO_COLOR", "1")
    made = table("a")
    add(made, EVIL)
    for part in (EVIL, made, facts([("text", EVIL)])):
        out = stream()
        screen = Screen()
        screen._out = console(out)
        screen.show(part)
        screen.close()
        said = out.getvalue()
        assert READABLE in said, said
        assert not any(sign in said.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "") for sign in "\x1b\x07\x9b\u202e\r"), repr(said)


def test_errors_and_warnings_cannot_command_the_terminal(capsys):
    Screen().warn(EVIL)
    Screen.error(EVIL)
    said = capsys.readouterr().err
    assert not any(sign in said for sign in "\x1b\x07\x9b\u202e")
    assert said.count("\\x1b]0;owned") == 2


def test_ordinary_texts_stay_as_they_are(capsys):
    Screen().show("größer\t漢字 🙂 שלום")
    assert capsys.readouterr().out.split() == ["größer", "漢字", "🙂", "שלום"]


def test_json_cannot_command_the_terminal_and_parses_to_the_same():
    document = {"text": EVIL + "\u200f\u2066 größer 漢字 שלום \ud800", "list": ["\x9b2J"]}
    text = json_text(document)
    assert json.loads(text) == document
    assert not any(sign in text for sign in "\x1b\x07\x9b\u202e\u200f\u2066\ud800")
    assert "\\u009b" in text
    assert "\\u202e" in text
    assert "größer 漢字 שלום" in text
    assert json_text({"a": 1}, None) == '{"a": 1}'


def test_plain_json_would_command_the_terminal():
    """The must-fail twin: what the standard writer lets through."""
    assert "\x9b" in json.dumps(EVIL, ensure_ascii=False)


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("base_model", "--set base_model"),
        ("grade.rivals.0", "--set grade.rivals.0"),
        ("data.splits", "--set data.splits.test"),
        ("train.epochs", "train.epochs"),
        ("base_model_of", "base_model_of"),
        ("--set base_model", "--set base_model"),
        (None, None),
    ],
)
def test_an_error_about_a_setting_says_so(place, shown):
    from attune.core.errors import DataError

    settings = ("base_model=x", "grade.rivals=[a]", "data.splits.test=0.1")
    assert at_settings(DataError("wrong", place=place), settings).place == shown
