"""Rows for language models in the shapes of other tools: alpaca, ShareGPT, messages with functions, prompt and completion, raw text, segments,
preferences, labelled answers, prompts for rewards. Each row is read by what it holds itself, so that a file may mix shapes; a row that fits none is
refused with its column, the reason and the way out."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attune.core.contracts import Role
from attune.core.conversation import SEGMENT, Message, calls_as_text, messages_of, require_order, tools_of
from attune.core.errors import DataError
from attune.core.text import as_written

Values = Mapping[str, Any]
Columns = Mapping[str, Any]

PROMPT = Role(
    "prompt",
    "messages",
    "what is answered: a text, or a conversation as a list of messages (which may hold the answer as its last turn)",
    ("messages", "conversations", "conversation", "prompt", "instruction", "question", "query", "input", "text", "user", "source", "document", "dialogue"),
)
COMPLETION = Role("completion", "text", "the right answer", ("completion", "output", "response", "answer", "target", "reply", "assistant", "summary"), required=False, target=True, numbers=True)
TOOLS = Role("tools", "any", "functions that may be called, as JSON schemas", ("tools", "functions"), required=False)
CHOSEN = Role(
    "completion",
    "text",
    "the better answer",
    ("chosen", "field_chosen", "preferred_output", "preferred", "chosen_response", "response_chosen", "accepted", "better", "winner"),
    required=False,
    target=True,
    numbers=True,
)
REJECTED = Role(
    "rejected",
    "text",
    "the worse answer",
    ("rejected", "field_rejected", "rejected_response", "rejected_messages", "non_preferred_output", "dispreferred", "response_rejected", "worse", "loser"),
    required=False,
    target=True,
    numbers=True,
)
DESIRABLE = Role("desirable", "flag", "whether the answer is a good one: true or false", ("label", "kto_tag", "desirable", "thumbs_up", "good"), required=False, target=True)
DOCUMENT = Role("completion", "text", "the document", ("text", "content", "document", "body", "article", "passage", "story", "abstract", "completion"), target=True)
RAW = Role("prompt", "messages", "stays empty: a document answers nothing", (), required=False)

ANSWERED_ROLES = (PROMPT, COMPLETION, TOOLS)
PREFERENCE_ROLES = (PROMPT, CHOSEN, REJECTED, TOOLS)
LABELLED_ROLES = (PROMPT, COMPLETION, DESIRABLE, TOOLS)
DOCUMENT_ROLES = (RAW, DOCUMENT)

TALKS = ("messages", "conversations", "conversation")
REJECTIONS = ("rejected_response", "rejected_messages", "rejected")
PICTURES = ("images", "image", "videos", "video", "audios", "audio")
BESIDE = {"instruction": ("input", "context"), "prompt": ("input", "context"), "question": ("context",)}
"""Column of a text that is asked -> columns with what it is asked about, written behind it."""
SAID = {"true": True, "1": True, "1.0": True, "yes": True, "good": True, "up": True, "false": False, "0": False, "0.0": False, "no": False, "bad": False, "down": False}
"""What people write for a good and for a bad answer."""

SHAPES: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("segments", (("segments",),)),
    ("preferred_output / non_preferred_output (OpenAI)", (("preferred_output",), ("non_preferred_output",))),
    ("messages with a rejected response", (TALKS, ("rejected_response", "rejected_messages"))),
    ("alpaca with chosen and rejected", (("instruction",), ("chosen",), ("rejected",))),
    ("chosen and rejected", (("chosen", "field_chosen"), ("rejected", "field_rejected"))),
    ("labelled answers (KTO)", (("kto_tag",),)),
    ("steps with labels", (("completions",), ("labels",))),
    ("sharegpt", (("conversations", "conversation"),)),
    ("messages", (("messages",),)),
    ("alpaca", (("instruction",), ("output", "response"))),
    ("prompt and completion", (("prompt",), ("completion",))),
    ("raw text", (("text",),)),
    ("prompt alone", (("prompt",),)),
)
"""Name of a shape -> groups of columns, of each of which one must be filled; the first that fits is the row's."""


PAIRED = frozenset({"preferred_output / non_preferred_output (OpenAI)", "messages with a rejected response", "alpaca with chosen and rejected", "chosen and rejected"})
LABELLED = frozenset({"labelled answers (KTO)"})
PLAIN = frozenset({"raw text"})
ASKED = frozenset({"prompt alone"})
"""Shapes of a better and a worse answer, of answers marked good or bad, of texts without a question, and of questions without an answer."""
ANSWERED = frozenset({"sharegpt", "messages", "alpaca", "prompt and completion"})
"""Shapes of one answer, which a label beside it marks as a good or a bad one."""
SPEAKING = frozenset(name for name, _ in SHAPES if name not in ("raw text", "prompt alone", "prompt and completion", "steps with labels"))
"""Shapes that only rows for language models have."""


