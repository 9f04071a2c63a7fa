"""Hearing a GGUF file: through llama.cpp where llama-cpp-python is installed, else through transformers' own reader of such files."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.catalog.exports._gguf_file import FILE, gguf_package
from attune.catalog.exports._gguf_tokens import TokenTable, tokenizer_of
from attune.catalog.exports._speaking import facts_of
from attune.core.conversation import Message, for_template, segments
from attune.core.errors import IntegrityError
from attune.core.parity import NetworkVoice, Voice

if TYPE_CHECKING:
    import numpy as np

CONSTANTS = {"block_count": "layers", "attention.head_count": "heads", "attention.head_count_kv": "key_value_heads", "embedding_length": "hidden_size", "rope.freq_base": "rope_base"}
ENDS = ("eos_token_id", "eot_token_id")
EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")


def llama_cpp_installed() -> bool:
    """Whether llama.cpp can run here."""
    return importlib.util.find_spec("llama_cpp") is not None


def gguf_voice(path: Path, longest: int) -> LlamaCppVoice | NetworkVoice:
    """The best ear there is for a file; `longest` tokens are heard at most."""
    if not path.is_file():
        raise IntegrityError("there is no GGUF file", place=str(path), fix="export it again")
    return LlamaCppVoice(path, longest) if llama_cpp_installed() else read_back(path)


def voice_in(folder: Path) -> Voice:
    """The file in a folder, with room for the longest prompt and answer."""
    facts = facts_of(folder)
    return gguf_voice(folder / FILE, facts["max_length"] + facts["max_new_tokens"])


def metadata_of(path: Path) -> dict[str, Any]:
    """Every field of a file."""
    return {name: field.contents() for name, field in gguf_package().GGUFReader(str(path)).fields.items()}


def constants_of_file(said: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture's numbers and the end tokens as the file states them."""
    family = said["general.architecture"]
    found: dict[str, Any] = {own: said[f"{family}.{name}"] for name, own in CONSTANTS.items() if f"{family}.{name}" in said}
    found["end_tokens"] = sorted({int(said[f"tokenizer.ggml.{name}"]) for name in ENDS if f"tokenizer.ggml.{name}" in said})
    epsilon = next((said[f"{family}.{name}"] for name in EPSILONS if f"{family}.{name}" in said), None)
    return found if epsilon is None else {**found, "norm_epsilon": epsilon}


class LlamaCppVoice(Voice):
    """The file in llama.cpp, prompted as llama-cpp-python's chat completion prompts it."""

    def __init__(self, path: Path, longest: int) -> None:
        import llama_cpp
        import torch
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        threads = torch.get_num_threads()
        self.model = llama_cpp.Llama(model_path=str(path), n_ctx=longest, n_batch=longest, n_ubatch=longest, n_gpu_layers=0, n_threads=threads, n_threads_batch=threads, logits_all=True, verbose=False)
        self.engine = f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"
        said = metadata_of(path)
        self.template, self.constants, self.begin = said.get("tokenizer.chat_template"), constants_of_file(said), bool(said.get("tokenizer.ggml.add_bos_token", False))
        vocabulary = self.model._model.vocab
        self.stops = frozenset(i for i in range(self.model.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, i))
        self.special = frozenset(i for i in range(self.model.n_vocab()) if llama_cpp.llama_vocab_is_control(vocabulary, i))
        names = [self.model._model.token_get_text(one) if one != -1 else "" for one in (self.model.token_eos(), self.model.token_bos())]
        self.formatter = Jinja2ChatFormatter(template=self.template, eos_token=names[0], bos_token=names[1]) if self.template else None

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Through the file's own template and tokenizer."""
        if not messages or self.formatter is None:
            return [int(self.model.token_bos())]
        if segments(messages):
            return self.encode("".join(one["content"] for one in messages), begin=self.model.token_bos() != -1)
        plain, tools = for_template(self.template, messages, tools)
        return self.encode(self.formatter(messages=plain, tools=list(tools) if tools else None).prompt, begin=False)

    def encode(self, text: str, *, begin: bool | None = None) -> list[int]:
        """Token ids of a rendered conversation."""
        return [int(one) for one in self.model.tokenize(text.encode(), add_bos=self.begin if begin is None else begin, special=True)]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """One pass over all tokens, from an empty cache."""
        self.model.reset()
        self.model._ctx.kv_cache_clear()
        self.model.eval(list(ids))
        found: np.ndarray = self.model.scores[: len(ids)].copy()
        return found

    def answer(self, prompt: Sequence[int], most: int, draft: Sequence[int] = ()) -> list[int]:
        """With llama.cpp's own cache, which saves more than a draft."""
        self.logits(prompt)
        found: list[int] = []
        while len(found) < most:
            found.append(int(self.model.scores[self.model.n_tokens - 1].argmax()))
            if found[-1] in self.stops:
                break
            self.model.eval(found[-1:])
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Without special tokens and surrounding spaces."""
        return str(self.model.detokenize(list(ids)).decode("utf-8", errors="replace").strip())

    def close(self) -> None:
        """Free the model."""
        self.model.close()


def _config(path: Path, said: Mapping[str, Any]) -> Any:
    """transformers' reading of the metadata, with what it takes for granted in some families: the size of a head, the number of learned positions."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    size = said.get(f"{said['general.architecture']}.attention.key_length")
    if size is not None and hasattr(config, "head_dim"):
        config.head_dim = int(size)
    if hasattr(config, "n_positions"):
        config.n_positions = int(said[f"{said['general.architecture']}.context_length"])
    return config


