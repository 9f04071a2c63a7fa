"""Words hidden from an encoder: which tokens of a row are masked, drawn purely from a key, and the rows themselves."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attune.core.errors import PlugError
from attune.core.randomness import generator

if TYPE_CHECKING:
    import numpy as np


def mask_id(tokenizer: Any) -> int:
    """The id of the token that hides a word; raises PlugError where the tokenizer has none."""
    if tokenizer.mask_token_id is None:
        raise PlugError("the base model's tokenizer has no mask token, so nothing can be hidden from it", place="base_model", fix="choose an encoder that was trained with masked words, such as BERT")
    return int(tokenizer.mask_token_id)


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens before and behind a text, as a tokenizer sets them."""
    both = [int(one) for one in tokenizer("", add_special_tokens=True)["input_ids"]]
    middle = (len(both) + 1) // 2
    return both[:middle], both[middle:]


def draw(seed: int, step: int, name: str, part: int = 0) -> np.random.Generator:
    """The draw of one row (part `part` of it) at one step."""
    return generator(seed, "masked words", step, zlib.crc32(name.encode()), part)


def hidden_places(ids: Sequence[int], special: frozenset[int], share: float, random: np.random.Generator) -> list[int]:
    """Places that are to be predicted: each token that is not special with probability `share`, but at least one where there is any."""
    able = [place for place, token in enumerate(ids) if token not in special]
    numbers = random.random(len(able))
    chosen = [place for place, number in zip(able, numbers, strict=True) if number < share]
    return chosen or ([able[int(numbers.argmin())]] if able else [])


def masked(ids: Sequence[int], places: Sequence[int], mask: int, words: int, random: np.random.Generator) -> list[int]:
    """The row with its places hidden: 80 % become the mask, 10 % another token by chance, 10 % stay (Devlin et al. 2019, appendix A.1).

    Args:
        words: how many tokens the vocabulary has.
    """
    found = list(ids)
    for place, how, other in zip(places, random.random(len(places)), random.integers(0, words, len(places)), strict=True):
        if how < 0.9:
            found[place] = mask if how < 0.8 else int(other)
    return found
