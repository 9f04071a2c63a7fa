"""The fused output loss is the cross-entropy, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from attune.core import losses
from attune.core.losses import linear_cross_entropy


def both(n=50, width=16, words=37, bias=True, softcap=None, train_output=True):
    torch.manual_seed(0)
    hidden, targets, found = torch.randn(n, width), torch.randint(0, words, (n,)), []
    start = torch.nn.Linear(width, words, bias=bias)
    for fused in (True, False):
        output = torch.nn.Linear(width, words, bias=bias)
        output.load_state_dict(start.state_dict())
        output.requires_grad_(train_output)
        source = hidden.clone().requires_grad_()
        if fused:
            loss = linear_cross_entropy(source, output, targets, softcap)
        else:
            logits = output(source)
            loss = functional.cross_entropy(softcap * torch.tanh(logits / softcap) if softcap else logits, targets, reduction="sum")
        (loss * 0.5).backward()
        found.append([loss.detach(), source.grad, *(p.grad for p in output.parameters())])
    return found


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("piece", [1, 5, 16])
def test_the_size_of_a_piece_changes_nothing(piece, monkeypatch):
    """Rows of a product are looked at a few at a time, the last piece smaller than the others."""
    monkeypatch.setattr(losses, "ROWS", 16)
    told = both()[1]
    monkeypatch.setattr(losses.formed_forward, "__defaults__", (piece,))
    for mine, right in zip(both()[0], told, strict=True):
        assert torch.allclose(mine, right, atol=1e-4), (mine - right).abs().max()


def test_no_rows_give_no_gradient_but_one_of_the_right_shape():
    output = torch.nn.Linear(8, 12, bias=False)
    linear_cross_entropy(torch.zeros(0, 8, requires_grad=True), output, torch.zeros(0, dtype=torch.long)).backward()
    assert torch.equal(output.weight.grad, torch.zeros(12, 8))


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("case", [{}, {"bias": False}, {"softcap": 2.0}, {"train_output": False}, {"n": 1}], ids=str)
def test_value_and_gradients(case, monkeypatch):
    monkeypatch.setattr(losses, "ROWS", 16)
    ours, theirs = both(**case)
    for mine, right in zip(ours, theirs, strict=True):
        assert (mine is None) == (right is None)
        if mine is not None:
            assert torch.allclose(mine, right, atol=1e-4), (mine - right).abs().max()


def test_in_bf16_it_is_close(monkeypatch):
    monkeypatch.setattr(losses, "ROWS", 16)
    torch.manual_seed(0)
    hidden, output, targets = torch.randn(40, 32, requires_grad=True), torch.nn.Linear(32, 50), torch.randint(0, 50, (40,))
    exact = functional.cross_entropy(output(hidden), targets, reduction="sum")
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(hidden, output, targets)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=1e-2)


def log_probabilities(bias=False, softcap=None, rows=40, frozen=None):
    """Ours and torch's own log_softmax over all logits, and their gradients, weighed differently token by token; and whether slopes were kept."""
    torch.manual_seed(1)
    hidden, output, targets, weights = torch.randn(rows, 8, requires_grad=frozen != "hidden"), torch.nn.Linear(8, 30, bias=bias), torch.randint(0, 30, (rows,)), torch.randn(rows)
    output.requires_grad_(frozen != "output")
    with torch.autocast("cpu", enabled=False):
        logits = output(hidden)
        told = (torch.tanh(logits / softcap) * softcap if softcap else logits).log_softmax(-1)[range(rows), targets]
    found = losses.token_log_probabilities(hidden, output, targets, softcap)
    parts = [one for one in (hidden, *output.parameters()) if one.requires_grad]
    formed, kept = found.grad_fn.facts[0], found.grad_fn.saved_tensors[1]
    gradients = [torch.autograd.grad((one * weights).sum(), parts) for one in (found, told)]
    return [(found, told), *zip(*gradients, strict=True)], formed and kept is not None


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("at_once", [32, 64])
def test_log_probabilities_of_tokens_and_their_gradients(at_once, bias, softcap, monkeypatch):
    """Of one product the slopes are kept, of several they are formed again; the last one is filled up in part."""
    monkeypatch.setattr(losses, "ROWS", at_once)
    found, kept = log_probabilities(bias, softcap)
    assert kept == (at_once == 64)
    assert len(found) == 3 + bias
    for ours, theirs in found:
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("at_once", [32, 64])
@pytest.mark.parametrize(("frozen", "gradients", "kept"), [("output", 1, False), ("hidden", 2, True), (None, 3, True)])
def test_log_probabilities_with_a_part_that_does_not_learn_and_in_bf16(frozen, gradients, kept, at_once, monkeypatch):
    """A frozen output layer, as of LoRA, needs no slopes on the way back."""
    monkeypatch.setattr(losses, "ROWS", at_once)
    for exact in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
            found, slopes = log_probabilities(True, frozen=frozen)
        assert len(found) == 1 + gradients
        assert slopes == (kept and at_once == 64)
        for ours, theirs in found:
            assert ours.dtype == theirs.dtype
            assert float((ours - theirs).abs().max()) < (1e-5 if exact else 0.02) * max(1.0, float(theirs.abs().max()))


def test_no_tokens_have_no_log_probabilities_and_gradients_of_the_right_shape():
    found, _ = log_probabilities(True, rows=0)
    assert all(torch.equal(ours, theirs) for ours, theirs in found)
    assert [tuple(ours.shape) for ours, _ in found] == [(0,), (0, 8), (30, 8), (30,)]


@pytest.mark.parametrize(("rows", "parts"), [(0, []), (16, [16]), (17, [9, 8]), (40, [14, 14, 12])])
def test_products_are_few_and_about_equal(rows, parts, monkeypatch):
    monkeypatch.setattr(losses, "ROWS", 16)
    source, seen = torch.zeros(rows, 4), []
    for begin in range(0, rows, losses._at_once(source)):
        seen.append(len(source[begin : begin + losses._at_once(source)]))
    assert seen == parts
