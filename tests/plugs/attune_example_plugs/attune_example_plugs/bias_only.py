"""Train the biases and the head and nothing else (Ben Zaken et al. 2021, 'BitFit'): a bundle of kilobytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attune.core.contracts import Method, Signature, Task
from attune.core.errors import IntegrityError
from attune.core.models import Base, load_head, save_head

if TYPE_CHECKING:
    from attune.core.tunable import TunableModel

FILE = "biases.safetensors"


class BiasOnly(Method):
    """BitFit."""

    requires = frozenset({"torch"})
    learning_rate = 2e-3
    epochs = 6

    def prepare(self, model: TunableModel, seed: int) -> TunableModel:
        """Biases and norms of the body, all of the head."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("head.") or parameter.ndim == 1
        return model

    def save(self, model: TunableModel, folder: Path) -> None:
        """The one-dimensional weights, and the head."""
        from safetensors.torch import save_file

        save_file({name: p.detach().contiguous() for name, p in model.body.named_parameters() if p.ndim == 1}, folder / FILE)
        save_head(model, folder)

    def load(self, task: Task, base: Base, signature: Signature, folder: Path) -> TunableModel:
        """The base with its biases replaced."""
        import torch
        from safetensors.torch import load_file

        model = task.build(base, signature)
        if not (folder / FILE).is_file():
            raise IntegrityError("the biases are missing", place=str(folder / FILE), fix="make the bundle again")
        saved = load_file(folder / FILE)
        with torch.no_grad():
            for name, parameter in model.body.named_parameters():
                if parameter.ndim == 1:
                    parameter.copy_(saved[name])
        load_head(model, folder)
        return model
