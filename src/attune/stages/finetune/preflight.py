"""Before a model is trained: the tripwires, run on rows without a loop, and what a row teaches, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attune.core.contracts import Alarm, Example, Row, Tripwire, TripwireContext
from attune.core.conversation import stop_ids
from attune.core.errors import PlugError
from attune.core.long_rows import encoded, rule_of
from attune.core.models import Base, resolve_base
from attune.core.receipts import Receipt
from attune.core.recipe import Recipe
from attune.core.specialist import Specialist
from attune.core.tripwires import IGNORED, alarms, sifted

LOOK_BACK = 6
"""Tokens before a token that are decoded with it, so that letters of several tokens come out whole."""


def unloaded(recipe: Recipe, base: Base, signature: dict[str, Any]) -> Specialist:
    """A specialist that can encode rows; its model is not loaded."""
    length = recipe.keys.train.max_length if "text-in" in recipe.task.traits else 0  # a key that nothing needs stays unread
    return Specialist(recipe.task, signature, None, base.tokenizer(), base, length, recipe.name, method=recipe.method)


@dataclass
class Preflight:
    """What would become of rows."""

    alarms: list[tuple[Tripwire, Alarm]]
    receipts: list[Receipt]
    """Of rows that would be set aside or cut."""
    encoded: int = 0
    """How many rows would be learned; 0 where none was encoded."""


def preflight(recipe: Recipe, rows: Sequence[Row], *, weights: bool) -> Preflight:
    """What the tripwires say about rows of a recipe; with `weights` the base is loaded and prepared, and the rows are encoded too.

    Raises:
        AttuneError: what encoding the rows raises.
    """
    base = resolve_base(recipe.keys.base_model, recipe.keys.revision, recipe.folder)
    signature = recipe.task.signature(rows)
    context = TripwireContext(unloaded(recipe, base, signature), recipe.objective, rows)
    first = sifted(context, recipe.keys.train.accept)
    context.rows = first.rows
    found = sorted([*first.left, *alarms(context, "rows", judges=False)], key=lambda pair: not pair[1].blocks)
    if any(alarm.blocks for _, alarm in found) or not weights:
        return Preflight(found, first.receipts)
    context.specialist.long_rows = rule_of(recipe)
    context.examples, noted = encoded(recipe.objective, context.specialist, context.rows, recipe.keys.train.max_length)
    context.specialist.model = recipe.method.prepare(recipe.task.build(base, signature), recipe.keys.seed)
    return Preflight([*found, *alarms(context, "start")], [*first.receipts, *noted], len({one["row_id"] for one in context.examples}))


def masks(recipe: Recipe, rows: Sequence[Row], count: int) -> list[dict[str, Any]]:
    """The first of these rows as training sees them: `place`, `answer` (which one, where a row has several; else ''), `cut`, `learned` and `of`
    (tokens), and `tokens` as [id, text, state].

    A state is 'learned', 'not learned', 'special' or 'end' (an end token that is learned).

    Args:
        rows: more than are shown: an objective may take the answers of other rows too.
        count: how many are shown.

    Raises:
        PlugError: the recipe's objective has no token targets to show.
    """
    if "text-out" not in recipe.task.traits:
        raise PlugError(f"task '{recipe.task.name}' learns no text, so there is no mask to show", place="--show-mask", fix="leave the option out")
    base = resolve_base(recipe.keys.base_model, recipe.keys.revision, recipe.folder)
    specialist = unloaded(recipe, base, recipe.task.signature(rows))
    specialist.model = recipe.task.build(base, specialist.signature)  # the batches' form depends on the network; the mask is that of the real batches
    examples = recipe.objective.examples(specialist, rows, recipe.keys.train.max_length)
    shown = {str(row["row_id"]): str(row.get("place", row["row_id"])) for row in rows[:count]}
    return [{"place": shown[str(one["row_id"])], **mask} for one in examples if str(one["row_id"]) in shown for mask in _masks(recipe, specialist, one)]


def _masks(recipe: Recipe, specialist: Specialist, example: Example) -> list[dict[str, Any]]:
    """A mask of each answer of an example. KTO's answer of another row (`other`) teaches nothing and is left out."""
    given = example.get("ids")
    if not given:
        raise PlugError(f"a row of objective '{recipe.objective.name}' holds a question only; what is learned are the answers that the model tries", place="--show-mask", fix="leave the option out")
    batch = recipe.objective.collate(specialist, [example])
    if isinstance(given, dict):
        found = [(name, ids, [place >= begin for place in range(len(ids))]) for (name, ids), begin in zip(given.items(), batch["begins"], strict=True) if name != "other"]
    elif "learned" in batch:
        places = set(batch["learned"].tolist())
        found = [("", given, [place in places for place in range(len(given))])]
    else:
        found = [("", given, [int(one) != IGNORED for one in batch["targets"].flatten().tolist()])]
    tokenizer = specialist.tokenizer
    stops, special = stop_ids(specialist), set(tokenizer.all_special_ids) | {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    masks = []
    for name, ids, learned in found:
        states = ["end" if taught and one in stops else "learned" if taught else "special" if one in special else "not learned" for one, taught in zip(ids, learned, strict=True)]
        tokens = [[one, text, state] for one, text, state in zip(ids, pieces(tokenizer, ids), states, strict=True)]
        masks.append({"answer": _answer_name(name, example), "cut": bool(example.get("cut")), "learned": sum(learned), "of": len(ids), "tokens": tokens})
    return masks


def _answer_name(name: str, example: Example) -> str:
    """Which answer of a row this is: of a pair its name, of an answer that stands alone whether it is a good one."""
    return ("good" if example["desirable"] else "bad") if "desirable" in example else name


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to what stands before it."""

    def decoded(part: Sequence[int]) -> str:
        return str(tokenizer.decode(list(part), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    found = []
    for place in range(len(ids)):
        begin = max(0, place - LOOK_BACK)
        before, now = decoded(ids[begin:place]), decoded(ids[begin : place + 1])
        found.append(now[len(before) :] if now.startswith(before) else decoded(ids[place : place + 1]))
    return found
