"""The inside of the jail: a program of its own, started by `jail.py` with an order on its standard input. It shuts every door, then runs what it was given.

It imports nothing of Attune, because it runs without its path.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import runpy
import signal
import sys
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_USER, NEW_NET = 0x10000000, 0x40000000
NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
ALLOW, REFUSE, ABSENT = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
THREAD = 0x00010000
"""The flag of `clone` that makes a thread rather than a process."""
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Audit name of the architecture, and its column below."""
CALLS = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "ptrace": (101, 117),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "setrlimit": (160, 164),
    "prlimit": (302, 261),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "io_uring_setup": (425, 425),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
}
"""Refused calls of the kernel by number, on x86-64 and on ARM."""
CLONE, CLONE3 = (56, 220), (435, 435)


class Step(ctypes.Structure):
    """One instruction of a filter (struct sock_filter)."""

    _fields_ = [("code", ctypes.c_ushort), ("true", ctypes.c_ubyte), ("false", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class Filter(ctypes.Structure):
    """A filter (struct sock_fprog)."""

    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.POINTER(Step))]


class Ruleset(ctypes.Structure):
    """What is forbidden unless a rule allows it (struct landlock_ruleset_attr, first field)."""

    _fields_ = [("files", ctypes.c_uint64)]


class Rule(ctypes.Structure):
    """What is allowed below a folder (struct landlock_path_beneath_attr)."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def limit(seconds: float, memory_mb: int, most_output: int) -> None:
    """Limits of the process; wall time ends it by an alarm."""
    whole = max(1, round(seconds + 0.5))
    for what, most in (
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_FSIZE, most_output),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))  # the first says by its signal why it ended
    signal.setitimer(signal.ITIMER_REAL, seconds)


def no_network() -> None:
    """A network of its own without interfaces, where the kernel grants one; refused sockets are the other lock."""
    LIBC.unshare(NEW_USER | NEW_NET)


def only_files(roots: list[str], own: str) -> None:
    """Landlock: read below `roots`, read and write below `own`, nothing else."""
    version = LIBC.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    every = (1 << (13 + (version >= 2) + (version >= 3))) - 1
    rules = LIBC.syscall(CREATE_RULESET, ctypes.byref(Ruleset(every)), ctypes.sizeof(Ruleset), 0)
    looks = EXECUTE | READ_FILE | READ_DIR
    allowed = [(own, every & ~EXECUTE), *((root, looks) for root in roots), ("/dev/null", READ_FILE | WRITE_FILE), ("/dev/urandom", READ_FILE)]
    for path, rights in allowed:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        LIBC.syscall(ADD_RULE, rules, 1, ctypes.byref(Rule(rights, folder)), 0)
        os.close(folder)
    LIBC.syscall(RESTRICT_SELF, rules, 0)
    os.close(rules)


def only_calls() -> None:
    """seccomp: refuse the calls above, and processes made by `clone`; `clone3` is absent, so that threads are made by `clone`."""
    if platform.machine() not in MACHINES:
        return
    audit, column = MACHINES[platform.machine()]
    load, equal, at_least, bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    steps = [(load, 0, 0, 4), (equal, 1, 0, audit), (end, 0, 0, REFUSE), (load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (end, 0, 0, REFUSE)]
    for number in (numbers[column] for numbers in CALLS.values()):
        if number is not None:
            steps += [(equal, 0, 1, number), (end, 0, 0, REFUSE)]
    steps += [(equal, 0, 1, CLONE3[column]), (end, 0, 0, ABSENT)]
    steps += [(equal, 0, 3, CLONE[column]), (load, 0, 0, 16), (bit, 1, 0, THREAD), (end, 0, 0, REFUSE)]
    steps += [(end, 0, 0, ALLOW)]
    made = (Step * len(steps))(*(Step(*one) for one in steps))
    LIBC.prctl(SET_SECCOMP, FILTER, ctypes.byref(Filter(len(steps), made)), 0, 0)


def main() -> None:
    """Read the order, shut the doors, run the program and its tests, and say the word when they are through."""
    order: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    word, pipe = order.pop("word").encode(), int(sys.argv[1])
    names = {"program": "program.py", "tests": "tests.py"}
    for part, name in names.items():
        with open(name, "w", encoding="utf-8") as file:
            file.write(order[part])
    sys.path[:] = [one for one in sys.path if one != os.path.dirname(os.path.abspath(__file__))]
    limit(order["seconds"], order["memory_mb"], order["most_output"])
    LIBC.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    no_network()
    only_files(order["roots"], os.getcwd())
    only_calls()
    there = runpy.run_path(names["program"], run_name="program")
    runpy.run_path(names["tests"], init_globals=there, run_name="tests")
    os.write(pipe, word)


if __name__ == "__main__":
    main()
