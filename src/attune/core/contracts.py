"""The contracts of everything that can be added. A plug subclasses one of these in a file of its own under `catalog/<kind>/`
(or in another package, by the entry point group `attune.<kind>`); its file name is its name, its `keys_type` holds its recipe keys.

Which plugs fit together is declared with *traits*: a task states what it is (`text-in`, `label-out`, `torch` ...), every other plug
states which traits it `requires`. A combination that does not fit is refused by `require_fit`, which names the missing trait.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from attune.core.errors import DataError, PlugError
from attune.core.plug import Batch as Batch
from attune.core.plug import Example as Example
from attune.core.plug import NoKeys as NoKeys
from attune.core.plug import Plug as Plug
from attune.core.plug import Prediction as Prediction
from attune.core.plug import Row as Row
from attune.core.plug import Signature as Signature
from attune.core.proof import Duel as Duel
from attune.core.proof import Figure as Figure
from attune.core.proof import Judge as Judge
from attune.core.proof import Measure as Measure
from attune.core.proof import Metric as Metric
from attune.core.proof import Probe as Probe
from attune.core.proof import ProbeContext as ProbeContext
from attune.core.proof import ProbeResult as ProbeResult
from attune.core.proof import Rival as Rival
from attune.core.proof import RivalContext as RivalContext
from attune.core.tripwire import Alarm as Alarm
from attune.core.tripwire import Tripwire as Tripwire
from attune.core.tripwire import TripwireContext as TripwireContext

if TYPE_CHECKING:
    import numpy as np
    import torch

    from attune.core.learner import Learner, LearnerContext
    from attune.core.models import Base
    from attune.core.parity import Limits, Voice
    from attune.core.specialist import Specialist


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class RawRecord:
    """One record as a source read it: where it stands, its values by column, or why it could not be parsed."""

    place: str
    values: dict[str, Any] | None
    problem: str | None = None
    fix: str | None = None
    repaired: tuple[str, ...] = ()
    """What the source had to repair while reading, e.g. 'decoded as cp1252'."""
    raw: str = ""
    """The record's text as far as it can be shown, for quarantine."""


class Source(Plug):
    """Reads records one by one; a broken record is yielded with its problem, never raised and never swallowed."""

    kind = "sources"

    @abstractmethod
    def recognises(self, location: str, folder: Path) -> bool:
        """True when this source can read `location` (a path or glob relative to `folder`, an id or a URL of its own scheme)."""

    @abstractmethod
    def read(self, location: str, folder: Path) -> Iterator[RawRecord]:
        """Yield every record in file order. Raises DataError when nothing can be opened."""

    def fingerprint(self, location: str, folder: Path) -> str | None:
        """A digest that changes when the rows change, for 're-running does only what changed'; None: always read again."""
        return None


@dataclass(frozen=True)
class Role:
    """A column that a task needs."""

    name: str
    type: str
    """text | label | labels | flag (true or false) | number | messages | any | features (several columns as one group of named cells)."""
    meaning: str
    hints: tuple[str, ...] = ()
    """Column names that suggest this role, most telling first."""
    required: bool = True
    target: bool = False
    """True for what the model must answer."""
    numbers: bool = False
    """True for a text that may be a number or a date in every row, as an answer may: a column called so is it, whatever it holds."""


@dataclass(frozen=True)
class Finding:
    """What a check saw in one row: `action` is flag (only told), repair (with `replacement`), quarantine (row set aside) or block."""

    row_id: str
    column: str
    reason: str
    action: str
    fix: str
    replacement: Any = None
    related: str | None = None
    """Another row id this finding is about, e.g. the first copy of a duplicate."""


@dataclass
class CheckContext:
    """What a check may know: the task, the columns in use, the labels, and (after splitting) the split of each row."""

    task: Task
    signature: Signature
    seed: int
    splits: Mapping[str, str] | None = None
    """row_id -> train | validation | test, for phase 'split'."""
    progress: Callable[[int, int], None] = lambda done, total: None
    """Told (done, total) by checks that take long."""


