"""Train a few virtual tokens in front of every row, and the head: the base stays untouched; for large bases and small data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attune.core.adapters import FOLDER, set_tensors
from attune.core.contracts import Method, Signature, Task
from attune.core.keys import Keys, key
from attune.core.models import Base, load_head, save_head
from attune.core.randomness import key as random_key

if TYPE_CHECKING:
    from attune.core.tunable import TunableModel


class PromptTuningKeys(Keys):
    """Keys of the method."""

    tokens: int = key(16, "virtual tokens in front of every row; they take as many of the base's positions", aliases=("num_virtual_tokens",), ge=1)


class PromptTuning(Method):
    """Prompt tuning (Lester et al. 2021). The virtual tokens start as tokens of the base's vocabulary (their section 3.2). They are token ids
    behind the vocabulary, with an embedding of their own: so they lie in flat rows, in padded ones and in front of what is generated, like any
    token. Saved in PEFT's format."""

    keys_type = PromptTuningKeys
    requires = frozenset({"torch"})
    learning_rate = 1e-2
    epochs = 12

    def prepare(self, model: TunableModel, seed: int) -> TunableModel:
        """Freeze the body and give it the virtual tokens; only they and the head train."""
        import torch

        from attune.core.virtual_tokens import give

        for parameter in model.body.parameters():
            parameter.requires_grad = False
        table = model.body.get_input_embeddings().weight
        draw = torch.Generator().manual_seed(random_key(seed, "prompt tuning"))
        chosen = torch.randint(len(table), (self.keys.tokens,), generator=draw)
        give(model.body, table.detach()[chosen].clone())
        return model

    def save(self, model: TunableModel, folder: Path) -> None:
        """The virtual tokens as PEFT writes them, and the head."""
        from peft import PromptTuningConfig
        from safetensors.torch import save_file

        config, embedding = model.body.config.get_text_config(), model.body.get_input_embeddings()
        writes = model.body.get_output_embeddings() is not None
        PromptTuningConfig(
            task_type="CAUSAL_LM" if writes else "FEATURE_EXTRACTION",
            num_virtual_tokens=self.keys.tokens,
            token_dim=embedding.virtual.shape[1],
            num_transformer_submodules=1,
            num_attention_heads=config.num_attention_heads,
            num_layers=config.num_hidden_layers,
            inference_mode=True,
        ).save_pretrained(str(folder / FOLDER))
        save_file({"prompt_embeddings": embedding.virtual.detach().contiguous()}, folder / FOLDER / "adapter_model.safetensors", metadata={"format": "pt"})
        save_head(model, folder)

    def load(self, task: Task, base: Base, signature: Signature, folder: Path) -> TunableModel:
        """The base with the saved virtual tokens and head."""
        model = self.prepare(task.build(base, signature), 0)
        set_tensors({"prompt_embeddings": model.body.get_input_embeddings().virtual}, folder / FOLDER / "adapter_model.safetensors")
        load_head(model, folder)
        return model
