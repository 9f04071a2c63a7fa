"""The official `openai` client, unchanged, against a real server on the loopback; and the rules that only the inside shows."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jsonschema
import openai
import pytest
import uvicorn

from attune.core.events import Events
from attune.core.recipe import ServeKeys
from attune.core.records import Release
from attune.core.releases import open_release
from attune.core.workspace import Workspace
from attune.stages import register
from attune.stages.serve import make_app
from attune.stages.serve.endpoint import Endpoint
from tests import writers
from tests.core.test_tool_calls import BARE, TOOLS
from tests.serve.conftest import TOKEN, Told

PATIENCE = 120.0
QUESTION = [{"role": "user", "content": "where is my parcel"}]


class Server:
    """The web application in a thread, on a port of its own."""

    def __init__(self, workspace: Workspace, told: Told, specialist: str = "writer", **keys: Any) -> None:
        self.endpoint = Endpoint(workspace, specialist, ServeKeys(**keys), events=Events(listeners=[told]), poll_seconds=3600)
        app = make_app(workspace, specialist, self.endpoint.keys, token=TOKEN, endpoint=self.endpoint)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def client(self, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": TOKEN, "max_retries": 0, "timeout": PATIENCE, **more})

    @property
    def generator(self) -> Any:
        assert self.endpoint.current is not None
        assert self.endpoint.current.beside is not None
        return self.endpoint.current.beside.generator

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.listener.close()


def until(met: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return writers.base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def space(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = Workspace(tmp_path_factory.mktemp("serve") / "space")
    writers.release(made, base, 1)
    writers.release(made, base, 2, "poet")
    writers.release(made, base, 3, "clerk")
    writers.release(made, base, 4, "novice", approved=False)
    writers.release(made, writers.base(tmp_path_factory.mktemp("other"), seed=5), 5, "stranger")
    writers.release(made, base, 6, "whole", method="full")
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(space: Workspace) -> Iterator[Server]:
    found = Server(space, Told(), max_running=8, max_waiting=64, max_adapters=4)
    yield found
    found.end()


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with server.client() as found:
        yield found


def the(space: Workspace, name: str) -> Release:
    return space.ledger.find(Release, name)[-1]


def offline(space: Workspace, name: str, messages: list[dict[str, str]] = QUESTION) -> str:
    return str(open_release(space, the(space, name)).predict([{"prompt": messages}])[0].output)


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "writer", "messages": QUESTION, **more})


def test_an_answer_is_the_offline_one(space: Workspace, server: Server, client: openai.OpenAI) -> None:
    found = ask(client)
    assert found.choices[0].message.content.strip() == offline(space, "writer")
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].finish_reason in ("stop", "length")
    assert (found.object, found.model) == ("chat.completion", "writer")
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.usage.completion_tokens == 12
    assert found.attune["release"] == the(space, "writer").id


def test_requests_are_remembered_masked(space: Workspace, server: Server, client: openai.OpenAI) -> None:
    """The first one may not be in time: masking is loaded with it."""
    found = [ask(client, messages=[{"role": "user", "content": "write to jane.doe@example.com"}]) for _ in range(5)]
    logged = {one["id"]: one for one in space.ledger.requests("writer")}
    remembered = [one for one in found if one.attune["logged"]]
    assert remembered
    for one in remembered:
        assert "jane.doe" not in json.dumps(logged[one.id]["input"])
        assert logged[one.id]["release_id"] == one.attune["release"]
    assert not any(one.id in logged for one in found if not one.attune["logged"])


@pytest.mark.parametrize("more", [{}, {"temperature": 1.5, "seed": 3}, {"temperature": 1.5, "seed": 4, "stop": ["e", "t"]}, {"temperature": 2.0, "seed": 5, "n": 3, "max_tokens": 40}])
def test_chunks_laid_end_to_end_are_the_whole(client: openai.OpenAI, more: dict[str, Any]) -> None:
    whole = ask(client, **more)
    texts, ends, roles, used = {}, {}, set(), None
    for chunk in ask(client, stream=True, stream_options={"include_usage": True}, **more):
        used = chunk.usage or used
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
            roles |= {choice.delta.role} if choice.delta.role else set()
    assert texts == {one.index: one.message.content for one in whole.choices}
    assert ends == {one.index: one.finish_reason for one in whole.choices}
    assert roles == {"assistant"}
    assert used == whole.usage
    if more.get("n"):
        assert len(set(texts.values())) == 3
    for stop in more.get("stop", []):
        assert all(stop not in one for one in texts.values())
        assert set(ends.values()) == {"stop"}


def test_a_seed_says_the_same_in_any_company(client: openai.OpenAI) -> None:
    alone = ask(client, temperature=1.0, seed=11, max_tokens=20).choices[0].message.content
    found: list[str] = []
    threads = [threading.Thread(target=lambda i=i: found.append(ask(client, temperature=1.0, seed=11 if i % 2 else 100 + i, max_tokens=20).choices[0].message.content)) for i in range(12)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(PATIENCE)
    assert found.count(alone) == 6
    assert len(set(found)) == 7
    assert ask(client, temperature=1.0, max_tokens=20).choices[0].message.content != ask(client, temperature=1.0, max_tokens=20).choices[0].message.content


def test_log_probabilities(client: openai.OpenAI) -> None:
    found = ask(client, logprobs=True, top_logprobs=3, max_tokens=5).choices[0]
    assert len(found.logprobs.content) == 5
    for one in found.logprobs.content:
        assert one.logprob <= 0
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].logprob == pytest.approx(one.logprob)  # greedy
    assert b"".join(bytes(one.bytes) for one in found.logprobs.content).decode("utf-8", "replace") == found.message.content
    streamed = [one for chunk in ask(client, logprobs=True, top_logprobs=3, max_tokens=5, stream=True) for choice in chunk.choices if choice.logprobs for one in choice.logprobs.content]
    assert [one.logprob for one in streamed] == pytest.approx([one.logprob for one in found.logprobs.content], abs=1e-4)
    raw = client.completions.create(model="writer", prompt="the cat", logprobs=2, max_tokens=4).choices[0]
    assert len(raw.logprobs.tokens) == len(raw.logprobs.token_logprobs) == len(raw.logprobs.text_offset) == 4
    assert all(len(one) <= 2 for one in raw.logprobs.top_logprobs)


SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}, "size": {"enum": ["small", "large"]}}, "required": ["ok", "size"], "additionalProperties": False}


def test_json_of_a_schema(client: openai.OpenAI) -> None:
    for seed in range(3):
        found = ask(client, temperature=1.5, seed=seed, max_tokens=150, response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}})
        jsonschema.validate(json.loads(found.choices[0].message.content), SCHEMA)
        assert found.choices[0].finish_reason == "stop"
    free = ask(client, temperature=1.5, seed=0, max_tokens=200, response_format={"type": "json_object"})
    assert free.choices[0].message.content.startswith("{")
    for bad in ({"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}):
        with pytest.raises(openai.BadRequestError, match=r"form is not known|schema") as refused:
            ask(client, response_format=bad)
        assert refused.value.param == "response_format"


def test_raw_completions(space: Workspace, client: openai.OpenAI) -> None:
    found = client.completions.create(model="writer", prompt=["the cat", "where"], n=2, max_tokens=6, temperature=1.0, seed=1)
    assert [one.index for one in found.choices] == [0, 1, 2, 3]
    assert len({one.text for one in found.choices}) == 4
    tokenizer = open_release(space, the(space, "writer")).tokenizer
    ids = client.completions.create(model="writer", prompt=tokenizer("the cat")["input_ids"], max_tokens=6)
    assert ids.choices[0].text == client.completions.create(model="writer", prompt="the cat", max_tokens=6).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(model="writer", prompt="the cat", max_tokens=6, stream=True)) == ids.choices[0].text


def test_tools_reach_the_template_and_parts_are_read(client: openai.OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    assert ask(client, tools=[tool]).usage.prompt_tokens >= ask(client).usage.prompt_tokens
    parts = ask(client, messages=[{"role": "user", "content": [{"type": "text", "text": "where is "}, {"type": "text", "text": "my parcel"}]}])
    assert parts.choices[0].message.content == ask(client).choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="parts of type text"):
        ask(client, messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 300}]}, "messages"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"extra_body": {"audio": {}}}, "audio"),
        ({"messages": [{"role": "user", "content": "a\x00b"}]}, "messages[0][0].content"),
    ],
)
def test_what_cannot_be_done_is_refused_in_openais_form(client: openai.OpenAI, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **more)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert refused.value.body["message"]


@pytest.mark.parametrize("field", ['"temperature": NaN', '"logit_bias": {"5": NaN}', '"logit_bias": {"5": 1e999}'])
def test_settings_that_are_no_numbers_are_refused(server: Server, field: str) -> None:
    body = '{"model": "writer", "prompt": "where", ' + field + "}"
    refused = httpx.post(f"{server.url}/v1/completions", content=body, headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}, timeout=PATIENCE)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith(field.split('"')[1])


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"temperature": "hot"}, "temperature", "this text does not fit: expected a number. "),
        ({"n": 1.5}, "n", "this number does not fit: expected a whole number. "),
        ({"n": 33}, "n", "this number does not fit: expected a number of 32 or less. "),
        ({"extra_body": {"stop": 3}}, "stop", "this number does not fit: expected a text or a list. "),
        ({"stop": ["a", 3]}, "stop[1]", "this number does not fit: expected a text. "),
        ({"extra_body": {"stream_options": {"include_usage": "x"}}}, "stream_options.include_usage", "this text does not fit: expected true or false. "),
        ({"extra_body": {"strength": 3}}, "strength", "'strength' is not known here. "),
        ({"extra_body": {"response_format": "json"}}, "response_format", "this text does not fit: expected an object. "),
        ({"model": "m" * 300}, "model", "this text does not fit: expected 200 characters or fewer. "),
        ({"service_tier": "fast"}, "service_tier", "this text does not fit: expected 'auto' or 'default'. "),
    ],
)
def test_values_of_another_form_are_told_in_plain_words(client: openai.OpenAI, more: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **more)
    assert refused.value.body["message"].startswith(said)
    assert refused.value.param == param


def test_settings_that_ask_for_nothing_are_taken_and_unknown_ones_named(client: openai.OpenAI) -> None:
    """Clients and frameworks send them with every request."""
    ask(client, parallel_tool_calls=False, service_tier="auto", max_tokens=1)
    client.completions.create(model="writer", prompt="where", echo=False, best_of=1, max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="'audio' is not known here"):
        ask(client, extra_body={"audio": {}})
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="writer", prompt="where", echo=True, max_tokens=1)
    assert refused.value.param == "echo"


def test_no_top_p_is_the_likeliest_token(client: openai.OpenAI) -> None:
    assert ask(client, top_p=0, temperature=2.0, seed=3).choices[0].message.content == ask(client, temperature=0).choices[0].message.content


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/anything/else"])
def test_paths_of_openai_that_there_are_not_say_so_in_its_form(client: openai.OpenAI, path: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.post(path.removeprefix("/v1"), body={"input": "a"}, cast_to=object)
    assert refused.value.type == "not_found_error"
    assert "nothing at this path" in refused.value.body["message"]


def test_the_guard_speaks_openai_too(server: Server, client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as refused, server.client(api_key="wrong" * 9) as other:
        ask(other)
    assert refused.value.type == "authentication_error"
    with pytest.raises(openai.NotFoundError) as unknown:
        ask(client, model="nobody")
    assert unknown.value.code == "model_not_found"
    for header in ({"Host": "elsewhere.example"}, {"Origin": "https://elsewhere.example"}):
        with pytest.raises(openai.APIStatusError) as foreign:
            ask(client, extra_headers=header)
        assert foreign.value.status_code in (421, 403)
        assert "message" in foreign.value.body
    with pytest.raises(openai.APIStatusError) as large:
        ask(client, messages=[{"role": "user", "content": "x" * 1_100_000}])
    assert large.value.status_code == 413


# ---------------------------------------------------------------- several releases on one base


def turn(server: Server, what: str, name: str) -> Any:
    return httpx.post(f"{server.url}/v1/models/{what}", json={"model": name}, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE)


def test_releases_are_loaded_asked_and_evicted_live(space: Workspace, server: Server, client: openai.OpenAI) -> None:
    own = ask(client).choices[0].message.content
    with pytest.raises(openai.NotFoundError):
        ask(client, model="poet")
    for name in ("poet", "clerk"):
        assert turn(server, "load", name).json()["id"] == the(space, name).id
    assert {one.id for one in client.models.list()} >= {"writer", "poet", "clerk", the(space, "poet").id}
    assert client.models.retrieve("poet").release == the(space, "poet").id
    answers = {name: ask(client, model=name).choices[0].message.content for name in ("writer", "poet", "clerk", the(space, "poet").id)}
    for name in ("writer", "poet", "clerk"):
        assert answers[name].strip() == offline(space, name)
    assert answers[the(space, "poet").id] == answers["poet"]
    assert answers["writer"] == own
    assert len(set(answers.values())) == 3
    for name in ("poet", "clerk"):
        assert turn(server, "evict", name).json()["deleted"]
    assert turn(server, "evict", "poet").status_code == 404
    with pytest.raises(openai.NotFoundError):
        ask(client, model="poet")


def test_requests_to_a_loaded_adapter_take_feedback_and_are_forgotten(base: Any, tmp_path: Any) -> None:
    """They are its own specialist's, whose endpoint need not run; also after a start in which nothing is loaded."""
    space = Workspace(tmp_path / "space")
    writers.release(space, base, 1)
    poet = writers.release(space, base, 2, "poet")
    day = datetime.now(UTC) - timedelta(days=31)
    old = {"release_id": poet.id, "at": day.isoformat(timespec="microseconds"), "input": "{}", "output": '""', "confidence": None}
    space.ledger.log_requests([{**old, "id": "old", "specialist": "poet"}, {**old, "id": "other", "specialist": "stranger"}])
    for again in (False, True):
        server = Server(space, Told())
        try:
            with server.client() as client:
                if not again:
                    assert turn(server, "load", "poet").status_code == 200
                    found = [ask(client, model="poet") for _ in range(5)]
                    asked = next(one.id for one in found if one.attune["logged"])
                for request_id, status in ((asked, 200), ("other", 404)):
                    body = {"request_id": request_id, "answer": "it is here"}
                    assert httpx.post(f"{server.url}/v1/feedback", json=body, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE).status_code == status
        finally:
            server.end()
    assert next(row for row in space.ledger.requests("poet") if row["id"] == asked)["answer"] == "it is here"
    assert "old" not in {row["id"] for row in space.ledger.requests("poet")}
    assert {row["id"] for row in space.ledger.requests("stranger")} == {"other"}
    space.close()


