"""Programs that a model wrote, run against unit tests in a process that can do nothing else. Linux, without being root.

What the jail is: a child process in an empty folder of its own, with an empty environment, which (1) has limits on processor time, wall time,
memory, open files and file size; (2) stands in a network namespace of its own without interfaces, where the kernel grants one; (3) cannot make
sockets, processes, or programs run, nor signal or trace others (seccomp); (4) cannot open a file outside Python, its libraries and its own folder,
and can write only in that folder (Landlock). Before the first program is run, `holds` tries to break out in each of these ways; where the network,
new processes or foreign files are not shut off, nothing is run. It ends with everything it started, when it is done or its time is up.

What the jail is not: a virtual machine. It shares the kernel, so a fault of the kernel is a way out; it sees the machine's name and clock, and
takes processor time while it runs. Programs by an adversary, other than by a model that makes mistakes, belong in a machine of their own.

Nor is it a judge that cannot be fooled: a program and its tests run in one interpreter, so a program that wants to can make its tests pass (an object
that equals everything), or find the word that says that they are through, which is a secret only from programs that do not look for it. A reward by
unit tests may teach such tricks where the tests are few: read answers that are paid, and grade with tests that the reward does not use.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from attune.core.errors import MachineError

CHILD = Path(__file__).with_name("jail_child.py")
MOST_OUTPUT = 1 << 20
"""Bytes that a program may print, and write into one file."""
SHOWN = 2000
"""Characters of its output that are kept."""
_ESCAPES = {
    "the network": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_STREAM).connect(('127.0.0.1', {port}))",
    "new processes": "import os\nif os.fork() == 0:\n    os._exit(0)",
    "other programs": "import os\nos.execv('/bin/true', ['true'])",
    "files of others": "open({secret!r}).read()",
    "writing elsewhere": "open({secret!r}, 'w').write('x')",
}
"""Ways out, each of which must fail with an error."""


@dataclass(frozen=True)
class Limits:
    """What one program may take."""

    seconds: float = 10.0
    memory_mb: int = 512


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    passed: bool
    """True only when the tests came to their end without an error."""
    reason: str
    """passed, failed, or out of time."""
    output: str
    """The end of what it printed, its error included."""


def run_tests(program: str, tests: str, limits: Limits | None = None) -> Outcome:
    """Run a program, then its tests in the same names, in the jail.

    Args:
        program: Python source; `__name__` is not '__main__'.
        tests: Python source that raises when something is wrong. A program that ends the process before they are through has failed.
        limits: time and memory.

    Raises:
        MachineError: this machine cannot shut the jail.
    """
    broken = holds()
    if broken:
        raise MachineError(
            f"programs that a model wrote are not run here: the jail does not shut off {', '.join(broken)}",
            place="jail",
            fix="use Linux 5.13 or later on x86-64 or ARM with user namespaces, seccomp and Landlock (most containers have them), or leave out what runs programs",
        )
    return _run(program, tests, limits or Limits())


def _run(program: str, tests: str, limits: Limits) -> Outcome:
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="attune-jail-") as room, tempfile.TemporaryFile() as output:
        folder = Path(room) / "work"
        folder.mkdir()
        reading, writing = os.pipe()
        try:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(CHILD), str(writing)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={"LANG": "C.UTF-8"},
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        order = {**asdict(limits), "program": program, "tests": tests, "word": word, "most_output": MOST_OUTPUT, "roots": _roots()}
        late = False
        try:
            child.communicate(json.dumps(order).encode(), timeout=limits.seconds + 5)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _kill(child)
            with os.fdopen(reading, "rb") as pipe:
                said = pipe.read(len(word) + 1).decode(errors="replace")
        output.seek(0, os.SEEK_END)
        output.seek(max(0, output.tell() - 4 * SHOWN))
        shown = output.read().decode(errors="replace")[-SHOWN:]
    passed = said == word and not late
    late = late or child.returncode in (-signal.SIGXCPU, -signal.SIGALRM)
    return Outcome(passed, "passed" if passed else "out of time" if late else "failed", shown)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever is in its session; the jail lets it start nothing, so this is the second lock."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended, and nobody is left of its group
    finally:
        child.wait()


def _roots() -> list[str]:
    """Folders that a program may read: Python itself and the system's libraries."""
    wanted = (sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.__file__), "/usr/lib", "/lib", "/lib64", "/usr/lib64", "/usr/share/zoneinfo")
    home = os.path.realpath(os.path.expanduser("~")) + "/"
    folders = {os.path.realpath(one) for one in wanted if os.path.isdir(one)}
    return sorted(one for one in folders if not home.startswith(one.rstrip("/") + "/"))


@lru_cache(maxsize=1)
def holds() -> tuple[str, ...]:
    """What the jail fails to shut off on this machine, tried out once; empty: it holds."""
    import socket

    if not sys.platform.startswith("linux"):
        return ("anything: this is no Linux",)
    limits, found = Limits(10.0), []
    with tempfile.TemporaryDirectory() as room, socket.create_server(("127.0.0.1", 0)) as server:
        secret = Path(room) / "secret"
        secret.write_text("secret")
        for name, way in _ESCAPES.items():
            attempt = way.format(port=server.getsockname()[1], secret=str(secret))
            body = "\n".join(f"    {line}" for line in attempt.splitlines())
            if not _run("", f"try:\n{body}\nexcept OSError:\n    pass\nelse:\n    raise SystemExit('out')", limits).passed:
                found.append(name)
    return tuple(found)
