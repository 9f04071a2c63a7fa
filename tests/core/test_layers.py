"""The last layer answers the wanted tokens as it does among all, learns from them alike, and computes no others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers

from attune.core import layers
from attune.core.flat import key_dropout, noise
from attune.core.tokens import Tokens
from attune.core.tunable import TunableModel

from .test_flat import FAMILIES, GROUPED, ROWS, body_of

COMMON = list(range(100, 112))


def narrowed(model: TunableModel) -> list[str]:
    return [name.rpartition(".")[2] for name, module in model.body.named_modules() if module._forward_pre_hooks]


def learned(model: TunableModel, tokens: Tokens, at: torch.Tensor, *, alone: bool) -> list[torch.Tensor]:
    """Hidden states at some places, and all gradients of a loss on them."""
    model.zero_grad()
    hidden = model.hidden(tokens, at) if alone else model.hidden(tokens)[at]
    (hidden**2 * torch.linspace(0.5, 1.5, hidden.shape[1])).sum().backward()
    return [hidden.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dropout", [False, True])
def test_wanted_tokens_answer_and_teach_as_among_all(family, dropout):
    body = body_of(family)
    if dropout:
        for module in body.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        key_dropout(body)
    model = TunableModel(body).train(dropout)
    assert model.narrows
    tokens = Tokens.of(ROWS)
    at = torch.tensor([30, 3, 12, 12, 21])  # in any order, and one twice
    found = []
    for alone in (True, False):
        with noise(5):
            found.append(learned(model, tokens, at, alone=alone))
    assert len(found[0]) == len(found[1]) > 10
    for ours, theirs in zip(*found, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-4 * max(float(theirs.abs().max()), 1e-2)


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_behind_a_beginning_that_is_computed_once(family):
    model = TunableModel(body_of(family))
    rows = [COMMON + own for own in ([5, 6, 7], [8, 9], [10, 11, 12, 13])]
    tokens = Tokens.of(rows, [len(COMMON)] * 3)
    at = tokens.before[(tokens.positions[0] >= len(COMMON)).nonzero().squeeze(1)]
    assert len(at.unique()) < len(at)
    for ours, theirs in zip(learned(model, tokens, at, alone=True), learned(model, tokens, at, alone=False), strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-4 * max(float(theirs.abs().max()), 1e-2)


def test_what_is_computed_for_wanted_tokens_alone():
    sizes = []
    model = TunableModel(body_of("llama"))
    assert model.narrows
    assert narrowed(model) == ["q_proj", "o_proj", "mlp"]
    for name in ("gate_proj", "down_proj"):
        for layer in model.body.layers:
            getattr(layer.mlp, name).register_forward_hook(lambda _part, _inputs, found: sizes.append(found.shape[1]))
    model.hidden(Tokens.of(ROWS), torch.tensor([3, 12, 30]))
    assert sizes == [33, 33, 3, 3]
    sizes.clear()
    model.hidden(Tokens.of(ROWS), torch.arange(int(33 * layers.WORTH) + 1))
    assert set(sizes) == {33}, "nearly all of the tokens are not worth the trouble"
    assert model.hidden(Tokens.of(ROWS), torch.tensor([], dtype=torch.long)).shape == (0, 32)


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2"])
def test_keys_and_values_answer_for_all_tokens_even_where_attention_hardly_shows(family):
    """A fresh network looks everywhere alike, so that wrong keys would change its answers less than rounding does."""
    model = TunableModel(transformers.AutoModel.from_config(FAMILIES[family]()).eval())
    assert model.narrows
    assert not {"k_proj", "v_proj", "key", "value", "c_attn"} & set(narrowed(model))


def test_a_part_that_others_look_at_is_noticed(monkeypatch):
    """The must-fail twin: with keys and values narrowed too, the answers differ, and the network is left as it was."""
    monkeypatch.setattr(layers, "_apart", lambda parts, answered, wanted: parts)
    model = TunableModel(body_of("llama"))
    assert not model.narrows
    assert narrowed(model) == []
    at = torch.tensor([3, 12])
    assert torch.equal(model.hidden(Tokens.of(ROWS), at), model.hidden(Tokens.of(ROWS))[at])


def test_another_model_of_the_same_network_finds_it_narrowed():
    body = body_of("llama")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert TunableModel(body).narrows
    assert TunableModel(body).narrows
    assert all(len(module._forward_pre_hooks) < 2 for module in body.modules())


def test_others_may_ask_the_network_while_it_is_tried(monkeypatch):
    """A plain call in another thread between the trial's hooks answers as ever."""
    model = TunableModel(body_of("llama"))
    ids = torch.tensor([ROWS[0]])
    told, found = model.body(ids)[0], []
    grad = torch.autograd.grad

    def meanwhile(*args, **options):
        with ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(lambda: model.body(ids)[0]).result())
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", meanwhile)
    assert model.narrows
    assert torch.equal(found[0], told)


def test_layers_that_are_run_more_than_once_are_left_alone():
    config = transformers.AlbertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=200, embedding_size=32)
    model = TunableModel(transformers.AutoModel.from_config(config).eval())
    assert model.fit.flat
    assert not model.narrows


def test_a_network_that_is_padded_gives_the_wanted_tokens():
    config = transformers.MPNetConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=200, pad_token_id=1)
    model = TunableModel(transformers.AutoModel.from_config(config).eval())
    tokens, at = Tokens.of(ROWS), torch.tensor([4, 1])
    assert not model.narrows
    assert torch.equal(model.hidden(tokens, at), model.hidden(tokens)[at])


def test_experts_answer_token_by_token():
    config = transformers.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2)
    model = TunableModel(transformers.AutoModel.from_config(config).eval())
    assert model.narrows
    assert "experts" in " ".join(narrowed(model)) or "mlp" in narrowed(model)
    tokens, at = Tokens.of(ROWS), torch.tensor([3, 12, 30])
    assert torch.allclose(model.hidden(tokens, at), model.hidden(tokens)[at], atol=1e-5)
