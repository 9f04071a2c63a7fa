"""Linear layers whose frozen weights lie in memory as four bits each, through bitsandbytes (Dettmers et al. 2023, 'QLoRA', section 3).

bitsandbytes' own layer changes itself on processors with AVX512-BF16: the first answer in evaluation mode packs its weights anew for a kernel
that has no gradient, and a bias takes the number format of whatever it first saw. This one computes the same way always.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from attune.core.errors import MachineError


def library() -> Any:
    """bitsandbytes.functional; told what to install where it is missing."""
    try:
        logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it tells of kernels that it would fetch from a hub, and which are not used here
        from bitsandbytes import functional
    except ImportError as error:
        raise MachineError("bitsandbytes is not installed, and 4-bit weights need it", place="method", fix="pip install 'attune[qlora]', or use a method that keeps the weights whole") from error
    return functional


class _Product(torch.autograd.Function):
    """x @ W.T with W unpacked for the moment, forward and backward; only the four bits are kept in between."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, packed: torch.Tensor, state: Any) -> torch.Tensor:
        context.save_for_backward(packed)
        context.state = state
        return x @ library().dequantize_4bit(packed, state).to(x.dtype).T

    @staticmethod
    def backward(context: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (packed,) = context.saved_tensors
        return outer[0] @ library().dequantize_4bit(packed, context.state).to(outer[0].dtype), None, None


class FourBit(nn.Linear):
    """A linear layer in four bits.

    Args:
        layer: what it is made from: torch's linear layer, or transformers' transposed one.
        kind: nf4 (for weights that are spread normally) or fp4.
        nested: the scales of the blocks of 64 weights are kept in 8 bits themselves.
    """

    def __init__(self, layer: Any, kind: str, nested: bool) -> None:
        self.transposed = not isinstance(layer, nn.Linear)
        whole = layer.weight.detach().T.contiguous() if self.transposed else layer.weight.detach()
        super().__init__(whole.shape[1], whole.shape[0], bias=layer.bias is not None, device="meta")
        packed, self.state = library().quantize_4bit(whole.float(), blocksize=64, quant_type=kind, compress_statistics=nested)
        self.weight = nn.Parameter(packed, requires_grad=False)
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., out] of x [..., in], in the autocast type where one is on."""
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        with torch.autocast("cpu", enabled=False):
            found: torch.Tensor = _Product.apply(x.to(kind), self.weight, self.state)  # type: ignore[no-untyped-call]
            return found if self.bias is None else found + self.bias.to(kind)

    def whole(self) -> Any:
        """The float32 layer, of the make that it came from, that it stands for."""
        from transformers.pytorch_utils import Conv1D

        weight = library().dequantize_4bit(self.weight.detach(), self.state).float()
        made: Any = Conv1D(self.out_features, self.in_features) if self.transposed else nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            made.weight = nn.Parameter(weight.T.contiguous() if self.transposed else weight, requires_grad=False)
            if self.bias is not None:
                made.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return made


def quantise(network: Any, names: list[str], kind: str, nested: bool) -> None:
    """Replace linear layers of a network, in place, by 4-bit ones."""
    for name in names:
        above, _, own = name.rpartition(".")
        setattr(network.get_submodule(above), own, FourBit(network.get_submodule(name), kind, nested))
