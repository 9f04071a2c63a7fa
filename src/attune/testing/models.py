"""Small real models for tests: a Llama and a BERT from configurations; the Llama's tokenizer is trained on the spot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from attune.core.models import resolve_base
from attune.core.recipe import DEFAULT_BASE

CHAT_TEMPLATE = "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
"""A template in the manner of ChatML, whose answers end with a token other than the tokenizer's end token."""


def tiny_llama(folder: Path, texts: Iterable[str], *, chat_template: str | None = None, seed: int = 0, vocabulary: int = 400) -> Path:
    """Write a causal language model of about 100,000 random weights and its tokenizer into a folder; returns the folder.

    Args:
        folder: where to; made when new.
        texts: what the byte-level BPE tokenizer is trained on.
        chat_template: kept with the tokenizer when given, for example `CHAT_TEMPLATE`.
        seed: of the weights.
        vocabulary: most entries of the tokenizer.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    special = ["<s>", "</s>", "<|start|>", "<|end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", extra_special_tokens=special[2:])  # type: ignore[no-untyped-call]
    if chat_template is not None:
        fast.chat_template = chat_template
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        tie_word_embeddings=True,
        initializer_range=0.1,  # five times the usual: frozen embeddings must be able to say something sharp
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_bert(folder: Path, *, seed: int = 0) -> Path:
    """Write a two-layer BERT of random weights with the tokenizer of the default base into a folder; returns the folder."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = resolve_base(DEFAULT_BASE).tokenizer()
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.BertModel(config).save_pretrained(folder)
    return folder
