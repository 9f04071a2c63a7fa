"""Everyone who answers the test rows: the tuned model, the approved release, and the rivals, fitted on training and validation rows only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from attune.core.contracts import Prediction, Rival, RivalContext, Row, Signature, TripwireContext
from attune.core.events import Events
from attune.core.models import Base, require_same_base, resolve_base
from attune.core.receipts import Receipt
from attune.core.recipe import Recipe
from attune.core.records import Checkpoint, DatasetVersion
from attune.core.rows import dataset_rows
from attune.core.specialist import Specialist, open_bundle
from attune.core.tripwires import sifted
from attune.core.turns import Turns
from attune.core.workspace import Workspace


@dataclass
class Untouched:
    """The base model as it came, put together for the task on first use; it embeds each text once for all rivals."""

    recipe: Recipe
    base: Base
    signature: Signature
    max_length: int
    samples: tuple[int, float] = (0, 0.0)
    events: Events = field(default_factory=Events)

    def __post_init__(self) -> None:
        self._vectors: dict[str, np.ndarray] = {}

    @cached_property
    def specialist(self) -> Specialist:
        """The untouched base with a fresh head."""
        task, base = self.recipe.task, self.base
        found = Specialist(task, self.signature, task.build(base, self.signature), base.tokenizer(), base, self.max_length, self.recipe.name, "untouched", samples=self.samples)
        return heard(found, "untouched base", self.events)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1, float32 [n, d]."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if missing:
            found = np.asarray(self.specialist.embed(missing), dtype=np.float32)
            found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
            self._vectors.update(zip(missing, found, strict=True))
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        return np.stack([self._vectors[text] for text in texts])


def heard(specialist: Specialist, who: str, events: Events) -> Specialist:
    """The specialist, which from now on says how far its answers are."""
    specialist.told = lambda what, done, total: events.progress(f"{who} {what}", done, total)
    return specialist


class Tuned:
    """The tuned model, opened when it is asked for and as often as it was put away: rivals need the memory."""

    def __init__(self, workspace: Workspace, recipe: Recipe, checkpoint: Checkpoint, events: Events, samples: tuple[int, float] = (0, 0.0)) -> None:
        self.workspace, self.recipe, self.checkpoint, self.events, self.samples = workspace, recipe, checkpoint, events, samples
        self._open: Specialist | None = None
        self._reader: Specialist | None = None
        self._features: dict[str, Any] = {}  # the weights do not change here: answers, vectors and probes read a text once

    def __call__(self) -> Specialist:
        """The model, ready to answer."""
        if self._open is None:
            self._open = open_bundle(self.workspace.store.path(self.checkpoint.store_key), base_folder=self.recipe.folder, id=self.checkpoint.id)
            self._open.task = self.recipe.task  # the same, over the rows that the objective shaped
            self._open.known_features, self._open.samples = self._features, self.samples
            heard(self._open, "tuned model", self.events)
        return self._open

    def reader(self) -> Specialist:
        """The model without its network, which may be put away: it reads rows, and answers none."""
        if self._reader is None:
            self._reader = dataclasses.replace(self(), model=None)
        return self._reader

    def put_away(self) -> None:
        """Let go of the weights."""
        self._open = None


def usable_rows(specialist: Specialist, recipe: Recipe, rows: Sequence[Row]) -> tuple[list[Row], list[Receipt]]:
    """Rows without those that training would set aside one by one, whatever split they are of: a question that the base's template refuses can be put to
    nobody, and a pair of equal answers tells nobody apart. A receipt for each of the others."""
    found = sifted(TripwireContext(specialist, recipe.objective, rows), recipe.keys.train.accept, held_out=True)
    return found.rows, found.receipts


def context_of(recipe: Recipe, workspace: Workspace, dataset: DatasetVersion, checkpoint: Checkpoint, signature: Signature, max_length: int, tuned: Tuned) -> RivalContext:
    """What rivals may use beside the test rows.

    Args:
        recipe: whose task, seed and base are used.
        workspace: holds the dataset.
        dataset: the train rows of a pass and the validation rows are what rivals may learn from.
        checkpoint: states which base must be on this machine.
        signature: of the tuned model.
        max_length: tokens per row, as the tuned model reads them.
        tuned: opens the tuned model.
    """
    base = resolve_base(checkpoint.base["reference"], checkpoint.base["revision"], recipe.folder)
    require_same_base(base, checkpoint.base)
    train, validation = (usable_rows(tuned.reader(), recipe, dataset_rows(workspace, dataset, recipe.task, split))[0] for split in ("train", "validation"))
    untouched = Untouched(recipe, base, signature, max_length, tuned.samples, tuned.events)
    return RivalContext(
        task=recipe.task,
        signature=signature,
        train=[train[i] for i in Turns(train, recipe.keys.data.replay, recipe.keys.seed).of(0)],
        validation=validation,
        base=base,
        seed=recipe.keys.seed,
        untuned=lambda: untouched.specialist,
        embed=untouched.embed,
        tuned=tuned,
    )


def rival_answers(rivals: dict[str, Rival], context: RivalContext, rows: Sequence[Row], events: Events) -> dict[str, list[Prediction]]:
    """Each rival's answers to the test rows, by its name in the scorecard."""
    if not rivals:
        return {}
    found = {}
    for number, (name, rival) in enumerate(rivals.items()):
        events.progress("rivals", number, len(rivals), rival=name)
        rival.fit(context)
        found[name] = rival.predict(rows)
    events.progress("rivals", len(rivals), len(rivals))
    return found
