"""What only a real server shows: swaps and stops under load lose nothing, what was acknowledged survives a kill, limits hold on the wire."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from attune.core.releases import open_release
from tests import releases
from tests.conftest import REPOSITORY
from tests.serve.conftest import all_releases, approve

PATIENCE = 120.0
"""Seconds after which a server that hangs fails the test; nothing is measured by it."""


class Server:
    """A server process of ours."""

    def __init__(self, root: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, "-m", "tests.serve.server_main", str(root)], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server did not start"
        self.facts: dict[str, Any] = json.loads(line)
        self.url = self.facts["url"]
        self.headers = {"Authorization": f"Bearer {self.facts['token']}"}

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={**self.headers, **more.pop("headers", {})}, timeout=PATIENCE, **more)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(workspace) -> Iterator[Server]:
    approve(workspace, 0)
    found = Server(workspace.root)
    yield found
    found.end()


class Load:
    """Threads that ask until they are told to stop, each request checked."""

    def __init__(self, server: Server, threads: int, *, keep_alive: bool) -> None:
        self.server = server
        self.keep_alive = keep_alive
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.turned_away = 0
        self.done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        limits = httpx.Limits() if self.keep_alive else httpx.Limits(max_keepalive_connections=0)
        with self.server.client(limits=limits) as client:
            for turn in range(20_000):
                if self.done.is_set():
                    return
                text = releases.QUESTIONS[(number + turn) % len(releases.QUESTIONS)]
                try:
                    answer = client.post("/v1/predict", json={"input": text})
                except httpx.ConnectError:  # the door is closed: this request was never accepted
                    self.turned_away += 1
                    if self.turned_away > 20:
                        return
                except httpx.HTTPError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                else:
                    if answer.status_code == 200:
                        self.answers.append({"text": text, **answer.json()})
                    else:
                        self.failures.append(f"{answer.status_code}: {answer.text}")

    def stop(self) -> None:
        self.done.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def wait_for(self, met: Any) -> None:
        """Until something holds of the answers so far."""
        end = time.monotonic() + PATIENCE
        while not met(self.answers) and not self.failures:
            assert time.monotonic() < end, "the answers did not come"
            time.sleep(0.02)


def test_swaps_under_load_fail_nobody_and_every_answer_says_who_gave_it(workspace, server):
    known = {one.id: one for one in all_releases(workspace)}
    offline = {
        id: {text: answer.scores for text, answer in zip(releases.QUESTIONS, open_release(workspace, one).predict([{"text": text} for text in releases.QUESTIONS]), strict=True)}
        for id, one in known.items()
    }
    load = Load(server, 4, keep_alive=True)
    try:
        for number in (1, 2, 0):
            release = approve(workspace, number)
            seen = len(load.answers)
            load.wait_for(lambda answers, seen=seen, release=release: sum(one["release"] == release.id for one in answers[seen:]) >= 60)
        load.wait_for(lambda answers: len(answers) >= 300)
    finally:
        load.stop()
    assert load.failures == []
    assert load.turned_away == 0
    assert len(load.answers) >= 300
    assert len(Counter(one["release"] for one in load.answers)) == 3
    for one in load.answers:
        assert one["predictions"][0]["probabilities"] == pytest.approx(offline[one["release"]][one["text"]], abs=1e-5)
    # the releases differ by more than the tolerance, so an answer under a wrong name would have been seen
    a, b, c = (offline[id]["hello"]["delivery"] for id in known)
    assert min(abs(a - b), abs(b - c)) > 1e-4


def _exchange(server: Server, sent: bytes) -> bytes:
    """Send bytes on a connection of their own and read until the server closes it."""
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), timeout=PATIENCE) as wire:
        wire.sendall(sent)
        found = b""
        while piece := wire.recv(65536):
            found += piece
    return found


def test_limits_on_the_wire(workspace, server):
    start = (f"POST /v1/predict HTTP/1.1\r\nHost: {urlsplit(server.url).netloc}\r\nAuthorization: {server.headers['Authorization']}\r\nContent-Type: application/json\r\n").encode()
    # a body that says it is huge is refused before any of it is sent
    assert _exchange(server, start + b"Content-Length: 99999999999\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    # one that does not say is refused while it streams; it never ends, so the answer did not wait for its end
    assert _exchange(server, start + b"Transfer-Encoding: chunked\r\n\r\n" + b"2710\r\n" + b"x" * 10000 + b"\r\n" + (b"2710\r\n" + b"x" * 10000 + b"\r\n") * 5).startswith(b"HTTP/1.1 413 ")
    # headers without end, and no HTTP at all
    assert _exchange(server, start + b"Connection: close\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n").startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert _exchange(server, start + b"Connection: close\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(20)) + b"\r\n").startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert _exchange(server, b"\x16\x03\x01\x02\x00garbage\r\n\r\n").startswith(b"HTTP/1.1 4")
    with server.client() as client:
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/predict", json={"input": "hello"}).status_code == 200
        with httpx.Client(base_url=server.url) as stranger:
            assert stranger.post("/v1/predict", json={"input": "hello"}).status_code == 401
        assert float(next(line for line in client.get("/metrics").text.splitlines() if line.startswith("attune_in_flight ")).split()[1]) == 1.0


def test_what_was_called_logged_survives_a_kill_and_takes_feedback_at_once(workspace, server):
    load = Load(server, 3, keep_alive=True)
    try:
        load.wait_for(lambda answers: len(answers) >= 60)
        with server.client() as client:
            for _ in range(10):
                [one] = client.post("/v1/predict", json={"input": "pay me back"}).json()["predictions"]
                if one["logged"]:
                    assert client.post("/v1/feedback", json={"request_id": one["request_id"], "answer": "refund"}).json()["stored"] is True
        server.process.kill()
        server.process.wait(PATIENCE)
    finally:
        load.stop()
    logged = {prediction["request_id"] for one in load.answers for prediction in one["predictions"] if prediction["logged"]}
    assert logged
    assert logged <= {row["id"] for row in workspace.ledger.requests(releases.NAME)}
    workspace.ledger.verify_audit()


def test_a_stop_under_load_loses_no_request(workspace):
    server = Server(workspace.root)
    loads = [Load(server, 3, keep_alive=True), Load(server, 3, keep_alive=False)]
    try:
        for load in loads:
            load.wait_for(lambda answers: len(answers) >= 30)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        assert server.process.stdout.read() == "stopped in order\n"
    finally:
        for load in loads:
            load.stop()
        server.end()
    assert [load.failures for load in loads] == [[], []]
    assert all(load.turned_away > 0 for load in loads)  # they outlived the server
    answered = [prediction for load in loads for one in load.answers for prediction in one["predictions"]]
    logged = {one["request_id"] for one in answered if one["logged"]}
    assert logged
    assert logged <= {row["id"] for row in workspace.ledger.requests(releases.NAME)}
