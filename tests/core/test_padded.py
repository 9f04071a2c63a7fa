"""Networks that read padded rows draw their dropout by row and place; where one cannot, it is noticed."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.nn import functional

from attune.core import flat
from attune.core.flat import KeyedDropout, Noise, keep, key_dropout, noise
from attune.core.padded import TRIED, Layout, by_row, learn_layouts
from attune.core.tokens import Tokens
from attune.core.tunable import TunableModel

from .test_flat import ROWS, SMALL, body_of

RELATIVE = SMALL | {"relative_attention": True, "max_relative_positions": 16, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"]}
FAMILIES = {
    "mpnet": lambda: transformers.MPNetConfig(**SMALL | {"pad_token_id": 1}),
    "deberta": lambda: transformers.DebertaConfig(**RELATIVE),
    "deberta-v2": lambda: transformers.DebertaV2Config(**RELATIVE, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True),
    "deberta-v2 with a convolution": lambda: transformers.DebertaV2Config(**RELATIVE, conv_kernel_size=3, conv_act="gelu"),
}


def model_of(family: str) -> TunableModel:
    torch.manual_seed(3)
    body = transformers.AutoModel.from_config(FAMILIES[family]())
    with torch.no_grad():
        for parameter in body.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    model = TunableModel(body.eval())
    assert not model.fit.flat
    return model


def keyed(family: str) -> TunableModel:
    model = model_of(family)
    key_dropout(model.body)
    learn_layouts(model.decoder())
    return model


def answered(model: TunableModel, rows: list[list[int]], seed: int = 5) -> list[torch.Tensor]:
    """Of each row, its hidden states and what they would teach the network, while training."""
    model.train()
    tokens, found = Tokens.of(rows), []
    with noise(seed):
        hidden = model.hidden(tokens)
    for i in range(len(rows)):
        model.zero_grad()
        (hidden[tokens.row == i] ** 2).sum().backward(retain_graph=True)
        found += [hidden[tokens.row == i].detach(), *(p.grad.flatten()[:50].clone() for p in model.parameters() if p.grad is not None)]
    return found


def alike(ours: list[torch.Tensor], theirs: list[torch.Tensor], near: float = 1e-3) -> bool:
    assert len(ours) == len(theirs)
    return all(float((a - b).abs().max()) <= near * max(float(b.abs().max()), 1e-1) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_beside_others_are_answered_and_learned_from_as_alone(family):
    model = keyed(family)
    assert by_row(model.body, model.hidden)
    together = answered(model, ROWS)
    alone = [one for row in ROWS for one in answered(model, [row])]
    assert alike(together, alone)
    backwards = [answered(model, ROWS[::-1])]
    each = len(together) // len(ROWS)
    assert alike(together, [one for i in range(len(ROWS) - 1, -1, -1) for one in backwards[0][each * i : each * (i + 1)]])
    assert not alike(together, answered(model, ROWS, seed=6), 1e-2)
    assert not any(module.strayed for module in model.body.modules() if isinstance(module, KeyedDropout))
    with torch.no_grad():
        model.eval()
        still = model.hidden(Tokens.of(ROWS))
    assert not torch.allclose(torch.cat(list(together[::each])), torch.cat([still[Tokens.of(ROWS).row == i] for i in range(len(ROWS))]), atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_torchs_own_dropout_is_noticed(family):
    """The must-fail twin."""
    model = model_of(family)
    assert not by_row(model.body, model.hidden)
    key_dropout(model.body)  # keyed, but nobody looked how rows lie
    assert not by_row(model.body, model.hidden)
    assert all(module.strayed for module in model.body.modules() if isinstance(module, KeyedDropout) and module.p)


def test_without_dropout_any_of_them_answers_by_row():
    model = model_of("mpnet")
    for module in model.body.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert by_row(model.body, model.hidden)


def test_a_network_that_calls_dropout_as_a_function_is_noticed(monkeypatch):
    model = keyed("mpnet")
    attention = model.body.encoder.layer[0].intermediate
    own = attention.forward
    assert by_row(model.body, model.hidden)
    monkeypatch.setattr(attention, "forward", lambda x: functional.dropout(own(x), 0.1, attention.training))
    assert not by_row(model.body, model.hidden)


def test_a_network_that_mixes_rows_is_noticed_and_left_as_it_was():
    model = keyed("mpnet")
    model.body.add_module("mixer", torch.nn.BatchNorm1d(4))
    before, random = model.body.mixer.running_mean.clone(), torch.random.get_rng_state()
    assert not by_row(model.body, model.hidden)
    assert torch.equal(model.body.mixer.running_mean, before)
    del model.body.mixer
    assert by_row(model.body, model.hidden)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not model.body.training


def test_a_network_whose_rows_see_what_fills_them_up_is_noticed():
    """It mixes all places by a Fourier transformation, those behind a row's end among them."""
    config = transformers.FNetConfig(vocab_size=200, hidden_size=32, num_hidden_layers=2, intermediate_size=64, hidden_dropout_prob=0.0)
    model = TunableModel(transformers.AutoModel.from_config(config))
    assert not model.fit.flat
    assert not by_row(model.body, model.hidden)


def test_flat_rows_are_tried_too():
    model = TunableModel(body_of("bert"))
    assert model.fit.flat
    assert not by_row(model.body, model.hidden)
    key_dropout(model.body)
    assert by_row(model.body, model.hidden)


