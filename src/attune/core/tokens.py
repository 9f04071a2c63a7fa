"""Rows of token ids in one line without padding; beginnings that several rows share stand in it once."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import torch

NEAR, SHARE = 3, 0.8
"""Rows share a group of the attention when the shorter one lacks at most so many tokens, or has this share of the longer one's."""
LEAST_SHARED = 8
"""Shorter common beginnings are computed in each row: the attention of branches costs more than they save."""


@dataclass(frozen=True)
class Group:
    """Neighbouring pieces of about equal length, whose attention is computed together."""

    begin: int
    end: int
    rows: int
    length: int
    take: torch.Tensor | None = None
    """Where lengths differ: the token at every place of [rows, length], a row's last one behind its end."""
    give: torch.Tensor | None = None
    """Places of [rows, length] that hold a token."""
    inside: torch.Tensor | None = None
    """bool [rows, 1, 1, length]: True where a token is."""
    reach: int | None = None
    """Of branches: the number of places that each row's queries may look at, its shared beginning first; None: its own places."""
    sources: torch.Tensor | None = None
    """Of branches: the token at every place of [rows, reach]."""
    ahead: torch.Tensor | None = None
    """Of branches: int32 [rows, 1, length, reach], how many places the key stands before the query; -1 and less: not to be seen."""


@dataclass(frozen=True)
class Piece:
    """A part of the line: places `begin` to `end` of a row (as given), laid from `start` on."""

    row: int
    begin: int
    end: int
    start: int


