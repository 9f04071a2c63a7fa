"""A causal language model as a GGUF file: metadata, tensors and token table. Families that were not verified against llama.cpp are refused by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attune.catalog.exports._gguf_tokens import TokenTable, table_of
from attune.catalog.exports._speaking import whole_body, write_facts
from attune.core.conversation import render, stop_ids, template_of
from attune.core.errors import MachineError, PlugError
from attune.core.specialist import Specialist

FILE = "model.gguf"
BLOCK = 32
"""Weights per block of Q8_0."""


@dataclass(frozen=True)
class Family:
    """How llama.cpp wants a family of models."""

    name: str
    """Its name in GGUF."""
    turned: bool = False
    """Rotary dimensions interleaved: rows of q and k change places."""
    transposed: tuple[str, ...] = ()
    """Ends of names of matrices stored [in, out]."""
    one_more: bool = False
    """Norm weights stored as their distance from one."""
    activations: tuple[str, ...] = ("silu",)
    rope: bool = True
    head_size: bool = False
    """Whether the size of a head is always written."""


FAMILIES = {
    "llama": Family("llama", turned=True),
    "mistral": Family("llama", turned=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3", head_size=True),
    "gpt2": Family("gpt2", transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight"), activations=("gelu_new",), rope=False),
    "gemma": Family("gemma", one_more=True, activations=("gelu_pytorch_tanh",), head_size=True),
}
"""transformers' model_type -> how it is written; each of them was replayed through llama.cpp."""


def gguf_package() -> Any:
    """The `gguf` package; raises MachineError naming the extra where it is missing."""
    try:
        import gguf
    except ImportError as error:
        raise MachineError("the package 'gguf' is not installed", place="exports.gguf", fix="pip install 'attune[export]'") from error
    return gguf


def family_of(config: Any) -> Family:
    """How a model is written; raises PlugError naming the family, or the setting, that is not supported."""
    kind = config.model_type
    if kind not in FAMILIES:
        raise PlugError(f"models of the family '{kind}' cannot be written as GGUF", place="exports.gguf", fix=f"known are {', '.join(sorted(FAMILIES))}; export this one as 'merged'")
    family = FAMILIES[kind]
    wrong = []
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
    if activation not in family.activations:
        wrong.append(f"activation {activation}")
    rope = getattr(config, "rope_parameters", None) or {}
    if family.rope and (rope.get("rope_type") or "default") not in ("default", "llama3"):
        wrong.append(f"rotary positions of type {rope.get('rope_type')}")
    if rope.get("rope_type") == "llama3" and family.name != "llama":
        wrong.append("rotary positions of type llama3")
    if (rope.get("partial_rotary_factor") or 1.0) != 1.0:
        wrong.append("rotary positions on a part of a head")
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    if windowed and config.sliding_window < config.max_position_embeddings:
        wrong.append("attention within a sliding window")
    wrong += [f"{name} = {getattr(config, name)}" for name in ("attention_bias", "mlp_bias", "scale_attn_by_inverse_layer_idx", "add_cross_attention") if getattr(config, name, None)]
    if getattr(config, "scale_attn_weights", True) is not True:
        wrong.append("attention that is not scaled")
    if wrong:
        raise PlugError(f"this '{kind}' model cannot be written as GGUF: it has {', '.join(wrong)}", place="exports.gguf", fix="export it as 'merged'")
    return family


def write_gguf(specialist: Specialist, folder: Path, weights: str) -> None:
    """The file and the facts for its replay."""
    gguf_package()
    family_of(specialist.model.body.config)  # refused before an adapter is merged for nothing
    tokenizer = specialist.tokenizer
    probe = render(specialist, [{"role": "user", "content": "a"}], to_answer=True)
    begin = bool(tokenizer.bos_token) and probe.startswith(tokenizer.bos_token)
    write_file(folder / FILE, whole_body(specialist), tokenizer, template=template_of(specialist), stops=stop_ids(specialist), begin=begin, name=specialist.name or "model", weights=weights)
    write_facts(specialist, folder)


