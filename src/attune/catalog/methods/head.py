"""Train only the head on the frozen base: seconds, a tiny bundle, and a strong baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attune.core.contracts import Method, Signature, Task
from attune.core.errors import PlugError
from attune.core.models import Base, load_head, save_head

if TYPE_CHECKING:
    from attune.core.tunable import TunableModel


class Head(Method):
    """Linear probing: features of the frozen body are computed once."""

    requires = frozenset({"torch", "label-out"})
    learning_rate = 1e-3
    rung = 1
    sweeps = False
    epochs = 10
    refit = True  # costs seconds, and no row is wasted on validation alone

    def prepare(self, model: TunableModel, seed: int) -> TunableModel:
        """Freeze the body."""
        if model.head is None:
            raise PlugError("method 'head' needs a task with a head", place="method", fix="use method full or lora")
        for parameter in model.body.parameters():
            parameter.requires_grad = False
        return model

    def save(self, model: TunableModel, folder: Path) -> None:
        """The head alone; the base is remembered by its hashes."""
        save_head(model, folder)

    def load(self, task: Task, base: Base, signature: Signature, folder: Path) -> TunableModel:
        """The base with the saved head."""
        model: TunableModel = task.build(base, signature)
        load_head(model, folder)
        return model