@pytest.mark.parametrize(
    ("name", "why"),
    [("novice", "no approved release"), ("stranger", "another base"), ("whole", "do not share a network"), ("../../etc", "no approved release"), ("nobody", "no approved release")],
)
def test_what_may_not_share_the_network_is_refused(space: Workspace, server: Server, name: str, why: str) -> None:
    refused = turn(server, "load", name)
    assert refused.status_code == 409
    assert why in refused.json()["error"]["message"]


def test_a_release_that_was_never_approved_is_no_way_around_the_gates(space: Workspace, server: Server) -> None:
    refused = turn(server, "load", the(space, "novice").id)
    assert refused.status_code == 409
    assert "never approved" in refused.json()["error"]["message"]


def test_no_request_fails_while_adapters_come_and_go(space: Workspace, server: Server, client: openai.OpenAI) -> None:
    turn(server, "load", "poet")
    wanted = {name: ask(client, model=name, max_tokens=8).choices[0].message.content for name in ("writer", "poet")}
    failed: list[str] = []
    count = [0]
    done = threading.Event()

    def work(name: str) -> None:
        for _ in range(2000):
            if done.is_set():
                return
            try:
                count[0] += 1
                if ask(client, model=name, max_tokens=8).choices[0].message.content != wanted[name]:
                    failed.append("another answer")
            except openai.OpenAIError as error:
                failed.append(repr(error))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("writer", "poet") * 3]
    for one in threads:
        one.start()
    for _ in range(4):
        assert turn(server, "load", "clerk").status_code == 200
        assert ask(client, model="clerk", max_tokens=8).choices[0].message.content
        assert turn(server, "evict", "clerk").status_code == 200
    until(lambda: count[0] >= 60 or failed)
    done.set()
    for one in threads:
        one.join(PATIENCE)
    assert failed == []
    turn(server, "evict", "poet")