def write_file(path: Path, body: Any, tokenizer: Any, *, template: str, stops: Sequence[int], begin: bool, name: str, weights: str) -> None:
    """Write the file.

    Args:
        path: the new file.
        body: the merged network.
        tokenizer: its tokenizer.
        template: the chat template in force.
        stops: tokens that end an answer; the tokenizer's end token and at most one other.
        begin: whether a prompt starts with the begin token.
        name: the model's name.
        weights: f32, f16 or q8_0.
    """
    gguf = gguf_package()
    config = body.config
    family = family_of(config)
    table = table_of(tokenizer, body.get_input_embeddings().weight.shape[0])
    others = [one for one in stops if one != tokenizer.eos_token_id]
    if len(others) > 1 + (tokenizer.eos_token_id is None):
        raise PlugError(f"its answers end with {len(stops)} different tokens, GGUF names two", place="exports.gguf", fix="export it as 'merged'")
    writer = gguf.GGUFWriter(str(path), family.name)
    kinds = gguf.GGMLQuantizationType
    writer.add_name(name)
    writer.add_file_type({"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[weights])
    _add_shape(writer, config, family, len(table.tokens))
    _add_tokens(writer, table, tokenizer, others, template, begin)
    places = gguf.get_tensor_name_map(next(arch for arch, own in gguf.MODEL_ARCH_NAMES.items() if own == family.name), config.num_hidden_layers)
    factors = _rope_factors(config)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for own, tensor in _tensors(body):
        place = places.get_name(own, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise PlugError(f"its tensor '{own}' has no place in a GGUF file of '{family.name}'", place="exports.gguf", fix="export it as 'merged'")
        values = _arranged(own, tensor, family, config)
        matrix = values.ndim == 2 and not place.startswith("position_embd")
        kind = kinds.F32 if weights == "f32" or not matrix else kinds.Q8_0 if weights == "q8_0" and values.shape[1] % BLOCK == 0 else kinds.F16
        writer.add_tensor(place, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(body: Any) -> Any:
    """Names and float32 arrays of every weight once: an output layer that is the embedding is not stored again."""
    tied = body.get_output_embeddings().weight.data_ptr() == body.get_input_embeddings().weight.data_ptr()
    for name, tensor in body.state_dict().items():
        if not (tied and name == "lm_head.weight"):
            yield name, tensor.detach().float().cpu().numpy()


def _arranged(name: str, values: Any, family: Family, config: Any) -> Any:
    """A weight as llama.cpp wants it."""
    import numpy as np

    if family.turned and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if name.endswith("q_proj.weight") else config.num_key_value_heads
        values = values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
    if family.transposed and name.endswith(family.transposed):
        values = values.T
    if family.one_more and name.endswith("norm.weight"):
        values = values + 1
    return np.ascontiguousarray(values, dtype=np.float32)


def _add_shape(writer: Any, config: Any, family: Family, vocabulary: int) -> None:
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    writer.add_vocab_size(vocabulary)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(config.num_attention_heads)
    if not family.rope:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if family.head_size or size * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(size)
        writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float((config.rope_parameters or {}).get("rope_theta", 10000.0)))


def _rope_factors(config: Any) -> Any:
    """What Llama 3.1 divides its rotary frequencies by (Llama 3.1 release, `rope_scaling` of type llama3), float32 [head / 2]; None without it."""
    import numpy as np

    said = getattr(config, "rope_parameters", None) or {}
    if said.get("rope_type") != "llama3":
        return None
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    factor, low, high, length = said["factor"], said["low_freq_factor"], said["high_freq_factor"], said["original_max_position_embeddings"]
    waves = 2 * math.pi * np.power(float(said["rope_theta"]), np.arange(0, size, 2, dtype=np.float64) / size)
    smooth = (length / waves - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(waves < length / high, 1.0, np.where(waves > length / low, factor, between)).astype(np.float32)


def _add_tokens(writer: Any, table: TokenTable, tokenizer: Any, others: Sequence[int], template: str, begin: bool) -> None:
    writer.add_tokenizer_model(table.model)
    writer.add_tokenizer_pre(table.pre)
    writer.add_token_list(table.tokens)
    writer.add_token_types(table.types)
    if table.merges:
        writer.add_token_merges(table.merges)
    if table.scores:
        writer.add_token_scores(table.scores)
        writer.add_add_space_prefix(table.space_first)
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else others[0]
    writer.add_eos_token_id(end)
    if [one for one in others if one != end]:
        writer.add_eot_token_id(next(one for one in others if one != end))
    for add, number in ((writer.add_bos_token_id, tokenizer.bos_token_id), (writer.add_unk_token_id, tokenizer.unk_token_id), (writer.add_pad_token_id, tokenizer.pad_token_id)):
        if number is not None:
            add(number)
    writer.add_add_bos_token(begin)
    writer.add_add_eos_token(False)
    writer.add_chat_template(template)
