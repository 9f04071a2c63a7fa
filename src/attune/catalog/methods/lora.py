"""Train small low-rank matrices beside the frozen weights (LoRA), and the head: near full quality, a bundle of a few megabytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Method, Signature, Task
from attune.core.errors import IntegrityError, PlugError
from attune.core.keys import Keys, key
from attune.core.models import Base, load_head, save_head
from attune.core.randomness import key as random_key

if TYPE_CHECKING:
    from attune.core.tunable import TunableModel


class LoraKeys(Keys):
    """Keys of the method."""

    rank: int = key(16, "rank of the update matrices", aliases=("lora_r", "lora_rank", "r"), ge=1)
    alpha: float | None = key(None, "scale of the update; default: 2 x rank", aliases=("lora_alpha",), gt=0)
    dropout: float = key(0.0, "dropout before the update", aliases=("lora_dropout",), ge=0, lt=1)
    layers: int | None = key(None, "update only the last so many layers; what the others answer is computed once", aliases=("last_layers",), ge=1)
    targets: str | list[str] = key("all-linear", "layers that get an update: all-linear, or ends of module names", aliases=("lora_target_modules", "lora_target", "target_modules"))


class Lora(Method):
    """LoRA (Hu et al. 2021) through PEFT; the adapter is saved in PEFT's own format."""

    keys_type = LoraKeys
    requires = frozenset({"torch"})
    learning_rate = 1e-3
    rung = 2
    epochs = 8

    def prepare(self, model: TunableModel, seed: int) -> TunableModel:
        """Wrap the body; only the updates and the head train."""
        import warnings

        import torch
        from peft import LoraConfig, get_peft_model

        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name; nothing a user could do
            torch.manual_seed(random_key(seed, "lora"))
            model.body = get_peft_model(
                model.body,
                LoraConfig(
                    r=self.keys.rank,
                    lora_alpha=self.keys.alpha or 2 * self.keys.rank,
                    lora_dropout=self.keys.dropout,
                    target_modules=self._targets(model.body),
                    bias="none",
                ),
            )
        return model

    def _targets(self, body: Any) -> list[str]:
        """Full names of the linear layers to update; the output layer and an unused pooler are left alone."""
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        from attune.core.models import last_layers

        wanted = self.keys.targets
        output = body.get_output_embeddings() if hasattr(body, "get_output_embeddings") else None
        linear = [name for name, module in body.named_modules() if isinstance(module, (nn.Linear, Conv1D)) and module is not output and "pooler" not in name.split(".")]
        if self.keys.layers is not None:
            above = last_layers(body, self.keys.layers)
            linear = [name for name in linear if any(name.startswith(stem + ".") for stem in above)]
        if wanted in ("all-linear", "all"):
            return linear
        ends = [wanted] if isinstance(wanted, str) else list(wanted)
        chosen = [name for name in linear if any(name == end or name.endswith("." + end) for end in ends)]
        lost = [end for end in ends if not any(name == end or name.endswith("." + end) for name in linear)]
        if lost:
            raise PlugError(f"no linear layer ends in {', '.join(lost)}", place="method.targets", fix="choose from: " + ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear})))
        return chosen

    def save(self, model: TunableModel, folder: Path) -> None:
        """The adapter in PEFT's format, without this machine's paths, and the head."""
        for config in model.body.peft_config.values():
            config.base_model_name_or_path = None
            config.target_modules = sorted(config.target_modules)
        model.body.save_pretrained(folder / "adapter", save_embedding_layers=False)
        save_head(model, folder)

    def load(self, task: Task, base: Base, signature: Signature, folder: Path) -> TunableModel:
        """The base with the saved adapter and head; a missing adapter weight is an error."""
        from peft import PeftModel
        from safetensors import safe_open

        model: TunableModel = task.build(base, signature)
        model.body = PeftModel.from_pretrained(model.body, folder / "adapter", is_trainable=False)
        with safe_open(folder / "adapter" / "adapter_model.safetensors", "pt") as saved:
            stored = len(list(saved.keys()))
        expected = sum("lora_" in name for name, _ in model.body.named_parameters())
        if stored != expected:
            raise IntegrityError(f"the adapter holds {stored} matrices, the model takes {expected}", place=str(folder / "adapter"), fix="the adapter belongs to another base; tune again")
        load_head(model, folder)
        return model