# ---------------------------------------------------------------- clients that leave, queues that are full, releases that change


def test_a_client_that_leaves_frees_its_slot(server: Server, client: openai.OpenAI) -> None:
    before = server.generator.tokens
    stream = ask(client, stream=True, max_tokens=200, temperature=1.0, seed=1, logit_bias={})
    next(iter(stream))
    stream.close()
    until(lambda: server.generator.busy == 0)
    with server.client(timeout=0.001) as hasty, pytest.raises(openai.APITimeoutError):
        ask(hasty, max_tokens=200)
    until(lambda: server.generator.busy == 0)
    assert server.generator.tokens >= before
    assert ask(client).choices[0].message.content


def test_a_full_queue_says_come_back(space: Workspace) -> None:
    server = Server(space, Told(), max_running=1, max_waiting=2)
    held = threading.Event()
    try:
        with server.client() as client:
            real = server.generator.reader.tokens
            server.generator.reader.tokens = lambda *given: (held.wait(PATIENCE), real(*given))[1]
            with pytest.raises(openai.RateLimitError) as refused:
                ask(client, n=8)
            assert refused.value.code == "queue_full"
            assert refused.value.response.headers["retry-after"] == "1"
            threads = [threading.Thread(target=lambda: ask(client)) for _ in range(2)]
            for one in threads:
                one.start()
            until(lambda: server.generator.busy >= 2)
            with pytest.raises(openai.InternalServerError) as busy:
                ask(client)
            assert busy.value.status_code == 503
            assert busy.value.type == "server_error"
            held.set()
            for one in threads:
                one.join(PATIENCE)
            assert ask(client).choices[0].message.content
            many = httpx.post(f"{server.url}/v1/predict", json={"inputs": ["where"] * 12}, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE)
            assert len(many.json()["predictions"]) == 12  # one request, let in by the guard, however many rows it has
    finally:
        held.set()
        server.end()


