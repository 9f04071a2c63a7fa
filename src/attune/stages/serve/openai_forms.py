"""Between OpenAI's forms and the generator's: requests become token ids and sampling settings, tokens become choices, chunks and usage."""

from __future__ import annotations

import json
import math
import secrets
from datetime import datetime
from typing import TYPE_CHECKING, Any

from attune.core.conversation import CARRIED, Message, calls_as_text, messages_of, question_ids, tools_of
from attune.core.errors import AttuneError, DataError, RecipeError, did_you_mean
from attune.core.recipe import ServeKeys
from attune.core.tool_calls import CallForm, CallReader, form_of
from attune.stages.serve import limits
from attune.stages.serve.beside import Voice
from attune.stages.serve.openai_messages import ChatRequest, CompletionRequest
from attune.stages.serve.problems import Problem, problem_of

if TYPE_CHECKING:
    from attune.core.generation import Piece
    from attune.core.sampling import Choice, Sampling
    from attune.stages.serve.openai_routes import _Call

MOST_STOPS = 16
FORMATS = ("text", "json_object", "json_schema")


# ---------------------------------------------------------------- requests


def chat_prompt(asked: ChatRequest, voice: Voice, room: int, longest: int) -> tuple[list[int], dict[str, Any]]:
    """Token ids of a conversation, and the row that is logged; raises a Problem that names the field."""
    limits.require_texts([asked.messages, asked.tools or []], "messages", longest)
    messages: list[Message] = messages_of([_plain(one, f"messages[{number}]") for number, one in enumerate(asked.messages)])
    if not any(message["content"].strip() for message in messages):
        raise Problem(422, "the conversation is empty", field="messages", fix="send some text")
    tools = tools_of(asked.tools) if asked.tool_choice != "none" else None
    ids, size = question_ids(voice.specialist, messages, room - 1, tools)
    if size >= room:
        raise _too_long(room)
    return ids, {"prompt": [{name: one[name] for name in ("role", "content", "tool_calls", *CARRIED) if name in one} for one in messages], **({"tools": tools} if tools else {})}


def reader_of(asked: ChatRequest | CompletionRequest, voice: Voice) -> CallReader | None:
    """What finds the calls in an answer; None where none may be made, or the template writes them in no form that is known."""
    if not isinstance(asked, ChatRequest) or not asked.tools or asked.tool_choice == "none":
        return None
    form = form_of(voice.specialist)
    return CallReader(form, asked.tools) if form is not None else None


def forced_calls(asked: ChatRequest | CompletionRequest, voice: Voice) -> tuple[CallForm, list[dict[str, Any]]] | None:
    """Where the answer has to be a call: the form of the template, and the functions that may be called."""
    choice = asked.tool_choice if isinstance(asked, ChatRequest) else None
    if choice in (None, "auto", "none"):
        return None
    tools = tools_of(asked.tools) if isinstance(asked, ChatRequest) else None
    if not tools:
        raise Problem(422, "a call is asked for, and there are no functions", field="tool_choice", fix="send tools")
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if choice.get("type") != "function" or not isinstance(name, str):
            raise Problem(422, "the form is not known", field="tool_choice", fix='send auto, none, required or {"type": "function", "function": {"name": "..."}}')
        known = [one.get("function", one)["name"] for one in tools]
        tools = [one for one, its in zip(tools, known, strict=True) if its == name]
        if not tools:
            raise Problem(422, f"there is no function '{name[:100]}'", field="tool_choice", fix=did_you_mean(name, known))
    form = form_of(voice.specialist)
    if form is None:
        raise Problem(422, "this model's template writes no calls in JSON, so none can be asked for", field="tool_choice", fix="send auto")
    return form, tools


def _plain(message: dict[str, Any], place: str) -> dict[str, Any]:
    """A message with its content as one text: parts of text are joined, other parts refused; a developer is the system."""
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
        if not all(isinstance(one, str) for one in texts):
            raise Problem(422, "only parts of type text are read", field=f"{place}.content", fix='send {"type": "text", "text": "..."}')
        content = "".join(str(one) for one in texts)
    elif content is None and message.get("tool_calls"):
        content = ""
    role = message.get("role")
    return {**message, "role": "system" if role == "developer" else role, "content": content}


