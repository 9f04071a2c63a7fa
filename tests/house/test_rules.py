"""The house's rules over every file of the package, each with an offence planted to show that it bites."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.house import rules

FILES = rules.python_files()
SCRIPT = "catalog/exports/_transformers_predict.py"
"""A program of its own that leaves with an export, which may speak for itself."""


def name(path: Path) -> str:
    return path.relative_to(rules.SOURCE).as_posix()


def offences(rule: Callable[[str], Iterable[str]], files: Iterable[Path]) -> list[str]:
    return [f"{name(path)}: {one}" for path in files for one in rule(path.read_text(encoding="utf-8"))]


def test_there_are_files() -> None:
    assert len(FILES) > 80
    assert rules.CATALOG / "metrics" / "accuracy.py" in FILES


@pytest.mark.parametrize("rule", [rules.forbidden_calls, rules.swallowed, rules.undocumented, rules.left_open], ids=lambda rule: rule.__name__)
def test_every_file_keeps(rule: Callable[[str], Iterable[str]]) -> None:
    assert offences(rule, FILES) == []


def test_only_the_command_line_prints() -> None:
    assert offences(rules.prints, [path for path in FILES if not name(path).startswith("cli/") and name(path) != SCRIPT]) == []


def test_no_file_outside_the_catalog_lists_plugs_or_asks_for_their_names() -> None:
    names = rules.plug_names()
    assert sum(map(len, names.values())) > 30
    assert offences(lambda text: rules.central_lists(text, names), [path for path in FILES if rules.CATALOG not in path.parents]) == []


def test_only_the_catalog_and_worlds_for_tests_choose_a_plug_by_its_name() -> None:
    names = rules.plug_names()
    assert offences(lambda text: rules.chosen_plugs(text, names), [path for path in FILES if not name(path).startswith(("catalog/", "testing/"))]) == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_stay_small(path: Path) -> None:
    assert list(rules.too_long(path, path.read_text(encoding="utf-8"))) == []


PLANTED = [
    (rules.forbidden_calls, "import pickle"),
    (rules.forbidden_calls, "from joblib import load"),
    (rules.forbidden_calls, "torch.load(path)"),
    (rules.forbidden_calls, "yaml.load(text)"),
    (rules.forbidden_calls, "eval('1')"),
    (rules.forbidden_calls, "os.system('ls')"),
    (rules.forbidden_calls, "subprocess.run('ls', shell=True)"),
    (rules.forbidden_calls, "f(trust_remote_code=False)"),
    (rules.swallowed, "try:\n    f()\nexcept Exception:\n    pass"),
    (rules.swallowed, "try:\n    f()\nexcept:\n    pass"),
    (rules.undocumented, '"""A module."""\ndef f():\n    return 1'),
    (rules.undocumented, '"""A module."""\nclass A:\n    """A class."""\n    def f(self):\n        return 1'),
    (rules.undocumented, "x = 1"),
    (rules.left_open, "x = 1  # TO" + "DO: later"),
    (rules.left_open, "raise NotImplemented" + "Error"),
    (rules.prints, "print('x')"),
    (rules.machine_traces, "see /wor" + "k/main/x"),
    (rules.machine_traces, "open('/home/" + "jane/rows.csv')"),
    (rules.machine_traces, "pip install --index-" + "url x"),
]


@pytest.mark.parametrize(("rule", "text"), PLANTED, ids=[f"{rule.__name__}-{number}" for number, (rule, _) in enumerate(PLANTED)])
def test_a_planted_offence_is_seen(rule: Callable[[str], Iterable[str]], text: str) -> None:
    assert list(rule(text))


CLEAN = '"""A module."""\nimport json\nfrom pathlib import Path\n\n\ndef read(path: Path) -> dict:\n    """Read it."""\n    model.eval()\n    return json.load(path)\n'


@pytest.mark.parametrize("rule", [rules.forbidden_calls, rules.swallowed, rules.undocumented, rules.left_open, rules.prints, rules.machine_traces], ids=lambda rule: rule.__name__)
def test_a_clean_file_is_left_alone(rule: Callable[[str], Iterable[str]]) -> None:
    assert list(rule(CLEAN)) == []


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("X = ['lora', 'full']", True),
        ("X = {'accuracy': 1, 'f1_macro': 2}", True),
        ("X = {'raw text': 'pretraining', 'pairs': 'dpo'}", True),
        ("if method.name == 'lora':\n    pass", True),
        ("if 'embedding' == recipe.task:\n    pass", True),
        ("X = ['lora', 'accuracy']", False),
        ("x = 'lora'", False),
        ("if column.dtype == 'json':\n    pass", False),
    ],
)
def test_central_lists_are_seen(text: str, seen: bool) -> None:
    assert bool(list(rules.central_lists(text, rules.plug_names()))) == seen


@pytest.mark.parametrize(("text", "seen"), [("X = (('method=lora', {'method': 'lora'}),)", True), ("X = {'place': 'lora'}", False), ("X = {'method': 'other'}", False)])
def test_a_plug_that_is_chosen_by_its_name_is_seen(text: str, seen: bool) -> None:
    assert bool(list(rules.chosen_plugs(text, rules.plug_names()))) == seen


def test_size_limits_bite() -> None:
    assert list(rules.too_long(rules.SOURCE / "stages" / "x.py", "\n" * 500))
    assert list(rules.too_long(rules.CATALOG / "tasks" / "x.py", "\n" * 260))
    assert not list(rules.too_long(rules.SOURCE / "stages" / "x.py", "\n" * 499))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=rules.REPOSITORY, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [rules.REPOSITORY / one for one in listed.stdout.decode().split("\0") if one]


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    found = []
    for path in tracked():
        if path.is_file() and path.stat().st_size < 2_000_000:
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            found += [f"{path.relative_to(rules.REPOSITORY)}: {one}" for one in rules.machine_traces(text)]
    assert found == []


def test_tracked_files_are_small() -> None:
    assert [path.name for path in tracked() if path.is_file() and path.stat().st_size > 1_500_000] == []