def test_a_running_stream_stays_on_its_release(base: Any, tmp_path: Any) -> None:
    space = Workspace(tmp_path / "space")
    first = writers.release(space, base, 1)
    second = writers.release(space, base, 7)
    register.promote(space, first, actor="test")
    other = writers.release(space, base, 2, "poet")
    server = Server(space, Told())
    try:
        with server.client() as client:
            turn(server, "load", "poet")
            old = ask(client, max_tokens=60).choices[0].message.content
            stream = ask(client, max_tokens=60, stream=True)
            begun = [next(stream), next(stream)]
            register.promote(space, second, actor="test")
            server.endpoint.refresh(at_once=True)
            new = ask(client, max_tokens=60)
            assert new.attune["release"] == second.id
            assert "".join(chunk.choices[0].delta.content or "" for chunk in [*begun, *stream]) == old
            assert new.choices[0].message.content != old
            assert ask(client, model="poet").attune["release"] == other.id  # came along
    finally:
        server.end()
        space.close()


def test_a_changed_template_is_not_served(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The must-fail twin of every test above: the template's hash is looked at before anything is answered."""
    from attune.core.errors import AttuneError
    from attune.stages.serve.engine import load

    release = the(space, "writer")
    real = open_release(space, release)
    real.signature = {**real.signature, "chat_template": real.signature["chat_template"] + " "}
    monkeypatch.setattr("attune.stages.serve.engine.open_release", lambda *_, **__: real)
    with pytest.raises(AttuneError, match="template is not the one"):
        load(space, release, None)


def test_a_release_that_does_not_write_says_so(tmp_path: Any) -> None:
    from starlette.testclient import TestClient

    from tests import releases

    space = Workspace(tmp_path / "space")
    register.promote(space, releases.release(space), actor="test")
    app = make_app(space, releases.NAME, ServeKeys(), token=TOKEN, events=Events(), poll_seconds=3600)
    with TestClient(app, base_url="http://127.0.0.1", headers={"Authorization": f"Bearer {TOKEN}"}) as found:
        refused = found.post("/v1/chat/completions", json={"model": releases.NAME, "messages": QUESTION})
        assert refused.status_code == 404
        assert "does not write" in refused.json()["error"]["message"]
    space.close()


def test_calls_of_functions_are_told_as_the_client_expects(tmp_path: Any) -> None:
    """A model whose template writes calls as bare JSON; the schema stands for having learned to call."""
    space = Workspace(tmp_path / "space")
    writers.release(space, writers.base(tmp_path / "base", chat_template=BARE), 1)
    found = Server(space, Told())
    inner = {"type": "object", "properties": {"at": {"enum": ["door"]}}, "required": ["at"], "additionalProperties": False}
    schema = {"type": "object", "properties": {"name": {"enum": ["look"]}, "parameters": inner}, "required": ["name", "parameters"], "additionalProperties": False}
    tokenizer = open_release(space, the(space, "writer")).tokenizer
    blank = {str(one): -100 for one in range(len(tokenizer)) if not tokenizer.decode(one).strip()}  # between JSON's parts a model that has learned nothing writes many
    more: dict[str, Any] = {"max_tokens": 120, "tools": TOOLS, "logit_bias": blank, "response_format": {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}}
    try:
        with found.client() as client:
            choice = ask(client, **more).choices[0]
            (call,) = choice.message.tool_calls
            assert (choice.finish_reason, choice.message.content, call.type, call.function.name) == ("tool_calls", None, "function", "look")
            assert json.loads(call.function.arguments) == {"at": "door"}
            with client.chat.completions.stream(model="writer", messages=QUESTION, **more) as stream:
                final = stream.get_final_completion().choices[0]
            assert final.finish_reason == "tool_calls"
            assert [(one.function.name, json.loads(one.function.arguments)) for one in final.message.tool_calls] == [("look", {"at": "door"})]
            assert not final.message.content
            for other in ({"tool_choice": "none"}, {"tools": [TOOLS[1]]}):
                text = ask(client, **{**more, **other}).choices[0]
                assert text.message.tool_calls is None
                assert text.finish_reason == "stop"
                assert json.loads(text.message.content)["name"] == "look"
            went_on = [*QUESTION, choice.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "it is open"}]
            assert ask(client, messages=went_on, tools=TOOLS).usage.prompt_tokens > ask(client, tools=TOOLS).usage.prompt_tokens
        until(lambda: any("<tool_call>" in str(row) for row in space.ledger.requests("writer")))
    finally:
        found.end()
        space.close()


