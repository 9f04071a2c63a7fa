"""HTTP around the endpoint: the guard at the edge, the routes, and a server that stops without losing a request. The async file here."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attune import __version__
from attune.core.contracts import Prediction
from attune.core.errors import AttuneError, MachineError, Refused
from attune.core.events import Events
from attune.core.recipe import ServeKeys
from attune.core.workspace import Workspace
from attune.stages.serve import limits, vllm
from attune.stages.serve.endpoint import Endpoint, approved_release
from attune.stages.serve.messages import FeedbackAnswer, FeedbackRequest, PredictAnswer, PredictRequest, ProblemDocument
from attune.stages.serve.openai_routes import add_openai_routes
from attune.stages.serve.problems import MEDIA_TYPE, OPENAI_PATHS, OWN_PATHS, TITLES, Problem, misshapen, problem_of, written
from attune.stages.serve.protocol import TimedProtocol, url_of
from attune.stages.serve.request_log import PATIENCE
from attune.stages.serve.tokens import token_file, token_of

BODY_SECONDS = 30.0
"""A body that takes longer to arrive is given up."""
DRAIN_SECONDS = 1.0
"""Between the signal to stop and the closing of the door: not ready, still answering, so that balancers look away."""
LINGER_SECONDS = 2.0
FINISH_SECONDS = 60


# ---------------------------------------------------------------- the edge


class Guard:
    """The outermost layer. From headers alone: host, origin, token, room, format, size; then the body, counted while it streams in."""

    def __init__(self, app: ASGIApp, endpoint: Endpoint, token: str) -> None:
        self.app = app
        self.endpoint = endpoint
        self.token = token
        self.in_hand = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a problem."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, _Answer(send, self.endpoint, scope["path"]))
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        began = time.perf_counter()
        counted = scope["path"] not in limits.OPEN_PATHS
        unread = _has_body(scope)
        try:
            self._headers(scope)
            if counted and self.in_hand >= self.endpoint.keys.max_waiting:
                raise Problem(503, "too many requests are in hand", fix="come back later", headers={"Retry-After": "1"})
            self.in_hand += counted
            self.endpoint.metrics.in_flight.set(self.in_hand)
            try:
                if scope["method"] not in limits.SAFE_METHODS:
                    body = await self._body(receive)
                    unread = False
                    limits.require_json_text(body)
                    limits.require_unique_keys(body)
                    receive = _replay(body, receive)
                await self.app(scope, receive, answer)
            finally:
                self.in_hand -= counted
                self.endpoint.metrics.in_flight.set(self.in_hand)
        except Problem as problem:
            await answer.refuse(problem, receive if unread and not problem.finished else None)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.endpoint.events.warn(f"a request failed: {type(error).__name__} at {Path(where.filename).name}:{where.lineno}", route=scope["path"][:100])
            await answer.refuse(Problem(500, "the server could not answer; its operator finds the reason in the events"), None)
        finally:
            route = scope["path"] if scope["path"] in ROUTES else "other"
            self.endpoint.metrics.requests.labels(route=route, status=str(answer.status or 499)).inc()
            self.endpoint.metrics.seconds.labels(route=route).observe(time.perf_counter() - began)

    def _headers(self, scope: Scope) -> None:
        headers, allowed = scope["headers"], self.endpoint.keys.allowed_hosts
        limits.require_header_size(headers)
        limits.require_host(headers, allowed)
        limits.require_origin(scope["method"], headers, allowed)
        limits.require_token(scope["path"], headers, self.token)
        if scope["method"] not in limits.SAFE_METHODS:
            limits.require_size(headers, self.endpoint.keys.max_body_bytes)
            limits.require_json(headers)
        elif _has_body(scope):
            raise Problem(400, f"{scope['method']} takes no body", field="body", fix="leave it out")

    async def _body(self, receive: Receive) -> bytes:
        """The whole body, given up as soon as it is over the limit or too slow."""
        limit = self.endpoint.keys.max_body_bytes
        pieces, size = [], 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(400, "the client went away")
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > limit:
                        problem = limits.too_large(limit)
                        problem.finished = not message.get("more_body")
                        raise problem
                    if not message.get("more_body"):
                        break
        except TimeoutError as error:
            raise Problem(408, f"the body did not arrive in {BODY_SECONDS:.0f} s", field="body", fix="send it faster") from error
        return b"".join(pieces)


class _Answer:
    """Passes an answer on, remembers its status and adds what every answer carries."""

    def __init__(self, send: Send, endpoint: Endpoint, path: str) -> None:
        self.send = send
        self.endpoint = endpoint
        self.path = path
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            extra = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
            if self.endpoint.draining:
                extra.append((b"connection", b"close"))
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await self.send(message)

    async def refuse(self, problem: Problem, unread: Receive | None) -> None:
        """Answer with a problem. A body that was not read is let run into the void for a moment before the connection closes:
        closing on bytes still under way would reset it, and the client could not read the answer."""
        if self.status is not None:
            return
        status, body, media = written(problem, self.path)
        headers = [(b"content-type", media.encode()), (b"content-length", str(len(body)).encode()), *((k.lower().encode(), v.encode()) for k, v in problem.headers.items())]
        if unread is not None and not self.endpoint.draining:
            headers.append((b"connection", b"close"))
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body, "more_body": unread is not None})
        if unread is not None:
            with suppress(TimeoutError):  # enough was done then for a client that goes on sending
                async with asyncio.timeout(LINGER_SECONDS):
                    while True:
                        message = await unread()
                        if message["type"] == "http.disconnect" or not message.get("more_body"):
                            break
            await self({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(scope: Scope) -> bool:
    """True when the headers announce a body."""
    return any(name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0") for name, value in scope["headers"])


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body that was read, once, and then what really comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


# ---------------------------------------------------------------- the routes


ROUTES = ("/livez", "/readyz", "/metrics", "/openapi.json", *OWN_PATHS, *OPENAI_PATHS, "/v1/models/load", "/v1/models/evict", "/v1/models/{name}")
"""Paths that are counted by name; everything else is counted as 'other'."""


def make_app(
    workspace: Workspace, specialist: str, keys: ServeKeys, *, token: str, events: Events | None = None, base_folder: Path | None = None, poll_seconds: float = 1.0, endpoint: Endpoint | None = None
) -> FastAPI:
    """The web application; its lifespan loads the release and starts the threads. See `Endpoint` for the arguments."""
    served = endpoint or Endpoint(workspace, specialist, keys, events=events or Events(), base_folder=base_folder, poll_seconds=poll_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(served.start)
        try:
            yield
        finally:
            await run_in_threadpool(served.stop)

    form = {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema()}}
    errors: dict[int | str, dict[str, Any]] = {code: {"description": TITLES[code], "content": form} for code in TITLES}
    app = FastAPI(title=f"Attune: {specialist}", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/openapi.json", responses=errors)
    app.state.endpoint = served
    app.add_middleware(Guard, endpoint=served, token=token)
    _add_handlers(app)
    _add_routes(app, served)
    add_openai_routes(app, served)
    return app


def _add_handlers(app: FastAPI) -> None:
    def answer(request: Request, problem: Problem) -> Response:
        status, body, media = written(problem, request.url.path)
        return Response(body, status, media_type=media, headers=problem.headers)

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> Response:
        return answer(request, error)

    @app.exception_handler(AttuneError)
    async def _ours(request: Request, error: AttuneError) -> Response:
        app.state.endpoint.events.warn(f"a request was not answered: {error.what}") if problem_of(error).status >= 500 else None
        return answer(request, problem_of(error))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        told = {404: "there is nothing at this path", 405: "this path does not take this method"}.get(error.status_code, "the request cannot be answered")
        return answer(request, Problem(error.status_code, told, fix="/openapi.json lists what there is", headers=dict(error.headers or {})))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, misshapen(error.errors()))


def _add_routes(app: FastAPI, endpoint: Endpoint) -> None:
    @app.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        return Response("alive\n" if endpoint.engine.alive() else "the model's thread has ended\n", 200 if endpoint.engine.alive() else 503, media_type="text/plain")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        return Response("ready\n" if endpoint.ready() else "not ready\n", 200 if endpoint.ready() else 503, media_type="text/plain")

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters in Prometheus' text form."""
        return Response(endpoint.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/release")
    async def release() -> dict[str, Any]:
        """The release that answers, its verdict, labels and main figures."""
        return await run_in_threadpool(endpoint.about)

    @app.post("/v1/refresh")
    async def refresh() -> dict[str, Any]:
        """Look now for another approved release, and take it; answers with the release in service afterwards."""
        await run_in_threadpool(lambda: endpoint.refresh(at_once=True))
        return await run_in_threadpool(endpoint.about)

    @app.post("/v1/predict", response_model=PredictAnswer)
    async def predict(asked: PredictRequest, request: Request) -> Response:
        """Answer one item or several."""
        served = endpoint.current
        if served is None:
            raise Problem(503, "no release is loaded", headers={"Retry-After": "5"})
        if (asked.input is None) == (asked.inputs is None):
            raise Problem(422, "give either `input` or `inputs`", field="inputs", fix='send {"inputs": ["..."]} or {"input": "..."}')
        rows = endpoint.rows(served, asked.inputs, "inputs") if asked.inputs is not None else endpoint.rows(served, [asked.input], "input")
        answers = await _while_there(endpoint.engine.submit(served, rows), request.receive)
        reply, log = endpoint.reply(served, rows, answers, asked.top_k)
        if log is not None and not await _committed(log):
            for prediction in reply["predictions"]:
                endpoint.metrics.not_logged.inc(prediction["logged"])
                prediction["logged"] = False
        return Response(json.dumps(reply, ensure_ascii=False, allow_nan=False).encode(), media_type="application/json")

    @app.post("/v1/feedback", response_model=FeedbackAnswer)
    async def feedback(given: FeedbackRequest, request: Request) -> dict[str, Any]:
        """Store the right answer for a request that was logged."""
        key = request.headers.get("idempotency-key")
        if key is not None and (given.key not in (None, key) or not 1 <= len(key) <= 100):
            raise Problem(422, "the header is not the body's key, or not 1 to 100 characters long", field="Idempotency-Key", fix="send one of the two")
        limits.require_texts(given.model_dump(), "body", endpoint.keys.max_text_chars)
        return await run_in_threadpool(endpoint.feedback, given.request_id, given.answer, given.comment, given.key or key, given.new_label)


async def _while_there(job: Future[list[Prediction]], receive: Receive) -> list[Prediction]:
    """The model's answer; a client that goes away takes its rows out of the queue, where they still wait."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    answer, left = asyncio.wrap_future(job), asyncio.ensure_future(gone())
    both: set[asyncio.Future[Any]] = {answer, left}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            job.cancel()  # nothing happens where the model is at work on it already
            raise Problem(400, "the client went away")
        return answer.result()
    finally:
        left.cancel()


async def _committed(log: Future[bool]) -> bool:
    """True when the entries were committed in time; withdraws them otherwise, where they are not being written yet."""
    try:
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(log)), PATIENCE)
    except TimeoutError:
        log.cancel()
        return False


# ---------------------------------------------------------------- the server


class _Server(uvicorn.Server):
    """Stops in order: not ready, door closed, everything accepted answered, exit code 0. A second signal ends at once."""

    def __init__(self, config: uvicorn.Config, endpoint: Endpoint, announce: Callable[[], None], drain_seconds: float) -> None:
        super().__init__(config)
        self.endpoint = endpoint
        self.announce = announce
        self.drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Remember the wish to stop; unlike the base class the signal is not raised again afterwards, so the exit code is 0."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.endpoint.draining = True
        await self._wait(self.drain_seconds)
        for server in self.servers:
            server.close()
        await self._wait(self.drain_seconds)  # what was accepted by now gets its answer and, with it, `Connection: close`
        await super().shutdown(sockets)

    async def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.force_exit and self.server_state.connections:
            await asyncio.sleep(0.02)


def run(
    workspace: Workspace,
    specialist: str,
    keys: ServeKeys,
    *,
    events: Events | None = None,
    insecure_bind: bool = False,
    base_folder: Path | None = None,
    announce: Callable[[dict[str, Any]], None] | None = None,
    poll_seconds: float = 1.0,
    drain_seconds: float = DRAIN_SECONDS,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted and return.

    Args:
        workspace: where releases, the ledger and the tokens are.
        specialist: whose approved release answers.
        keys: the recipe's `serve` section; port 0 takes a free port.
        events: told of swaps, refusals and faults.
        insecure_bind: allow an address that other machines reach, in clear text.
        base_folder: where a relative reference to a base model starts.
        announce: called once, when requests are answered, with url, token, token_file, release and version.
        poll_seconds: how often the ledger is asked which release is approved.
        drain_seconds: how long the endpoint still answers after it said that it is not ready.

    Raises:
        Refused: nothing is approved, or the address is not loopback and `insecure_bind` was not given.
        IntegrityError: the approved release is not what was released.
        MachineError: the address cannot be bound.
    """
    events = events or workspace.events(f"serve-{specialist}")
    if not is_loopback(keys.host):
        if not insecure_bind:
            raise Refused(
                f"'{keys.host}' can be reached by other machines, and the endpoint speaks clear text",
                place="serve.host",
                fix="keep 127.0.0.1 and put a proxy with TLS before it; or, in a closed network, allow it with --insecure-bind",
            )
        events.warn(f"the endpoint listens on {keys.host} in clear text: the token can be read on the way", specialist=specialist)
    token = token_of(workspace, specialist)
    if keys.engine == "vllm":
        approved = approved_release(workspace, specialist)
        told_facts = {"token": token, "token_file": str(token_file(workspace, specialist)), "release": approved.id, "version": approved.version}
        vllm.run(workspace, approved, keys, token, events, base_folder, lambda where: announce({**where, **told_facts}) if announce is not None else None)
        return
    endpoint = Endpoint(workspace, specialist, keys, events=events, base_folder=base_folder, poll_seconds=poll_seconds)
    app = make_app(workspace, specialist, keys, token=token, endpoint=endpoint)
    listener = _bind(keys.host, keys.port)
    try:
        endpoint.start()
        assert endpoint.current is not None
        release = endpoint.current.release
        facts = {"url": url_of(keys.host, listener.getsockname()[1]), "token": token, "token_file": str(token_file(workspace, specialist)), "release": release.id, "version": release.version}

        def told() -> None:
            events.note(f"release {release.version} of '{specialist}' answers at {facts['url']}", release=release.id)
            if announce is not None:
                announce(facts)

        config = uvicorn.Config(
            app,
            http=TimedProtocol,
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=FINISH_SECONDS,
            backlog=512,
            h11_max_incomplete_event_size=limits.MAX_HEADER_BYTES,
        )
        _Server(config, endpoint, told, drain_seconds).run(sockets=[listener])
    finally:
        endpoint.stop()
        listener.close()


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> socket.socket:
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise MachineError(f"cannot listen on {host}:{port}: {error.strerror or error}", place="serve.port", fix="choose another port (0 takes a free one) or end the program that has it") from error
    return listener
