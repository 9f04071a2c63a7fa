"""What tripwires share: rows spread over the whole, places for people, the tokens that a row really teaches, and running all that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attune.core import catalog
from attune.core.contracts import Alarm, Example, Row, Task, Tripwire, TripwireContext
from attune.core.conversation import conversation_of, render
from attune.core.errors import AttuneError, DataError, Problems, did_you_mean
from attune.core.events import Events
from attune.core.long_rows import too_many
from attune.core.receipts import ASIDE, Receipt, places

__all__ = ["Sifted", "alarms", "as_error", "counted", "fitting", "learned_ids", "of_task", "places", "remember", "rendered", "require_known", "rows_by_id", "settle", "sifted", "spread"]

SOME = 512
"""Rows that are looked at where looking costs as much as encoding."""
IGNORED = -100


def spread(items: Sequence[Any], most: int = SOME) -> list[Any]:
    """At most so many items, evenly over all of them."""
    step = max(1, -(-len(items) // most))
    return list(items[::step])


def counted(found: Sequence[Any], looked: Sequence[Any], every: Sequence[Any]) -> str:
    """'3 of 512 rows (looked at evenly over 5,000)'."""
    return f"{len(found):,} of {len(looked):,} rows" + (f" (looked at evenly over {len(every):,})" if len(looked) < len(every) else "")


def rendered(context: TripwireContext, row: Row, *, to_answer: bool = False) -> str | None:
    """A row's conversation as text, without its answer where `to_answer`; None where the template refuses it, which is another tripwire's matter."""
    messages = conversation_of(row)
    try:
        return render(context.specialist, messages[:-1] if to_answer else messages, to_answer=to_answer, tools=row.get("tools"))
    except DataError:
        return None


def learned_ids(context: TripwireContext, example: Example) -> list[int] | None:
    """The token ids that a row teaches, taken from the batch that the objective really makes of it; None where its batches have no targets."""
    batch = context.objective.collate(context.specialist, [example])
    targets = batch.get("targets")
    return None if targets is None else [int(one) for one in targets.flatten().tolist() if one != IGNORED]


def token_rows(example: Example) -> list[list[int]]:
    """The rows of token ids that an example holds: its own, that of each answer, or that of its prompt; [] where it holds something else (features of a table)."""
    ids = example.get("ids", example.get("prompt_ids"))
    rows = list(ids.values()) if isinstance(ids, dict) else [ids]
    return [row for row in rows if isinstance(row, list) and row and isinstance(row[0], int)]


def rows_by_id(context: TripwireContext) -> dict[str, Row]:
    """Row id -> row."""
    return {str(row["row_id"]): row for row in context.rows}


def of_task(task: Task) -> list[Tripwire]:
    """Every tripwire whose traits the task has."""
    return [catalog.build("tripwires", entry.name) for entry in catalog.entries("tripwires") if set(entry.requires) <= task.traits]


def fitting(context: TripwireContext, phase: str) -> list[Tripwire]:
    """Every tripwire of a phase that fits the task and the rows."""
    found = of_task(context.specialist.task)
    there = set.intersection(*(set(row) for row in context.rows)) if context.rows else set()
    return [one for one in found if one.phase == phase and set(one.looks_at) <= there]


def remember(context: TripwireContext) -> None:
    """Let the tripwires that compare look at the model before its first step."""
    for one in fitting(context, "steps"):
        with _looking(context):
            context.remembered[one.name] = one.remember(context)


def alarms(context: TripwireContext, phase: str, *, judges: bool | None = None) -> list[tuple[Tripwire, Alarm]]:
    """What the tripwires of a phase have to say, those that block first; with `judges` only those that judge single rows, or only the others. One that cannot
    look at all (a base with broken weights writes no answers) is heard where no other says why."""
    found: list[tuple[Tripwire, Alarm]] = []
    failed: list[Exception] = []
    for one in fitting(context, phase):
        if judges is not None and one.judges != judges:
            continue
        try:
            with _looking(context):
                found += [(one, alarm) for alarm in one.examine(context)]
        except Exception as error:  # raised below, unless another one says what is wrong
            failed.append(error)
    if failed and not any(alarm.blocks for _, alarm in found):
        raise failed[0]
    return sorted(found, key=lambda pair: not pair[1].blocks)


@dataclass(frozen=True)
class Sifted:
    """Rows, and what the tripwires that judge single rows had to say of them."""

    rows: list[Row]
    """Without those that were set aside."""
    receipts: list[Receipt]
    """Of those, one for each row and reason."""
    left: list[tuple[Tripwire, Alarm]]
    """Alarms that no row was set aside for: the recipe accepts them, they do not block, or they are about too many rows."""


def sifted(context: TripwireContext, accepted: Sequence[str], *, held_out: bool = False) -> Sifted:
    """Set aside the rows that are bad one by one, if they are no more than half of all; with more of them the recipe or the base is to blame, and the alarms are left.

    Args:
        context: its rows are judged, every one.
        accepted: `train.accept`; rows are not set aside for what it names.
        held_out: they validate or test: bad ones are set aside however many there are, because it is the training rows that say whether a run goes on.
    """
    found = alarms(context, "rows", judges=True)
    blocking = [(wire, alarm) for wire, alarm in found if alarm.blocks and alarm.rows and wire.name not in accepted]
    bad = {str(row["row_id"]): row for _, alarm in blocking for row in alarm.rows}
    if not bad or (not held_out and too_many(list(bad.values()), context.rows)):
        return Sifted(list(context.rows), [], found)
    receipts = [Receipt(row, wire.name, ASIDE, alarm.reason, alarm.fix) for wire, alarm in blocking for row in alarm.rows]
    return Sifted([row for row in context.rows if str(row["row_id"]) not in bad], receipts, [pair for pair in found if pair not in blocking])


def settle(found: Sequence[tuple[Tripwire, Alarm]], accepted: Sequence[str], events: Events) -> None:
    """Tell what does not block or is accepted, and raise the rest at once.

    Raises:
        AttuneError: of the tripwire's own class; Problems where there are several.
    """
    require_known(accepted)
    problems: list[AttuneError] = []
    for wire, alarm in found:
        if alarm.blocks and wire.name not in accepted:
            problems.append(as_error(wire, alarm))
        else:
            events.warn(f"{wire.name}: {alarm.what} ({alarm.place}) -> {alarm.fix}", tripwire=wire.name, place=alarm.place)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Problems(problems, title=f"{len(problems)} tripwires say that this run would go wrong:")


def as_error(wire: Tripwire, alarm: Alarm) -> AttuneError:
    """A blocking alarm as an error of the tripwire's class."""
    return wire.error(f"{alarm.what} (tripwire {wire.name})", place=alarm.place, fix=f"{alarm.fix}; where it is meant: `train: {{accept: [{wire.name}]}}`")


def require_known(accepted: Sequence[str]) -> None:
    """Refuse names in `train.accept` that no tripwire has."""
    known = [entry.name for entry in catalog.entries("tripwires")]
    for name in accepted:
        if name not in known:
            raise DataError(f"there is no tripwire '{name}'", place="train.accept", fix=did_you_mean(name, known))


class _looking:
    """Evaluation mode without gradients, where there is a model."""

    def __init__(self, context: TripwireContext) -> None:
        self.model = context.specialist.model
        self.training = bool(getattr(self.model, "training", False))

    def __enter__(self) -> None:
        import torch

        self.guard = torch.no_grad()
        self.guard.__enter__()
        if self.model is not None and hasattr(self.model, "eval"):
            self.model.eval()

    def __exit__(self, *error: Any) -> None:
        self.guard.__exit__(*error)
        if self.training:
            self.model.train()