def test_predict_answers_through_the_same_generator(space: Workspace, server: Server) -> None:
    before = server.generator.tokens
    found = httpx.post(f"{server.url}/v1/predict", json={"input": "where is my parcel"}, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE).json()
    assert found["predictions"][0]["output"] == offline(space, "writer")
    assert server.generator.tokens == before + 12


def test_virtual_tokens_stand_in_front_of_every_prompt(base: Any, tmp_path: Any) -> None:
    """Of a release by prompt tuning: answered as /v1/predict and the graded model answer, and only what was sent is counted."""
    import torch

    space = Workspace(tmp_path / "space")
    made, specialist = writers.writer(base, 1, "tuned", method="prompt_tuning")
    with torch.no_grad():
        specialist.model.body.get_input_embeddings().virtual.normal_(generator=torch.Generator().manual_seed(2))
    register.promote(space, writers.registered(space, made, specialist), actor="test")
    server = Server(space, Told(), specialist="tuned")
    try:
        wanted, tokenizer = offline(space, "tuned"), open_release(space, the(space, "tuned")).tokenizer
        with server.client() as client:
            found = ask(client, model="tuned")
            assert found.choices[0].message.content.strip() == wanted
            sent = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True)["input_ids"]
            assert found.usage.prompt_tokens == len(sent)
            raw = client.completions.create(model="tuned", prompt=sent)
            assert raw.choices[0].text.strip() == wanted
            assert raw.usage.prompt_tokens == len(sent)
            assert ask(client, model="tuned", extra_body={"repetition_penalty": 1.2}).choices[0].message.content
            with pytest.raises(openai.BadRequestError, match="no room"):
                client.completions.create(model="tuned", prompt=[5] * (server.generator.room - 10))
    finally:
        server.end()
        space.close()


def test_a_conversation_is_written_once_whether_it_fits_or_not(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many turns it has: what is too long is refused, not shortened."""
    from types import SimpleNamespace

    from attune.core import conversation
    from attune.stages.serve.openai_forms import chat_prompt
    from attune.stages.serve.openai_messages import ChatRequest
    from attune.stages.serve.problems import Problem

    _, specialist = writers.writer(base, 1)
    written: list[int] = []
    write = conversation.render
    monkeypatch.setattr(conversation, "render", lambda *args, **more: written.append(1) or write(*args, **more))
    voice: Any = SimpleNamespace(specialist=specialist)
    turns = [*QUESTION, *({"role": role, "content": "there"} for _ in range(400) for role in ("assistant", "tool"))]
    with pytest.raises(Problem, match="no room for an answer"):
        chat_prompt(ChatRequest(model="writer", messages=turns), voice, 256, 20_000)
    assert len(written) == 1
    ids, _ = chat_prompt(ChatRequest(model="writer", messages=QUESTION), voice, 256, 20_000)
    assert len(written) == 2
    assert ids == conversation.prompt_ids(specialist, QUESTION)[0]