def _gemma(path: Path, said: Mapping[str, Any]) -> Any:
    """A first-generation Gemma, which transformers' reader does not know: the configuration from the metadata, norms less the one that the file adds."""
    import torch
    from transformers import GemmaConfig, GemmaForCausalLM

    gguf = gguf_package()
    size = {name.removeprefix("gemma."): value for name, value in said.items() if name.startswith("gemma.")}
    config = GemmaConfig(
        vocab_size=size["vocab_size"],
        hidden_size=size["embedding_length"],
        intermediate_size=size["feed_forward_length"],
        num_hidden_layers=size["block_count"],
        num_attention_heads=size["attention.head_count"],
        num_key_value_heads=size["attention.head_count_kv"],
        head_dim=size["attention.key_length"],
        rms_norm_eps=size["attention.layer_norm_rms_epsilon"],
        max_position_embeddings=size["context_length"],
        rope_parameters={"rope_type": "default", "rope_theta": size["rope.freq_base"]},
    )
    stored = {one.name: gguf.quants.dequantize(one.data, one.tensor_type) for one in gguf.GGUFReader(str(path)).tensors}
    network = GemmaForCausalLM(config)
    places = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA, config.num_hidden_layers)
    weights = {}
    for name in network.state_dict():
        place = "token_embd.weight" if name == "lm_head.weight" else places.get_name(name, try_suffixes=(".weight",))  # Gemma's output layer is its embedding
        weights[name] = torch.tensor(stored[place]) - (1 if name.endswith("norm.weight") else 0)
    network.load_state_dict(weights)
    return network


def read_back(path: Path) -> NetworkVoice:
    """The file's metadata by the `gguf` package, its weights by transformers' reader, its tokenizer from its own token table."""
    import torch
    import transformers

    from attune.core.models import load_body

    said = metadata_of(path)
    ggml = {name.removeprefix("tokenizer.ggml."): value for name, value in said.items() if name.startswith("tokenizer.ggml.")}
    count = len(ggml["tokens"])
    table = TokenTable(
        ggml["model"],
        ggml.get("pre", "default"),
        list(ggml["tokens"]),
        list(ggml["token_type"]),
        list(ggml.get("merges", [])),
        list(ggml.get("scores", [0.0] * count)),
        bool(ggml.get("add_space_prefix", False)),
    )
    named = {"begin": "bos_token_id", "end": "eos_token_id", "unknown": "unknown_token_id"}
    tokenizer = tokenizer_of(table, {own: int(ggml[name]) for own, name in named.items() if name in ggml})
    try:
        known = said["general.architecture"] != "gemma"
        with contextlib.redirect_stderr(io.StringIO()):  # the reader's progress bar, which no setting turns off
            network = load_body(path.parent, "AutoModelForCausalLM", gguf_file=path.name, config=_config(path, said)) if known else _gemma(path, said)
    except (RuntimeError, ValueError, KeyError) as error:
        raise IntegrityError(f"transformers cannot read the file back: {str(error)[:300]}", place=str(path), fix="pip install 'attune[gguf-replay]' replays it through llama.cpp instead") from error
    factors = next((torch.tensor(one.data) for one in gguf_package().GGUFReader(str(path)).tensors if one.name == "rope_freqs.weight"), None)
    if factors is not None:  # transformers' reader leaves them out
        network.model.rotary_emb.inv_freq.div_(factors)
    constants, engine = constants_of_file(said), f"transformers {transformers.__version__}'s GGUF reader"
    voice = NetworkVoice(network.to(torch.float32).eval(), tokenizer, said.get("tokenizer.chat_template"), constants["end_tokens"], engine, constants)
    voice.begin = bool(ggml.get("add_bos_token", False))
    return voice