@dataclass(frozen=True)
class Tokens:
    """Several rows of token ids in one line, shortest piece first; a row is one piece, or a shared beginning and a piece of its own."""

    ids: torch.Tensor
    """int64 [1, total]."""
    positions: torch.Tensor
    """int64 [1, total]: place within the own row."""
    row: torch.Tensor
    """int64 [total]: the row (as given) of each token; of a shared beginning the first that has it."""
    starts: torch.Tensor
    """int64 [rows]: where each row's own piece (as given) begins."""
    lengths: torch.Tensor
    """int64 [rows], shared beginnings counted."""
    names: tuple[bytes, ...]
    """Each row's tokens as bytes: what a row is known by."""
    keys: torch.Tensor
    """int32 [rows]: a hash of each row's tokens, from which its dropout is drawn."""
    groups: tuple[Group, ...]
    pieces: tuple[Piece, ...]
    """In the order in which they lie."""
    before: torch.Tensor
    """int64 [total]: where the token before each one of the same row lies; -1 for a row's first."""
    shareable: tuple[int, ...]
    """How many tokens from its beginning each row may share with others."""

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], shareable: Sequence[int] | None = None) -> Tokens:
        """Lay rows of token ids (none empty) end to end.

        Args:
            rows: token ids.
            shareable: how many tokens from its beginning each row may share with others; None: none. What is shared is computed once, so
                nothing may be asked of it row by row (its own loss, for example); only networks that look back alone may share.
        """
        families = shared_beginnings(rows, shareable) if shareable is not None else []
        depth = dict.fromkeys(range(len(rows)), 0)
        for members, size in families:
            depth |= dict.fromkeys(members, size)
        whole = sorted([(size, members[0], 0, size) for members, size in families] + [(len(rows[i]), i, 0, len(rows[i])) for i in depth if not depth[i]])
        own = sorted((len(rows[i]) - depth[i], i, depth[i], len(rows[i])) for i in depth if depth[i])
        pieces, start = [], 0
        for _, row, begin, end in (*whole, *own):
            pieces.append(Piece(row, begin, end, start))
            start += end - begin
        heads = {(piece.row, piece.end): piece.start for piece in pieces if piece.begin == 0}
        head_of = {i: heads[members[0], size] for members, size in families for i in members}
        sizes = torch.tensor([piece.end - piece.begin for piece in pieces])
        begins, shift = torch.tensor([piece.start for piece in pieces]), torch.tensor([piece.begin for piece in pieces])
        total = int(sizes.sum())
        starts = torch.empty(len(rows), dtype=torch.long)
        before = torch.arange(-1, total - 1)
        for piece in pieces:
            if not depth[piece.row] or piece.begin:
                starts[piece.row] = piece.start
            before[piece.start] = head_of[piece.row] + piece.begin - 1 if piece.begin else -1
        return cls(
            ids=torch.tensor([token for piece in pieces for token in rows[piece.row][piece.begin : piece.end]]).unsqueeze(0),
            positions=(torch.arange(total) - (begins - shift).repeat_interleave(sizes)).unsqueeze(0),
            row=torch.tensor([piece.row for piece in pieces]).repeat_interleave(sizes),
            starts=starts,
            lengths=torch.tensor([len(row) for row in rows]),
            names=tuple(row_name(row) for row in rows),
            keys=torch.tensor([row_key(row) for row in rows], dtype=torch.int32),
            groups=(*_groups([one[0] for one in whole]), *_branches(pieces[len(whole) :], head_of)),
            pieces=tuple(pieces),
            before=before,
            shareable=tuple(shareable) if shareable is not None else (0,) * len(rows),
        )

    @property
    def ends(self) -> torch.Tensor:
        """int64 [rows]: where each row's last token lies."""
        last = (self.positions[0] == self.lengths[self.row] - 1).nonzero().squeeze(1)  # never in a shared beginning, which is shorter than its rows
        return torch.empty_like(last).index_copy(0, self.row[last], last)

    @property
    def shares(self) -> bool:
        """True when a beginning stands once for several rows."""
        return any(piece.begin for piece in self.pieces)

    def lay(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """int64 [total]: other values of the same tokens (targets, weights) in the same places."""
        return torch.tensor([value for piece in self.pieces for value in rows[piece.row][piece.begin : piece.end]])

    @cached_property
    def token_keys(self) -> torch.Tensor:
        """int32 [total]: a hash of each token's row and place. In the part that a row may share it is one of the tokens up to this one instead, so
        that what is drawn from it does not depend on which rows lie here and share."""
        keys = self.keys[self.row]
        for piece in self.pieces:
            until = min(piece.end, self.shareable[piece.row])
            if piece.begin < until:
                keys[piece.start : piece.start + until - piece.begin] = torch.tensor(_keys_along(self.names[piece.row], piece.begin, until), dtype=torch.int32)
        return mixed(keys ^ mixed(self.positions[0].to(torch.int32) + 1))

    def behind(self, first: Sequence[int]) -> Tokens:
        """The same rows, each whole and behind the same further tokens."""
        return Tokens.of([[*first, *array("i", name)] for name in self.names])

    def padded(self, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
        """ids and mask, int64 [rows, longest], in the order given, padded on the right."""
        shape = (len(self.lengths), int(self.lengths.max()))
        ids, mask = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
        for i, name in enumerate(self.names):
            own = torch.frombuffer(bytearray(name), dtype=torch.int32).long()
            ids[i, : len(own)] = own
            mask[i, : len(own)] = 1
        return ids, mask


def row_name(ids: Sequence[int]) -> bytes:
    """A row's tokens as bytes."""
    return array("i", ids).tobytes()


def row_key(ids: Sequence[int]) -> int:
    """A hash of a row's tokens, in the range of int32."""
    return zlib.crc32(row_name(ids)) - 2**31


def _keys_along(name: bytes, begin: int, end: int) -> list[int]:
    """The key of the tokens up to each place from `begin` to before `end`, of a row with this name."""
    view, found = memoryview(name), []
    hashed = zlib.crc32(view[: 4 * begin])
    for place in range(begin, end):
        hashed = zlib.crc32(view[4 * place : 4 * place + 4], hashed)
        found.append(hashed - 2**31)
    return found


def mixed(x: torch.Tensor) -> torch.Tensor:
    """int32 to int32: a hash of each number (two rounds of multiply and shift)."""
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * -0x7B935975
    return x ^ (x >> 16)


def _groups(lengths: Sequence[int]) -> Iterator[Group]:
    """Ascending lengths, cut into groups; each group's rows are filled up to its longest inside the attention only."""
    begin = 0
    for first, last in _runs(lengths):
        own = lengths[first:last]
        longest, end = own[-1], begin + sum(own)
        if own[0] == longest:
            yield Group(begin, end, len(own), longest)
        else:
            take, give, inside = _filled(own)
            yield Group(begin, end, len(own), longest, take, give, inside[:, None, None, :])
        begin = end


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of ascending lengths that are near enough to be computed together."""
    if not lengths:
        return
    bounds, high = [len(lengths)], lengths[-1]
    for i in range(len(lengths) - 1, -1, -1):
        if high - lengths[i] > NEAR and lengths[i] < SHARE * high:
            bounds.append(i + 1)
            high = lengths[i]
    bounds.append(0)
    yield from zip(bounds[:0:-1], bounds[-2::-1], strict=True)


def _filled(lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of pieces that lie one behind the other: the token at every place of [rows, longest], the places that hold one, bool [rows, longest]."""
    sizes = torch.tensor(lengths).unsqueeze(1)
    places = torch.arange(lengths[-1]).unsqueeze(0)
    inside = places < sizes
    take = (sizes.cumsum(0) - sizes) + torch.minimum(places, sizes - 1)
    return take.flatten(), inside.flatten().nonzero().squeeze(1), inside


def _branches(pieces: Sequence[Piece], head_of: dict[int, int]) -> Iterator[Group]:
    """Groups of the pieces behind shared beginnings: their queries look at the beginning and at themselves."""
    lengths = [piece.end - piece.begin for piece in pieces]
    for first, last in _runs(lengths):
        own = pieces[first:last]
        take, give, inside = _filled(lengths[first:last])
        reach = max(piece.end for piece in own)
        places = torch.arange(reach).unsqueeze(0)
        depth, end = torch.tensor([[piece.begin] for piece in own]), torch.tensor([[piece.end] for piece in own])
        heads, starts = torch.tensor([[head_of[piece.row]] for piece in own]), torch.tensor([[piece.start] for piece in own])
        known = torch.minimum(places, end - 1)
        sources = torch.where(known < depth, heads + known, starts + known - depth)
        query = depth + torch.arange(lengths[last - 1]).unsqueeze(0)
        ahead = query[:, :, None] - torch.where(places < end, places, reach + lengths[last - 1])[:, None, :]
        begin = own[0].start
        same = lengths[first] == lengths[last - 1]
        yield Group(
            begin,
            begin + sum(lengths[first:last]),
            len(own),
            lengths[last - 1],
            None if same else take,
            None if same else give,
            None if same else inside[:, None, None, :],
            reach,
            sources.flatten(),
            ahead.unsqueeze(1).to(torch.int32),
        )


def shared_beginnings(rows: Sequence[Sequence[int]], shareable: Sequence[int]) -> list[tuple[list[int], int]]:
    """Families of rows with a common beginning, and its length, so chosen that most tokens are saved; every row is in one family at most.

    Rows in the order of their tokens have longest common beginnings with their neighbours, so a family is a range of that order, and the
    best division is found by dynamic programming over where it is cut.
    """
    order = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))
    most = [min(shareable[i], len(rows[i]) - 1) for i in order]
    common = [_common(rows[a], rows[b]) for a, b in pairwise(order)]
    saved, cut = [0] * (len(rows) + 1), [0] * (len(rows) + 1)
    for last in range(1, len(rows) + 1):
        saved[last], cut[last] = saved[last - 1], last - 1
        depth = most[last - 1]
        for first in range(last - 2, -1, -1):
            depth = min(depth, most[first], common[first])
            if depth < LEAST_SHARED:
                break
            gain = saved[first] + (last - first - 1) * depth
            if gain > saved[last]:
                saved[last], cut[last] = gain, first
    found, last = [], len(rows)
    while last:
        first = cut[last]
        if last - first > 1:
            found.append((sorted(order[first:last]), min(*most[first:last], *common[first : last - 1])))
        last = first
    return found[::-1]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens from the beginning are equal."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@lru_cache(maxsize=256)
def columns(*shape: int) -> torch.Tensor:
    """int32 [product of shape]: a hash of each place; in the last dimension it does not depend on how long that is."""
    place = torch.arange(1, shape[-1] + 1, dtype=torch.int32)
    for size in shape[:-1]:
        place = place + (torch.arange(size, dtype=torch.int32) << 20).unsqueeze(1)
    return mixed(place.flatten())
