"""Rows of tokens laid end to end, so that nothing is padded, and the attention that keeps them apart.

A transformers network is asked once whether it answers such a line of tokens as it answers the padded rows; one that does not is padded.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch

from attune.core import recurring
from attune.core.errors import PlugError
from attune.core.memory import ran_out
from attune.core.tokens import LEAST_SHARED, Group, Tokens, columns, mixed

IMPLEMENTATION = "attune_flat"
LONG = {torch.bfloat16: 512, torch.float32: 64}
"""From so many tokens on the fused attention kernel of the processor is faster than explicit products (measured, lab/LOG.md)."""
AGREES = 1e-4
ONE = 0x3F80
"""The bits of 1.0 in bfloat16."""
_now = threading.local()
"""What this thread computes: another one may read padded rows with the same network at the same moment."""


# ---------------------------------------------------------------- attention


@lru_cache(maxsize=4)
def _band(length: int, window: int | None, causal: bool) -> torch.Tensor | None:
    """bool [length, length]: True where a query (row) may look; less than `window` places away, where there is one. None: everywhere."""
    if not causal and (window is None or window >= length):
        return None
    allowed = torch.ones(length, length, dtype=torch.bool)
    if causal:
        allowed = allowed.tril()
    elif window is not None:
        allowed = allowed.tril(window - 1)
    return allowed if window is None else allowed.triu(1 - window)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of every row to itself: query, key, value [1, heads, total, width] to [1, total, heads, width]."""
    tokens: Tokens = _now.tokens
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    now: Noise | None = getattr(_now, "noise", None)
    keys = tokens.token_keys if dropout and module.training and now is not None else None
    with torch.autocast("cpu", enabled=False):
        lines = [part[0].transpose(0, 1).to(kind) for part in (query * scaling, key, value)]  # [total, heads, width]
        site = now.next_site() if now is not None and keys is not None else None
        idle = _idle()
        sizes = [group.end - group.begin for group in tokens.groups] + [idle]  # cut once: each slice on its own would have a gradient as long as the line
        pieces = zip(*(torch.split(line, sizes) for line in lines), strict=True)
        found = [_attend_group(group, own, lines, site, keys, dropout, sliding_window, causal, softcap) for group, own in zip(tokens.groups, pieces, strict=False)]
        if idle:
            found.append(found[0].new_zeros(idle, *found[0].shape[1:]))
        return (torch.cat(found) if len(found) > 1 else found[0]).unsqueeze(0), None


def _allowed(group: Group, window: int | None, causal: bool) -> torch.Tensor | None:
    """Where a query may look, broadcast to [rows, heads, length, keys]; None: everywhere. What a filled-up place sees means nothing, and it may be nothing at all."""
    if group.ahead is not None:
        if not causal:
            raise PlugError("a shared beginning cannot be attended to by a network that looks both ways", place="base_model", fix="lay the rows without sharing")
        return (group.ahead >= 0) if window is None else (group.ahead >= 0) & (group.ahead < window)
    band = _band(group.length, window, causal)
    if group.inside is None or causal:  # who looks back alone never sees what is behind a row's end
        return band
    return group.inside if band is None else group.inside & band


def _attend_group(
    group: Group, own: Sequence[torch.Tensor], lines: Sequence[torch.Tensor], site: int | None, keys: torch.Tensor | None, dropout: float, window: int | None, causal: bool, softcap: float | None
) -> torch.Tensor:
    """[tokens of the group, heads, width], of its own part of queries, keys and values, and of the whole lines."""
    q, k, v = (_rows(group, own[0]), *(_rows(group, part) if group.sources is None else _looked_at(group, line) for part, line in zip(own[1:], lines[1:], strict=True)))
    if k.shape[1] != q.shape[1]:
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], dim=1) for part in (k, v))
    if keys is None and softcap is None and group.length >= LONG.get(q.dtype, LONG[torch.float32]):
        back = causal and group.ahead is None and (window is None or window >= group.length)  # the kernel then leaves out what is ahead
        found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=None if back else _allowed(group, window, causal), is_causal=back, scale=1.0)
    else:
        allowed = _allowed(group, window, causal)
        scores = q @ k.transpose(2, 3)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)  # not infinity: a filled-up place may see nothing at all
        weights = scores.softmax(-1)
        if site is not None and keys is not None:
            known = keys[group.begin : group.end]
            known = known if group.take is None else known[group.take]
            kept = keep(known, (q.shape[1], k.shape[2]), dropout, site, weights.dtype).view(group.rows, group.length, q.shape[1], k.shape[2]).transpose(1, 2)
            weights = _Dropped.apply(weights, kept, 1 / (1 - dropout))  # type: ignore[no-untyped-call]
        found = weights.to(v.dtype) @ v
    flat = found.transpose(1, 2).reshape(-1, found.shape[1], found.shape[3])
    return flat if group.give is None else flat.index_select(0, group.give)