def filled(value: Any) -> bool:
    """Whether a cell says anything."""
    return value is not None and not (isinstance(value, (str, list, tuple, dict)) and not (value.strip() if isinstance(value, str) else value))


def shape_of(values: Values) -> str:
    """The name of a row's shape by the columns it fills; 'columns' where they have names of their own."""
    there = {name for name, value in values.items() if filled(value)}
    for name, groups in SHAPES:
        if all(there & set(group) for group in groups):
            if name in ANSWERED and isinstance(values.get("label"), bool):
                return next(iter(LABELLED))
            if name in ("messages", "sharegpt") and filled(values.get("tools")):
                return f"{name} with tools"
            return name
    return "columns"


def shapes_of(rows: Iterable[Values]) -> Counter[str]:
    """The shapes of a file's rows. Labels 0 and 1, or truth values as a table writes them, mark answers where the rows have both of them and no other."""
    every = list(rows)
    said = {str(row["label"]).strip().casefold() for row in every if filled(row.get("label"))}
    marked = said <= {"true", "1", "1.0", "false", "0", "0.0"} and len({SAID[one] for one in said}) == 2
    found = [(shape_of(row), filled(row.get("label"))) for row in every]
    return Counter(next(iter(LABELLED)) if marked and labelled and shape.removesuffix(" with tools") in ANSWERED else shape for shape, labelled in found)


# ---------------------------------------------------------------- the five kinds of rows


def answered_of(values: Values, columns: Columns) -> dict[str, Any]:
    """`prompt` (messages), `completion` (text; a call of functions as JSON in <tool_call> tags) and, where given, `tools`.

    A conversation without a completion column gives its last assistant turn that is learned from; turns behind it teach nothing and are left.
    `input` and `context` are read beside a text that is asked (`BESIDE`), `system` and `history` before it. A row without a prompt gives None for both.

    Raises:
        DataError: names column, reason and fix.
    """
    if filled(values.get("segments")):
        return _segments(values["segments"])
    _no_pictures(values)
    used = _used(values, columns, ("completion",))
    plain = DataError(
        "the row is a text without an answer",
        place="text",
        fix="learn plain texts with `objective: pretraining`, let them train beside rows with answers by `data.replay`, or name the answer's column in data.columns.completion",
    )
    if "prompt" not in used:
        if shape_of(values) == "raw text":
            raise plain
        return {"prompt": None, "completion": None}
    if _marked_bad(values, used):
        raise DataError(
            "the answer is marked as a bad one, and this objective learns every answer", place=_mark(values), fix="use `objective: kto`, which learns from both kinds, or leave the row out"
        )
    prompt, tools = _prompt(values, used, columns)
    more = {"tools": tools} if tools else {}
    if "completion" in used or ("completion" in columns and isinstance(_cell(values, used["prompt"]), str)):
        column = used.get("completion") or columns.get("completion") or "completion"
        return {"prompt": _asked(prompt, used["prompt"]), "completion": _answer(values.get(column), column), **more}
    if isinstance(_cell(values, used["prompt"]), str):
        if used["prompt"] == "text" and shape_of(values) == "raw text":
            raise plain
        return {"prompt": prompt, "completion": None, **more}
    question, answer = _last_answer(prompt, used["prompt"])
    return {"prompt": question, "completion": answer, **more}


