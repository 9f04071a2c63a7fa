"""Small real releases that write: LoRA adapters of one tiny Llama, whose answers differ, made without the training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

from attune.core.models import resolve_base
from attune.core.recipe import Recipe, make_recipe
from attune.core.records import Release
from attune.core.specialist import Specialist
from attune.core.workspace import Workspace
from attune.stages import register
from attune.testing.models import CHAT_TEMPLATE, tiny_llama
from tests import releases

TEXTS = ["the cat sat on the mat and then the end came", "naïve café 🐈", "where is my parcel", '{"ok": true}']


def base(folder: Path, seed: int = 0, chat_template: str = CHAT_TEMPLATE) -> Path:
    return tiny_llama(folder, TEXTS, chat_template=chat_template, seed=seed)


def writer(folder: Path, seed: int, name: str = "writer", method: str = "lora", tokens: int = 12) -> tuple[Any, Specialist]:
    """The recipe and the model of a specialist; another seed says other things."""
    import torch

    task = {"name": "text_generation", "max_new_tokens": tokens}
    made = make_recipe({"name": name, "task": task, "base_model": str(folder), "method": method, "data": {"path": "rows.csv"}}, folder=Path("."))
    found = resolve_base(str(folder))
    signature: dict[str, Any] = {"chat_template": None, "chat_template_sha256": None}
    specialist = Specialist(made.task, signature, made.method.prepare(made.task.build(found, signature), 3), found.tokenizer(), found, 128, name, method=made.method)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for part, one in specialist.model.body.named_parameters():
            if "lora_B" in part:
                one.normal_(std=0.3)
    specialist.signature = specialist.task.settle(specialist, [])
    specialist.model.eval()
    return made, specialist


def release(workspace: Workspace, folder: Path, seed: int, name: str = "writer", *, approved: bool = True, **more: Any) -> Release:
    """Register a release of a specialist of this name, and approve it."""
    found = registered(workspace, *writer(folder, seed, name, **more))
    if approved:
        register.promote(workspace, found, actor="test")
    return found


def registered(workspace: Workspace, made: Recipe, specialist: Specialist) -> Release:
    """Register a model."""
    with patch.object(releases, "NAME", specialist.name):
        return releases.release(workspace, made=made, model=specialist)