class Check(Plug):
    """Looks at accepted rows and reports findings; the curate stage applies them and writes the receipts."""

    kind = "checks"
    phase: ClassVar[str] = "table"
    """row (each row alone, first) | table (all rows together, before splitting) | split (after splitting)."""
    after: ClassVar[tuple[str, ...]] = ()
    """Names of checks of the same phase that must have run before."""

    @abstractmethod
    def examine(self, rows: Sequence[Row], context: CheckContext) -> Iterator[Finding]:
        """Yield findings. Rows must not be changed here."""


# ---------------------------------------------------------------- models


@dataclass(frozen=True)
class Defaults:
    """What a task uses when the recipe does not say. Every name is a plug's name."""

    objective: str
    method: str
    main_metric: str
    metrics: tuple[str, ...]
    rivals: tuple[str, ...]
    checks: tuple[str, ...]
    detectors: tuple[str, ...]
    probes: tuple[str, ...] = ()
    exports: tuple[str, ...] = ("bundle",)


class Task(Plug):
    """What the specialist does: the columns it needs, how the model is put together, how it answers."""

    kind = "tasks"
    traits: ClassVar[frozenset[str]] = frozenset()
    pipeline_tag: ClassVar[str] = ""
    """What model hubs call the task; default: its name with hyphens."""
    roles: ClassVar[tuple[Role, ...]] = ()
    defaults: ClassVar[Defaults]
    bases: ClassVar[frozenset[str]] = frozenset({"encoder", "decoder"})
    """Kinds of bases (`core.models.base_kind`) that it can be built on."""
    _own: Task | None = None
    guessed: ClassVar[bool] = True
    """Whether `attune init` may take rows for this task's; False for one that any text would fit."""
    default_base: ClassVar[str | None] = None
    """The base model of recipes that name none; None: the recipe's own default."""

    @property
    def shaped(self) -> bool:
        """True for a task whose rows an objective has shaped (`with_rows`)."""
        return self._own is not None

    @property
    def unshaped(self) -> Task:
        """The same task over rows of its own: what it is for rows that no objective learns from."""
        return self._own or self

    def parse(self, values: dict[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
        """Role values of one raw record. `columns` maps role -> column (a list for `features`). Raises DataError naming column, reason and fix.

        Override to accept row shapes that are more than a column per role (chat messages, alpaca ...).
        """
        return {role: {one: values.get(one) for one in column} if isinstance(column, list) else values.get(column) for role, column in columns.items()}

    def shape(self, values: Mapping[str, Any]) -> str:
        """The name of a raw record's shape, for people; '' for tasks whose rows are plain columns."""
        return ""

    @abstractmethod
    def signature(self, rows: Sequence[Row]) -> Signature:
        """The facts of the rows that building and answering need (for example the sorted label names)."""

    @abstractmethod
    def text(self, row: Row) -> str:
        """The row's input as text: what duplicates, drift, linear rivals and retrieval look at."""

    def context(self, row: Row) -> str:
        """What the row's text is asked in, where it is no part of that text (a system's turn): it tells apart rows of which many ask the same."""
        return ""

    @abstractmethod
    def truth(self, row: Row) -> Any:
        """The right answer of a row, in the form of `Prediction.output`."""

    def answered(self, row: Row) -> bool:
        """Whether the row says what the right answer is, so that another one can be called wrong."""
        return self.truth(row) is not None

    @abstractmethod
    def build(self, base: Base, signature: Signature) -> Any:
        """The general model made ready for this task: a TunableModel (pretrained body plus a fresh head where the task needs one), or
        what the task's methods have a learner for."""

    @abstractmethod
    def predict(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """Answer rows (targets may be absent), in order; the only place that runs this task's model."""

    def examine(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """Answers in the form that the metrics grade; differs from `predict` only where grading needs all rows at once."""
        return self.predict(specialist, rows)

    def embed(self, specialist: Specialist, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32 [n, d], for drift and retrieval; from the specialist's own body."""
        raise PlugError(f"task '{self.name}' has no embedding of texts", fix="leave out the detectors and rivals that need one")

    def weigh(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """As `examine`, for metrics that read no outputs (`Metric.reads_outputs`): a task that writes its answers need not write them."""
        return self.examine(specialist, rows)

    def settle(self, specialist: Specialist, validation: Sequence[Row]) -> Signature:
        """The signature after training, for example with decision thresholds chosen on the validation rows."""
        return specialist.signature

    def with_rows(self, roles: Sequence[Role], parse: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]], defaults: Defaults | None = None) -> Task:
        """This task over rows with other roles, read by `parse(values, columns)`, perhaps graded by others; how it is built and answers stays."""
        found = copy.copy(self)
        vars(found).update(roles=tuple(roles), parse=parse, _own=self.unshaped, defaults=defaults or self.defaults)
        return found

    def request(self, payload: dict[str, Any]) -> Row:
        """A row made from one HTTP item; raises DataError naming the field when it does not fit."""
        row: Row = {}
        for role in self.roles:
            if not role.target and role.required and not isinstance(payload.get(role.name), str):
                raise DataError(f"field '{role.name}' must be a string", place=role.name, fix=f'send {{"{role.name}": "..."}}')
            if role.name in payload and not role.target:
                row[role.name] = payload[role.name]
        return row

    def require_known(self, row: Row, signature: Signature) -> None:
        """Raise DataError when a row of `request` speaks of things that this specialist has never seen (columns it does not know)."""


class Objective(Plug):
    """What the data teaches: it owns how examples are made, batched and scored. The loop only iterates, accumulates and steps."""

    kind = "objectives"
    separable: ClassVar[bool] = True
    """False when a row's loss depends on the other rows of its batch. Parts of such a batch can be computed one after the other where `each` and `together` are given."""

    learns: ClassVar[frozenset[str]] = frozenset()
    """Shapes of rows (`core.shapes`) that the task's own objective would learn in part only, and this one whole: `attune init` proposes it for them."""
    loss_falls: bool = True
    """Whether its loss is a size: never below zero, and smaller as the model learns. False for one whose sign says nothing (a policy's gain); the loop then reads no alarm from it."""
    updates: int = 1
    """Optimizer updates that a step makes on what `renew` drew for it."""
    shortens: ClassVar[bool] = True
    """Whether a row that is too long loses a part, which its example tells as `cut` (see `core.long_rows`), so that `train.long_rows` says what becomes of it."""
    keeps: ClassVar[str] = "best"
    """Which step's weights are kept where the recipe does not say: 'best' by the validation rows, or 'last' where there are too few rows to choose by."""
    reference: str = ""
    """When the model must differ from what `reference_gap` compares it with: 'start' (a teacher), 'steps' (a reference that training moves away from), '' (never asked)."""

    def shaped(self, task: Task) -> Task:
        """The task over the rows that this objective learns from, where they are others than the task's own (see `Task.with_rows`)."""
        return task

    @abstractmethod
    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """Encode rows once, in order; each example has `size` and `row_id`. A row may become several, or none: of such a row it tells `specialist.noted`."""

    def renew(self, specialist: Specialist, examples: Sequence[Example], seed: int, step: int) -> Sequence[Example]:
        """A step's examples, one for each, with what is drawn anew (hidden words, sampled answers) by weights, seed and step alone; validation has step -1."""
        return examples

    @abstractmethod
    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """Tensors of one micro-batch."""

    @abstractmethod
    def loss(self, model: Any, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum of the losses and the number of supervised items in the micro-batch; the loop divides by the items of the whole step."""

    @property
    def divisible(self) -> bool:
        """Whether a batch can be computed in parts that give the loss and the gradients of the whole."""
        return self.separable or type(self).each is not Objective.each

    def divided(self, specialist: Specialist, examples: Sequence[Example], size: int) -> Iterator[Batch]:
        """A batch of these examples as batches of `size` rows at most; for objectives that are not separable."""
        return (self.collate(specialist, examples[begin : begin + size]) for begin in range(0, len(examples), size))

    def each(self, model: Any, batch: Batch) -> list[torch.Tensor]:
        """What each row of a part says, whatever rows stand beside it (features, log-probabilities), in the order in which `together` reads them."""
        raise PlugError(f"objective '{self.name}' does not say what each row gives by itself", place="objective", fix="give the plug `each`, or compute its batches whole")

    def together(self, model: Any, said: Sequence[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, float]:
        """`loss` of a whole batch, from what `each` said of its parts; it asks the body nothing."""
        raise PlugError(f"objective '{self.name}' makes no loss of what `each` said", place="objective", fix="give the plug `together` beside `each`")

    def order(self, examples: Sequence[Example], batch_size: int, seed: int, epoch: int) -> list[list[int]] | None:
        """Batches of example indexes for an epoch, each once, a pure function of its arguments; None: the loop's length-grouped shuffle.
        Where an epoch has more or fewer batches than the first, the loop evens them out."""
        return None

    def precompute(self, specialist: Specialist, examples: Sequence[Example]) -> str | None:
        """Called at every start, resumes included: compute what cannot change while training; returns what was done, for the record."""
        return None

    def rewards(self, specialist: Specialist, rows: Sequence[Row], answers: Sequence[str]) -> Sequence[float] | None:
        """What each answer to each row is worth, for objectives that learn from rewards; None: it uses none. Asked before training, to see that rewards differ."""
        return None

    def own_rewards(self, specialist: Specialist, examples: Sequence[Example]) -> Sequence[Sequence[float]] | None:
        """For each example, what a group of the model's own answers to it is worth, for objectives that learn from these; None: it tries none."""
        return None

    def reference_gap(self, specialist: Specialist, examples: Sequence[Example]) -> float | None:
        """Mean absolute difference (in nats) of the log-probabilities of model and frozen reference or teacher on these examples; None: it compares with none."""
        return None

    def begin(self, specialist: Specialist, examples: Sequence[Example]) -> str | None:
        """Called once before the first step of a fresh run (never on resume), for example to start a head from a linear probe; returns what
        was trained by it, for the record: step 0 is then a result already."""
        return None

    def finish(self, specialist: Specialist, examples: Sequence[Example]) -> str | None:
        """Called once with the weights that are kept, for example to fit the head on the tuned features; returns what was done, for the record."""
        return None


class Method(Plug):
    """Which weights move and what must be saved."""

    kind = "methods"
    learning_rate: ClassVar[float] = 1e-4
    epochs: ClassVar[float] = 5
    """Both are used when the recipe gives none."""
    rung: ClassVar[int] = 0
    """Its place among what `method: auto` tries, small models first; 0: only where a recipe names it."""
    sweeps: ClassVar[bool] = True
    """Whether `method: auto` looks for its learning rate."""
    refit: ClassVar[bool] = False
    """Used when the recipe does not say: train once more on training and validation rows together after the best step was chosen."""
    needs_base: ClassVar[bool] = True
    """False when what `save` writes answers without the base model."""
    library: ClassVar[str] = "transformers"
    """What model hubs call the library that reads what `save` writes."""

    @abstractmethod
    def prepare(self, model: Any, seed: int) -> Any:
        """Mark the parameters that train (requires_grad) and wrap the body where the method needs it."""

    @abstractmethod
    def save(self, model: Any, folder: Path) -> None:
        """Write what the method must keep, in its ecosystem's on-disk format (safetensors, JSON, text; nothing that can carry code)."""

    @abstractmethod
    def load(self, task: Task, base: Base, signature: Signature, folder: Path) -> Any:
        """The model that `save` wrote, ready to answer."""

    def learner(self, context: LearnerContext) -> Learner | None:
        """A learner of the method's own, or None for gradient descent by the loop's torch learner."""
        return None

    @property
    def brings_learner(self) -> bool:
        """Whether `learner` may give one."""
        return type(self).learner is not Method.learner


# ---------------------------------------------------------------- out and on


class Export(Plug):
    """A format a release can leave in."""

    kind = "exports"

    @abstractmethod
    def write(self, specialist: Specialist, bundle: Path, folder: Path) -> None:
        """Write the exported form of the bundle into an empty folder."""

    @abstractmethod
    def replay(self, folder: Path, rows: Sequence[Row]) -> list[Prediction]:
        """Answer rows with what was exported, without Attune's own model code where the format allows, to prove parity."""

    def voice(self, folder: Path) -> Voice | None:
        """What can be heard token by token, opened from the exported folder; None where only whole answers can be compared."""
        return None

    def limits(self) -> Limits | None:
        """How far `voice` may be from the training-time model."""
        return None

    def constants(self, folder: Path) -> Mapping[str, Any]:
        """What the exported folder states of the architecture, by the names of `core.parity.constants_of`; a `voice` holds its own."""
        return {}

    def caveat(self, folder: Path) -> str:
        """Why the replay on this machine is no proof for what will be served, in words for people; empty when it is one."""
        return ""


def coarse_label(output: Any) -> str:
    """An answer as one label, for drift: several labels become one text; grading and watching must name them alike."""
    if isinstance(output, (list, tuple)):
        return " + ".join(sorted(map(str, output))) or "(no label)"
    return str(output).strip()


@dataclass
class WindowData:
    """What a detector sees of a period: row i of every field belongs together; n rows."""

    texts: list[str]
    embeddings: np.ndarray
    """float32 [n, d]."""
    labels: list[str]
    """Predicted label, or a coarse class of the output."""
    confidence: np.ndarray
    """float64 [n], NaN where the task has none."""
    correct: np.ndarray
    """float64 [n]: 1 right, 0 wrong, NaN without feedback."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: np.ndarray) -> WindowData:
        """The rows at `index`, in that order."""
        return WindowData([self.texts[i] for i in index], self.embeddings[index], [self.labels[i] for i in index], self.confidence[index], self.correct[index])

    def joined(self, other: WindowData) -> WindowData:
        """These rows followed by the other's."""
        import numpy as np

        pairs = ((self.embeddings, other.embeddings), (self.confidence, other.confidence), (self.correct, other.correct))
        embeddings, confidence, correct = (np.concatenate(pair) for pair in pairs)
        return WindowData(self.texts + other.texts, embeddings, self.labels + other.labels, confidence, correct)


class Detector(Plug):
    """Notices one way in which the world can move. The watch stage calibrates its threshold by resampling the release's own reference."""

    kind = "detectors"
    min_rows: ClassVar[int] = 30
    """Fewer usable rows than this: 'not enough data', never an alarm."""

    @abstractmethod
    def usable(self, window: WindowData) -> np.ndarray:
        """Indexes of the rows this detector can use."""

    @abstractmethod
    def statistic(self, reference: WindowData, window: WindowData) -> float:
        """How far the window is from the reference; larger is further."""

    def statistics(self, rows: WindowData, chosen: np.ndarray) -> np.ndarray:
        """`statistic` for many divisions of the same rows, float64 [b]: `chosen` is bool [b, n], True stands for the window.

        The calibration asks through here; override it with matrix products where `statistic` in a loop is slow.
        """
        import numpy as np

        return np.array([self.statistic(rows.take(np.flatnonzero(~one)), rows.take(np.flatnonzero(one))) for one in chosen])

    @abstractmethod
    def explain(self, reference: WindowData, window: WindowData) -> dict[str, Any]:
        """What moved: `summary` (a sentence), `effect` (float) and `examples` (list of texts)."""


def require_fit(task: Task, plug: Plug) -> None:
    """Refuse a plug whose required traits the task lacks, saying which."""
    missing = sorted(plug.requires - task.traits)
    if missing:
        raise PlugError(
            f"{plug.kind[:-1]} '{plug.name}' does not fit task '{task.name}': it needs {', '.join(missing)}",
            place=plug.kind,
            fix=f"'{task.name}' offers: {', '.join(sorted(task.traits))}; `attune list {plug.kind}` shows what others need",
        )
