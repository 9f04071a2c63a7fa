"""Keys and values of running answers: one block of memory for each layer, a slot for each answer, and the attention that reads them.

A network is asked through transformers' attention interface: prompts as rows laid end to end (`core.flat`), then one token for each slot, all in one line.
The attention stores what it is given before it looks, so no cache of transformers' takes part. A network is asked once whether it answers so
as it answers whole padded rows; one that does not is read anew for each token, which is slow and right.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from attune.core import flat
from attune.core.adapters import Adapter, Bank
from attune.core.flat import network_of
from attune.core.tokens import Tokens

IMPLEMENTATION = "attune_cached"
FIRST, SLOTS_FIRST = 128, 4
"""Places of a slot and number of slots at first; doubled when answers grow longer or more."""
KEPT = 1024
"""Longer slots are not kept once nothing runs."""
_now = threading.local()


@dataclass
class Slots:
    """The memory: a list of (keys, values), each [slots, heads, places, width], one for each layer. The first `len(lengths)` slots are in use."""

    layers: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    """Tokens held by each slot in use."""
    count: int = 0
    places: int = 0

    def room_for(self, places: int, slots: int) -> None:
        """Make so many slots, each at least so long."""
        wanted = (self.rounded(slots, SLOTS_FIRST, self.count), self.rounded(places, FIRST, self.places))
        if wanted != (self.count, self.places):
            self.layers = [(_wider(keys, *wanted), _wider(values, *wanted)) for keys, values in self.layers]
            self.count, self.places = wanted

    @staticmethod
    def rounded(wanted: int, first: int, there: int = 0) -> int:
        """What is made for a wish: `first`, doubled until it is enough; never less than what is there."""
        size = max(first, there)
        while size < wanted:
            size *= 2
        return size

    def put(self, layer: int, rows: torch.Tensor, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store [heads, tokens, width] in the slots `rows` at `places` (both int64 [tokens])."""
        if layer == len(self.layers):
            shape = (self.count, keys.shape[0], self.places)
            self.layers.append((keys.new_zeros((*shape, keys.shape[2])), values.new_zeros((*shape, values.shape[2]))))
        held = self.layers[layer]
        held[0][rows, :, places] = keys.transpose(0, 1)
        held[1][rows, :, places] = values.transpose(0, 1)

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` tokens of a slot into another one."""
        for keys, values in self.layers:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def free(self, slot: int) -> int:
        """Give a slot back; the last one in use moves into the gap. Returns the slot that moved (itself where none had to)."""
        last = len(self.lengths) - 1
        if slot != last:
            self.copy(last, slot, self.lengths[last])
            self.lengths[slot] = self.lengths[last]
        self.lengths.pop()
        return last


def _wider(held: torch.Tensor, slots: int, places: int) -> torch.Tensor:
    found = held.new_zeros((slots, held.shape[1], places, held.shape[3]))  # zeros: what is masked out must still be a number
    found[: held.shape[0], :, : held.shape[2]] = held
    return found


@dataclass
class _Reading:
    """One forward pass: which slot and place each token of the line has."""

    slots: Slots
    rows: torch.Tensor
    places: torch.Tensor
    prompts: bool
    """True: whole rows, which look at themselves alone; False: one token for each slot in use."""
    longest: int = 0
    layer: int = 0
    outside: dict[int | None, torch.Tensor] = field(default_factory=dict)
    """By window: bool [slots in use, 1, 1, longest], True where a slot's token may not look."""


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, tokens, width], key and value of the same tokens -> [1, tokens, heads, width]."""
    now: _Reading = _now.reading
    now.slots.put(now.layer, now.rows, now.places, key[0], value[0])
    keys, values = now.slots.layers[now.layer]
    now.layer += 1
    if now.prompts:
        return flat.attend(module, query, key, value, mask, scaling, dropout, sliding_window, softcap, **options)
    used, heads, width = query.shape[2], keys.shape[1], query.shape[3]
    q = query[0].transpose(0, 1).reshape(used, heads, -1, width) * (width**-0.5 if scaling is None else scaling)
    scores = q @ keys[:used, :, : now.longest].transpose(2, 3)  # [slots, heads of keys, heads of queries for each, places]
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if sliding_window not in now.outside:
        here = torch.arange(now.longest)
        last = now.places.unsqueeze(1)
        hidden = here > last if sliding_window is None else (here > last) | (here <= last - sliding_window)
        now.outside[sliding_window] = hidden[:, None, None, :]
    weights = scores.masked_fill_(now.outside[sliding_window], float("-inf")).softmax(-1)
    found = weights.to(values.dtype) @ values[:used, :, : now.longest]
    return found.reshape(1, used, query.shape[1], values.shape[3]), None


class CachedReader:
    """Reads prompts into slots and continues them, for networks that fit.

    Args:
        body: a causal language model of transformers, or PEFT's wrapping of one.
        offset: from where the network counts positions.
    """

    def __init__(self, body: Any, offset: int) -> None:
        _register()
        self.body = body
        self.network = network_of(body)
        self.offset = offset
        self.slots = Slots()
        self.bank: Bank | None = None
        """Several adapters for one network, once there are any."""

    def prompts(self, rows: Sequence[Sequence[int]], adapters: Sequence[Adapter | None] = ()) -> torch.Tensor:
        """Read rows into new slots; logits behind the last token of each, [rows, vocabulary]."""
        first, tokens = len(self.slots.lengths), Tokens.of(rows)
        self.slots.room_for(int(tokens.lengths.max()) + 1, first + len(rows))
        reading = _Reading(self.slots, tokens.row + first, tokens.positions[0], True)
        with self.bank.for_prompts(adapters, tokens.row) if self.bank is not None else nullcontext():
            found = self._run(reading, tokens, tokens.ids, tokens.positions, tokens.starts + tokens.lengths - 1)
        self.slots.lengths += [len(row) for row in rows]
        return found

    def repeat(self, slot: int) -> None:
        """A new slot that holds what another one holds."""
        new = len(self.slots.lengths)
        self.slots.room_for(self.slots.places, new + 1)
        self.slots.copy(slot, new, self.slots.lengths[slot])
        self.slots.lengths.append(self.slots.lengths[slot])

    def tokens(self, last: Sequence[int], adapters: Sequence[Adapter | None] = ()) -> torch.Tensor:
        """One more token for every slot in use, in order; logits [slots in use, vocabulary]."""
        places = torch.tensor(self.slots.lengths)
        self.slots.room_for(int(places.max()) + 1, len(last))
        reading = _Reading(self.slots, torch.arange(len(last)), places, False, int(places.max()) + 1)
        with self.bank.for_slots(adapters) if self.bank is not None else nullcontext():
            found = self._run(reading, None, torch.tensor([list(last)]), places.unsqueeze(0), None)
        self.slots.lengths = [length + 1 for length in self.slots.lengths]
        return found

    def free(self, slot: int) -> int:
        """Give a slot back; see `Slots.free`. Memory for long answers goes back when nothing runs."""
        moved = self.slots.free(slot)
        if not self.slots.lengths and self.slots.places > KEPT:
            self.reset()
        return moved

    def reset(self) -> None:
        """Forget everything, the memory included."""
        self.slots = Slots()

    def bytes_for(self, answers: int, places: int) -> int:
        """Bytes of the memory for so many answers of so many places."""
        config = self.network.config
        config = getattr(config, "text_config", None) or config
        heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        return int(Slots.rounded(answers, SLOTS_FIRST) * Slots.rounded(places, FIRST) * heads * width * config.num_hidden_layers * 2 * 4)

    def _run(self, reading: _Reading, tokens: Tokens | None, ids: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
        """Logits of the tokens `keep` of a line (None: of all)."""
        options = {} if keep is None else {"logits_to_keep": keep}
        with flat.switched(self.network, IMPLEMENTATION, tokens):
            _now.reading = reading
            try:
                logits: torch.Tensor = self.network(input_ids=ids, position_ids=positions + self.offset, use_cache=False, **options).logits[0]
            finally:
                _now.reading = None
        return logits


class PlainReader:
    """The same questions answered by reading every row anew for each token: for networks that carry state of another kind, or are wrapped so
    that only the whole of them answers."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.rows: list[list[int]] = []

    def prompts(self, rows: Sequence[Sequence[int]], _adapters: Sequence[Adapter | None] = ()) -> torch.Tensor:
        """As `CachedReader.prompts`."""
        found = _whole(self.body, rows)
        self.rows += [list(row) for row in rows]
        return found

    def repeat(self, slot: int) -> None:
        """As `CachedReader.repeat`."""
        self.rows.append(list(self.rows[slot]))

    def tokens(self, last: Sequence[int], _adapters: Sequence[Adapter | None] = ()) -> torch.Tensor:
        """As `CachedReader.tokens`."""
        self.rows = [[*row, token] for row, token in zip(self.rows, last, strict=True)]
        return _whole(self.body, self.rows)

    def free(self, slot: int) -> int:
        """As `CachedReader.free`."""
        last = len(self.rows) - 1
        self.rows[slot] = self.rows[last]
        self.rows.pop()
        return last

    def reset(self) -> None:
        """As `CachedReader.reset`."""
        self.rows = []

    def bytes_for(self, _answers: int, _places: int) -> int:
        """Nothing is kept."""
        return 0


Reader = CachedReader | PlainReader


def _whole(body: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits behind each row's last token, from a padded forward pass of the whole body, [rows, vocabulary]."""
    tokens = Tokens.of(rows)
    pad = int(getattr(network_of(body).config, "pad_token_id", None) or 0)
    logits: torch.Tensor = flat.run_padded(body, tokens, pad, use_cache=False).logits
    before = logits.shape[1] - int(tokens.lengths.max())  # virtual tokens that a wrapping puts in front
    return logits[torch.arange(len(rows)), tokens.lengths - 1 + before]


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionMaskInterface.register(IMPLEMENTATION, lambda *_, **__: None)


def reader_of(body: Any, told: Callable[[str], None] = lambda why: None) -> Reader:
    """The reader that fits a network. Whether a cache does is tried on a few tokens against padded rows, once for each network.

    Args:
        told: called with the reason when every row has to be read anew for each token.
    """
    known = getattr(body, "_attune_cached_offset", None)
    if known is None:
        known = _try(body)
        body._attune_cached_offset = known
    offset, why = known
    if offset is None:
        told(why)
        return PlainReader(body)
    return CachedReader(body, offset)


def _try(body: Any) -> tuple[int | None, str]:
    """The offset with which cached reading agrees with padded rows, or None and why it does not."""
    config = network_of(body).config
    vocabulary = int(getattr(config, "vocab_size", 0) or 0)
    draw = torch.Generator().manual_seed(12)
    room = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
    window = getattr(config, "sliding_window", None)
    long = max(3, min(window + 3 if isinstance(window, int) and window <= 256 else 12, room - 4))
    rows = [torch.randint(min(4, vocabulary - 1), vocabulary, (length + 2,), generator=draw).tolist() for length in (3, long, 3, 5)]
    training = body.training
    body.eval()
    why = "the network takes no tokens"
    try:
        with torch.no_grad():
            told = [_whole(body, [row[: len(row) - 2 + step] for row in rows]).float() for step in range(3)]
            for offset in dict.fromkeys((0, int(getattr(config, "pad_token_id", None) or 0) + 1)):
                reader = CachedReader(body, offset)
                try:
                    found = [reader.prompts([row[:-2] for row in rows]), reader.tokens([row[-2] for row in rows]), reader.tokens([row[-1] for row in rows])]
                except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as error:
                    why = f"reading with a cache fails with {type(error).__name__}"
                    continue
                apart = max(float((a.float() - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in zip(found, told, strict=True))
                if apart < flat.AGREES:
                    return offset, ""
                why = f"reading with a cache differs by {apart:.0e}"
    finally:
        body.train(training)
    return None, why
