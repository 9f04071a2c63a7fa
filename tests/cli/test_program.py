"""The program around the verbs: help, errors, exit codes, and nothing heavy before it is needed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attune.cli import program, verbs
from attune.cli.screen import Screen
from attune.core.errors import DataError

HEAVY = ("torch", "transformers", "sklearn", "sqlalchemy", "pydantic", "matplotlib", "numpy", "pyarrow", "fastapi", "ruamel", "peft", "scipy")
VERBS = ["init", "check", "run", "curate", "finetune", "grade", "register", "promote", "rollback", "serve", "watch", "predict", "export", "list", "show", "doctor"]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def imported_by(*arguments: str) -> set[str]:
    """Top-level modules that a command has imported when it is done, and every plug."""
    code = f"import sys\nfrom attune.cli.program import run\nrun({list(arguments)!r})\nprint('MODULES', *sorted(sys.modules), file=sys.stderr)"
    done = python(code)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("MODULES")[2].split())


def test_the_folder_is_the_list_and_the_help_is_in_the_order_of_the_cycle(attune):
    files = {path.stem for path in Path(verbs.__path__[0]).glob("*.py")} - {"__init__"}
    assert files == set(VERBS)
    shown = re.findall(r"^│ ([a-z]+) {2,}", attune("--help").out, flags=re.MULTILINE)
    assert shown == VERBS
    assert attune().out == attune("--help").out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_the_common_options(attune, verb):
    answer = attune(verb, "--help")
    assert answer.code == 0
    assert f"attune {verb}" in answer.out.partition("Examples")[2]
    for option in ("--json", "--quiet", "--workspace"):
        assert option in answer.out


def test_help_imports_nothing_heavy():
    modules = {name.split(".")[0] for name in imported_by("--help")}
    assert not modules & set(HEAVY)


def test_list_imports_no_plug():
    modules = imported_by("list", "--json")
    assert not {name for name in modules if name.startswith("attune.catalog.")}
    assert not {name.split(".")[0] for name in modules} & (set(HEAVY) - {"pydantic"})


def test_version(attune):
    import attune as package

    assert attune("--version").out.strip() == package.__version__
    for words in (("--json", "--version"), ("--version", "--json")):
        assert attune(*words).json == {"version": package.__version__}


def test_json_may_stand_before_the_verb():
    from attune.cli.program import _json_behind_the_verb as moved

    assert moved(["--json", "list", "-q"]) == ["list", "--json", "-q"]
    for same in (["list", "--json"], ["--json", "--version"], ["predict", "x", "--", "--json"], []):
        assert moved(same) == same


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("train", "finetune"),
        ("eval", "grade"),
        ("evaluate", "grade"),
        ("test", "grade"),
        ("monitor", "watch"),
        ("deploy", "serve"),
        ("start", "serve"),
        ("infer", "predict"),
        ("new", "init"),
        ("ls", "list"),
        ("plugs", "list"),
        ("publish", "register"),
        ("finetun", "finetune"),
        ("evalute", "grade"),
        ("TRAIN", "finetune"),
    ],
)
def test_what_people_type_elsewhere_leads_to_the_verb(attune, said, meant):
    answer = attune(said, "recipe.yaml")
    assert answer.code == 2
    assert f"there is no verb '{said}'" in answer.err
    assert f"did you mean `attune {meant}`?" in answer.err
    assert answer.out == ""


def test_every_synonym_leads_to_a_verb_that_exists():
    assert set(program.SYNONYMS.values()) <= set(VERBS)
    assert not set(program.SYNONYMS) & set(VERBS)


def test_a_word_that_nobody_knows(attune):
    assert "`attune --help` lists the verbs" in attune("xyzzy").err


@pytest.mark.parametrize(("arguments", "what"), [(("list", "--jsn"), "--json"), (("run",), "RECIPE"), (("promote",), "NAME|ID"), (("serve", "x", "--port", "many"), "many"), (("list", "a", "b"), "b")])
def test_wrong_options_say_what_is_wrong_and_where_help_is(attune, arguments, what):
    answer = attune(*arguments)
    assert answer.code == 2
    assert what in answer.err
    assert f"`attune {arguments[0]} --help`" in answer.err


def test_errors_are_one_document_with_json(attune):
    answer = attune("run", "nothing", "--json")
    assert answer.code == 2
    assert answer.json["error"] == "RecipeError"
    assert answer.json["exit_code"] == 2
    assert answer.json["fix"]
    assert answer.err == ""
    assert attune("xyzzy", "--json").json["what"] == "there is no verb 'xyzzy'"
    assert attune("list", "--jsn", "--json").json["exit_code"] == 2


def _list_that(monkeypatch, error):
    def entries(kind=None):
        raise error

    monkeypatch.setattr("attune.core.catalog.entries", entries)


def test_the_class_of_an_error_decides_the_exit_code(attune, monkeypatch):
    _list_that(monkeypatch, DataError("rows are wrong", place="a.csv:3", fix="mend them"))
    answer = attune("list")
    assert answer.code == DataError.exit_code
    assert answer.err.splitlines() == ["error: a.csv:3: rows are wrong", "  -> mend them"]


def test_the_unexpected_is_short_and_names_the_full_report(attune, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    _list_that(monkeypatch, ZeroDivisionError("a secret of the code"))
    answer = attune("list")
    assert answer.code == 70
    assert "this should not have happened: ZeroDivisionError: a secret of the code" in answer.err
    [log] = tmp_path.glob("attune-error-*.txt")
    assert str(log) in answer.err
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    machine = attune("list", "--json")
    assert machine.code == 70
    assert Path(machine.json["log"]).is_file()


def test_the_unexpected_in_a_run_is_reported_in_the_run_folder(tmp_path, capsys):
    Screen.current = Screen()
    Screen.current.run_folder = tmp_path
    assert program._unexpected(RuntimeError("x"), as_json=False) == 70
    [log] = tmp_path.glob("error-*.txt")
    assert str(log) in capsys.readouterr().err
    Screen.current = None


def test_ctrl_c(attune, monkeypatch):
    _list_that(monkeypatch, KeyboardInterrupt())
    answer = attune("list")
    assert answer.code == 130
    assert "the same command goes on where it stands" in answer.err


def test_sigterm_ends_like_ctrl_c(attune, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def entries(kind=None):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("attune.core.catalog.entries", entries)
    answer = attune("list")
    assert answer.code == 143
    assert "the same command goes on where it stands" in answer.err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (OSError(28, "No space left on device", "/somewhere"), "the disk is full: /somewhere"),
        (PermissionError(13, "Permission denied", "/somewhere"), "/somewhere: no permission"),
        (MemoryError(), "memory is used up"),
    ],
)
def test_the_machine_s_limits_have_a_way_out(attune, monkeypatch, error, what):
    _list_that(monkeypatch, error)
    answer = attune("list")
    assert answer.code == 7
    assert what in answer.err
    assert "->" in answer.err


def test_a_pipe_that_closes_early_is_no_error():
    command = f"{sys.executable} -m attune list | head -n 2"
    done = subprocess.run(["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_module_and_script_are_one_program():
    done = subprocess.run([sys.executable, "-m", "attune", "list", "tasks", "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0
    assert "text_classification" in [entry["name"] for entry in json.loads(done.stdout)]
