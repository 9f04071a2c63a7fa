"""A network's stack of layers, the parts of them that read token by token, and the last layer answered only where it is asked for.

A loss on answers reads the last hidden state of few tokens. Below the last layer every token's state is needed, by the attention of others; what
stands behind the last attention is not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from attune.core import flat
from attune.core.memory import ran_out
from attune.core.tokens import Tokens

WORTH = 0.8
"""Wanted places are computed alone where they are at most this share of the tokens."""
_hooking = threading.Lock()


def layers_of(body: Any) -> nn.ModuleList | None:
    """The network's stack of layers, found by its length; None for a family without one."""
    network = flat.network_of(body)
    number = getattr(network.config, "num_hidden_layers", None)
    return next((module for module in network.modules() if isinstance(module, nn.ModuleList) and len(module) == number), None)


def dense_parts(module: nn.Module, inside: bool = False) -> Iterator[nn.Module]:
    """The largest modules with weights inside a layer that hold no attention; with `inside`, those of an attention too."""
    for child in module.children():
        attentive = [inner for inner in child.modules() if "Attention" in type(inner).__name__]
        if not attentive:
            if any(True for _ in child.parameters()):
                yield child
        elif inside or attentive != [child]:
            yield from dense_parts(child, inside)


def narrow_last(body: Any, offset: int) -> bool:
    """Let the parts of a network's last layer, in place, answer only the tokens that `run_flat` is told are wanted, where what they answer to others
    is not looked at. Elsewhere they answer zeros, so that the last hidden states of other tokens mean nothing.

    Args:
        body: reads flat rows.
        offset: from where its positions count.

    Returns:
        whether it does; a network without such parts, or one that answers otherwise then, is left as it was.
    """
    layers = layers_of(body)
    if layers is None:
        return False
    parts = [part for part in dense_parts(layers[-1], inside=True) if any(p.ndim > 1 for p in part.parameters())]
    with _hooking, flat.noise(None), torch.inference_mode(False), torch.autocast("cpu", enabled=False):
        return any(_select in part._forward_pre_hooks.values() for part in parts) or _narrow(body, offset, parts)


def _narrow(body: Any, offset: int, parts: list[nn.Module]) -> bool:
    """As `narrow_last`, of the candidates."""
    draw = torch.Generator().manual_seed(13)
    tokens = Tokens.of([torch.randint(4, flat.network_of(body).config.vocab_size, (length,), generator=draw).tolist() for length in (6, 9, 4)])
    wanted = torch.tensor([2, 5, 6, 17])

    def answered(places: torch.Tensor | None) -> torch.Tensor:
        found: torch.Tensor = flat.run_flat(body, tokens, offset, wanted=places, **flat.options_of(body)).float()
        return found

    handles: list[Any] = []
    training = body.training
    body.eval()
    try:
        handles = [handle for part in _apart(parts, answered, wanted) for handle in (part.register_forward_pre_hook(_select), part.register_forward_hook(_spread))]
        with torch.no_grad():
            told, found = answered(None), answered(wanted)
        agrees = bool(handles) and float((found - told)[wanted].abs().max() / told.abs().max().clamp(min=1e-6)) < flat.AGREES
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as error:
        if ran_out(error):
            raise
        agrees = False
    finally:
        body.train(training)
    for handle in handles if not agrees else ():
        handle.remove()
    return agrees


def _apart(parts: list[nn.Module], answered: Callable[[None], torch.Tensor], wanted: torch.Tensor) -> list[nn.Module]:
    """The parts whose answers to other tokens do not reach the wanted ones: no gradient comes back there, not even a small one."""
    added: dict[nn.Module, torch.Tensor] = {}
    own = threading.get_ident()

    def watch(part: nn.Module, _inputs: Any, found: Any) -> Any:
        if threading.get_ident() != own or not isinstance(found, torch.Tensor) or found.shape[:2] != (1, flat.total()) or part in added:
            return None
        added[part] = torch.zeros_like(found, requires_grad=True)
        return found + added[part]

    handles = [part.register_forward_hook(watch) for part in parts]
    try:
        with torch.enable_grad():
            last = answered(None)
            weights = torch.linspace(0.5, 1.5, last.shape[1])  # a norm's answers sum to the same whatever it is given
            slopes = torch.autograd.grad(((last[wanted] ** 2) * weights).sum(), list(added.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return [part for part, slope in zip(added, slopes, strict=True) if slope is not None and bool(slope[0, wanted].any()) and not bool(slope[0].index_fill(0, wanted, 0.0).any())]


def _select(_part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The wanted tokens of what a part is given."""
    places = flat.wanted()
    if places is None:
        return None
    total = flat.total()
    flat.narrow_keys(places)
    return tuple(one[:, places] if isinstance(one, torch.Tensor) and tuple(one.shape[:2]) == (1, total) else one for one in inputs)


def _spread(_part: nn.Module, _inputs: tuple[Any, ...], found: Any) -> Any:
    """What a part answered, where it belongs among all tokens."""
    places = flat.wanted()
    if places is None:
        return None
    flat.narrow_keys(None)
    return found.new_zeros(1, flat.total(), *found.shape[2:]).index_copy(1, places, found)
