"""What the benchmarks of language models share: a small Llama made here from texts and a configuration, runs of recipes, and what was found."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import attune


@contextmanager
def work_folder(given: Path | None, name: str) -> Iterator[Path]:
    """The folder that was given, which stays, so that a benchmark goes on where it stood; without one a folder that is removed behind the block."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        yield Path(folder)


def make_blank(folder: Path, texts: Iterable[str], *, vocabulary: int, width: int, layers: int, heads: int, room: int, seed: int) -> int:
    """A Llama of random weights and a byte-level tokenizer trained on the texts; returns how many weights there are.

    Args:
        folder: where both are written.
        texts: what the tokenizer learns its pieces from.
        vocabulary: pieces of the tokenizer.
        width: of the hidden states.
        layers: of the network.
        heads: of each layer.
        room: positions, in tokens.
        seed: of the random weights.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=room,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(one.numel() for one in model.parameters())


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def run(folder: Path, recipe: dict[str, Any], *words: str) -> dict[str, Any]:
    """`attune run` on a recipe, in the folder's one workspace; what is done there already is not done again."""
    (folder / f"{recipe['name']}.yaml").write_text(json.dumps(recipe, indent=1))
    return attune("run", f"{recipe['name']}.yaml", "--workspace", "workspace", *words, folder=folder)


def exported(folder: Path, name: str, target: str) -> None:
    """Write the newest release of a specialist as a transformers folder, with its certificate: a base for the next one."""
    attune("export", name, "--to", target, "--format", "merged", "--workspace", "workspace", folder=folder)


def training(found: dict[str, Any]) -> dict[str, Any]:
    """What a run says of its training."""
    return {name: found["checkpoint"][name] for name in ("best_step", "steps", "validation")}


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """What the grading of a run found."""
    return {name: found["scorecard"][name] for name in ("test_rows", "results", "comparisons", "probes", "gates", "verdict", "reasons")}


def estimate(one: dict[str, Any] | None, *, percent: bool = True) -> str:
    """A value with its interval; a dash where there is none."""
    if one is None or one["value"] is None or math.isnan(one["value"]):
        return "-"
    low, value, high = ((100 * one[name] if percent else one[name]) for name in ("low", "value", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})" if percent else f"{value:.2f} ({low:.2f} to {high:.2f})"
