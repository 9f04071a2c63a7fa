"""Train one factor per key, value and inner feed-forward unit (IA3), and the head: the smallest adapter, a few kilobytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.core.adapters import AdapterMethod, attention_and_feed_forward, chosen_layers, linear_layers, wrap
from attune.core.keys import Keys, key

if TYPE_CHECKING:
    from attune.core.tunable import TunableModel


class Ia3Keys(Keys):
    """Keys of the method."""

    layers: int | None = key(None, "rescale only in the last so many layers; what the others answer is computed once", aliases=("last_layers",), ge=1)
    targets: str | list[str] = key("auto", "layers whose outputs are rescaled: auto (keys and values), or ends of module names", aliases=("target_modules",))
    feed_forward: str | list[str] = key("auto", "layers whose inputs are rescaled: auto (the second of each feed-forward block), or ends of module names", aliases=("feedforward_modules",))


class Ia3(AdapterMethod):
    """(IA)3 (Liu et al. 2022, 'Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning', section 3.3) through PEFT.
    Where queries, keys and values are one projection, the queries are rescaled with the others."""

    keys_type = Ia3Keys
    requires = frozenset({"torch"})
    learning_rate = 5e-3
    epochs = 8

    def prepare(self, model: TunableModel, seed: int) -> TunableModel:
        """Wrap the body; only the factors and the head train."""
        from peft import IA3Config

        last = self.keys.layers
        found = attention_and_feed_forward(model.body, last)
        linear = linear_layers(model.body, last)
        outputs = found["keys_values"] if self.keys.targets == "auto" else chosen_layers(model.body, self.keys.targets, last)
        inputs = [name for name in found["feed_forward"] if name in linear] if self.keys.feed_forward == "auto" else chosen_layers(model.body, self.keys.feed_forward, last)
        if not outputs and not inputs:
            chosen_layers(model.body, [type(model.body).__name__], last)  # names the layers that there are
        return wrap(model, IA3Config(target_modules=[*outputs, *(name for name in inputs if name not in outputs)], feedforward_modules=inputs), seed)