def preference_of(values: Values, columns: Columns) -> dict[str, Any]:
    """`prompt`, `completion` (the better answer) and `rejected`, from chosen/rejected (texts, turns or whole conversations), messages with a
    rejected response, and OpenAI's preferred outputs.

    Raises:
        DataError: an answer is missing or empty, both are the same, or they do not answer the same question.
    """
    _no_pictures(values)
    used = _used(values, columns, ("completion", "rejected"))
    if "rejected" not in used:
        raise DataError(
            "there is no answer that was rejected", place=str(columns.get("rejected", "rejected")), fix="give the worse answer in a column `rejected`, or use objective sft for rows with one answer"
        )
    worse_column = used["rejected"]
    tools = tools_of(values.get("tools"))
    if "completion" in used:
        better_column = used["completion"]
        given, other = _plain_json(values.get(better_column)), _plain_json(values.get(worse_column))
        asked = _prompt(values, used, columns)[0] if "prompt" in used else []
        before, better = _answer_turns(given, better_column, asked)
        before_worse, worse = _answer_turns(other, worse_column, asked)
        if _said(before) != _said(before_worse):
            raise DataError(
                f"{better_column} and {worse_column} do not answer the same question", place=worse_column, fix="give both answers to one and the same conversation; only the last turn may differ"
            )
        prompt = before
    else:
        if "prompt" not in used or isinstance(_cell(values, used["prompt"]), str):
            raise DataError("there is no answer that was chosen", place=str(columns.get("completion", "chosen")), fix="give the better answer in a column `chosen`")
        talk, tools = _prompt(values, used, columns)
        prompt, better = _last_answer(talk, used["prompt"])
        better_column = used["prompt"]
        before, worse = _answer_turns(_plain_json(values.get(worse_column)), worse_column, prompt)
        if _said(before) != _said(prompt):
            raise DataError(
                f"{better_column} and {worse_column} do not answer the same question", place=worse_column, fix="give both answers to one and the same conversation; only the last turn may differ"
            )
    if better.strip() == worse.strip():
        raise DataError("the chosen and the rejected answer are equal, so the pair teaches nothing", place=worse_column, fix="correct one of them, or leave the row out")
    if not prompt:
        raise DataError("there is no question before the answers", place=better_column, fix="give it in a column `prompt`, or as the first turns of both answers")
    return {"prompt": _asked(prompt, better_column), "completion": better, "rejected": worse, **({"tools": tools} if tools else {})}


def labelled_of(values: Values, columns: Columns) -> dict[str, Any]:
    """`prompt`, `completion` and `desirable` (bool), from KTO's label or kto_tag beside any shape with one answer."""
    column = next((one for one in (columns.get("desirable"), "kto_tag", "label", "desirable") if isinstance(one, str) and values.get(one) is not None and values.get(one) != ""), None)
    if column is None:
        raise DataError("the row does not say whether its answer is good", place=str(columns.get("desirable", "label")), fix="write true or false into a column `label`")
    said = str(values[column]).strip().casefold()
    if said not in SAID:
        raise DataError(f"{_excerpt(values[column])} does not say whether the answer is good", place=column, fix="write true or false (or 1 and 0, yes and no, good and bad)")
    plain = {name: value for name, value in values.items() if name not in ("kto_tag", "label", "desirable", column)}
    row = answered_of(plain, {role: name for role, name in columns.items() if role != "desirable"})
    if row["prompt"] is not None and row["completion"] is None:
        raise DataError("there is no answer", place=str(columns.get("completion", "completion")), fix="give the answer that is labelled, in a column `completion` or as the last turn")
    return {**row, "desirable": SAID[said]}


def rewarded_of(values: Values, columns: Columns) -> dict[str, Any]:
    """`prompt`, `completion` (a right answer where there is one, in its column or as the conversation's last turn, else None) and, where given, `tools`."""
    _no_pictures(values)
    used = _used(values, columns, ())
    if "prompt" not in used:
        return {"prompt": None, "completion": None}
    prompt, tools = _prompt(values, used, columns)
    column = columns.get("completion")
    reference = None
    if isinstance(column, str) and filled(values.get(column)):
        reference = _answer(values[column], column)
    elif prompt[-1]["role"] == "assistant":
        prompt, reference = _last_answer(prompt, used["prompt"])
    return {"prompt": _asked(prompt, used["prompt"]), "completion": reference, **({"tools": tools} if tools else {})}


def document_of(values: Values, columns: Columns) -> dict[str, Any]:
    """`prompt` [] and `completion`, the whole text; it is kept whole, however long."""
    column = next((one for one in (columns.get("completion"), "text", "content", "completion") if isinstance(one, str) and filled(values.get(one))), None)
    if column is None:
        raise DataError("there is no text", place=str(columns.get("completion", "text")), fix="give the text in a column `text`; conversations are learned with objective sft")
    if not isinstance(values[column], str):
        raise DataError(f"{_excerpt(values[column])} is not a text", place=column, fix="give one text per row; conversations are learned with objective sft")
    return {"prompt": [], "completion": values[column]}


# ---------------------------------------------------------------- parts


