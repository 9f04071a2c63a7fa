"""Conversations as rows: every common shape read into one, rendered through one chat template, and turned into token ids the same way
in training and in answering, so that the template a model learned with is the template it answers with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attune.core.errors import DataError, PlugError
from attune.core.shortening import by_turns, without_oldest
from attune.core.text import portion

if TYPE_CHECKING:
    from attune.core.specialist import Specialist

Message = dict[str, Any]
"""`role` (system, user, assistant, tool, or segment for text without a template), `content` (str) and, where a data set says so, `train` (bool),
`tool_calls` (list of {"name", "arguments"}), `name` and `tool_call_id`."""

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

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "ipython": "tool",
    "developer": "system",
}
"""Other names of roles (ShareGPT's among them) -> ours."""
KNOWN_ROLES = ("system", "user", "assistant", "tool")
SEGMENT = "segment"
"""The role of a text that no template is put around."""
CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>\s*", re.DOTALL)
"""A function call as text: the form in which most open models write one."""
CARRIED = ("name", "tool_call_id")
"""What a message may say besides, for templates that show it."""
NOT_READ = ("image", "images", "image_url", "video", "videos", "audio", "audios", "input_audio")
FLAGS = ("train", "loss", "weight")
"""Names under which data sets say whether an assistant turn is learned from."""


def messages_of(value: Any, place: str = "messages") -> list[Message]:
    """Messages from a text (one user turn), a list of messages in OpenAI's or ShareGPT's form, or {"messages": such a list}; raises DataError naming the turn."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if isinstance(value, Mapping) and "messages" in value:
        return messages_of(value["messages"], f"{place}.messages")
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"{_short(value)} is not a conversation", place=place, fix='give a text or a list like [{"role": "user", "content": "..."}]')
    return [_message(one, f"{place}[{number}]") for number, one in enumerate(value)]


def _message(value: Any, place: str) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f"{_short(value)} is not a message", place=place, fix='give {"role": ..., "content": ...}')
    given, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    said = str(given).strip().casefold()
    role = ROLES.get(said, said)
    if role not in (*KNOWN_ROLES, SEGMENT):
        raise DataError(f"role {_short(given)} is not known", place=place, fix="use one of " + ", ".join((*KNOWN_ROLES, *ROLES)))
    lost = [name for name in NOT_READ if value.get(name)]
    if lost:
        raise DataError(f"the message has {', '.join(lost)}, and this task reads text only", place=place, fix="leave the row out, or describe in words what is seen or heard")
    calls = _calls(value.get("tool_calls") or value.get("function_call") or (content if said == "function_call" else None), place)
    if said == "function_call" or (content is None and calls):
        content = ""
    message: Message = {"role": role, "content": _content(content, place)}
    if calls:
        if role != "assistant":
            raise DataError(f"a {role}'s turn calls functions", place=place, fix="only the assistant calls functions; what they answer is a turn with role tool")
        message["tool_calls"] = calls
    message |= {name: str(value[name]) for name in CARRIED if isinstance(value.get(name), (str, int)) and str(value[name])}
    flags = {name: value[name] for name in FLAGS if value.get(name) is not None}
    for name, flag in flags.items():
        if not isinstance(flag, (bool, int, float)) or flag not in (0, 1):
            raise DataError(f"'{name}' is {_short(flag)}", place=place, fix="say true or false (or 1 or 0): whether this turn is learned from")
        message["train"] = message.get("train", True) and bool(flag)
    return message


def _content(content: Any, place: str) -> str:
    """A message's text: given as one, or as a list of parts that are all text."""
    if isinstance(content, (list, tuple)) and content and all(isinstance(part, Mapping) for part in content):
        other = [str(part.get("type")) for part in content if part.get("type") != "text" or not isinstance(part.get("text"), str)]
        if not other:
            return "".join(part["text"] for part in content)
        raise DataError(f"the content has a part of type {other[0][:40]}, and this task reads text only", place=place, fix="leave the row out, or describe in words what is seen or heard")
    if not isinstance(content, str):
        raise DataError(f"the content is {_short(content)}, not text", place=place, fix="give the content as one text")
    return content


def _calls(given: Any, place: str) -> list[dict[str, Any]]:
    """Function calls as [{"name", "arguments"}], from OpenAI's form, from ShareGPT's JSON text, or from that form itself."""
    if given is None or given == []:
        return []
    wanted = 'give [{"function": {"name": "...", "arguments": {...}}}], or JSON text like {"name": "...", "arguments": {...}}'
    if isinstance(given, str):
        given = _json(given, "the function call", place, wanted)
    found = []
    for one in given if isinstance(given, (list, tuple)) else [given]:
        body = one.get("function", one) if isinstance(one, Mapping) else one
        if not isinstance(body, Mapping) or not isinstance(body.get("name"), str) or not body["name"]:
            raise DataError(f"{_short(one)} is not a function call", place=place, fix=wanted)
        arguments = body.get("arguments", body.get("parameters"))
        if isinstance(arguments, str):
            arguments = _json(arguments, f"the arguments of {_short(body['name'])}", place, wanted) if arguments.strip() else {}
        if arguments is not None and not isinstance(arguments, Mapping):
            raise DataError(f"the arguments of {_short(body['name'])} are {_short(arguments)}", place=place, fix=wanted)
        found.append({"name": body["name"], "arguments": {str(k): v for k, v in (arguments or {}).items()}})
    return found


def _json(text: str, what: str, place: str, fix: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is no JSON: {_short(text)}", place=place, fix=fix) from error


def tools_of(given: Any, place: str = "tools") -> list[dict[str, Any]] | None:
    """Functions that may be called, from a list of JSON schemas or its text; None where there are none."""
    wanted = 'give a list like [{"type": "function", "function": {"name": "...", "parameters": {...}}}]'
    if given is None or given in ("", [], {}) or (isinstance(given, str) and not given.strip()):
        return None
    found = _json(given, "the list of functions", place, wanted) if isinstance(given, str) else given
    found = [found] if isinstance(found, Mapping) else found
    if not isinstance(found, (list, tuple)):
        raise DataError(f"{_short(found)} is not a list of functions", place=place, fix=wanted)
    read = [_json(one, "a function", f"{place}[{number}]", wanted) if isinstance(one, str) else one for number, one in enumerate(found)]
    for number, one in enumerate(read):
        body = one.get("function", one) if isinstance(one, Mapping) else None
        if not isinstance(body, Mapping) or not isinstance(body.get("name"), str):
            raise DataError(f"{_short(one)} is not a function", place=f"{place}[{number}]", fix=wanted)
    return [dict(one) for one in read] or None


def calls_as_text(message: Message) -> str:
    """A message's text with its function calls written behind it."""
    blocks = [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in message.get("tool_calls", ())]
    return "\n".join([*([message["content"]] if message["content"].strip() or not blocks else []), *blocks])


def answer_of(text: str) -> Message:
    """The assistant's turn that `calls_as_text` wrote; calls that are none stay text."""
    body = text.rstrip()
    calls: list[dict[str, Any]] = []
    while (found := _last_call(body)) is not None:
        body, call = found
        calls.insert(0, call)
    return {"role": "assistant", "content": body, "tool_calls": calls} if calls else {"role": "assistant", "content": text}


def _last_call(text: str) -> tuple[str, dict[str, Any]] | None:
    begin = text.rfind("<tool_call>")
    block = CALL.fullmatch(text, begin) if begin >= 0 else None
    if block is None:
        return None
    try:
        call = json.loads(block[1])
    except (ValueError, RecursionError):
        return None
    if not isinstance(call.get("name"), str) or not isinstance(call.get("arguments"), dict) or set(call) != {"name", "arguments"}:
        return None
    return text[:begin].rstrip(), call


def question_of(row: Mapping[str, Any]) -> list[Message]:
    """The messages before a row's answer; none for raw text."""
    return messages_of(row["prompt"], "prompt") if row.get("prompt") else []


def conversation_of(row: Mapping[str, Any], answer: str = "completion") -> list[Message]:
    """A row with its answer (the text in `answer`): what is learned from. Raw text and segments are given without a template."""
    question = question_of(row)
    if not question or question[0]["role"] == SEGMENT:
        return [*question, {"role": SEGMENT, "content": row[answer], "train": True}]
    return [*question, answer_of(row[answer])]


def require_order(messages: Sequence[Message], place: str) -> None:
    """Refuse turns that no conversation has: a system's behind the first, two of one speaker in a row, a function's answer to nothing, an empty one."""
    if len({m["role"] == SEGMENT for m in messages}) > 1:
        raise DataError("segments stand among turns", place=place, fix="give either turns with roles, or segments of text that need no template")
    before = ""
    for number, message in enumerate(messages):
        at, role = f"{place}[{number}]", message["role"]
        if role == SEGMENT:
            continue
        if role == "system" and number:
            raise DataError(f"turn {number + 1} is the system's, behind the {before}'s", place=at, fix="put what the system says first, in one turn")
        if role == before and role != "tool":
            raise DataError(f"turns {number} and {number + 1} are both the {role}'s", place=at, fix="join them into one turn, or put the missing turn between them")
        if role == "tool" and before not in ("assistant", "tool"):
            raise DataError(
                f"turn {number + 1} is a function's answer, and no turn of the assistant is before it",
                place=at,
                fix="put the assistant's turn that calls it before it (tool_calls, or role function_call)",
            )
        if not message["content"].strip() and not message.get("tool_calls") and role in ("user", "assistant"):
            raise DataError(f"turn {number + 1}, the {role}'s, is empty", place=at, fix="write what was said, or leave the row out")
        before = role


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
    """The conversation as one text; `to_answer` ends it where the assistant begins to speak."""
    return written(specialist.tokenizer, template_of(specialist), messages, to_answer=to_answer, tools=tools)


def written(tokenizer: Any, template: str | None, messages: Sequence[Message], *, to_answer: bool, tools: Sequence[Mapping[str, Any]] | None = None) -> str:
    """`render`, by a tokenizer and a template (None: the tokenizer's own)."""
    from jinja2.exceptions import TemplateError

    if segments(messages):
        text = "".join(m["content"] for m in messages)
        begin = tokenizer.bos_token or ""
        return text if text.startswith(begin) else begin + text
    plain, tools = for_template(template if template is not None else tokenizer.chat_template, messages, tools)
    try:
        found: str = tokenizer.apply_chat_template(plain, chat_template=template, tokenize=False, add_generation_prompt=to_answer, **({"tools": list(tools)} if tools else {}))
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"the base's chat template refuses the conversation ({', '.join(m['role'] for m in plain)}): {error}", fix="order the turns as the base expects them") from error
    return found


def segments(messages: Sequence[Message]) -> bool:
    """Whether these are texts without a template."""
    return bool(messages) and all(m["role"] == SEGMENT for m in messages)


def for_template(template: Any, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> tuple[list[dict[str, Any]], Sequence[Mapping[str, Any]] | None]:
    """Turns and functions as a template reads them: given to one that writes them; for one that does not, written into the turns as JSON."""
    plain = [_plain(m, "tool_calls" in str(template)) for m in messages]
    return (_with_tools(plain, tools), None) if tools and "tools" not in str(template) else (plain, tools)


def _plain(message: Message, knows_calls: bool) -> dict[str, Any]:
    carried = {name: message[name] for name in CARRIED if name in message}
    if not message.get("tool_calls"):
        return {"role": message["role"], "content": message["content"], **carried}
    if not knows_calls:
        return {"role": message["role"], "content": calls_as_text(message), **carried}
    return {"role": message["role"], "content": message["content"], "tool_calls": [{"type": "function", "function": call} for call in message["tool_calls"]], **carried}


def _with_tools(messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The functions in the system's turn, for templates without a place for them."""
    said = "Functions that may be called:\n" + "\n".join(json.dumps(one, ensure_ascii=False) for one in tools)
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{said}"}, *messages[1:]]
    return [{"role": "system", "content": said}, *messages]


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
    """Token ids up to where the assistant speaks, at most `limit` (default: the model's length), and whether older ones were cut away: whole turns
    (`without_oldest`), or the beginning where nothing has to stay or nothing fits beside it."""
    limit = limit or specialist.max_length
    ids, size = question_ids(specialist, messages, limit, tools)
    kept = messages if size <= limit else shortened_question(specialist, messages, limit, tools)[0]
    if kept is not messages:
        ids, _ = question_ids(specialist, kept, limit, tools)
    return keep_end(ids, limit, specialist.tokenizer.bos_token_id), size > limit


def question_ids(specialist: Specialist, messages: Sequence[Message], limit: int, tools: Sequence[Mapping[str, Any]] | None = None) -> tuple[list[int], int]:
    """Token ids of a question's end, and how many there are: more than `limit` where its beginning was not read."""
    found, begin = _encode_end(specialist, render(specialist, messages, to_answer=True, tools=tools), limit)
    ids = [int(one) for one in found["input_ids"]]
    return ids, max(len(ids), limit + 1 if begin else 0)


def shortened_question(specialist: Specialist, messages: Sequence[Message], limit: int, tools: Sequence[Mapping[str, Any]] | None = None) -> tuple[Sequence[Message], int]:
    """A question as it is where it fits or where nothing has to stay, else without its oldest turns; and how many tokens would do where nothing fits
    (`without_oldest`)."""
    if not by_turns(messages, tools) or question_ids(specialist, messages, limit, tools)[1] <= limit:
        return messages, 0
    return without_oldest(specialist.tokenizer, messages, limit, lambda some, most: question_ids(specialist, some, most, tools)[1])


def shortened_prompt(
    specialist: Specialist, prompt: Sequence[Message], answers: Sequence[Message], stops: Sequence[int], limit: int, tools: Sequence[Mapping[str, Any]] | None = None
) -> tuple[Sequence[Message], int]:
    """As `shortened_question`, of a prompt before answers that are known: as much of it as fits before each of them."""

    def size(some: Sequence[Message], most: int) -> int:
        return max(answered_size(specialist, [*some, answer], stops, most, tools) for answer in answers)

    if not by_turns(prompt, tools) or size(prompt, limit) <= limit:
        return prompt, 0
    return without_oldest(specialist.tokenizer, prompt, limit, size)


def answered_size(specialist: Specialist, messages: Sequence[Message], stops: Sequence[int], limit: int, tools: Sequence[Mapping[str, Any]] | None) -> int:
    """Tokens of a conversation up to its last answer's end token, the added one too: more than `limit` where its beginning was not read."""
    found, begin = _encode_end(specialist, render(specialist, messages, to_answer=False, tools=tools), limit)
    ids = found["input_ids"]
    end = max((place + 1 for place, one in enumerate(ids) if one in stops), default=0)
    closed = end and not specialist.tokenizer.decode(ids[end:]).strip()
    return max(end if closed else len(ids) + 1, limit + 1 if begin else 0)


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
    begins: frozenset[int] = frozenset()
    """Places in `ids` at which learned turns begin."""
    cut: bool = False
    """True when the oldest part was left out before anything was encoded; an answer that reaches that far back is longer than `answer_size`."""


def taught(specialist: Specialist, messages: Sequence[Message], stops: Sequence[int], tools: Sequence[Mapping[str, Any]] | None = None) -> Taught:
    """Encode a conversation that ends in an assistant's turn (or a segment); every learned turn is learned up to and including its end token.

    The assistant's turns and segments are learned unless `train` says no; other turns only where `train` says yes. Of a conversation far longer than
    the model reads only the end is encoded.
    """
    text = render(specialist, messages, to_answer=False, tools=tools)
    found, left = _encode_end(specialist, text, specialist.max_length, return_offsets_mapping=True)
    ids, offsets = [int(one) for one in found["input_ids"]], [(begin + left, end + left) for begin, end in found["offset_mapping"]]
    learned = [False] * len(ids)
    answer_size = 0
    begins: set[int] = set()
    for number, message in enumerate(messages):
        last = number == len(messages) - 1
        own = message["role"] in ("assistant", SEGMENT)
        trains = message.get("train", own)
        if not trains and not last:
            continue
        answered = message["role"] == "assistant"
        before = render(specialist, messages[:number], to_answer=answered, tools=tools) if number or answered else ""
        upto = text if last else render(specialist, messages[: number + 1], to_answer=False, tools=tools)
        if not (upto.startswith(before) and text.startswith(upto)):
            raise DataError(
                f"the base's chat template writes turn {number + 1} differently once the conversation goes on", fix="mark earlier assistant turns with train: false, or give one answer per row"
            )
        begin = len(before) if own else max(len(before), upto.find(message["content"].strip(), len(before)))
        if begin < left and not last:
            continue
        inside = [i for i, (first, end) in enumerate(offsets) if first >= begin and end <= len(upto) and end > first]
        ends = [i for i in inside if ids[i] in stops] if message["role"] != SEGMENT else [i for i in inside[-1:] if ids[i] in stops]
        inside = [i for i in inside if i <= ends[-1]] if ends else inside
        if last:
            ids, learned = _closed(ids, learned, inside, bool(ends), stops)
            inside = list(range(inside[0] if inside else len(ids) - 1, len(ids)))
            answer_size = len(inside)
        if trains:
            for i in inside:
                learned[i] = True
            begins.update(inside[:1])
    return Taught(ids, learned, answer_size, frozenset(begins), left > 0)


def shortened(one: Taught, limit: int, first: int | None) -> tuple[list[int], list[bool]]:
    """The last `limit` ids of a conversation (see `keep_end`) and which of them are learned: of a turn whose beginning was cut away, none."""
    ids = keep_end(one.ids, limit, first)
    learned = one.learned[len(one.learned) - len(ids) :]
    if len(ids) == len(one.ids):
        return ids, learned
    gone = len(one.ids) - len(ids)
    place = 1 if first is not None and ids[0] == first else 0
    learned[:place] = [False] * place
    while place < len(ids) and learned[place] and place + gone not in one.begins:
        learned[place] = False
        place += 1
    return ids, learned


def _closed(ids: list[int], learned: list[bool], inside: list[int], ended: bool, stops: Sequence[int]) -> tuple[list[int], list[bool]]:
    """The ids up to the end of the last answer; the end token is added where the template writes none."""
    end = inside[-1] + 1 if inside else len(ids)
    ids, learned = ids[:end], learned[:end]
    return (ids, learned) if ended else ([*ids, stops[0]], [*learned, False])
