"""Dropout by row and place in networks that read padded rows: where rows and places lie in what each of their dropouts is given.

A dropout is given hidden states [rows, longest, width], weights of an attention [rows, heads, longest, longest], or a table that all rows share. Which of these is
found out by running the network on batches of two shapes: a dimension that changes as the number of rows does is that of the rows, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from attune.core.flat import AGREES, KeyedDropout, network_of, noise, options_of, run_padded
from attune.core.memory import ran_out
from attune.core.tokens import Tokens, mixed

TRIED = ((3, 11), (5, 7))
"""Rows and longest row of the two batches."""


@dataclass(frozen=True)
class Layout:
    """Where rows and places lie in a tensor."""

    sizes: tuple[int | None, ...]
    """Each dimension's size; None where it depends on the batch."""
    rows: int | None
    """The dimension of the rows; None where all rows share the tensor."""
    parts: int
    """How many parts (heads) of each row lie one after the other in that dimension."""
    places: tuple[int, ...]
    """The dimensions of the places: none, one, or query and key."""

    @classmethod
    def of(cls, first: Sequence[int], second: Sequence[int]) -> Layout | None:
        """From the shapes that a tensor had in the batches of `TRIED`; None: no reading is known."""
        (few, long), (many, short) = TRIED
        if len(first) != len(second) or not first:
            return None
        rows, parts, places = [], 1, []
        for axis, (a, b) in enumerate(zip(first, second, strict=True)):
            if (a, b) == (long, short):
                places.append(axis)
            elif a != b and a * many == b * few:
                rows.append(axis)
                parts = a // few
            elif a != b:
                return None
        if len(rows) > 1 or len(places) > 2:
            return None
        sizes = tuple(a if a == b else None for a, b in zip(first, second, strict=True))
        return cls(sizes, rows[0] if rows else None, parts, tuple(places))

    def kept(self, x: torch.Tensor, keys: torch.Tensor, row_keys: torch.Tensor, draw: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]) -> torch.Tensor | None:
        """Ones and zeros in the shape of x, each drawn by its row and place; None where x has another layout than this.

        Args:
            x: what the dropout was given.
            keys: int32 [rows, longest], of rows and places.
            row_keys: int32 [rows].
            draw: what is drawn for keys [n], of a shape: [n, *shape]; in the shape's last dimension independent of its length.
        """
        count, longest = keys.shape
        wanted = [longest if axis in self.places else count * self.parts if axis == self.rows else size for axis, size in enumerate(self.sizes)]
        if list(x.shape) != wanted:
            return None
        shape = list(x.shape)
        shift = 0
        if self.rows is not None and self.parts > 1:
            shape[self.rows : self.rows + 1] = [count, self.parts]
            shift = 1
        places = [axis + shift if self.rows is not None and axis > self.rows else axis for axis in self.places]
        last = places[1:]  # the keys that are looked at: their draws must not depend on how many there are
        known = ([] if self.rows is None else [self.rows]) + places[:1]
        between = [axis for axis in range(len(shape)) if axis not in (*known, *last)]
        if not known:  # one table for all rows of a step
            known, between = between[:-1], between[-1:]
            own = _of_places(prod(shape[axis] for axis in known))
        elif self.rows is None:
            own = _of_places(longest)
        else:
            own = keys.flatten() if places else row_keys
        width = prod(shape[axis] for axis in between)
        order = [*known, *between, *last]
        found = draw(own, (width, shape[last[0]]) if last else (width,)).reshape([shape[axis] for axis in order])
        return found.permute([order.index(axis) for axis in range(len(shape))]).reshape(x.shape)


def _of_places(count: int) -> torch.Tensor:
    """int32 [count]: keys of places that belong to no row."""
    return mixed(torch.arange(1, count + 1, dtype=torch.int32))


def learn_layouts(body: Any) -> None:
    """Find out, for every keyed dropout of a network that reads padded rows, how rows and places lie in what it is given, call by call."""
    network = network_of(body)
    vocabulary = int(getattr(network.config, "vocab_size", 0) or 0)
    modules = [module for module in body.modules() if isinstance(module, KeyedDropout)]
    if vocabulary < 8 or not modules:
        return
    found: list[dict[KeyedDropout, list[tuple[int, ...]]]] = []
    pad = int(getattr(network.config, "pad_token_id", None) or 0)
    training = body.training
    body.eval()
    try:
        for count, longest in TRIED:
            seen: dict[KeyedDropout, list[tuple[int, ...]]] = {module: [] for module in modules}
            handles = [module.register_forward_pre_hook(lambda own, inputs, into=seen: into[own].append(tuple(inputs[0].shape))) for module in modules]  # type: ignore[misc]
            try:
                with torch.no_grad(), noise(None):
                    run_padded(body, _some(vocabulary, [longest - i % 3 for i in range(count)]), pad, **options_of(body))
            finally:
                for handle in handles:
                    handle.remove()
            found.append(seen)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as error:
        if ran_out(error):
            raise
        return  # its dropouts then say so themselves when they are used
    finally:
        body.train(training)
    for module in modules:
        first, second = (seen[module] for seen in found)
        module.layouts = [Layout.of(a, b) for a, b in zip(first, second, strict=True)] if len(first) == len(second) else []


def _some(vocabulary: int, lengths: Sequence[int]) -> Tokens:
    draw = torch.Generator().manual_seed(14)
    return Tokens.of([torch.randint(4, vocabulary, (length,), generator=draw).tolist() for length in lengths])


def by_row(body: Any, hidden: Callable[[Tokens], torch.Tensor]) -> bool:
    """Whether a network, while it trains with its dropout, answers a row beside others as it answers it alone.

    Args:
        body: the network, its dropouts keyed.
        hidden: its last hidden states of some rows, [total, width] as the tokens lie.
    """
    vocabulary = int(getattr(network_of(body).config, "vocab_size", 0) or 0)
    if vocabulary < 8 or any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in body.modules()):
        return False  # a batch norm mixes rows, and trying it would change what it has counted
    rows, state, training = _some(vocabulary, (5, 11, 9)), torch.default_generator.get_state(), body.training

    def answered(tokens: Tokens, draw: int) -> torch.Tensor:
        torch.default_generator.manual_seed(draw)
        with noise(15):
            return hidden(tokens).float()

    body.train()
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            together = answered(rows, 0)
            for i, name in enumerate(rows.names):
                told = together[rows.row == i]
                alone = answered(Tokens.of([torch.frombuffer(bytearray(name), dtype=torch.int32).tolist()]), 1 + i)
                if float((told - alone).abs().max()) >= AGREES * float(together.abs().max().clamp(min=1e-6)):
                    return False
            return True
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as error:
        if ran_out(error):
            raise
        return False
    finally:
        body.train(training)
        torch.default_generator.set_state(state)
