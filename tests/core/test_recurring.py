"""Lengths come again where matrix products are written anew for each shape; what stands behind the rows reaches nobody."""

from __future__ import annotations

import pytest
import torch

from attune.core import flat, recurring
from attune.core.flat import noise, run_flat
from attune.core.losses import linear_cross_entropy
from attune.core.tokens import Tokens
from attune.core.tunable import TunableModel

from .test_flat import ROWS, body_of


@pytest.fixture
def matrix_units(monkeypatch):
    """As on a processor that has them."""
    monkeypatch.setattr(recurring, "_writes_products", lambda: True)


@pytest.mark.parametrize(("units", "kind", "missing"), [(True, torch.bfloat16, [31, 0, 31, 0]), (True, torch.float32, [0] * 4), (False, torch.bfloat16, [0] * 4)])
def test_what_is_missing_where_it_pays(monkeypatch, units, kind, missing):
    monkeypatch.setattr(recurring, "_writes_products", lambda: units)
    assert [recurring.missing(length, kind) for length in (1, 32, 33, 0)] == missing
    assert (recurring.words(kind) is not None) == any(missing)


@pytest.mark.usefixtures("matrix_units")
@pytest.mark.parametrize("way", ["autocast", "a network in bf16"])
def test_lengths_that_a_network_sees(way):
    """In bf16 multiples of 32 everywhere, in the last layer's wanted tokens too; in fp32 what there is."""
    body = body_of("llama")
    model = TunableModel(body)
    assert model.narrows
    sizes: list[int] = []
    for layer in body.layers:
        layer.mlp.down_proj.register_forward_hook(lambda _part, _inputs, found: sizes.append(found.shape[1]))
    told = model.hidden(Tokens.of(ROWS), torch.tensor([3, 12, 30]))
    assert sizes == [33, 3]
    if way != "autocast":
        body.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        found = model.hidden(Tokens.of(ROWS), torch.tensor([3, 12, 30]))
        model.hidden(Tokens.of([[5, 6, 7, 8]] * 8), torch.arange(0, 32, 2))
    assert sizes[2:] == [64, 32, 32, 32], "the 16 wanted ones of the second line are filled up from its other 16"
    assert found.shape == told.shape
    assert float((found.float() - told).detach().abs().max()) < 0.05 * float(told.detach().abs().max())


@pytest.mark.parametrize("attended", [False, True])
def test_what_stands_behind_the_rows_reaches_nobody(monkeypatch, attended):
    """Neither other tokens' states nor the weights; with the planted fault, a last row that sees what is behind it, both."""
    body = body_of("bert")
    tokens = Tokens.of(ROWS)
    fit = flat.fit_of(body)
    found = []
    for missing in (0, 31):
        monkeypatch.setattr(recurring, "missing", lambda _length, _kind, missing=missing: missing)
        if attended and missing:
            *others, last = tokens.groups
            object.__setattr__(tokens, "groups", (*others, flat.Group(last.begin, last.end + missing, 1, last.length + missing)))
            monkeypatch.setattr(flat, "_idle", lambda: 0)
        body.zero_grad()
        with noise(5):
            hidden = run_flat(body, tokens, fit.offset)
        (hidden**2 * torch.linspace(0.5, 1.5, hidden.shape[1])).sum().backward()
        found.append([hidden.detach(), *(p.grad.clone() for p in body.parameters() if p.grad is not None)])
    same = all(float((with_idle - without).abs().max()) <= 1e-5 * max(float(without.abs().max()), 1e-2) for with_idle, without in zip(*found, strict=True))
    assert same != attended


@pytest.mark.usefixtures("matrix_units")
def test_products_of_the_output_layer_are_filled_up(monkeypatch):
    sizes: list[int] = []
    own = recurring.filled
    monkeypatch.setattr(recurring, "filled", lambda line, more: sizes.append(len(line) + more) or own(line, more))
    torch.manual_seed(2)
    output = torch.nn.Linear(16, 50)
    found = []
    for kind in (torch.float32, torch.bfloat16):
        hidden = torch.linspace(-1, 1, 45 * 16).view(45, 16).requires_grad_()
        output.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
            loss = linear_cross_entropy(hidden, output, torch.arange(45))
        loss.backward()
        found.append([loss.detach(), hidden.grad, output.weight.grad.clone(), output.bias.grad.clone()])
    assert sizes == [45, 64]
    for exact, near in zip(*found, strict=True):
        assert exact.shape == near.shape
        assert float((exact - near).abs().max()) < 0.02 * float(exact.abs().max())
