"""A frozen linear layer with a low-rank update as one operation: fewer passes over memory than PEFT's, the same mathematics."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import nn

_now = threading.local()
"""What this thread narrowed last: the projections to queries, keys and values read the same tensor."""


class _Updated(torch.autograd.Function):
    """x W' + b + (s x A') B', with gradients to x, A and B."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scaling: float) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a, b = down.to(x.dtype), up.to(x.dtype)
        inner = (rows @ a.T).mul_(scaling)
        found = nn.functional.linear(rows, weight, bias).addmm_(inner, b.T)
        context.save_for_backward(rows, a, b, weight, inner)
        context.facts = scaling, down.dtype, up.dtype
        return found.view(*x.shape[:-1], found.shape[-1])

    @staticmethod
    def backward(context: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, a, b, weight, inner = context.saved_tensors
        scaling, down_kind, up_kind = context.facts
        slope = outer[0].reshape(-1, outer[0].shape[-1])
        narrow = (slope @ b).mul_(scaling)
        to_x = (slope @ weight).addmm_(narrow, a).view(*outer[0].shape[:-1], a.shape[1]) if context.needs_input_grad[0] else None
        return to_x, (narrow.T @ rows).to(down_kind), (slope.T @ inner).to(up_kind), None, None, None


def fuse_updates(network: nn.Module) -> int:
    """Let every plain LoRA layer of a PEFT network, in place, answer by one operation where it trains; elsewhere it answers as before.

    Returns:
        how many layers there are.
    """
    from peft.tuners.lora.layer import Linear

    layers = [module for module in network.modules() if type(module) is Linear and type(module.base_layer) is nn.Linear]
    for layer in layers:
        _fuse(layer)
    return len(layers)


def _fuse(layer: Any) -> None:
    own = layer.forward
    kept: dict[str, Any] = {"of": None}

    def forward(x: torch.Tensor, *args: Any, **options: Any) -> Any:
        active = layer.active_adapters
        name = active[0] if len(active) == 1 else None
        base = layer.base_layer
        if (
            args
            or options
            or not torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or layer.disable_adapters
            or layer.merged
            or name not in layer.lora_A
            or name in layer.lora_variant
            or _drops(layer.lora_dropout[name])
            or layer.lora_B[name].bias is not None
            or any(p.requires_grad for p in base.parameters())
        ):
            return own(x, *args, **options)
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        state = (kind, base.weight._version, base.weight.data_ptr())
        if kept["of"] != state:  # frozen weights are narrowed once, not in every step
            kept.update(of=state, weight=base.weight.detach().to(kind), bias=None if base.bias is None else base.bias.detach().to(kind))
        with torch.autocast("cpu", enabled=False):
            return _Updated.apply(_narrow(x, kind), layer.lora_A[name].weight, layer.lora_B[name].weight, kept["weight"], kept["bias"], layer.scaling[name])  # type: ignore[no-untyped-call]

    layer.forward = forward


def _drops(module: nn.Module) -> bool:
    """Whether a dropout does anything."""
    return module.training and getattr(module, "p", 0.0) > 0.0


def _narrow(x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """x in a number format; the same tensor when the one before was asked for the same."""
    if x.dtype == kind:
        return x
    last = getattr(_now, "last", None)
    if last is None or last[0]() is not x or last[1] != (x._version, kind):
        last = _now.last = (weakref.ref(x), (x._version, kind), x.to(kind))
    return last[2]  # type: ignore[no-any-return]
