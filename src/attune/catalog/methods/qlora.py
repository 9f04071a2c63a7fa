"""Train LoRA on a base whose frozen weights are kept in four bits (QLoRA): about a quarter to an eighth of the memory for the base, slower steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attune.catalog.methods._low_rank import low_rank
from attune.core.adapters import AdapterMethod, linear_layers
from attune.core.keys import Keys, key

if TYPE_CHECKING:
    from attune.core.tunable import TunableModel


class QloraKeys(Keys):
    """Keys of the method."""

    rank: int = key(16, "rank of the update matrices", aliases=("lora_r", "lora_rank", "r"), ge=1)
    alpha: float | None = key(None, "scale of the update; default: 2 x rank", aliases=("lora_alpha",), gt=0)
    dropout: float = key(0.0, "dropout before the update", aliases=("lora_dropout",), ge=0, lt=1)
    layers: int | None = key(None, "update only the last so many layers; what the others answer is computed once", aliases=("last_layers",), ge=1)
    targets: str | list[str] = key("all-linear", "layers that get an update: all-linear, or ends of module names", aliases=("lora_target_modules", "lora_target", "target_modules"))
    quantisation: Literal["nf4", "fp4"] = key("nf4", "the sixteen values that a weight may take: nf4 for weights that are spread normally, or fp4", aliases=("bnb_4bit_quant_type",))
    nested: bool = key(True, "keep the scales of the weights in 8 bits too", aliases=("bnb_4bit_use_double_quant",))


class Qlora(AdapterMethod):
    """QLoRA (Dettmers et al. 2023): bitsandbytes keeps the linear layers, PEFT adds and saves the adapter. A bundle needs the base as it was downloaded,
    and brings it into four bits again in the same way when it is opened."""

    keys_type = QloraKeys
    requires = frozenset({"torch"})
    learning_rate = 1e-3
    epochs = 8

    def prepare(self, model: TunableModel, seed: int) -> TunableModel:
        """Bring the frozen linear layers into four bits and wrap the body; only the updates and the head train."""
        return low_rank(self.readied(model), self.keys, seed)

    def readied(self, model: TunableModel) -> TunableModel:
        """All linear layers, those without an update too; embeddings, norms and the output layer stay as they are."""
        from attune.core.four_bit import quantise

        quantise(model.body, linear_layers(model.body), self.keys.quantisation, self.keys.nested)
        model.frozen_as = f"{self.keys.quantisation}{' nested' if self.keys.nested else ''}"
        return model
