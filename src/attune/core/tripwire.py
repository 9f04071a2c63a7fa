"""The contract of tripwires: each looks for one way in which training would fail without a word."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from attune.core.errors import AttuneError, DataError
from attune.core.plug import Example, Plug, Row

if TYPE_CHECKING:
    from attune.core.contracts import Objective
    from attune.core.specialist import Specialist


@dataclass(frozen=True)
class Alarm:
    """Why a run would go wrong in silence."""

    what: str
    place: str
    """Rows (file:line) or a recipe key."""
    fix: str
    blocks: bool = True
    """False: it is told, and the run goes on."""
    rows: tuple[Row, ...] = ()
    """The rows without which nothing would be wrong, from a tripwire that `judges`: a few of them are set aside, and the run goes on."""
    reason: str = ""
    """What is wrong with each of these rows."""


@dataclass
class TripwireContext:
    """What a tripwire may look at. Before a model is loaded (phase 'rows') `specialist.model` is None and `examples` is empty."""

    specialist: Specialist
    objective: Objective
    rows: Sequence[Row]
    examples: Sequence[Example] = ()
    taught: bool = True
    """After the first steps: whether any of them had a gradient."""
    remembered: dict[str, Any] = field(default_factory=dict)
    """Tripwire -> what its `remember` gave before the first step."""


class Tripwire(Plug):
    """Looks for one way in which training fails without a word. Every tripwire that fits the task runs, by `attune check` and before and after the
    first steps of a run; an alarm that blocks ends the run, unless the recipe accepts it by name (`train.accept`), or it names rows that are few enough to be set aside."""

    kind = "tripwires"
    looks_at: ClassVar[tuple[str, ...]] = ()
    """Roles that every row must have for it to look; it is silent over rows of another kind (prompts without answers, for example)."""
    phase: ClassVar[str] = "start"
    """rows (the tokenizer and the rows are there) | start (the prepared model and the examples too) | steps (a few steps were made)."""
    judges: ClassVar[bool] = False
    """Whether its alarms, of phase rows, are about single rows, which they name (`Alarm.rows`): then it looks at every row, and at those that validate and test too."""
    error: ClassVar[type[AttuneError]] = DataError
    """The class of a blocking alarm: it decides the exit code."""

    @abstractmethod
    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """Yield alarms. Nothing may be changed here; the model is in evaluation mode and no gradients are kept."""

    def remember(self, context: TripwireContext) -> Any:
        """Before the first step: what a tripwire of phase 'steps' will compare with."""
        return None
