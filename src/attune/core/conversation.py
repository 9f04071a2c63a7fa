"""Conversations as rows: every common shape read into one, rendered through one chat template, and turned into token ids the same way
in training and in answering, so that the template a model learned with is the template it answers with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attune.core.errors import DataError, PlugError
from attune.core.text import portion

if TYPE_CHECKING:
    from attune.core.specialist import Specialist

Message = dict[str, Any]
"""`role` (system, user, assistant or tool), `content` (str) and, where a data set says so, `train` (bool)."""

DEFAULT_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] | trim }}\n"
    "{% elif message['role'] == 'assistant' %}Assistant: {{ message['content'] | trim }}{{ eos_token }}\n"
    "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] | trim }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For bases without a template of their own: 'User: ...' and 'Assistant: ...' lines, each answer closed by the end token; no new tokens."""

ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "function_call": "assistant", "observation": "tool", "function": "tool"}
"""Other names of roles (ShareGPT's among them) -> ours."""
KNOWN_ROLES = ("system", "user", "assistant", "tool")
FLAGS = ("train", "loss", "weight")
"""Names under which data sets say whether an assistant turn is learned from."""


def messages_of(value: Any, place: str = "messages") -> list[Message]:
    """Messages from a text (one user turn) or a list of messages in OpenAI's or ShareGPT's form; raises DataError naming the turn."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"{_short(value)} is not a conversation", place=place, fix='give a text or a list like [{"role": "user", "content": "..."}]')
    return [_message(one, f"{place}[{number}]") for number, one in enumerate(value)]


def _message(value: Any, place: str) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f"{_short(value)} is not a message", place=place, fix='give {"role": ..., "content": ...}')
    said, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    role = ROLES.get(str(said), str(said))
    if role not in KNOWN_ROLES:
        raise DataError(f"role {said!r} is not known", place=place, fix="use one of " + ", ".join((*KNOWN_ROLES, *ROLES)))
    if not isinstance(content, str):
        raise DataError(f"the content is {_short(content)}, not text", place=place, fix="give the content as one text; images and tool calls are not read yet")
    message: Message = {"role": role, "content": content}
    flags = {name: value[name] for name in FLAGS if value.get(name) is not None}
    for name, flag in flags.items():
        if flag not in (0, 1):
            raise DataError(f"'{name}' is {flag!r}", place=place, fix="say true or false (or 1 or 0): whether this turn is learned from")
        message["train"] = message.get("train", True) and bool(flag)
    return message


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def template_of(specialist: Specialist) -> str:
    """The chat template in force: the one in the signature, else the base's own, else `DEFAULT_TEMPLATE`."""
    said = specialist.signature.get("chat_template")
    if said:
        if template_digest(said) != specialist.signature["chat_template_sha256"]:
            raise PlugError("the chat template is not the one this model was tuned with", place="signature.chat_template", fix="restore the bundle, or tune again")
        return str(said)
    tokenizer = specialist.tokenizer
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if own:
        return str(own)
    if not tokenizer.eos_token:
        raise PlugError("the base model's tokenizer has no end token, so an answer could never end", place="base_model", fix="choose a base whose tokenizer_config.json names an eos_token")
    return DEFAULT_TEMPLATE


def template_digest(template: str) -> str:
    """sha256 hex of a template's text."""
    return hashlib.sha256(template.encode()).hexdigest()


def render(specialist: Specialist, messages: Sequence[Message], *, to_answer: bool, tools: Sequence[Mapping[str, Any]] | None = None) -> str:
    """The conversation as one text; `to_answer` ends it where the assistant begins to speak. `tools` are handed to the template."""
    from jinja2.exceptions import TemplateError

    plain = [{"role": m["role"], "content": m["content"]} for m in messages]
    try:
        text: str = specialist.tokenizer.apply_chat_template(plain, chat_template=template_of(specialist), tokenize=False, add_generation_prompt=to_answer, **({"tools": list(tools)} if tools else {}))
    except TemplateError as error:
        raise DataError(f"the base's chat template refuses the conversation ({', '.join(m['role'] for m in plain)}): {error}", fix="order the turns as the base expects them") from error
    return text


