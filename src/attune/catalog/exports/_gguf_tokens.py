"""A transformers tokenizer as the token table of a GGUF file, and back. What llama.cpp cannot tokenize the same way is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attune.core.errors import PlugError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens in GGUF."""
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|%s| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
SPLITS = {"llama-bpe": CONTRACTIONS % "\\p{N}{1,3}", "qwen2": CONTRACTIONS % "\\p{N}"}
"""Names that llama.cpp has for ways to split a text before byte-level BPE -> their expression."""
SPACE = "\u2581"
FIX = "export it as 'merged', or choose a base whose tokenizer llama.cpp knows"


@dataclass
class TokenTable:
    """What a GGUF file says of a tokenizer."""

    model: str
    """gpt2 (byte-level BPE) or llama (SentencePiece with byte fallback)."""
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space_first: bool = False


def _refuse(why: str) -> PlugError:
    return PlugError(f"this tokenizer cannot be written as GGUF: {why}", place="exports.gguf", fix=FIX)


def _steps(part: Any, inner: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return list(part[inner]) if part["type"] == "Sequence" else [part]


def table_of(tokenizer: Any, size: int) -> TokenTable:
    """The token table of a fast tokenizer, filled up to the `size` of the embedding."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise _refuse("it is no fast tokenizer")
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    model = said["model"]
    if model["type"] != "BPE" or model.get("dropout"):
        raise _refuse(f"its model is {model['type']}{' with dropout' if model.get('dropout') else ''}, and only BPE without dropout is known here")
    added = {one["id"]: one for one in said["added_tokens"]}
    vocabulary: dict[int, str] = {number: text for text, number in model["vocab"].items()} | {number: one["content"] for number, one in added.items()}
    if max(vocabulary) >= size:
        raise _refuse(f"it has tokens up to {max(vocabulary)} and the model only {size}")
    tokens = [vocabulary.get(i, f"[PAD{i}]") for i in range(size)]
    merges = [tuple(one.split(" ", 1)) if isinstance(one, str) else tuple(one) for one in model["merges"]]
    types = [UNUSED if i not in vocabulary else _type(vocabulary[i], added.get(i), model) for i in range(size)]
    if model.get("byte_fallback"):
        return _pieces(said, tokens, types, merges)
    return TokenTable("gpt2", _split_name(said), tokens, types, [" ".join(pair) for pair in merges])


def _type(text: str, added: Mapping[str, Any] | None, model: Mapping[str, Any]) -> int:
    if text == model.get("unk_token"):
        return UNKNOWN
    if added is not None:
        return CONTROL if added["special"] else USER_DEFINED
    return BYTE if model.get("byte_fallback") and len(text) == 6 and text.startswith("<0x") else NORMAL


def _split_name(said: Mapping[str, Any]) -> str:
    """llama.cpp's name for the way a byte-level tokenizer splits a text."""
    kinds = [one["type"] for one in _steps(said["normalizer"], "normalizers")]
    if any(kind != "NFC" for kind in kinds):
        raise _refuse(f"it rewrites texts first ({', '.join(kinds)})")
    steps = _steps(said["pre_tokenizer"], "pretokenizers")
    last = steps[-1] if steps else {"type": "nothing"}
    if last["type"] != "ByteLevel" or last.get("add_prefix_space"):
        raise _refuse(f"it splits texts by {last['type']}{' with a space in front' if last.get('add_prefix_space') else ''}")
    ignore = bool(said["model"].get("ignore_merges"))
    if len(steps) == 1 and last.get("use_regex", True) and not ignore:
        return "gpt-2"
    if len(steps) == 2 and steps[0]["type"] == "Digits" and steps[0].get("individual_digits") and last.get("use_regex", True) and not ignore:
        return "smollm"
    if len(steps) == 2 and steps[0]["type"] == "Split" and not last.get("use_regex", True) and steps[0].get("behavior") == "Isolated" and not steps[0].get("invert"):
        expression = steps[0]["pattern"].get("Regex")
        for name, known in SPLITS.items():
            if expression == known and ignore <= (name == "llama-bpe"):
                return name
    raise _refuse("it splits texts in a way that has no name here (GPT-2's, SmolLM's, Llama 3's and Qwen2's have)")


def _pieces(said: Mapping[str, Any], tokens: list[str], types: list[int], merges: Sequence[tuple[str, ...]]) -> TokenTable:
    """SentencePiece: llama.cpp joins the pair whose piece has the highest score, which is BPE when scores fall with the rank of the merge."""
    normal = _steps(said["normalizer"], "normalizers")
    spaces = [one for one in normal if one["type"] == "Replace" and one["pattern"] == {"String": " "} and one["content"] == SPACE]
    first = [one for one in normal if one["type"] == "Prepend" and one["prepend"] == SPACE]
    before = _steps(said["pre_tokenizer"], "pretokenizers")
    meta = [one for one in before if one["type"] == "Metaspace" and one.get("replacement", SPACE) == SPACE and one.get("prepend_scheme") in ("always", "never") and not one.get("split", True)]
    harmless = [one for one in before if one["type"] == "Split" and one["pattern"] == {"String": " "}]  # behind the replacement no space is left to split at
    if len(spaces) + len(first) != len(normal) or len(meta) + len(harmless) != len(before) or len(spaces) + len(meta) != 1:
        raise _refuse("it treats spaces in a way that has no setting in GGUF")
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    lost = [text for text, kind in zip(tokens, types, strict=True) if kind == NORMAL and len(text) > 1 and text not in ranks]
    if lost:
        raise _refuse(f"no merge makes its piece {lost[0]!r}")
    scores = [-1.0 - ranks.get(text, len(merges)) if kind == NORMAL else 0.0 for text, kind in zip(tokens, types, strict=True)]
    space_first = bool(first) or any(one["prepend_scheme"] == "always" for one in meta)
    return TokenTable("llama", "default", tokens, types, scores=scores, space_first=space_first)


def tokenizer_of(table: TokenTable, ids: Mapping[str, int]) -> Any:
    """The tokenizer that a token table describes, for a replay without llama.cpp.

    Args:
        table: as read from the file.
        ids: begin, end and unknown token, where the file names them.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {text: i for i, (text, kind) in enumerate(zip(table.tokens, table.types, strict=True)) if kind != UNUSED}
    if table.model == "gpt2":
        made = Tokenizer(models.BPE(vocab=vocabulary, merges=[(one.partition(" ")[0], one.partition(" ")[2]) for one in table.merges], ignore_merges=table.pre == "llama-bpe"))
        plain = table.pre in SPLITS
        steps: list[Any] = [pre_tokenizers.Split(Regex(SPLITS[table.pre]), "isolated")] if plain else []
        steps += [pre_tokenizers.Digits(individual_digits=True)] if table.pre == "smollm" else []
        made.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not plain)])
        made.decoder = decoders.ByteLevel()
    else:
        made = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges_of(table, vocabulary), byte_fallback=True, fuse_unk=True, unk_token=table.tokens[ids.get("unknown", 0)]))
        first = [normalizers.Prepend(SPACE)] if table.space_first else []
        made.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", SPACE)])
        strip = [decoders.Strip(" ", 1, 0)] if table.space_first else []
        made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    special = [AddedToken(text, normalized=False, special=kind != USER_DEFINED) for text, kind in zip(table.tokens, table.types, strict=True) if kind in (CONTROL, USER_DEFINED, UNKNOWN)]
    made.add_tokens(special)
    named = {name: table.tokens[ids[own]] for name, own in (("bos_token", "begin"), ("eos_token", "end"), ("unk_token", "unknown")) if own in ids}
    control = [text for text, kind in zip(table.tokens, table.types, strict=True) if kind == CONTROL and text not in named.values()]
    return PreTrainedTokenizerFast(tokenizer_object=made, extra_special_tokens=control, **named)  # type: ignore[no-untyped-call]


def _merges_of(table: TokenTable, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every way to make a piece from two, best piece first."""
    found = []
    order = sorted((i for i, kind in enumerate(table.types) if kind == NORMAL and len(table.tokens[i]) > 1), key=lambda i: -table.scores[i])
    for i in order:
        text = table.tokens[i]
        found += sorted(((text[:k], text[k:]) for k in range(1, len(text)) if text[:k] in vocabulary and text[k:] in vocabulary), key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return found
