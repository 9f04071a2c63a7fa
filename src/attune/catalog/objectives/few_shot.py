"""Learn from a handful of labelled rows per label: rows of a label and its name are drawn together, others pushed apart, while the head learns."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from attune.core import catalog
from attune.core.contracts import Batch, Example, Objective, Row
from attune.core.keys import Keys, key
from attune.core.randomness import generator
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel


class FewShotKeys(Keys):
    """Keys of the objective."""

    contrast: float = key(1.0, "weight of the contrastive term beside the cross-entropy; 0: none", ge=0)
    temperature: float = key(0.1, "cosines are divided by it; smaller looks harder at the nearest wrong rows", gt=0)
    label_names: bool = key(True, "the label's own name is one more text of the label ('card_arrival' is read as 'card arrival'); a code ('3', 'C07') says nothing and is not read")
    rows_per_label: int = key(2, "rows of one label that stand in a batch together", ge=1)
    label_smoothing: float = key(0.1, "share of each target spread over the other labels", aliases=("label_smoothing_factor",), ge=0, lt=1)
    head_dropout: float = key(0.1, "dropout on the features before the head", ge=0, lt=1)
    probe_penalty: float = key(1.0, "strength of the ridge penalty of the logistic regressions that the head starts from and ends with", ge=0)


class FewShot(Objective):
    """`supervised` plus a supervised contrastive term over the batch (Khosla et al. 2020, eq. 2), with label names as further texts.

    The term moves the body by every pair of the batch, so a few rows say more than by cross-entropy alone (lab/LOG.md).
    The names go the same way as the rows, as in FastFit (Yehudai and Bandel 2024). What ships is the body and a linear head.
    """

    keys_type = FewShotKeys
    requires = frozenset({"label-out", "text-in", "torch"})
    separable = False
    keeps: ClassVar[str] = "last"

    def __init__(self, keys: Keys | None = None) -> None:
        super().__init__(keys)
        own = {"label_smoothing": self.keys.label_smoothing, "head_dropout": self.keys.head_dropout, "probe_penalty": self.keys.probe_penalty}
        self._plain: Objective = catalog.build("objectives", {"name": "supervised", **own})

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """As `supervised` encodes them; `ids` holds the row's text and, where names are read, those of its labels."""
        names = self._names(specialist)
        return [{**one, "ids": {"text": one["ids"], **{str(i): names[i]["ids"] for i in _labels(one["target"]) if i in names}}} for one in self._plain.examples(specialist, rows, max_length)]

    def _names(self, specialist: Specialist) -> dict[int, Example]:
        """The label names that say something as examples of their own, by the label's index."""
        labels = {i: label for i, label in enumerate(specialist.signature["labels"]) if self.keys.label_names and speaks(readable(label))}
        field = next(role.name for role in specialist.task.roles if role.type == "text" and not role.target)
        rows = [{"row_id": f"name of label {label}", field: readable(label), "label": [label] if specialist.signature["multi_label"] else label} for label in labels.values()]
        return dict(zip(labels, self._plain.examples(specialist, rows, specialist.max_length), strict=True))

    def order(self, examples: Sequence[Example], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        """Shuffled batches of about equal size in which a label's rows stand in groups of `rows_per_label`; every epoch has as many."""
        draw = generator(seed, "few shot", epoch)
        waiting: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i in draw.permutation(len(examples)):
            waiting[tuple(_labels(examples[i]["target"]))].append(int(i))
        size = self.keys.rows_per_label
        groups = [rows[begin : begin + size] for rows in waiting.values() for begin in range(0, len(rows), size)]
        line = [i for number in draw.permutation(len(groups)) for i in groups[number]]
        count = math.ceil(len(line) / batch_size)
        edges = [round(len(line) * part / count) for part in range(count + 1)]
        return [line[begin:end] for begin, end in pairwise(edges)]

    def precompute(self, specialist: Specialist, examples: Sequence[Example]) -> str | None:
        """Features of a frozen body, once."""
        return self._plain.precompute(specialist, [*examples, *self._names(specialist).values()])

    def begin(self, specialist: Specialist, examples: Sequence[Example]) -> str | None:
        """The head starts from a logistic regression on the untouched features of rows and names."""
        return self._plain.begin(specialist, [*examples, *self._names(specialist).values()])

    def finish(self, specialist: Specialist, examples: Sequence[Example]) -> str | None:
        """The head once more, by logistic regression on the tuned features: in few steps it cannot follow the body (lab/LOG.md)."""
        if specialist.model.body_is_frozen():
            return None
        self.begin(specialist, examples)
        return "the head was fitted once more on the tuned features"

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """As `supervised`; while training, the names of the labels in the batch stand behind its rows."""
        return self._plain.collate(specialist, self._read(specialist, examples))

    def divided(self, specialist: Specialist, examples: Sequence[Example], size: int) -> Iterator[Batch]:
        """Rows and names of a batch, `size` at once."""
        read = self._read(specialist, examples)
        return (self._plain.collate(specialist, read[begin : begin + size]) for begin in range(0, len(read), size))

    def _read(self, specialist: Specialist, examples: Sequence[Example]) -> list[Example]:
        """The texts of a batch."""
        names: list[Example] = []
        if self.keys.label_names and specialist.model.training:
            inside = {i for one in examples for i in _labels(one["target"])}
            names = [one for i, one in self._names(specialist).items() if i in inside]
        return [{**one, "ids": one["ids"]["text"]} for one in examples] + names

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum over rows and names of cross-entropy and, while a body trains, `contrast` times the contrastive term; the count is the rows and names."""
        return self.together(model, self.each(model, batch), batch)

    def each(self, model: TunableModel, batch: Batch) -> list[torch.Tensor]:
        """The text's features, [hidden]."""
        return list(batch["features"] if "features" in batch else model.features(batch["tokens"]))

    def together(self, model: TunableModel, said: Sequence[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, float]:
        """As `loss`."""
        import torch

        if "features" in batch:  # of a frozen body, which nothing could draw together
            return self._plain.loss(model, batch)
        features = torch.stack(list(said))
        total, count = self._plain.loss(model, {**batch, "features": features})
        if model.training and self.keys.contrast:
            total = total + self.keys.contrast * count * drawn_together(features, batch["target"], self.keys.temperature)
        return total, count


def readable(label: str) -> str:
    """A label as words: 'card_arrival' is 'card arrival', 'CardArrival' is 'Card Arrival'."""
    import re

    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", re.sub(r"[_\-./|]+", " ", str(label))).split()) or str(label)


def speaks(name: str) -> bool:
    """Whether a readable name holds a word, at least two letters in a line; '3' and 'C07' are codes."""
    import re

    return re.search(r"[^\W\d_]{2}", name) is not None


def drawn_together(features: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean supervised contrastive loss (Khosla et al. 2020, eq. 2) of the rows that share a label with another one; 0 where none does.

    Args:
        features: [rows, width].
        target: class index [rows], or 0/1 per label [rows, labels]; rows belong together when they share a label.
        temperature: cosines are divided by it.
    """
    import torch
    from torch.nn import functional

    vectors = functional.normalize(features.float(), dim=-1)
    alone = torch.eye(len(vectors), dtype=torch.bool)
    scores = (vectors @ vectors.T / temperature).masked_fill(alone, -1e9)
    together = (target @ target.T > 0 if target.dtype.is_floating_point else target.unsqueeze(1) == target.unsqueeze(0)) & ~alone
    some = together.any(1)
    if not bool(some.any()):
        return features.sum() * 0.0
    likely = scores - scores.logsumexp(1, keepdim=True)
    return -((likely * together).sum(1)[some] / together.sum(1)[some]).mean()


def _labels(target: Any) -> list[int]:
    """Indexes of a row's labels."""
    return [i for i, value in enumerate(target) if value] if isinstance(target, list) else [target]
