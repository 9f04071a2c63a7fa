"""What torch and oneDNN keep of the products of ever new shapes is bounded, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

GROWTH = """
import attune, torch
from attune.core.memory import _allocator
library = _allocator()
weight = torch.ones(256, 256, dtype=torch.bfloat16)
for number in range(410):
    if number == 10:
        before = library.mallinfo2().used if library else 0
    torch.ones(8 + 8 * number, 256, dtype=torch.bfloat16) @ weight
print(library.mallinfo2().used - before if library else 0)
"""


def growth(**said: str) -> int:
    """Bytes that 400 products of as many shapes leave behind."""
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    environment = {name: value for name, value in os.environ.items() if name not in names} | said
    return int(subprocess.run([sys.executable, "-c", GROWTH], env=environment, capture_output=True, text=True, check=True, timeout=120).stdout)


def test_products_of_ever_new_shapes_leave_little_behind():
    as_torch_does = growth(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024", LRU_CACHE_CAPACITY="1024")
    if as_torch_does < 50e6:
        pytest.skip("this processor's products keep nothing worth a bound")
    bounded, torch_says, onednn_says = growth(), growth(LRU_CACHE_CAPACITY="1024"), growth(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024")
    assert bounded < 0.95 * min(torch_says, onednn_says)
    assert max(torch_says, onednn_says) < as_torch_does  # who says how much, has said it