def _used(values: Values, columns: Columns, answers: Sequence[str]) -> dict[str, str]:
    """Role -> column of this row: those of the file as far as they are filled here; for a row of another shape its own."""
    used = {role: str(column) for role, column in columns.items() if role in ("prompt", *answers) and isinstance(column, str) and filled(values.get(column))}
    whole = "rejected" in answers
    if "prompt" in used and not whole:
        return used
    own: dict[str, tuple[str, ...]] = {"prompt": (*TALKS, "instruction", "prompt")}
    if whole:
        own = {
            "prompt": (*TALKS, "instruction", "prompt", "input", "question"),
            "completion": ("chosen", "field_chosen", "preferred_output"),
            "rejected": ("non_preferred_output", "field_rejected", *REJECTIONS),
        }
    elif answers:
        own["completion"] = ("completion", "output", "response")
    found = {role: next((name for name in names if filled(values.get(name))), None) for role, names in own.items()}
    if found["prompt"] in TALKS and not whole:
        found["completion"] = None  # a conversation of another shape than the file's holds its answer
    if found["prompt"] is not None and found["prompt"] not in TALKS and answers and not whole and found.get("completion") is None:
        return used
    return {**{role: name for role, name in found.items() if name is not None}, **used}


def _cell(values: Values, column: str) -> Any:
    """A prompt's cell as it is read; raises DataError for a conversation's text that is no list."""
    found = _plain_json(values.get(column))
    if column in TALKS and isinstance(found, str) and found.lstrip().startswith("["):
        raise DataError(f"the conversation is a text that is no JSON: {_excerpt(found)}", place=column, fix=f"write the column with json.dumps, in pandas: table['{column}'].map(json.dumps)")
    return found


def _plain_json(value: Any) -> Any:
    """A cell as it is; a text that is a list of messages, as tables hold it, becomes that list."""
    if isinstance(value, str) and value.lstrip().startswith(("[{", "[ {")) and any(name in value for name in ('"role"', '"from"', "'role'", "'from'")):
        found = _listed(value)
        if found is not None and all(isinstance(one, dict) and ("role" in one or "from" in one) for one in found):
            return found
    return value


def _listed(text: str) -> list[Any] | None:
    """The list that a text writes in JSON's way or, as pandas saves lists, in Python's; None where it is none."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) else None
    return None


def _prompt(values: Values, used: Mapping[str, str], columns: Columns) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Every turn that the prompt's column holds, with the system's and earlier turns from other columns, and the functions."""
    column = used["prompt"]
    given = _cell(values, column)
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        given = as_written(given)
    messages = messages_of(given, column)
    inner = given.get("tools") if isinstance(given, Mapping) else None
    tools = tools_of(values.get("tools") if filled(values.get("tools")) else inner)
    if isinstance(given, str):
        messages[-1]["content"] += "".join(f"\n{extra}" for extra in _beside(values, column, given, [*used.values(), *columns.values()]))
    system, history = values.get("system"), values.get("history")
    before: list[Message] = []
    if isinstance(system, str) and system.strip() and column != "system" and messages[0]["role"] != "system":
        before.append({"role": "system", "content": system})
    if column == "instruction":
        before += _history(history)
    messages = [*before, *messages]
    require_order(messages, column)
    return messages, tools


def _beside(values: Values, column: str, asked: str, taken: Sequence[Any]) -> list[str]:
    """What a text is asked about, from the columns beside it; a context that the text already holds is not said twice."""
    names = BESIDE.get(column.casefold(), ())
    texts = {name.casefold(): text for name, text in ((name, _passages(value)) for name, value in values.items() if name.casefold() in names and name not in taken) if text.strip()}
    return [texts[name] for name in names if name in texts and not (name == "context" and texts[name].strip() in asked)]


def _passages(value: Any) -> str:
    """A text, or a list of texts, as one; nothing where it is something else."""
    parts = value if isinstance(value, (list, tuple)) else [value]
    return "\n".join(one for one in parts if one.strip()) if all(isinstance(one, str) for one in parts) else ""


def _history(history: Any) -> list[Message]:
    if not filled(history):
        return []
    found: list[Message] = []
    given = _listed(history) if isinstance(history, str) else history
    for number, pair in enumerate(given if isinstance(given, (list, tuple)) else [history]):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
            raise DataError(f"{_excerpt(pair)} is not a pair of question and answer", place=f"history[{number}]", fix='give history as [["question", "answer"], ...]')
        found += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return found


def _asked(messages: list[Message], column: str) -> list[Message]:
    """Messages that an answer can follow."""
    if messages[-1]["role"] == "assistant":
        raise DataError("the conversation ends with the assistant's turn, and another column gives the answer too", place=column, fix="leave the last turn out, or name no completion in data.columns")
    if messages[-1]["role"] == "system":
        raise DataError("nobody asks anything: there is the system's turn alone", place=column, fix="add the user's turn")
    return messages


