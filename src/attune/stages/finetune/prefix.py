"""Frozen lower layers are computed once: their answers to the training rows lie on disk, mapped into memory, and training starts above them.

This is exact up to the number format: below the first trained layer there is no dropout, whether or not its answers are kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from attune.core.contracts import Example
from attune.core.flat import given, network_of
from attune.core.layers import layers_of
from attune.core.records import digest
from attune.core.specialist import by_length
from attune.core.tokens import Tokens, row_name
from attune.core.tunable import TunableModel
from attune.stages.finetune.cache import Cache

VERSION = 2


def frozen_layers(body: Any) -> int:
    """How many layers, from the first, no trained weight stands in or below."""
    layers = layers_of(body)
    if layers is None:
        return 0
    inside = {id(p) for p in layers.parameters()}
    embedding = network_of(body).get_input_embeddings()
    entrance = {id(p) for p in embedding.parameters()}
    below = [p for name, p in network_of(body).named_parameters() if id(p) not in inside and (id(p) in entrance or "embed" in name or name.startswith(("wte", "wpe")))]
    if any(p.requires_grad for p in below):
        return 0
    return next((i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters())), len(layers))


def below(body: Any, depth: int) -> set[int]:
    """Ids of the modules that work before the first `depth` layers have answered: these layers, and what stands outside of the stack, at its entrance."""
    layers = layers_of(body)
    assert layers is not None
    inside = [{id(module) for module in layer.modules()} for layer in layers]
    return set().union(*inside[:depth]) | {id(module) for module in body.modules()} - set().union(*inside)


def _ids(row: bytes) -> list[int]:
    """The token ids of a row's name."""
    found: list[int] = torch.frombuffer(bytearray(row), dtype=torch.int32).tolist()
    return found


class _Reached(Exception):
    """The last frozen layer has answered; what is above need not run."""


class Prefix:
    """The answers of the frozen lower layers to every training row.

    Args:
        model: prepared by its method; its body reads flat rows.
        examples: with `ids` (a list, or several by name).
        depth: the number of frozen layers, at least 1.
        cache: where answers are kept for later runs.
        identity: what the answers depend on besides the rows: the base and its version.
        precision: fp32 or bf16, for computing; kept is what the layers pass on, which is mostly fp32 in both.

    Raises:
        NoRoom: the answers do not fit; the network is as it was.
    """

    def __init__(self, model: TunableModel, examples: Sequence[Example], depth: int, cache: Cache, identity: Any, precision: str) -> None:
        layers = layers_of(model.body)
        assert layers is not None
        self._bf16 = precision == "bf16"
        self.width = network_of(model.body).config.hidden_size
        self.depth = depth
        self._single = True
        self._last: torch.Tensor | None = None
        self._watching = False
        rows = list(dict.fromkeys(row_name(row) for one in examples for row in (one["ids"].values() if isinstance(one["ids"], dict) else [one["ids"]])))
        for number in range(depth):
            self._install(layers[number], last=number == depth - 1)
        self.kind = self._answers(model, Tokens.of([_ids(rows[0])])).dtype  # a narrower format would be a rounding that the plain way has not
        key = digest({"base": identity, "depth": depth, "rows": digest([row.hex() for row in rows]), "precision": precision, "version": VERSION})
        need = sum(len(row) // 4 for row in rows) * self.width * torch.empty(0, dtype=self.kind).element_size()
        target, self._in_use, self.reused = cache.keep(f"layers-{key[:32]}", need, lambda new: self._compute(model, rows, new))
        self.places: dict[bytes, tuple[int, int]] = {}
        begin = 0
        for row in rows:
            self.places[row] = (begin, begin + len(row) // 4)
            begin += len(row) // 4
        self.table = torch.from_file(str(target / "hidden.bin"), shared=False, size=begin * self.width, dtype=self.kind).view(begin, self.width)
        self.size = begin * self.width * self.table.element_size()
        model.computed = self

    def _install(self, layer: Any, last: bool) -> None:
        """Let a frozen layer pass on what is given; without that it works as before."""
        own = layer.forward

        def forward(hidden: torch.Tensor, *args: Any, **options: Any) -> Any:
            known = given()
            if known is not None:
                answer = known if last else hidden
                return answer if self._single else (answer,)
            found = own(hidden, *args, **options)
            if last and self._watching:
                self._single = isinstance(found, torch.Tensor)
                self._last = found if self._single else found[0]
                raise _Reached
            return found

        layer.forward = forward

    def _compute(self, model: TunableModel, rows: Sequence[bytes], folder: Path) -> None:
        ids = [_ids(row) for row in rows]
        begins = [0]
        for one in ids:
            begins.append(begins[-1] + len(one))
        path = folder / "hidden.bin"
        need = begins[-1] * self.width * torch.empty(0, dtype=self.kind).element_size()
        with path.open("wb") as stream:  # a mapped file without room behind it would end the process
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, need)
            else:
                stream.truncate(need)
        table = torch.from_file(str(path), shared=True, size=begins[-1] * self.width, dtype=self.kind).view(begins[-1], self.width)
        for index in by_length([len(one) for one in ids]):
            tokens = Tokens.of([ids[i] for i in index])
            found = self._answers(model, tokens)
            for place, i in enumerate(index):
                first = int(tokens.starts[place])
                table[begins[i] : begins[i + 1]] = found[first : first + len(ids[i])]

    def _answers(self, model: TunableModel, tokens: Tokens) -> torch.Tensor:
        """What the last frozen layer answers, [total, width] as the tokens lie, in evaluation mode."""
        training = model.training
        model.eval()
        self._watching = True
        try:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self._bf16), suppress(_Reached):
                model.hidden(tokens)
            assert self._last is not None
            return self._last[0][: len(tokens.row)]
        finally:
            self._watching, self._last = False, None
            model.train(training)

    def __call__(self, tokens: Tokens) -> torch.Tensor | None:
        """[1, total, width] as the tokens lie; None when a row is unknown."""
        places = [self.places.get(name) for name in tokens.names]
        if None in places:
            return None
        begins = [place[0] for place in places if place is not None]
        return torch.cat([self.table[begins[piece.row] + piece.begin : begins[piece.row] + piece.end] for piece in tokens.pieces]).unsqueeze(0)
