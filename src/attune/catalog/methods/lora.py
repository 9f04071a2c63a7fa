"""Train small low-rank matrices beside the frozen weights (LoRA), and the head: near full quality, a bundle of a few megabytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.catalog.methods._low_rank import low_rank
from attune.core.adapters import AdapterMethod
from attune.core.keys import Keys, key

if TYPE_CHECKING:
    from attune.core.tunable import TunableModel


class LoraKeys(Keys):
    """Keys of the method."""

    rank: int = key(16, "rank of the update matrices", aliases=("lora_r", "lora_rank", "r"), ge=1)
    alpha: float | None = key(None, "scale of the update; default: 2 x rank", aliases=("lora_alpha",), gt=0)
    dropout: float = key(0.0, "dropout before the update", aliases=("lora_dropout",), ge=0, lt=1)
    layers: int | None = key(None, "update only the last so many layers; what the others answer is computed once", aliases=("last_layers",), ge=1)
    targets: str | list[str] = key("all-linear", "layers that get an update: all-linear, or ends of module names", aliases=("lora_target_modules", "lora_target", "target_modules"))


class Lora(AdapterMethod):
    """LoRA (Hu et al. 2021) through PEFT; the adapter is saved in PEFT's own format."""

    keys_type = LoraKeys
    requires = frozenset({"torch"})
    learning_rate = 1e-3
    rung = 2
    epochs = 8

    def prepare(self, model: TunableModel, seed: int) -> TunableModel:
        """Wrap the body; only the updates and the head train."""
        return low_rank(model, self.keys, seed)
