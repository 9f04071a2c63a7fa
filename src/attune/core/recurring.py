"""Lengths that come again, for processors whose matrix products are written anew for each shape.

A processor with matrix units (AMX) runs bf16 products several times as fast as others, but oneDNN writes each product's program when it meets a new shape: 3 to 10 ms
each, a tenth of an encoder's step (measured, lab/LOG.md). For a multiple of 32 rows it is written in a third of the time, and such lengths come again.
"""

from __future__ import annotations

from functools import cache

import torch

LENGTH = 32
"""Lines have a multiple of so many rows."""


@cache
def _writes_products() -> bool:
    """Whether this processor has matrix units."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def missing(length: int, kind: torch.dtype) -> int:
    """How many rows to add to so many, in products of this number format; 0 where it does not pay."""
    return -length % LENGTH if kind == torch.bfloat16 and _writes_products() else 0


def filled(line: torch.Tensor, more: int) -> torch.Tensor:
    """line [n, ...] with so many zeros behind: [n + more, ...]."""
    return torch.cat((line, line.new_zeros(more, *line.shape[1:]))) if more else line


def words(kind: torch.dtype) -> str | None:
    """What is done about lengths, for a run's record; None: nothing."""
    return f"filled up to multiples of {LENGTH} tokens, because this processor's matrix products are written anew for each shape" if missing(1, kind) else None
