"""The contracts of proof: what the tuned model has to beat, what is measured, which behaviour is examined, and who judges answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from attune.core.errors import PlugError
from attune.core.plug import Plug, Prediction, Row, Signature

if TYPE_CHECKING:
    import numpy as np

    from attune.core.contracts import Task
    from attune.core.models import Base
    from attune.core.specialist import Specialist


def _nobody_untuned() -> Specialist:
    raise PlugError("there is no untouched base here", place="grade.probes", fix="grade a checkpoint")


def _nobody_tuned() -> Specialist:
    raise PlugError("there is no tuned model here", place="grade.rivals", fix="grade a checkpoint")


@dataclass
class RivalContext:
    """What a rival may learn from: never the test rows."""

    task: Task
    signature: Signature
    train: Sequence[Row]
    """Of general rows (`data.replay`) no more than stand in a pass of the tuned model."""
    validation: Sequence[Row]
    base: Base
    seed: int
    untuned: Callable[[], Specialist]
    """The untouched base put together for the task (fresh head), loaded on first call."""
    embed: Callable[[Sequence[str]], np.ndarray]
    """Vectors of texts by the untouched base, float32 [n, d] of length 1; each text is computed once for all rivals."""
    tuned: Callable[[], Specialist] = _nobody_tuned
    """The tuned model itself, for companions (`Rival.opponent` False), opened on first call."""


class Rival(Plug):
    """Something the tuned model has to beat."""

    kind = "rivals"
    opponent: ClassVar[bool] = True
    """False for a companion, such as the tuned model with documents at hand: graded and shown beside the others, but never the best rival."""
    note: str = ""
    """What it settled on while fitting, for the report."""

    @abstractmethod
    def fit(self, context: RivalContext) -> None:
        """Learn from the training rows, or do nothing."""

    @abstractmethod
    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """Answer test rows in the form of the task's `examine`."""


class Figure(ABC):
    """A number as a function of sums over rows, so that intervals and paired tests cost one matrix product.

    Row i contributes a vector of k numbers; the figure is a function of the (weighted) sum of those vectors.
    """

    higher_is_better: ClassVar[bool] = True
    neutral: ClassVar[bool] = False
    """True where no value is better than another (a length): it is shown, and compared without saying who won."""
    percent: ClassVar[bool] = True
    """Show as per cent."""
    reads_outputs: ClassVar[bool] = True
    """False for a metric that reads likelihoods (`Prediction.extra`) alone, so that no answer has to be written for it."""
    bounds: ClassVar[tuple[float, float] | None] = None
    """Smallest and largest value; None: 0 to 1 where it is shown as per cent, else anything."""
    guessing: ClassVar[float | None] = None
    """What guessing reaches, where no rival shows it: the default gates ask for more."""

    @abstractmethod
    def value(self, totals: np.ndarray) -> np.ndarray:
        """float64 [...] from sums [..., k]; NaN where undefined."""


class Metric(Figure, Plug):
    """A figure on the test rows, from what was right and what was answered."""

    kind = "metrics"
    of_answers: ClassVar[bool] = True
    """False for a metric of how likely the right answer was held to be: a contestant that is no language model has no value, and is left out."""

    @abstractmethod
    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """float64 [n, k]: what each row adds."""

    def of_rows(self, rows: Sequence[Row], truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """`contributions`, for a metric that needs more of a row than its right answer (the unit tests of a program)."""
        return self.contributions(truth, predictions, signature)

    def samples(self) -> tuple[int, float]:
        """How many sampled answers to each row it reads in `Prediction.extra["samples"]`, and at which temperature; (0, 0.0): none."""
        return 0, 0.0

    def breakdown(self, totals: np.ndarray, signature: Signature) -> dict[str, float]:
        """The metric per class (or other part) from one sum [k]; empty when it has no parts."""
        return {}

    def example(self) -> tuple[Row, Any, Any] | None:
        """Columns of a row, a right answer to it and a wrong one, where not any two texts would do: what the conformance suite grades."""
        return None


@dataclass(frozen=True, eq=False)
class Measure:
    """A figure that a probe found on rows of its own: gates may name it, and the report shows it with its interval."""

    name: str
    figure: Figure
    meaning: str
    rows: Mapping[str, np.ndarray]
    """Contestant -> contributions, float64 [n, k], on the same n rows: `tuned`, and whom it is compared with."""
    groups: Sequence[int] | None = None
    """A number per row, the same for rows that belong together and are one piece of evidence (`core.resampling.groups_of`); None: every row alone."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Measure) or self._facts() != other._facts():
            return False
        return all(array.shape == other.rows[who].shape and bool(((array == other.rows[who]) | (array != array)).all()) for who, array in self.rows.items())

    def _facts(self) -> tuple[Any, ...]:
        return self.name, type(self.figure), self.meaning, tuple(self.rows), tuple(self.groups or ())

    def __hash__(self) -> int:
        return hash(self._facts())


@dataclass(frozen=True)
class ProbeResult:
    """What a behaviour suite found: a value, how to read it, examples, and figures that can be compared and gated."""

    name: str
    value: float
    meaning: str
    rows: int
    examples: tuple[dict[str, Any], ...] = ()
    measures: tuple[Measure, ...] = ()
    percent: bool = True
    """Show the value as per cent."""


@dataclass
class ProbeContext:
    """What a probe may look at."""

    specialist: Specialist
    """The tuned model."""
    rows: Sequence[Row]
    """The test rows."""
    seed: int
    train: Sequence[Row] = ()
    untuned: Callable[[], Specialist] = _nobody_untuned
    """The untouched base put together for the task, loaded on first call."""
    answers: Mapping[str, Sequence[Prediction]] = field(default_factory=dict)
    """Contestant -> its answers to the test rows."""


class Probe(Plug):
    """A behaviour suite on the tuned model: robustness, bias, safety, forgetting ..."""

    kind = "probes"

    def gated(self) -> Mapping[str, type[Figure]]:
        """Names of the measures that gates may ask about."""
        return {}

    def prepare(self, task: Task, contestants: Collection[str]) -> None:
        """Asked before anything is trained: raise what would end `run`, such as a file with a row that cannot be read.

        Args:
            task: of the recipe.
            contestants: names of those whose answers there will be beside the tuned model's.
        """

    @abstractmethod
    def run(self, context: ProbeContext) -> ProbeResult:
        """Examine the specialist on test rows or on rows of the probe's own."""


@dataclass(frozen=True)
class Duel:
    """Two answers to one question, as a judge sees them: without names, in the order in which they are shown."""

    id: str
    """The same for the same question and answers in the same order."""
    question: str
    right: str | None
    """The answer that the row gives, where it has one."""
    first: str
    second: str


class Judge(Plug):
    """Says which of two answers is better; the host asks in both orders."""

    kind = "judges"
    both_orders: ClassVar[bool] = True
    """False where every question is asked once, in an order drawn by lot (people)."""

    @abstractmethod
    def prefer(self, duels: Sequence[Duel]) -> list[float | None]:
        """1 where the first answer is better, 0 where the second is, 0.5 for a tie, None where it did not say."""
