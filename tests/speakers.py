"""Small specialists that write texts, for tests of formats: a Llama with an output layer of its own and a LoRA adapter that moves its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.models import load_body, resolve_base
from attune.core.specialist import Specialist
from attune.testing.models import CHAT_TEMPLATE, tiny_llama

TEXTS = ["Where is my parcel? It's 12 days late!", "I want my money back, please.", "  two  spaces\n\nand lines", "Ünïcödé 你好 🙂 don't", "def f(x):\n    return x + 1"]
ROWS: list[dict[str, Any]] = [{"row_id": f"r{i}", "prompt": [{"role": "user", "content": text.strip()}], "completion": "It is on its way."} for i, text in enumerate(TEXTS)]


def base_of(folder: Path, *, chat_template: str | None = CHAT_TEMPLATE, seed: int = 0) -> Path:
    import torch

    tiny_llama(folder, TEXTS * 3, chat_template=chat_template, seed=seed)
    body = load_body(folder, "AutoModelForCausalLM")
    generator = torch.Generator().manual_seed(seed)
    body.config.tie_word_embeddings = False
    body.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn(body.lm_head.weight.shape, generator=generator))
    body.save_pretrained(folder)
    return folder


def speaker(folder: Path, method: Any = None, *, longest: int = 96) -> Specialist:
    """A specialist on the base in a folder, ready to answer."""
    import torch

    task = catalog.build("tasks", {"name": "text_generation", "max_new_tokens": 8})
    plug, base = catalog.build("methods", method or {"name": "lora", "rank": 4}), resolve_base(str(folder))
    found = Specialist(task, task.signature(ROWS), plug.prepare(task.build(base, {}), 1), base.tokenizer(), base, longest, "speaker", method=plug)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in found.model.body.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    found.model.eval()
    found.signature = task.settle(found, [])
    return found
