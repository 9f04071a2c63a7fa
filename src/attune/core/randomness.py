"""Randomness by key, not by stream: every draw comes from (seed, purpose, numbers ...), so resume and worker count cannot change it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def key(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one draw."""
    text = ":".join([str(seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A numpy generator for one draw."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(key(seed, purpose, *numbers)))
