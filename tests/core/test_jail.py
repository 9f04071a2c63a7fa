"""The jail holds: what a program may do works, every way out is shut, and nothing is left when it ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from attune.core import jail
from attune.core.errors import MachineError
from attune.core.jail import Limits, run_tests

pytestmark = pytest.mark.skipif(bool(jail.holds()), reason=f"this machine cannot shut the jail: {', '.join(jail.holds())}")

USUAL = """
import collections, datetime, decimal, hashlib, heapq, itertools, json, math, random, re, statistics, string, threading, typing
def total(numbers):
    found = []
    thread = threading.Thread(target=lambda: found.append(sum(numbers)))
    thread.start(); thread.join()
    with open("note.txt", "w") as file:
        file.write(str(found[0]))
    return int(open("note.txt").read())
"""


def test_a_right_program_passes_and_a_wrong_one_does_not():
    assert run_tests(USUAL, "assert total([1, 2, 3]) == 6").passed
    wrong = run_tests(USUAL, "assert total([1, 2, 3]) == 7")
    assert (wrong.passed, wrong.reason) == (False, "failed")
    assert "AssertionError" in wrong.output


@pytest.mark.parametrize("program", ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "import signal, os; os.abort()", "def f(:", "raise KeyboardInterrupt"])
def test_a_program_that_ends_before_its_tests_has_failed(program):
    assert not run_tests(program, "").passed
    assert not run_tests("", program).passed


ESCAPES = {
    "a socket": "import socket; socket.socket()",
    "a name service": "import socket; socket.getaddrinfo('localhost', 80); socket.create_connection(('localhost', 80))",
    "a process": "import os; os.fork()",
    "a subprocess": "import subprocess; subprocess.run(['true'])",
    "a shell": "import os; assert os.system('true') == 0",
    "a program in its place": "import os; os.execv('/bin/true', ['true'])",
    "a signal to its parent": "import os; os.kill(os.getppid(), 0)",
    "a file of the system": "open('/etc/passwd').read()",
    "a file of the user": "import os; os.listdir('/home')",
    "the folder of temporary files": "open('/tmp/attune-jail-escape', 'w')",
    "the folder above": "import os; os.listdir('..')",
    "its limits": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (999, 999))",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_ways_out_are_shut(name):
    """Each would pass outside of the jail, or fail otherwise than by being refused."""
    outcome = run_tests(ESCAPES[name], "")
    assert not outcome.passed
    assert any(one in outcome.output for one in ("PermissionError", "not permitted", "AssertionError", "gaierror", "ValueError: not allowed")), outcome.output


def test_nothing_of_the_environment_is_seen(monkeypatch):
    monkeypatch.setenv("ATTUNE_TEST_SECRET", "secret")
    assert run_tests("import os", "assert 'ATTUNE_TEST_SECRET' not in os.environ and sorted(os.listdir('.')) == ['program.py', 'tests.py']").passed


@pytest.mark.parametrize(
    ("program", "reason"),
    [("while True: pass", "out of time"), ("import time; time.sleep(600)", "out of time"), ("import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\nwhile True: pass", "out of time")],
)
def test_time_is_limited(program, reason):
    begun = time.monotonic()
    assert run_tests(program, "", Limits(seconds=0.5)).reason == reason
    assert time.monotonic() - begun < 60


def test_memory_output_and_files_are_limited():
    assert "MemoryError" in run_tests("x = bytearray(400 << 20)", "", Limits(memory_mb=256)).output
    assert run_tests("x = bytearray(40 << 20)", "", Limits(memory_mb=256)).passed
    assert not run_tests("while True: print('x' * 100_000)", "").passed
    assert not run_tests("open('big', 'wb').write(bytes(8 << 20))", "").passed


@pytest.mark.parametrize(("lock", "broken"), [("only_calls()", "new processes"), ('only_files(order["roots"], os.getcwd())', "files of others")])
def test_a_jail_with_a_broken_lock_runs_nothing(monkeypatch, tmp_path, lock, broken):
    """The twin of a jail that is only believed to hold."""
    text = jail.CHILD.read_text(encoding="utf-8")
    assert f"    {lock}\n" in text
    other = tmp_path / "child.py"
    other.write_text(text.replace(f"    {lock}\n", "    pass\n"), encoding="utf-8")
    monkeypatch.setattr(jail, "CHILD", other)
    jail.holds.cache_clear()
    try:
        assert broken in jail.holds()
        with pytest.raises(MachineError, match="does not shut off"):
            run_tests("", "")
    finally:
        monkeypatch.undo()
        jail.holds.cache_clear()
    assert not jail.holds()


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_tests("open('x', 'w').write('x')", "")
    assert list(tmp_path.iterdir()) == []
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    assert sys.platform != "linux" or not children.is_file() or b"jail_child" not in b"".join(Path(f"/proc/{one}/cmdline").read_bytes() for one in children.read_text().split())