def raw_prompts(asked: CompletionRequest, voice: Voice, room: int, keys: ServeKeys) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Token ids of every prompt, and the rows that are logged."""
    given: Any = asked.prompt
    each: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
    if not each or len(each) > keys.max_items:
        raise Problem(422, f"{len(each)} prompts", field="prompt", fix=f"send 1 to {keys.max_items}")
    tokenizer, size = voice.specialist.tokenizer, len(voice.specialist.tokenizer)
    prompts, rows = [], []
    for number, one in enumerate(each):
        if isinstance(one, str):
            limits.require_text(one, f"prompt[{number}]", keys.max_text_chars)
            ids = [int(token) for token in tokenizer(one, add_special_tokens=True, verbose=False)["input_ids"]]
            text = one
        else:
            if not all(0 <= token < size for token in one):
                raise Problem(422, "a token id is not in the vocabulary", field=f"prompt[{number}]", fix=f"send 0 to {size - 1}")
            ids, text = one, tokenizer.decode(one)
        if not ids and tokenizer.bos_token_id is not None:
            ids = [int(tokenizer.bos_token_id)]
        if len(ids) >= room:
            raise _too_long(room)
        prompts.append(ids)
        rows.append({"prompt": [{"role": "user", "content": text}]})
    return prompts, rows


def _too_long(room: int) -> Problem:
    problem = Problem(422, f"the model reads {room} tokens, and the prompt leaves no room for an answer", field="messages", fix="shorten it")
    problem.code = "context_length_exceeded"
    return problem


def sampling_of(asked: ChatRequest | CompletionRequest, voice: Voice, index: int) -> Sampling:
    """Sampling settings of answer `index`; without a seed one is drawn."""
    from attune.core.sampling import Sampling

    stop = [asked.stop] if isinstance(asked.stop, str) else list(asked.stop or [])
    if len(stop) > MOST_STOPS or any(not 0 < len(one) <= 1000 for one in stop):
        raise Problem(422, "a stop is empty, too long, or there are too many", field="stop", fix=f"send up to {MOST_STOPS} texts of up to 1,000 characters")
    size = len(voice.specialist.tokenizer)
    bias: dict[int, float] = {}
    for token, value in (asked.logit_bias or {}).items():
        if not token.isdigit() or int(token) >= size:
            raise Problem(422, f"'{token[:20]}' is no token id", field="logit_bias", fix=f"send 0 to {size - 1}")
        bias[int(token)] = value
    most = (asked.max_completion_tokens if isinstance(asked, ChatRequest) else None) or asked.max_tokens or int(voice.specialist.task.keys.max_new_tokens)
    top = (asked.top_logprobs or 0) if isinstance(asked, ChatRequest) else (asked.logprobs or 0)
    if isinstance(asked, ChatRequest) and top and not asked.logprobs:
        raise Problem(422, "top_logprobs needs logprobs", field="top_logprobs", fix="send logprobs: true")
    try:
        return Sampling(
            max_tokens=most,
            temperature=asked.temperature or 0.0,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            top_k=asked.top_k or 0,
            min_p=asked.min_p or 0.0,
            repetition_penalty=1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
            frequency_penalty=asked.frequency_penalty or 0.0,
            presence_penalty=asked.presence_penalty or 0.0,
            logit_bias=bias,
            seed=secrets.randbits(62) if asked.seed is None else asked.seed,
            request=index,
            stop=tuple(stop),
            top_logprobs=top,
        )
    except RecipeError as error:
        raise problem_of(error) from error


def schema_of(asked: ChatRequest | CompletionRequest) -> dict[str, Any] | None:
    """The JSON schema that answers obey; None: any text."""
    form = asked.response_format if isinstance(asked, ChatRequest) else None
    if form is None or form.get("type") == "text":
        return None
    if form.get("type") == "json_object":
        return {"type": "object"}
    said = form.get("json_schema")
    if form.get("type") != "json_schema" or not isinstance(said, dict) or not isinstance(said.get("schema"), dict):
        raise Problem(422, "the form is not known", field="response_format", fix=f'send a type of {", ".join(FORMATS)}; the last with {{"json_schema": {{"name": ..., "schema": {{...}}}}}}')
    return dict(said["schema"])


# ---------------------------------------------------------------- answers


class Written:
    """One answer as it comes."""

    def __init__(self, tokenizer: Any, chat: bool, reader: CallReader | None = None) -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self.reader = reader
        """Where functions may be called."""
        self.text = ""
        """All that was said but calls."""
        self.fresh = ""
        """What the last piece brought of it."""
        self.calls: list[dict[str, Any]] = []
        """In OpenAI's form."""
        self.finish: str | None = None
        self.choices: list[Choice] = []
        self.offset = 0

    def add(self, piece: Piece) -> None:
        """Take a piece."""
        self.fresh, self.finish = piece.text, piece.finish or self.finish
        if self.reader is not None:
            self.fresh = self.reader.push(piece.text)
            if piece.finish is not None:
                rest, found = self.reader.end()
                self.fresh += rest
                self.calls = [_openai_call(one) for one in found]
                self.finish = "tool_calls" if found and piece.finish == "stop" else piece.finish
        self.text += self.fresh
        if piece.choice is not None:
            self.choices.append(piece.choice)

    @property
    def logged(self) -> str:
        """The answer as a row has it, calls written behind the text."""
        return calls_as_text(messages_of([{"role": "assistant", "content": self.text, "tool_calls": self.calls}])[0]) if self.calls else self.text

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message."""
        return {"role": "assistant", "content": self.text if self.text or not self.calls else None, "refusal": None, **({"tool_calls": self.calls} if self.calls else {})}

    @property
    def confidence(self) -> float | None:
        """Geometric mean of the tokens' probabilities."""
        return math.exp(sum(one.logprob for one in self.choices) / len(self.choices)) if self.choices else None

    def logprobs(self, choices: list[Choice]) -> dict[str, Any]:
        """Log-probabilities of tokens in the form of the API that was asked."""
        if self.chat:
            return {"content": [{**self._token(one.token, one.logprob), "top_logprobs": [self._token(*top) for top in one.top]} for one in choices], "refusal": None}
        names = [self._name(one.token) for one in choices]
        offsets = []
        for name in names:
            offsets.append(self.offset)
            self.offset += len(name)
        return {
            "tokens": names,
            "token_logprobs": [one.logprob for one in choices],
            "top_logprobs": [{self._name(token): value for token, value in one.top} for one in choices],
            "text_offset": offsets,
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        from attune.core.text_stream import token_bytes

        return {"token": self._name(token), "logprob": logprob, "bytes": list(token_bytes(self.tokenizer, token))}

    def _name(self, token: int) -> str:
        from attune.core.text_stream import token_bytes

        return token_bytes(self.tokenizer, token).decode("utf-8", "replace")


def seconds(at: str) -> int:
    """An ISO time as seconds since 1970."""
    return int(datetime.fromisoformat(at).timestamp())


def frame(call: _Call, *, stream: bool) -> dict[str, Any]:
    """What every object of an answer carries."""
    kind = ("chat.completion.chunk" if stream else "chat.completion") if call.chat else "text_completion"
    return {"id": call.id, "object": kind, "created": call.created, "model": call.asked.model, "system_fingerprint": call.voice.release.id}


def facts(call: _Call, logged: bool) -> dict[str, Any]:
    """What we tell besides OpenAI's form: the release that really answered, and whether the request takes feedback."""
    return {"release": call.voice.release.id, "version": call.voice.release.version, "logged": logged}


def usage(call: _Call) -> dict[str, int]:
    """Tokens of prompts and answers; an end token counts."""
    written = sum(len(one.choices) for one in call.texts)
    return {"prompt_tokens": call.prompt_tokens, "completion_tokens": written, "total_tokens": call.prompt_tokens + written}


def whole(call: _Call, logged: bool) -> dict[str, Any]:
    """A whole answer."""
    choices = []
    for index, one in enumerate(call.texts):
        said = {"message": one.message} if call.chat else {"text": one.text}
        choices.append({"index": index, **said, "logprobs": one.logprobs(one.choices) if _wanted(call) else None, "finish_reason": one.finish})
    return {**frame(call, stream=False), "choices": choices, "usage": usage(call), "attune": facts(call, logged)}


def _wanted(call: _Call) -> bool:
    return bool(call.asked.logprobs) if isinstance(call.asked, ChatRequest) else call.asked.logprobs is not None


def chunk(call: _Call, index: int, delta: dict[str, Any], *, finish: str | None = None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    """One piece of a stream."""
    said = {"delta": delta} if call.chat else {"text": delta.get("content", "")}
    usage_later = call.asked.stream_options is not None and call.asked.stream_options.include_usage
    return {**frame(call, stream=True), "choices": [{"index": index, **said, "logprobs": logprobs, "finish_reason": finish}], **({"usage": None} if usage_later else {})}


def told(call: _Call, index: int, piece: Piece) -> dict[str, Any] | None:
    """The chunk for a piece; None where it brings nothing yet."""
    one = call.texts[index]
    logprobs = one.logprobs([piece.choice]) if piece.choice is not None and _wanted(call) else None
    if not one.fresh and piece.finish is None and logprobs is None:
        return None
    delta: dict[str, Any] = {"content": one.fresh} if one.fresh or not call.chat else {}
    if one.calls:
        delta["tool_calls"] = [{"index": number, **each} for number, each in enumerate(one.calls)]
    return chunk(call, index, delta, finish=None if piece.finish is None else one.finish, logprobs=logprobs)


def _openai_call(call: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}}


def event(body: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


def broken(error: BaseException | None) -> Problem:
    """The refusal for an answer that ended with an error."""
    if isinstance(error, DataError):
        return problem_of(error)
    if isinstance(error, AttuneError):
        return Problem(503, "the answer could not be written", fix="ask again", headers={"Retry-After": "1"})
    return Problem(500, "the server could not answer; its operator finds the reason in the events")
