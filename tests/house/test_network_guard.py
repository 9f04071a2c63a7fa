"""No test may reach anything but loopback: the guard lets loopback through and fails whoever goes further."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent


def inner_run(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run one test file under a copy of our conftest, in a process of its own."""
    shutil.copytree(TESTS / "network_guard", folder / "tests" / "network_guard", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TESTS / "conftest.py", folder / "tests" / "conftest.py")
    (folder / "tests" / "test_inner.py").write_text("import socket, subprocess, sys\n" + body)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "ATTUNE_"))}
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


REACHES = {
    "a connection": "socket.create_connection(('192.0.2.1', 9), timeout=1)",
    "a name look-up": "socket.getaddrinfo('example.invalid', 443)",
    "a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
    "a connection over IPv6": "socket.create_connection(('2001:db8::1', 9), timeout=1)",
}


@pytest.mark.parametrize("reach", list(REACHES.values()), ids=list(REACHES))
def test_a_test_that_reaches_further_fails_even_when_it_hides_the_error(tmp_path: Path, reach: str) -> None:
    ended = inner_run(tmp_path, f"def test_it():\n    try:\n        {reach}\n    except OSError:\n        return\n")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "the test reached for the network" in ended.stdout


def test_a_program_that_a_test_starts_is_watched_too(tmp_path: Path) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=1)"
    ended = inner_run(tmp_path, f"def test_it():\n    subprocess.run([sys.executable, '-c', {code!r}], capture_output=True, timeout=60)\n")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "the test reached for the network" in ended.stdout


def test_loopback_and_unix_sockets_pass(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), timeout=5):
            pass
    assert socket.getaddrinfo("localhost", 80)
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as calling:
        listening.bind(path)
        listening.listen()
        calling.connect(path)