def _rows(group: Group, own: torch.Tensor) -> torch.Tensor:
    """[rows, heads, length, width] of the group's own part of a line, [tokens of the group, heads, width]."""
    if group.take is not None:
        own = own.index_select(0, group.take)
    return own.view(group.rows, group.length, *own.shape[1:]).transpose(1, 2)


def _looked_at(group: Group, line: torch.Tensor) -> torch.Tensor:
    """[rows, heads, reach, width]: the places of a line [total, heads, width] that the queries of branches look at."""
    assert group.sources is not None
    assert group.reach is not None
    return line.index_select(0, group.sources).view(group.rows, group.reach, *line.shape[1:]).transpose(1, 2)


# ---------------------------------------------------------------- dropout


def _bits(keys: torch.Tensor, places: torch.Tensor, site: int) -> torch.Tensor:
    """int32 [len(keys), len(places)], spread evenly: a hash of key, place and site."""
    bits = mixed(keys ^ site).unsqueeze(1) ^ places
    bits = bits.mul_(0x2C1B3C6D)
    return bits.bitwise_xor_(bits >> 16).mul_(0x297A2D39)


def keep(keys: torch.Tensor, shape: tuple[int, ...], p: float, site: int, kind: torch.dtype = torch.float32) -> torch.Tensor:
    """[len(keys), *shape] of the number format `kind`: 1 with probability 1 - p (to 2^-16), 0 elsewhere.

    Each hash is cut into two draws of 16 bits, and the draws become ones and zeros without a comparison, whose result would have to be converted.
    """
    pairs = (*shape[:-1], (shape[-1] + 1) // 2)
    draws = _bits(keys, columns(*pairs), site).view(torch.int16)
    least = min(round(p * 2**16), 2**16 - 1) - 2**15
    draws = draws.clamp_(least - 1, least).sub_(least - 1) if least > -(2**15) else draws.fill_(1)
    ones = draws.mul_(ONE).view(torch.bfloat16) if kind == torch.bfloat16 else draws.to(kind)
    return ones.view(len(keys), *shape[:-1], 2 * pairs[-1])[..., : shape[-1]]


class _Dropped(torch.autograd.Function):
    """x times ones and zeros times a number, the ones and zeros kept for the way back."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, kept: torch.Tensor, factor: float) -> torch.Tensor:
        context.save_for_backward(kept)
        context.factor = factor
        return (x * kept).mul_(factor)

    @staticmethod
    def backward(context: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (kept,) = context.saved_tensors
        return (outer[0] * kept).mul_(context.factor), None, None


class Noise:
    """The dropout of one optimizer step: every number is drawn from (seed, step, the row's tokens, place, layer), so that neither the other
    rows of a batch nor the way it is cut into micro-batches change it.

    Args:
        seed: 63-bit number for the step.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.line = 0
        self.count = 0
        self.calls: dict[Any, int] = {}
        """Which call of this forward pass a dropout of a padded network is at."""

    def next_site(self) -> int:
        """The number of the next dropout of this forward pass, hashed into the range of int32."""
        self.count += 1
        return zlib.crc32(b"%d %d %d" % (self.seed, self.line, self.count)) - 2**31

    def drop(self, x: torch.Tensor, keys: torch.Tensor, p: float) -> torch.Tensor:
        """x [..., width] of len(keys) rows, with dropout; each call is a site of its own."""
        kept = keep(keys, (x.shape[-1],), p, self.next_site(), x.dtype)
        return _Dropped.apply(x, kept.reshape(x.shape), 1 / (1 - p))  # type: ignore[no-untyped-call, no-any-return]

    def uniform(self, keys: torch.Tensor, width: int) -> torch.Tensor:
        """float32 [len(keys), width], even in [-1, 1); each call is a site of its own."""
        return _bits(keys, columns(width), self.next_site()).float() * 2.0**-31


class KeyedDropout(torch.nn.Dropout):
    """Dropout of a network's own kind, drawn from `Noise` where one is set."""

    layouts: Sequence[Any] = ()
    """Of a network that is padded: how rows and places lie in what each call of a forward pass is given (`core.padded`); None: unknown."""
    strayed = False
    """True once it drew from torch's own stream while there was noise to draw from: it was given what belongs to no row in a way that is known."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., width]; as it is when not training."""
        noise: Noise | None = getattr(_now, "noise", None)
        if not self.training or not self.p:
            return x
        keys, padded = getattr(_now, "keys", None), getattr(_now, "padded", None)
        if noise is not None and keys is not None and x.numel() == len(keys) * x.shape[-1]:
            return noise.drop(x, keys, self.p)
        if noise is not None and padded is not None:
            call = noise.calls[self] = noise.calls.get(self, -1) + 1
            layout = self.layouts[call] if call < len(self.layouts) else None
            site = noise.next_site()
            kept = None if layout is None else layout.kept(x, *padded, lambda own, shape: keep(own, shape, self.p, site, x.dtype))
            if kept is not None:
                return _Dropped.apply(x, kept, 1 / (1 - self.p))  # type: ignore[no-untyped-call, no-any-return]
        self.strayed |= noise is not None
        return super().forward(x)


def key_dropout(network: torch.nn.Module) -> None:
    """Replace every dropout of a network, in place, by one that draws from the step's noise."""
    for name, child in list(network.named_children()):
        if type(child) is torch.nn.Dropout:
            network.register_module(name, KeyedDropout(child.p))
        else:
            key_dropout(child)


@contextmanager
def noise(seed: int | Noise | None) -> Iterator[Noise | None]:
    """Draw dropout from `seed` inside the block, or from a step's noise where that stood; None: a trial, which takes no draw from what is outside."""
    before = getattr(_now, "noise", None)
    _now.noise = Noise(seed) if isinstance(seed, int) else seed
    try:
        yield _now.noise
    finally:
        _now.noise = before


def add_noise(network: Any, alpha: float) -> Any:
    """Let a network's embedding add noise while it trains (Jain et al. 2023, 'NEFTune', algorithm 1): even in [-1, 1), times
    alpha / sqrt(tokens of the row x width). It is drawn from the step's noise, by row and place; without that there is none.

    Returns:
        a handle whose `remove` ends it.
    """

    def noisy(embedding: Any, _inputs: Any, found: torch.Tensor) -> torch.Tensor | None:
        now: Noise | None = getattr(_now, "noise", None)
        tokens: Tokens | None = getattr(_now, "read", None)
        if not embedding.training or now is None or tokens is None:
            return None
        width = found.shape[-1]
        sizes = tokens.lengths[tokens.row].unsqueeze(1) * width
        added = now.uniform(tokens.token_keys, width) * (alpha / sizes.sqrt())
        if tuple(found.shape[:2]) == (1, len(added) + _idle()):
            return found + recurring.filled(added, _idle()).unsqueeze(0).to(found.dtype)
        padded = torch.zeros_like(found)
        padded[tokens.row, tokens.positions[0]] = added.to(found.dtype)
        return found + padded

    return network.get_input_embeddings().register_forward_hook(noisy)


def drop(features: torch.Tensor, keys: torch.Tensor, p: float) -> torch.Tensor:
    """Dropout of features [rows, width] by the rows' keys (int32 [rows]); as it is outside `noise`."""
    now: Noise | None = getattr(_now, "noise", None)
    return features if now is None or not p else now.drop(features, keys, p)


# ---------------------------------------------------------------- asking a network


def network_of(body: Any) -> Any:
    """The transformers network itself, without an adapter's wrapping."""
    return body.get_base_model() if hasattr(body, "peft_config") else body


@dataclass(frozen=True)
class Fit:
    """Whether a network answers flat rows as it answers padded ones, and from where its positions count."""

    flat: bool
    offset: int
    why: str
    shares: bool = False
    """Whether a beginning that several rows share may be computed once: only in networks that look back alone."""


def attention_words(network: Any, fit: Fit, kind: torch.dtype) -> str:
    """Which attention a network computes in this number format, and why, for a run's record."""
    if not fit.flat:
        return f"the network's own ({network.config._attn_implementation}), because it is padded"
    return f"of each row to itself: explicit products below {LONG[kind]} tokens and where it has dropout, torch's fused kernel from there, which is faster then"


def run_flat(body: Any, tokens: Tokens, offset: int, given: torch.Tensor | None = None, wanted: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
    """The last hidden states of a network for flat rows, [total, hidden] as the tokens lie.

    Args:
        body: the network.
        tokens: the rows.
        offset: from where its positions count.
        given: [1, total, width], kept for layers that answer with what was computed before.
        wanted: int64, ascending places: kept for a last layer that answers there alone; None: everywhere.
    """
    network, total = network_of(body), len(tokens.row)
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else network.dtype
    idle = recurring.missing(total, kind)
    if wanted is not None and (more := recurring.missing(len(wanted), kind)):
        others = torch.ones(total + idle, dtype=torch.bool).index_fill(0, wanted, False).nonzero().squeeze(1)
        wanted = torch.cat((wanted, others[-more:])).sort().values  # what is answered there is not looked at
    with switched(network, IMPLEMENTATION, tokens, None if given is None else recurring.filled(given[0], idle).unsqueeze(0), wanted, idle):
        ids = torch.cat((tokens.ids, tokens.ids[:, :1].expand(1, idle)), dim=1)  # a token that is there: others may not be computed (`compact`)
        found: torch.Tensor = body(input_ids=ids, position_ids=recurring.filled(tokens.positions[0], idle).unsqueeze(0) + offset, **options)[0][0]
        return found[:total] if idle else found


def _idle() -> int:
    """How many tokens of no row stand behind this thread's flat rows; nobody attends to them."""
    return getattr(_now, "idle", 0)


@contextmanager
def switched(network: Any, implementation: str, tokens: Tokens | None, given: torch.Tensor | None = None, wanted: torch.Tensor | None = None, idle: int = 0) -> Iterator[None]:
    """Inside the block, and in this thread alone, the network answers through another attention, and `attend` knows the rows; `idle` tokens stand behind them."""
    _listen(network.config)
    before = [getattr(_now, name, None) for name in ("implementation", "tokens", "keys", "read")]
    try:
        _now.implementation, _now.tokens, _now.read, _now.given, _now.wanted, _now.idle = implementation, tokens, tokens, given, wanted, idle
        now: Noise | None = getattr(_now, "noise", None)
        if now is not None and tokens is not None:
            _now.keys, now.count, now.line = recurring.filled(tokens.token_keys, idle), 0, now.line + 1
        yield
    finally:
        (_now.implementation, _now.tokens, _now.keys, _now.read), _now.given, _now.wanted, _now.idle = before, None, None, 0


@cache
def _listening(kind: Any) -> Any:
    """A class of configurations that name our attention in a thread that runs flat rows, and their own in every other."""
    own: property = kind._attn_implementation

    def seen(config: Any) -> Any:
        return getattr(_now, "implementation", None) or own.fget(config)  # type: ignore[misc]

    facts = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__, "_attn_implementation": property(seen, own.fset), "_listens": True}
    return type(kind.__name__, (kind,), facts)


def _listen(config: Any) -> None:
    """Have a network's configuration, which all threads share, answer each thread by what that thread does."""
    if getattr(config, "_listens", False):
        return
    kind: Any = type(config)
    config.__class__ = _listening(kind)
    for name in config.sub_configs:
        if getattr(config, name, None) is not None:
            _listen(getattr(config, name))


def given() -> torch.Tensor | None:
    """What `run_flat` was given, inside of it."""
    return getattr(_now, "given", None)


def wanted() -> torch.Tensor | None:
    """The places that `run_flat` was told are wanted, inside of it."""
    return getattr(_now, "wanted", None)


def total() -> int:
    """How many tokens this thread's line has, idle ones among them."""
    return len(_now.tokens.row) + _idle()


def narrow_keys(places: torch.Tensor | None) -> None:
    """Draw dropout for the tokens at these places alone from here on; None: for all of the rows again."""
    tokens: Tokens = _now.tokens
    if getattr(_now, "keys", None) is not None:
        keys = recurring.filled(tokens.token_keys, _idle())
        _now.keys = keys if places is None else keys[places]


def run_padded(body: Any, tokens: Tokens, pad: int, **options: Any) -> Any:
    """The output of a network for the same rows, padded; its first two dimensions are [rows, longest]. A place behind a row's end has any key."""
    ids, mask = tokens.padded(pad)
    before = [getattr(_now, name, None) for name in ("read", "padded")]
    _now.read = tokens
    now: Noise | None = getattr(_now, "noise", None)
    if now is not None:
        keys = torch.zeros(ids.shape, dtype=torch.int32)
        keys[tokens.row, tokens.positions[0]] = tokens.token_keys
        _now.padded, now.count, now.line, now.calls = (keys, tokens.keys), 0, now.line + 1, {}
    try:
        return body(input_ids=ids, attention_mask=mask, **options)
    finally:
        _now.read, _now.padded = before


def _told(body: Any, tokens: Tokens, pad: int) -> torch.Tensor:
    """Last hidden states [total, hidden] as the tokens lie, by padding, which every network can that reads rows of token ids."""
    try:
        found = run_padded(body, tokens, pad, **options_of(body))[0]
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        if ran_out(error):
            raise
        both = getattr(network_of(body).config, "is_encoder_decoder", False)
        why = "it reads with one network and writes with another" if both else f"it fails with {type(error).__name__}: {error}"
        raise PlugError(f"a {type(network_of(body)).__name__} cannot answer rows of token ids alone: {why}", place="base_model", fix="choose a base that is an encoder or a decoder") from error
    return found[tokens.row, tokens.positions[0]].float()  # type: ignore[no-any-return]


def fit_of(body: Any) -> Fit:
    """Try both ways on a few rows, without dropout, and compare the last hidden states.

    Raises:
        PlugError: the network answers neither way; one that reads with one half and writes with the other, for example.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, attend)
    AttentionMaskInterface.register(IMPLEMENTATION, lambda *_, **__: None)
    config = network_of(body).config
    vocabulary = int(getattr(config, "vocab_size", 0) or 0)
    if vocabulary < 8:
        return Fit(False, 0, "padded: the network has no vocabulary")
    draw = torch.Generator().manual_seed(11)
    tokens = Tokens.of([torch.randint(4, vocabulary, (length,), generator=draw).tolist() for length in (5, 9, 6, 5, _long(config))])
    pad = int(getattr(config, "pad_token_id", None) or 0)
    training = body.training
    body.eval()
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            told = _told(body, tokens, pad)
            why = "padded: the network reads no positions"
            for offset in dict.fromkeys((0, pad + 1)):
                try:
                    found = run_flat(body, tokens, offset, **options_of(body)).float()
                except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as error:
                    why = f"padded: flat rows fail with {type(error).__name__}"
                    continue
                apart = float((found - told).abs().max() / told.abs().max().clamp(min=1e-6))
                if apart < AGREES:
                    shares = _shares(body, offset, vocabulary)
                    return Fit(True, offset, f"flat rows without padding; they agree with padded ones to {apart:.0e}" + ("; common beginnings are computed once" if shares else ""), shares)
                why = f"padded: flat rows differ by {apart:.0e}"
            return Fit(False, 0, why)
    finally:
        body.train(training)


def _shares(body: Any, offset: int, vocabulary: int) -> bool:
    """Whether rows with a common beginning answer alike with the beginning laid once."""
    draw = torch.Generator().manual_seed(12)
    common, *rest = (torch.randint(4, vocabulary, (length,), generator=draw).tolist() for length in (LEAST_SHARED + 2, 3, 7, 3))
    rows = [common + own for own in rest]
    alone, once = Tokens.of(rows), Tokens.of(rows, [len(common)] * len(rows))
    try:
        told, found = (run_flat(body, tokens, offset, **options_of(body)).float() for tokens in (alone, once))
    except PlugError:  # it looks both ways
        return False
    place = {(row, at): i for i, (row, at) in enumerate(zip(alone.row.tolist(), alone.positions[0].tolist(), strict=True))}
    same = told[[place[key] for key in zip(once.row.tolist(), once.positions[0].tolist(), strict=True)]]
    return float((found - same).abs().max() / same.abs().max().clamp(min=1e-6)) < AGREES


def _long(config: Any) -> int:
    """A length that reaches the fused attention, and beyond a network's window where that is not too wide to try."""
    window = getattr(config, "sliding_window", None)
    room = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
    return max(5, min(max(72, window + 8 if isinstance(window, int) and window <= 256 else 0), room - 8))


def options_of(body: Any) -> dict[str, Any]:
    """What a network has to be told besides its rows: a decoder keeps no cache while it reads."""
    return {"use_cache": False} if getattr(network_of(body).config, "is_decoder", False) or getattr(network_of(body).config, "use_cache", None) else {}
