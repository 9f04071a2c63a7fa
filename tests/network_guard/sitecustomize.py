"""Keeps a Python process on this machine: every attempt to reach anything but loopback is written to a report file and refused.

`tests/conftest.py` imports it into the test process and puts this folder on PYTHONPATH, so that every Python program a test starts
imports it too (Python does so by the file's name). Without ATTUNE_TEST_NETWORK_REPORT it does nothing.
"""

import ipaddress
import os
import socket
import sys

_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


def is_local(host: object) -> bool:
    """True for loopback names and addresses, and for the wildcard addresses that servers bind."""
    if host is None:
        return True
    name = host.decode("utf-8", "replace") if isinstance(host, bytes) else str(host)
    if name in ("", "localhost", "localhost.localdomain"):
        return True
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _wanted(event: str, arguments: tuple[object, ...]) -> object:
    """The host an audited call wants to reach; None when it stays on this machine by its nature."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        return arguments[0]
    target = arguments[1] if event.startswith(("socket.connect", "socket.send")) else arguments[0]
    own = arguments[0]
    if isinstance(own, socket.socket) and own.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return target[0] if isinstance(target, tuple) else target


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _EVENTS:
        return
    report = os.environ.get("ATTUNE_TEST_NETWORK_REPORT")
    host = _wanted(event, arguments)
    if not report or is_local(host):
        return
    with open(report, "a", encoding="utf-8") as stream:
        stream.write(f"{event} -> {host!r} (process {os.getpid()})\n")
    raise PermissionError(f"tests may reach loopback only, not {host!r} ({event})")


if os.environ.get("ATTUNE_TEST_NETWORK_REPORT"):
    sys.addaudithook(_watch)
