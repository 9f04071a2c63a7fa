"""Train every weight of the body and the head: the most capacity, the largest bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attune.core.contracts import Method, Signature, Task
from attune.core.keys import Keys, key
from attune.core.models import Base, last_layers, load_head, save_body, save_head

if TYPE_CHECKING:
    from attune.core.tunable import TunableModel


class FullKeys(Keys):
    """Keys of the method."""

    layers: int | None = key(None, "train only the last so many layers and the head; what the others answer is computed once", aliases=("last_layers",), ge=1)


class Full(Method):
    """Full fine-tuning; the bundle holds the whole network and needs no base."""

    keys_type = FullKeys
    requires = frozenset({"torch"})
    learning_rate = 2e-4
    rung = 3
    epochs = 6
    needs_base = False

    def prepare(self, model: TunableModel, seed: int) -> TunableModel:
        """Everything trains, or the last layers, the head and a norm behind the layers; never a pooler, which no task of ours runs."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad = ".pooler." not in name
        if self.keys.layers is not None:
            above = last_layers(model.body, self.keys.layers)
            for name, parameter in model.body.named_parameters():
                parameter.requires_grad = parameter.requires_grad and any(name.startswith(stem + ".") for stem in above)
        return model

    def save(self, model: TunableModel, folder: Path) -> None:
        """The body as a transformers folder and the head."""
        save_body(model, folder / "body")
        save_head(model, folder)

    def load(self, task: Task, base: Base, signature: Signature, folder: Path) -> TunableModel:
        """The saved body takes the base's place."""
        model: TunableModel = task.build(Base(base.reference, base.revision, folder / "body"), signature)
        load_head(model, folder)
        return model
