"""Slow senders are cut, slow clients who are gone cost nothing, and nobody else is hurt. Bounded waiting, no timing is asserted."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest
import uvicorn
from uvicorn.server import ServerState

from attune.stages.serve import protocol
from attune.stages.serve.app import _while_there
from attune.stages.serve.problems import Problem

PATIENCE = 60.0
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def answer(scope, receive, send):
    """Reads the body, however slowly it comes, and says how long it was."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(str(size)))]})
    await send({"type": "http.response.body", "body": str(size).encode()})


def with_server(talk):
    """Run `talk(reader, writer)` against a real connection."""

    async def run():
        config = uvicorn.Config(answer, http=protocol.TimedProtocol, log_config=None, lifespan="off")
        config.load()
        server = await asyncio.get_running_loop().create_server(lambda: protocol.TimedProtocol(config, ServerState(), {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            async with asyncio.timeout(PATIENCE):
                return await talk(reader, writer)
        finally:
            writer.close()
            server.close()

    return asyncio.run(run())


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", REQUEST + b"GET / HT"])
def test_headers_that_never_end_are_cut(monkeypatch, begun):
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)

    async def talk(reader, writer):
        writer.write(begun)
        return await reader.read()  # ends when the server closes

    assert with_server(talk).count(b"200 OK") == begun.count(REQUEST)


def test_headers_that_come_byte_by_byte_are_cut_too(monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)

    async def talk(reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nX-Slow: ")
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        return True

    assert with_server(talk)


def test_a_slow_body_and_a_resting_connection_are_not_cut(monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)

    async def talk(reader, writer):
        said = []
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n1")
            await asyncio.sleep(0.6)  # three times as long as headers may take
            writer.write(b"2")
            said.append(await reader.readuntil(b"\r\n\r\n2"))
            await asyncio.sleep(0.6)
        return said

    assert all(one.startswith(b"HTTP/1.1 200 OK") for one in with_server(talk))


def coming(*messages, then_rest=True):
    waiting = list(messages)

    async def receive():
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait() if then_rest else None
        return {"type": "http.disconnect"}

    return receive


def test_rows_of_a_client_that_went_away_leave_the_queue():
    job: Future = Future()

    async def run():
        async with asyncio.timeout(PATIENCE):
            await _while_there(job, coming({"type": "http.request"}, {"type": "http.disconnect"}))

    with pytest.raises(Problem, match="went away"):
        asyncio.run(run())
    assert job.cancelled()
    assert not job.set_running_or_notify_cancel()  # what the model's thread asks before it works


def test_rows_of_a_client_that_waits_are_answered():
    job: Future = Future()

    async def run():
        asyncio.get_running_loop().call_later(0.05, job.set_result, ["an answer"])
        async with asyncio.timeout(PATIENCE):
            return await _while_there(job, coming({"type": "http.request"}))

    assert asyncio.run(run()) == ["an answer"]
