"""What lora, dora and qlora have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attune.core.adapters import chosen_layers, wrap

if TYPE_CHECKING:
    from attune.core.tunable import TunableModel


def low_rank(model: TunableModel, keys: Any, seed: int, **more: Any) -> TunableModel:
    """Wrap the body in low-rank updates as the keys `rank`, `alpha`, `dropout`, `layers` and `targets` say; `more` is given on to PEFT."""
    from peft import LoraConfig

    targets = chosen_layers(model.body, keys.targets, keys.layers)
    return wrap(model, LoraConfig(r=keys.rank, lora_alpha=keys.alpha or 2 * keys.rank, lora_dropout=keys.dropout, target_modules=targets, bias="none", **more), seed)
