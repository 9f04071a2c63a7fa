"""Requests in the form of OpenAI's API, as strict models; what cannot be done is refused by name, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(_Strict):
    """What a stream carries besides the answer."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Writing(_Strict):
    """What both kinds of requests share. Without a temperature the likeliest token is taken, as in grading."""

    model: str = Field(max_length=200, description="a specialist's name, or the id of a release that is loaded")
    max_tokens: int | None = Field(None, ge=1, description="default: the task's max_new_tokens")
    temperature: Number | None = Field(None, ge=0, le=2, description="default: 0")
    top_p: Number | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, description="0: all")
    min_p: Number | None = Field(None, ge=0, le=1)
    repetition_penalty: Number | None = Field(None, gt=0, le=10)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[Number, Field(ge=-100, le=100)]] | None = None
    n: int | None = Field(None, ge=1, le=32)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="not used")


class ChatRequest(_Writing):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = Field(None, description="handed to the chat template; answers in the form in which it writes calls are told as tool_calls")
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = Field(None, description='required, or {"type": "function", "function": {"name": ...}}: the answer is a call')
    parallel_tool_calls: bool | None = Field(None, description="not used: an answer's calls stand in its text")
    service_tier: Literal["auto", "default"] | None = Field(None, description="not used")
    metadata: dict[str, str] | None = Field(None, description="not used")
    store: bool | None = Field(None, description="not used; serve.log says what is remembered")


class CompletionRequest(_Writing):
    """POST /v1/completions: raw text or token ids, no template."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Literal[False] | None = Field(None, description="the prompt is never repeated")
    best_of: Literal[1] | None = Field(None, description="n answers are written, none is thrown away")


class ModelRequest(_Strict):
    """POST /v1/models/load and /v1/models/evict."""

    model: str = Field(max_length=200, description="the id of a release, or the name of a specialist with an approved one")