def stop_ids(specialist: Specialist) -> list[int]:
    """Tokens that end an answer: the tokenizer's end token and the special token that the template puts behind an answer."""
    tokenizer = specialist.tokenizer
    mark = "answer"
    text = render(specialist, [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}], to_answer=False)
    behind = tokenizer(text[text.rindex(mark) + len(mark) :], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    found = {int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set()
    found |= {int(one) for one in behind[:1] if one in special}
    if not found:
        raise PlugError("neither the base's tokenizer nor its chat template has an end token", place="base_model", fix="choose a base that can end its answers")
    return sorted(found)


def prompt_ids(specialist: Specialist, messages: Sequence[Message], limit: int | None = None, tools: Sequence[Mapping[str, Any]] | None = None) -> tuple[list[int], bool]:
    """Token ids up to where the assistant speaks, their last `limit` (default: the model's length), and whether older ones were cut away."""
    limit = limit or specialist.max_length
    found, begin = _encode_end(specialist, render(specialist, messages, to_answer=True, tools=tools), limit)
    ids = [int(one) for one in found["input_ids"]]
    return keep_end(ids, limit, specialist.tokenizer.bos_token_id), begin > 0 or len(ids) > limit


def _encode_end(specialist: Specialist, text: str, limit: int, **options: Any) -> tuple[Any, int]:
    """The encoding of as much of the end of a rendered conversation as holds `limit` tokens, with its begin token, and how many characters were left
    out before it: no tokenizer gets megabytes."""
    tokenizer = specialist.tokenizer
    for wider in (False, True):
        part = portion(text, limit, end=True, wider=wider)
        found = tokenizer(part, add_special_tokens=False, verbose=False, **options)
        if len(part) == len(text) or len(found["input_ids"]) > limit:
            break
    begin = len(text) - len(part)
    if begin and tokenizer.bos_token and text.startswith(tokenizer.bos_token):
        found["input_ids"] = [tokenizer.bos_token_id, *found["input_ids"]]
        if "offset_mapping" in found:
            found["offset_mapping"] = [(-begin, -begin), *found["offset_mapping"]]
    return found, begin


def keep_end(ids: Sequence[int], limit: int, first: int | None) -> list[int]:
    """The last `limit` ids; a leading `first` (begin token) stays in front. What is cut is the oldest of the conversation."""
    if len(ids) <= limit:
        return list(ids)
    lead = [ids[0]] if first is not None and ids[0] == first and limit > 1 else []
    return lead + list(ids[len(ids) - limit + len(lead) :])


@dataclass(frozen=True)
class Taught:
    """A conversation as token ids, and which of them are the assistant's to learn."""

    ids: list[int]
    learned: list[bool]
    answer_size: int
    """Tokens of the last answer, its end token included."""
    cut: bool = False
    """True when the oldest part was left out before anything was encoded; an answer that reaches that far back is longer than `answer_size`."""


def taught(specialist: Specialist, messages: Sequence[Message], stops: Sequence[int]) -> Taught:
    """Encode a conversation that ends in an assistant's turn; every learned turn is learned up to and including its end token.

    Of a conversation far longer than the model reads only the end is encoded.
    """
    text = render(specialist, messages, to_answer=False)
    found, left = _encode_end(specialist, text, specialist.max_length, return_offsets_mapping=True)
    ids, offsets = [int(one) for one in found["input_ids"]], [(begin + left, end + left) for begin, end in found["offset_mapping"]]
    learned = [False] * len(ids)
    answer_size = 0
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        last = number == len(messages) - 1
        before, upto = render(specialist, messages[:number], to_answer=True), text if last else render(specialist, messages[: number + 1], to_answer=False)
        if not (upto.startswith(before) and text.startswith(upto)):
            if not last and not message.get("train", True):
                continue
            raise DataError(
                f"the base's chat template writes turn {number + 1} differently once the conversation goes on", fix="mark earlier assistant turns with train: false, or give one answer per row"
            )
        inside = [i for i, (begin, end) in enumerate(offsets) if begin >= len(before) and end <= len(upto) and end > begin]
        ends = [i for i in inside if ids[i] in stops]
        inside = [i for i in inside if i <= ends[-1]] if ends else inside
        if last:
            ids, learned = _closed(ids, learned, inside, bool(ends), stops)
            inside = list(range(inside[0] if inside else len(ids) - 1, len(ids)))
            answer_size = len(inside)
        if message.get("train", True):
            for i in inside:
                learned[i] = True
    return Taught(ids, learned, answer_size, left > 0)


def _closed(ids: list[int], learned: list[bool], inside: list[int], ended: bool, stops: Sequence[int]) -> tuple[list[int], list[bool]]:
    """The ids up to the end of the last answer; the end token is added where the template writes none."""
    end = inside[-1] + 1 if inside else len(ids)
    ids, learned = ids[:end], learned[:end]
    return (ids, learned) if ended else ([*ids, stops[0]], [*learned, False])
