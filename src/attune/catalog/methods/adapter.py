"""Train small bottleneck layers put between the frozen ones, and the head: the first kind of adapter, steady at many sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attune.core.adapters import FOLDER, attention_and_feed_forward, set_tensors
from attune.core.contracts import Method, Signature, Task
from attune.core.errors import PlugError
from attune.core.keys import Keys, key
from attune.core.models import Base, load_head, save_head
from attune.core.randomness import key as random_key

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel


class AdapterKeys(Keys):
    """Keys of the method."""

    size: int = key(64, "width of the bottleneck", aliases=("bottleneck_size",), ge=1)
    placement: Literal["houlsby", "pfeiffer"] = key("houlsby", "houlsby: behind every attention and every feed-forward block; pfeiffer: behind the feed-forward blocks only, half the weights")
    activation: Literal["gelu", "relu", "silu"] = key("gelu", "the bottleneck's activation", aliases=("non_linearity",))
    layers: int | None = key(None, "only in the last so many layers; what the others answer is computed once", aliases=("last_layers",), ge=1)


class Adapter(Method):
    """Bottleneck adapters: Houlsby et al. 2019 (figure 2), Pfeiffer et al. 2020. Each stands between a block's last projection and the sum with what
    went into the block, and starts as the identity. Saved as safetensors and JSON; PEFT has no such method for most families."""

    keys_type = AdapterKeys
    requires = frozenset({"torch"})
    learning_rate = 1e-3
    epochs = 8

    def prepare(self, model: TunableModel, seed: int) -> TunableModel:
        """Freeze the body and put the bottlenecks in; only they and the head train."""
        import torch

        from attune.core.bottleneck import insert

        for parameter in model.body.parameters():
            parameter.requires_grad = False
        found = attention_and_feed_forward(model.body, self.keys.layers)
        places = [*(found["attention"] if self.keys.placement == "houlsby" else ()), *found["feed_forward"]]
        if not places:
            raise PlugError(f"a {type(model.body).__name__} has no attention or feed-forward block that could be told by its shape", place="method", fix="use method lora")
        with torch.random.fork_rng():
            torch.manual_seed(random_key(seed, "adapter"))
            insert(model.body, places, self.keys.size, self.keys.activation)
        return model

    def save(self, model: TunableModel, folder: Path) -> None:
        """The bottlenecks' weights by the name of the layer that they stand behind, what they are, and the head."""
        from safetensors.torch import save_file

        place = folder / FOLDER
        place.mkdir()
        save_file({name: p.detach().contiguous() for name, p in self._weights(model).items()}, place / "adapter.safetensors", metadata={"format": "pt"})
        (place / "adapter.json").write_text(json.dumps({"kind": "bottleneck", **self.keys.model_dump(mode="json")}, indent=1, sort_keys=True))
        save_head(model, folder)

    def load(self, task: Task, base: Base, signature: Signature, folder: Path) -> TunableModel:
        """The base with the saved bottlenecks and head; a missing weight is an error."""
        model = self.prepare(task.build(base, signature), 0)
        set_tensors(self._weights(model), folder / FOLDER / "adapter.safetensors")
        load_head(model, folder)
        return model

    def _weights(self, model: TunableModel) -> dict[str, torch.nn.Parameter]:
        from attune.core.bottleneck import weights

        return weights(model.body)
