"""Calls of functions that a client asks for: the answer is one, whatever the model has learned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from attune.core.releases import open_release
from attune.core.workspace import Workspace
from tests import writers
from tests.core.test_tool_calls import TAGS
from tests.serve.conftest import Told
from tests.serve.test_openai import QUESTION, Server, ask, the


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = Workspace(tmp_path_factory.mktemp("calls") / "space")
    writers.release(made, writers.base(tmp_path_factory.mktemp("base"), chat_template=TAGS), 1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(space: Workspace) -> Iterator[openai.OpenAI]:
    server = Server(space, Told())
    with server.client() as found:
        yield found
    server.end()


DOOR = {
    "type": "object",
    "properties": {"at": {"$ref": "#/$defs/place"}, "twice": {"type": "boolean"}},
    "required": ["at", "twice"],
    "additionalProperties": False,
    "$defs": {"place": {"enum": ["door"]}},
}
CALLABLE = [{"type": "function", "function": {"name": "look", "parameters": DOOR}}, {"type": "function", "function": {"name": "wait", "parameters": {"properties": {}, "additionalProperties": False}}}]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_asked_for_is_one(space: Workspace, client: openai.OpenAI, stream: bool) -> None:
    """The model has learned nothing of calls."""
    tokenizer = open_release(space, the(space, "writer")).tokenizer
    blank = {str(one): -100 for one in range(len(tokenizer)) if not tokenizer.decode(one).strip()}
    more: dict[str, Any] = {"tools": CALLABLE, "max_tokens": 200, "logit_bias": blank, "temperature": 1.5}
    seen = set()
    for seed, choice in enumerate(["required", *({"type": "function", "function": {"name": name}} for name in ("look", "wait"))]):
        if stream:
            with client.chat.completions.stream(model="writer", messages=QUESTION, seed=seed, tool_choice=choice, **more) as chunks:
                found = chunks.get_final_completion().choices[0]
        else:
            found = ask(client, seed=seed, tool_choice=choice, **more).choices[0]
        (call,) = found.message.tool_calls
        assert found.finish_reason == "tool_calls"
        assert not found.message.content
        seen.add(call.function.name)
        if call.function.name == "look":
            jsonschema.validate(json.loads(call.function.arguments), DOOR)
        if isinstance(choice, dict):
            assert call.function.name == choice["function"]["name"]
    assert seen == {"look", "wait"}


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"tool_choice": "required"}, "tool_choice", "no functions"),
        ({"tool_choice": {"type": "function", "function": {"name": "lok"}}, "tools": CALLABLE}, "tool_choice", "Did you mean 'look'"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": CALLABLE}, "tool_choice", "form is not known"),
        ({"tool_choice": "always", "tools": CALLABLE}, "tool_choice", "'required' or an object"),
        ({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "x", "parameters": {"properties": 3}}}]}, "tools", "cannot be obeyed"),
    ],
)
def test_calls_that_cannot_be_asked_for_are_refused(client: openai.OpenAI, more: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as refused:
        ask(client, **more)
    assert refused.value.param == param