def _answer(value: Any, column: str) -> str:
    """The completion as text: given so, as one assistant message, or as SQuAD lists right answers, of which the first is taken."""
    value = _plain_json(value)
    if isinstance(value, Mapping) and isinstance(value.get("text"), (list, tuple)):
        value = next((one for one in value["text"] if isinstance(one, str) and one.strip()), None)
        if value is None:
            raise DataError("the list of right answers is empty", place=column, fix='leave the row out, or, to teach that the text does not say, write such an answer: {"text": ["not said"]}')
    if isinstance(value, bool):
        raise DataError(f"the answer is {value}", place=column, fix="write the answer as text; for answers that are labelled good or bad use objective kto")
    if isinstance(value, (list, tuple, Mapping)) and value:
        messages = messages_of([value] if isinstance(value, Mapping) else value, column)
        if len(messages) == 1 and messages[0]["role"] != "assistant":
            raise DataError(f"the answer is a turn of the {messages[0]['role']}", place=column, fix="give the assistant's turn, or a text")
        if len(messages) != 1:
            raise DataError(f"the answer has {len(messages)} messages ({', '.join(m['role'] for m in messages[:5])})", place=column, fix="give one assistant message or a text")
        value = calls_as_text(messages[0])
    text = "" if value is None or isinstance(value, (list, tuple, Mapping)) else as_written(value)
    if not text.strip():
        raise DataError("there is no answer", place=column, fix="write the answer, or leave the row out")
    return text


def _last_answer(messages: list[Message], column: str) -> tuple[list[Message], str]:
    """The turns before the last assistant's turn that is learned from, and that turn."""
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant" and message.get("train", True)]
    if not turns or turns[-1] == 0:
        raise DataError(
            "the conversation has no assistant turn to learn from", place=column, fix="end it with an assistant's turn behind a user's, or name the answer's column in data.columns.completion"
        )
    return messages[: turns[-1]], calls_as_text(messages[turns[-1]])


def _answer_turns(given: Any, column: str, asked: list[Message]) -> tuple[list[Message], str]:
    """What stands before an answer, and the answer: given as a text, as one turn, or as a whole conversation."""
    if isinstance(given, Mapping) and "messages" not in given:
        given = [given]
    if isinstance(given, (list, tuple, Mapping)) and given:
        messages = messages_of(given, column)
        if len(messages) > 1:
            require_order(messages, column)
            before, answer = _last_answer(messages, column)
            if asked and _said(before)[-len(_said(asked)) :] != _said(asked):
                raise DataError(f"'{column}' is a conversation that does not begin with the prompt", place=column, fix="give the answer alone, or the same turns as in the prompt before it")
            return (before if len(before) >= len(asked) else asked), answer
    return asked, _answer(given, column)


def _said(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(m["role"], calls_as_text(m).strip()) for m in messages]


def _segments(given: Any) -> dict[str, Any]:
    """Template-free text: what is not learned and what is, as segments; the last learned one is the answer."""
    wanted = 'give segments as [{"label": false, "text": "..."}, {"label": true, "text": "..."}]'
    if not isinstance(given, (list, tuple)):
        raise DataError(f"{_excerpt(given)} is not a list of segments", place="segments", fix=wanted)
    found: list[Message] = []
    for number, one in enumerate(given):
        if not isinstance(one, Mapping) or not isinstance(one.get("text"), str) or not isinstance(one.get("label"), bool):
            raise DataError(f"{_excerpt(one)} is not a segment", place=f"segments[{number}]", fix=wanted)
        if one["text"]:
            found.append({"role": SEGMENT, "content": one["text"], "train": one["label"]})
    learned = [number for number, one in enumerate(found) if one["train"]]
    if not learned or not found[learned[-1]]["content"].strip():
        raise DataError("no segment is learned from", place="segments", fix="set label: true on the segments that are to be learned")
    return {"prompt": found[: learned[-1]], "completion": found[learned[-1]]["content"]}


def _no_pictures(values: Values) -> None:
    lost = [name for name in PICTURES if isinstance(values.get(name), (list, tuple, Mapping, bytes)) and values[name]]
    if lost:
        raise DataError(f"the row has {', '.join(lost)}, and this task reads text only", place=lost[0], fix="leave the row out, or describe in words what is seen or heard")


def _mark(values: Values) -> str:
    return "kto_tag" if values.get("kto_tag") is False else "label"


def _marked_bad(values: Values, used: Mapping[str, str]) -> bool:
    """True for rows whose answer is labelled as one that nobody wants."""
    return any(values.get(name) is False and name not in used.values() for name in ("kto_tag", "label"))


def _excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