def test_a_methods_own_dropout_is_drawn_by_row_too():
    """DeBERTa asks one matrix for words and for positions, so that the same dropout is given rows and a table that all rows share."""
    from peft import LoraConfig, get_peft_model

    plain = model_of("deberta-v2")
    model = TunableModel(get_peft_model(plain.body, LoraConfig(r=2, lora_dropout=0.3, target_modules=["query_proj", "key_proj"], init_lora_weights=False)))
    for module in model.body.modules():
        if isinstance(module, torch.nn.Dropout) and module.p < 0.3:
            module.p = 0.0
    assert not by_row(model.body, model.hidden)
    key_dropout(model.body)
    learn_layouts(model.decoder())
    assert by_row(model.body, model.hidden)
    calls = [module.layouts for name, module in model.body.named_modules() if isinstance(module, KeyedDropout) and module.p]
    assert {tuple(one.rows is None for one in layouts) for layouts in calls} == {(False, True)}


(FEW, LONG), (MANY, SHORT) = TRIED
KEYS = torch.arange(12, dtype=torch.int32).view(2, 6) * 7919
ROW_KEYS = torch.tensor([11, 12], dtype=torch.int32)


def drawn(layout: Layout, shape: tuple[int, ...], keys: torch.Tensor = KEYS, row_keys: torch.Tensor = ROW_KEYS) -> torch.Tensor | None:
    return layout.kept(torch.zeros(shape), keys, row_keys, lambda own, drawn: keep(own, drawn, 0.5, 77))


@pytest.mark.parametrize(
    ("first", "second", "shape", "row", "place", "cut"),
    [
        ((FEW, LONG, 8), (MANY, SHORT, 8), (2, 6, 8), 0, (1,), (1, 4, 8)),
        ((FEW, 4, LONG, LONG), (MANY, 4, SHORT, SHORT), (2, 4, 6, 6), 0, (2, 3), (1, 4, 4, 4)),
        ((FEW * 4, LONG, LONG), (MANY * 4, SHORT, SHORT), (8, 6, 6), 0, (1, 2), (4, 4, 4)),
        ((LONG, FEW, 8), (SHORT, MANY, 8), (6, 2, 8), 1, (0,), (4, 1, 8)),
        ((FEW, 8, LONG), (MANY, 8, SHORT), (2, 8, 6), 0, (2,), (1, 8, 4)),
        ((FEW, 8), (MANY, 8), (2, 8), 0, (), (1, 8)),
        ((1, LONG, 8), (1, SHORT, 8), (1, 6, 8), None, (1,), (1, 4, 8)),
        ((1, 4, LONG, LONG), (1, 4, SHORT, SHORT), (1, 4, 6, 6), None, (2, 3), (1, 4, 4, 4)),
        ((16, 8), (16, 8), (16, 8), None, (), (16, 8)),
        ((1, 16, 8), (1, 16, 8), (1, 16, 8), None, (), (1, 16, 8)),
        ((8,), (8,), (8,), None, (), (8,)),
    ],
    ids=["states", "attention", "attention, rows and heads in one", "places first", "channels first", "rows", "shared places", "shared attention", "table", "table with one more dimension", "line"],
)
def test_layouts_are_read_and_draws_do_not_depend_on_the_batch(first, second, shape, row, place, cut):
    layout = Layout.of(first, second)
    assert layout is not None
    assert (layout.rows, layout.places) == (row, place)
    whole = drawn(layout, shape)
    assert whole.shape == shape
    assert set(whole.flatten().tolist()) == {0.0, 1.0}
    alone = drawn(layout, cut, KEYS[:1, :4], ROW_KEYS[:1])  # the first row by itself, and shorter
    assert torch.equal(whole[tuple(slice(0, size) for size in cut)], alone)
    for axis, size in enumerate(shape):
        assert whole.numel() < 16 * size or whole.unique(dim=axis).shape[axis] == size, "no two of a dimension are drawn alike"


@pytest.mark.parametrize(
    ("first", "second"),
    [((FEW, 4), (MANY, 5)), ((FEW, LONG), (MANY, SHORT, 1)), ((FEW, FEW), (MANY, MANY)), ((LONG, LONG, LONG), (SHORT, SHORT, SHORT)), ((), ()), ((FEW, LONG + 1), (MANY, SHORT + 1))],
)
def test_what_cannot_be_read_is_not_guessed(first, second):
    assert Layout.of(first, second) is None


def test_a_tensor_of_another_shape_than_was_tried_strays():
    layout = Layout.of((FEW, LONG, 8), (MANY, SHORT, 8))
    assert drawn(layout, (2, 6, 9)) is None
    assert drawn(layout, (6, 2, 8)) is None
    model = keyed("mpnet")
    module = model.body.embeddings.dropout
    module.layouts = [layout]
    model.train()
    with noise(1):
        model.hidden(Tokens.of(ROWS))
    assert module.strayed


def test_a_call_that_was_not_tried_strays():
    model = keyed("mpnet")
    module = model.body.embeddings.dropout
    own = module.forward
    module.forward = lambda x: own(own(x))
    model.train()
    with noise(1):
        model.hidden(Tokens.of(ROWS))
    assert module.strayed


def test_noise_goes_on_where_it_stood():
    x, keys = torch.ones(2, 100), torch.tensor([4, 9], dtype=torch.int32)
    with noise(1) as one:
        first = flat.drop(x, keys, 0.5)
    with noise(one):
        second = flat.drop(x, keys, 0.5)
    with noise(1):
        assert torch.equal(flat.drop(x, keys, 0.5), first)
        assert torch.equal(flat.drop(x, keys, 0.5), second)
    assert isinstance(one, Noise)
    assert not torch.equal(first, second)
