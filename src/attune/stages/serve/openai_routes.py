"""OpenAI's API on the endpoint: chat completions, completions and models, whole or as a stream. The second async file here."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from attune.core.errors import MachineError, Refused
from attune.core.records import Release, now
from attune.stages.serve import openai_forms as forms
from attune.stages.serve.beside import Beside, Voice
from attune.stages.serve.openai_messages import ChatRequest, CompletionRequest, ModelRequest
from attune.stages.serve.problems import Problem, openai_error
from attune.stages.serve.request_log import PATIENCE, Entry

if TYPE_CHECKING:
    from attune.core.generation import Piece, Ticket
    from attune.core.generation import Request as Question
    from attune.core.json_grammar import Grammar
    from attune.core.tool_calls import CallForm
    from attune.stages.serve.endpoint import Endpoint


def add_openai_routes(app: FastAPI, endpoint: Endpoint) -> None:
    """Add the routes."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """Every name that `model` may say."""
        beside = _beside(endpoint)
        return {"object": "list", "data": [_model(name, beside.voice(name)) for name in beside.names()]}

    @app.post("/v1/models/load")
    async def load(asked: ModelRequest) -> dict[str, Any]:
        """Load a release's adapter beside the served one; what runs goes on."""
        beside = _beside(endpoint)
        voice = await run_in_threadpool(beside.load, asked.model)
        await run_in_threadpool(endpoint.log.also, voice.release)
        endpoint.events.note(f"release '{voice.release.id}' of '{voice.release.specialist}' answers too", specialist=endpoint.specialist)
        return _model(voice.release.id, voice)

    @app.post("/v1/models/evict")
    async def evict(asked: ModelRequest) -> dict[str, Any]:
        """Unload an adapter; requests that run with it end with it."""
        beside = _beside(endpoint)
        try:
            release = await run_in_threadpool(beside.evict, asked.model)
        except Refused as error:
            raise _unknown(error) from error
        return {"id": release.id, "object": "model", "deleted": True}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        return _model(name, _voice(_beside(endpoint), name))

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation through the release's own chat template."""
        call = _Call(endpoint, asked, "chatcmpl-")
        await run_in_threadpool(call.prepare_chat, asked)
        return await call.answer(request)

    @app.post("/v1/completions", response_model=None)
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        """Go on with raw text."""
        call = _Call(endpoint, asked, "cmpl-")
        await run_in_threadpool(call.prepare_completion, asked)
        return await call.answer(request)


def _beside(endpoint: Endpoint) -> Beside:
    served = endpoint.current
    if served is None:
        raise Problem(503, "no release is loaded", headers={"Retry-After": "5"})
    if served.beside is None:
        raise Problem(404, f"'{endpoint.specialist}' does not write texts", field="model", fix="ask /v1/predict")
    return served.beside


def _unknown(error: Refused) -> Problem:
    problem = Problem(404, error.what, field="model", fix=error.fix)
    problem.code = "model_not_found"
    return problem


def _voice(beside: Beside, name: str) -> Voice:
    try:
        return beside.voice(name)
    except Refused as error:
        raise _unknown(error) from error


def _model(name: str, voice: Voice) -> dict[str, Any]:
    release: Release = voice.release
    return {
        "id": name,
        "object": "model",
        "created": forms.seconds(release.created_at),
        "owned_by": "attune",
        "release": release.id,
        "specialist": release.specialist,
        "version": release.version,
        "adapter": voice.adapter is not None,
    }


