"""Fused low-rank updates answer and learn as PEFT's own layers do."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from attune.core.low_rank import fuse_updates


class Two(nn.Module):
    """Two projections of the same tensor and one of their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(12, 20), nn.Linear(12, 20, bias=False), nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.left(x) + self.right(x)))


def pair(**more):
    """PEFT's network with an update that does something, and the same one fused."""
    torch.manual_seed(1)
    plain = get_peft_model(Two(), LoraConfig(r=3, lora_alpha=5, target_modules=["left", "right", "last"], **more)).train()
    for name, p in plain.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.2)
    fused = copy.deepcopy(plain)
    assert fuse_updates(fused) == 3
    return plain, fused


def learned(network, x, precision):
    x = x.clone().requires_grad_()
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = network(x)
    found.float().square().sum().backward()
    return [found.detach().float(), x.grad, *(p.grad for p in network.parameters() if p.requires_grad)]


@pytest.mark.parametrize(("precision", "near"), [("fp32", 2e-6), ("bf16", 0.02)])
@pytest.mark.parametrize("shape", [(256, 12), (4, 64, 12)])
def test_answers_and_gradients_are_those_of_peft(precision, near, shape):
    plain, fused = pair()
    x = torch.randn(shape)
    ours, theirs = learned(fused, x, precision), learned(plain, x, precision)
    exact = learned(plain, x, "fp32")
    assert ours[0].shape == theirs[0].shape
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).norm() / b.norm()) < near
        assert float((a - c).norm()) < 1.5 * float((b - c).norm()) + 2e-6 * float(c.norm())  # no further from the exact result than PEFT's own


def test_an_update_that_is_left_out_would_be_noticed():
    """The must-fail twin: the comparison above sees an update whose scaling is gone."""
    plain, fused = pair()
    for module in fused.modules():
        if hasattr(module, "scaling") and module.scaling:
            module.scaling["default"] = 1.0
    x = torch.randn(7, 12)
    assert float((learned(fused, x, "fp32")[0] - learned(plain, x, "fp32")[0]).norm()) > 0.05


def test_frozen_weights_that_change_are_read_again():
    plain, fused = pair()
    x = torch.randn(7, 12)
    learned(fused, x, "bf16")
    for network in (plain, fused):
        with torch.no_grad():
            network.base_model.model.left.base_layer.weight.mul_(2)
    assert float((learned(fused, x, "bf16")[0] - learned(plain, x, "bf16")[0]).norm()) < 0.05


def test_a_tensor_changed_in_place_is_narrowed_again():
    _, fused = pair()
    layer, x = fused.base_model.model.left, torch.randn(7, 12)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        x.mul_(3)
        assert not torch.allclose(before, layer(x))


@pytest.mark.parametrize("how", ["disabled", "merged", "dropout", "dora", "no gradients"])
def test_what_is_not_plain_is_left_to_peft(how):
    plain, fused = pair(**({"lora_dropout": 0.5} if how == "dropout" else {"use_dora": True} if how == "dora" else {}))
    x = torch.randn(7, 12)
    found = []
    for network in (plain, fused):
        torch.manual_seed(4)
        if how == "disabled":
            with network.disable_adapter():
                found.append(network(x))
        elif how == "no gradients":
            with torch.no_grad():
                found.append(network(x))
        else:
            if how == "merged":
                network.merge_adapter()
            found.append(network(x))
    assert torch.equal(found[0], found[1])