class _Call:
    """One request: its questions to the generator (prompts x n), what comes back, and the forms in which it is told."""

    def __init__(self, endpoint: Endpoint, asked: ChatRequest | CompletionRequest, prefix: str) -> None:
        self.endpoint = endpoint
        self.asked = asked
        self.chat = isinstance(asked, ChatRequest)
        self.id = prefix + secrets.token_hex(12)
        self.created = int(time.time())
        self.beside = _beside(endpoint)
        self.voice = _voice(self.beside, asked.model)
        self.front = self.voice.specialist.model.in_front()
        self.questions: list[Question] = []
        self.rows: list[dict[str, Any]] = []
        """What is logged of each question."""
        self.prompt_tokens = 0
        self.texts: list[forms.Written] = []
        self.tickets: list[Ticket] = []
        self.loop = asyncio.get_running_loop()
        self.coming: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()

    # -------------------------------------------------------- before

    def prepare_chat(self, asked: ChatRequest) -> None:
        """The conversation as token ids."""
        prompt, row = forms.chat_prompt(asked, self.voice, self._room(), self.endpoint.keys.max_text_chars)
        self._ask([prompt], [row])

    def prepare_completion(self, asked: CompletionRequest) -> None:
        """Texts or token ids, each a prompt."""
        prompts, rows = forms.raw_prompts(asked, self.voice, self._room(), self.endpoint.keys)
        self._ask(prompts, rows)

    def _room(self) -> int:
        """Tokens of a prompt and its answer, without the virtual ones in front."""
        return self.beside.generator.room - len(self.front)

    def _ask(self, prompts: Sequence[list[int]], rows: Sequence[dict[str, Any]]) -> None:
        from attune.core.generation import Request as Question

        times = self.asked.n or 1
        if len(prompts) * times > self.endpoint.keys.max_items:
            raise Problem(422, f"{len(prompts) * times} answers are asked for; at most {self.endpoint.keys.max_items} are given at once", field="n", fix="send several requests")
        schema, forced = forms.schema_of(self.asked), forms.forced_calls(self.asked, self.voice)
        for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            self.prompt_tokens += len(prompt)
            for turn in range(times):
                index = number * times + turn
                sampling = forms.sampling_of(self.asked, self.voice, index)
                grammar = self._grammar(schema, forced)
                self.questions.append(Question([*self.front, *prompt], sampling, self.voice.stops, self.voice.specialist.tokenizer, self.voice.adapter, grammar, self._listener(index)))
                self.rows.append(row)
                self.texts.append(forms.Written(self.voice.specialist.tokenizer, self.chat, forms.reader_of(self.asked, self.voice)))

    def _grammar(self, schema: dict[str, Any] | None, forced: tuple[CallForm, list[dict[str, Any]]] | None) -> Grammar | None:
        """What an answer has to obey; a call that is asked for goes before a schema, which is about texts."""
        if forced is not None:
            return self.beside.vocabulary(self.voice).calls(*forced)
        return self.beside.vocabulary(self.voice).grammar(schema) if schema is not None else None

    def _listener(self, index: int) -> Any:
        def hear(piece: Piece) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server ended, and nobody listens
                self.loop.call_soon_threadsafe(self.coming.put_nowait, (index, piece))

        return hear

    def _submit(self) -> None:
        """All questions or none."""
        try:
            self._submit_each()
        except BaseException:
            self._cancel()
            raise

    def _submit_each(self) -> None:
        from attune.core.generation import Full

        try:
            for question in self.questions:
                self.tickets.append(self.beside.generator.submit(question))
        except Full as error:
            problem = Problem(429, error.what, fix=error.fix, headers={"Retry-After": "1"})
            problem.code = "queue_full"
            raise problem from error
        except Refused as error:  # evicted since
            raise _unknown(error) from error
        except MachineError:
            raise Problem(503, "another release is being taken", fix="ask again", headers={"Retry-After": "1"}) from None

    def _cancel(self) -> None:
        for ticket in self.tickets:
            ticket.cancel()

    # -------------------------------------------------------- after

    async def answer(self, request: Request) -> Response:
        """The response, whole or as a stream; a client that goes away cancels its questions."""
        self._submit()
        if self.asked.stream:
            return StreamingResponse(self._events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        pieces = asyncio.ensure_future(self._all())
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({pieces, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not pieces.done():
                raise Problem(400, "the client went away")
            pieces.result()
        finally:
            gone.cancel()
            pieces.cancel()
            self._cancel()
        logged = await self._log()
        body = forms.whole(self, logged)
        return Response(json.dumps(body, ensure_ascii=False, allow_nan=False).encode(), media_type="application/json")

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Everything that comes until the last question is answered."""
        left = len(self.questions)
        while left:
            index, piece = await self.coming.get()
            if piece.finish == "error":
                error = self.tickets[index].answer.exception()
                self.endpoint.events.warn(f"an answer broke off: {type(error).__name__}", specialist=self.endpoint.specialist)
                raise forms.broken(error)
            left -= piece.finish is not None
            self.texts[index].add(piece)
            yield index, piece

    async def _all(self) -> None:
        async for _ in self._pieces():
            pass

    async def _events(self) -> AsyncIterator[bytes]:
        """Server-sent events: a chunk for each piece with something in it, then usage where it was asked for, then the end mark."""
        try:
            if self.chat:
                for index in range(len(self.questions)):
                    yield forms.event(forms.chunk(self, index, {"role": "assistant", "content": ""}))
            async for index, piece in self._pieces():
                told = forms.told(self, index, piece)
                if told is not None:
                    yield forms.event(told)
            logged = await self._log()
            if self.asked.stream_options is not None and self.asked.stream_options.include_usage:
                yield forms.event({**forms.frame(self, stream=True), "choices": [], "usage": forms.usage(self), "attune": forms.facts(self, logged)})
            yield b"data: [DONE]\n\n"
        except Problem as problem:
            yield forms.event({"error": openai_error(problem)})
        finally:
            self._cancel()

    async def _log(self) -> bool:
        """Remember the answers that are drawn; True when they were committed in time."""
        release = self.voice.release
        entries = [
            Entry(self.id if number == 0 else f"{self.id}-{number}", release.id, now(), row, written.logged, written.confidence, specialist=release.specialist)
            for number, (row, written) in enumerate(zip(self.rows, self.texts, strict=True))
            if self.endpoint.log.drawn(f"{self.id}-{number}")
        ]
        if not entries:
            return False
        log = self.endpoint.log.submit(entries)
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(log)), PATIENCE)
        except TimeoutError:
            log.cancel()
            self.endpoint.metrics.not_logged.inc(len(entries))
            return False


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
