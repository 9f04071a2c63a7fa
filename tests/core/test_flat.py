"""Rows without padding answer, and learn, as padded ones do; dropout depends on the row alone."""

from __future__ import annotations

import copy
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers

from attune.core import flat
from attune.core.errors import PlugError
from attune.core.flat import KeyedDropout, Noise, drop, fit_of, keep, key_dropout, noise, run_flat, run_padded
from attune.core.tokens import Tokens, row_key
from attune.core.tunable import TunableModel

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 200, "pad_token_id": 0}
GROUPED = SMALL | {"num_key_value_heads": 2}
FAMILIES = {
    "bert": lambda: transformers.BertConfig(**SMALL),
    "roberta": lambda: transformers.RobertaConfig(**SMALL | {"pad_token_id": 1}),
    "distilbert": lambda: transformers.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=200),
    "modernbert": lambda: transformers.ModernBertConfig(**SMALL, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2, local_attention=4),
    "electra": lambda: transformers.ElectraConfig(**SMALL, embedding_size=32),
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=8),
    "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=200),
    "gemma2": lambda: transformers.Gemma2Config(**GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=4),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=4),
}
ROWS = [[7, 8, 9, 10, 11, 12, 13], [20, 21], [30, 31, 32, 33, 34, 35], [40, 41, 42], [50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63], [70]]


def body_of(family: str) -> transformers.PreTrainedModel:
    config = FAMILIES[family]()
    config._attn_implementation = "eager"
    torch.manual_seed(3)
    body = transformers.AutoModel.from_config(config)
    with torch.no_grad():  # a fresh network is so flat that attention hardly shows
        for parameter in body.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return body.eval()


def test_rows_lie_end_to_end_and_come_back():
    tokens = Tokens.of(ROWS)
    assert tokens.ids.shape == (1, sum(map(len, ROWS)))
    for i, row in enumerate(ROWS):
        begin = int(tokens.starts[i])
        assert tokens.ids[0, begin : begin + len(row)].tolist() == row
        assert tokens.positions[0, begin : begin + len(row)].tolist() == list(range(len(row)))
        assert set(tokens.row[begin : begin + len(row)].tolist()) == {i}
    ids, mask = tokens.padded(0)
    assert [ids[i, : int(mask[i].sum())].tolist() for i in range(len(ROWS))] == ROWS
    assert tokens.lay([[i] * len(row) for i, row in enumerate(ROWS)]).tolist() == tokens.row.tolist()
    assert sum(group.end - group.begin for group in tokens.groups) == tokens.ids.shape[1]


def assert_agrees_with_padding(body: transformers.PreTrainedModel, tokens: Tokens) -> None:
    """Hidden states, and all gradients of a loss on them."""
    fit, options = fit_of(body), flat.options_of(body)
    assert fit.flat, fit.why
    found = []
    for way in ("flat", "padded"):
        body.zero_grad()
        own = run_flat(body, tokens, fit.offset, **options) if way == "flat" else None
        hidden = own if own is not None else run_padded(body, tokens, int(body.config.pad_token_id or 0), **options)[0][tokens.row, tokens.positions[0]]
        (hidden**2 * torch.linspace(0.5, 1.5, hidden.shape[1])).sum().backward()
        found.append([hidden.detach(), *(p.grad.clone() for p in body.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for ours, theirs in zip(*found, strict=True):
        assert float((ours - theirs).abs().max()) <= 2e-4 * max(float(theirs.abs().max()), 1e-2)


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_gradients_agree_with_padding(family):
    assert_agrees_with_padding(body_of(family), Tokens.of(ROWS))


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize(("longest", "family"), [(40, "mistral"), (40, "modernbert"), (80, "modernbert")])
def test_windows_and_filled_up_rows_give_finite_gradients(longest, family):
    """A place behind a row's end may see nothing at all, where a window looks both ways; that must not reach the weights."""
    body = body_of(family)
    fit = fit_of(body)
    tokens = Tokens.of([list(range(10, 10 + longest)), list(range(20, 14 + longest))])
    assert tokens.groups[0].give is not None
    if family == "modernbert":
        assert not flat._allowed(tokens.groups[0], 4, False).any(-1).all(), "some place sees nothing"
    run_flat(body, tokens, fit.offset, **flat.options_of(body)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in body.parameters() if p.grad is not None)


@pytest.mark.parametrize(("family", "window"), [("llama", None), ("gpt2", None), ("mistral", 4), ("mistral", 79), ("mistral", 80), ("bert", None)])
def test_long_rows_of_unequal_length_agree_with_padding(family, window):
    """They reach the fused kernel, which leaves out what is ahead; a row that is shorter than the group's longest one has places behind its end there.
    A window as long as the longest row hides nothing, one that is shorter by one token does."""
    body = body_of(family)
    if window:
        body.config.sliding_window = window
        for layer in body.layers:
            layer.self_attn.sliding_window = window
    tokens = Tokens.of([list(range(10, 90)), list(range(20, 98)), list(range(5, 84))])
    assert [group.rows for group in tokens.groups] == [3]
    assert_agrees_with_padding(body, tokens)


def test_local_attention_that_looks_both_ways_is_kept_on_long_rows():
    body = body_of("modernbert")
    tokens = Tokens.of([list(range(5, 105)), list(range(50, 90))])
    told = run_padded(body, tokens, 0)[0][tokens.row, tokens.positions[0]]
    assert float((run_flat(body, tokens, fit_of(body).offset) - told).abs().max()) < 1e-3


def test_a_window_that_is_forgotten_is_noticed(monkeypatch):
    """The must-fail twin."""
    band = flat._band
    monkeypatch.setattr(flat, "_band", lambda length, window, causal: band(length, window if causal else None, causal))
    assert not fit_of(body_of("modernbert")).flat


def test_a_family_that_disagrees_is_padded():
    config = transformers.MPNetConfig(**SMALL | {"pad_token_id": 1})  # relative positions are added to its scores
    fit = fit_of(transformers.AutoModel.from_config(config))
    assert not fit.flat
    assert fit.why.startswith("padded")


SPLIT = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 200, "decoder_start_token_id": 0}


@pytest.mark.parametrize("config", [transformers.T5Config(**SPLIT), transformers.BartConfig(**SMALL, d_model=32, encoder_layers=1, decoder_layers=1)], ids=["t5", "bart"])
def test_a_network_that_reads_with_one_half_and_writes_with_the_other_is_refused_in_words(config):
    """Bart answers ids alone, by writing; its answers are not those to flat rows, so it is padded."""
    body = transformers.AutoModel.from_config(config)
    if isinstance(config, transformers.T5Config):
        with pytest.raises(PlugError, match="T5Model cannot answer rows of token ids alone: it reads with one network and writes with another"):
            fit_of(body)
    else:
        assert not fit_of(body).flat
    assert body.training


def test_the_reading_half_alone_is_padded():
    """The clean twin: relative positions are added to its scores."""
    fit = fit_of(transformers.T5EncoderModel(transformers.T5Config(**SPLIT)))
    assert not fit.flat
    assert fit.why.startswith("padded")


@pytest.mark.parametrize("fault", ["rows see each other", "no causal mask", "positions count on"])
def test_a_planted_fault_in_flat_rows_is_noticed(fault, monkeypatch):
    body = body_of("llama" if fault == "no causal mask" else "bert")
    assert fit_of(body).flat
    attend = flat.attend
    if fault == "rows see each other":

        def faulty(module, query, *rest, **options):
            total = query.shape[2]
            object.__setattr__(flat._now.tokens, "groups", (flat.Group(0, total, 1, total),))
            return attend(module, query, *rest, **options)

        monkeypatch.setattr(flat, "attend", faulty)
    elif fault == "no causal mask":
        monkeypatch.setattr(flat, "_band", lambda length, window, causal: None)
    else:
        run = flat.run_flat
        monkeypatch.setattr(flat, "run_flat", lambda body, tokens, *rest, **options: run(body, dataclasses.replace(tokens, positions=torch.arange(tokens.ids.shape[1]).unsqueeze(0)), *rest, **options))
    assert not fit_of(body).flat


@pytest.mark.usefixtures("any_length")
def test_dropout_is_drawn_from_the_row_alone():
    body = body_of("bert").train()
    key_dropout(body)
    model = TunableModel(body, None, "mean")
    assert any(isinstance(module, KeyedDropout) for module in body.modules())
    assert model.fit.flat

    def features(rows, seed=5):
        model.train()
        with noise(seed):
            return model.features(Tokens.of(rows))

    together = features(ROWS)
    alone = torch.cat([features([row]) for row in ROWS])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, features(ROWS[::-1]).flip(0), atol=1e-5)
    assert not torch.allclose(together, features(ROWS, seed=6), atol=1e-2)
    model.eval()
    assert not torch.allclose(together, model.features(Tokens.of(ROWS)), atol=1e-2)


def test_torchs_own_dropout_would_depend_on_the_batch():
    """The must-fail twin of the test above."""
    model = TunableModel(body_of("bert"), None, "mean")
    assert model.fit.flat
    model.train()

    def features(rows):
        torch.manual_seed(5)
        return model.features(Tokens.of(rows))

    assert not torch.allclose(features(ROWS), torch.cat([features([row]) for row in ROWS]), atol=1e-3)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_the_draws_look_random(p):
    """Shares by row, by column and between sites, within five standard errors of independent draws."""
    keys = torch.tensor([row_key([1, 2, i]) for i in range(500)], dtype=torch.int32)
    draw = Noise(99)
    first, second = (keep(keys, (400,), p, draw.next_site()).double() for _ in range(2))
    n = first.numel()
    assert abs(float(first.mean()) - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    for axis, count in ((0, 500), (1, 400)):
        assert float(first.mean(axis).std()) == pytest.approx((p * (1 - p) / count) ** 0.5, rel=0.2)
    centred, other = first - first.mean(), second - second.mean()
    for a, b in ((centred, other), (centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])):
        assert abs(float((a * b).mean()) / (p * (1 - p))) < 5 / n**0.5


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64])
def test_draws_are_ones_and_zeros_of_any_width_and_number_format(kind):
    keys = torch.tensor([4, 9], dtype=torch.int32)
    wide = keep(keys, (3, 8), 0.3, 7, kind)
    assert wide.dtype == kind
    assert set(wide.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(keep(keys, (3, 7), 0.3, 7, kind), wide[..., :7])
    assert torch.equal(wide.float(), keep(keys, (3, 8), 0.3, 7))
    assert keep(keys, (3, 8), 1e-9, 7, kind).all()


def test_what_is_dropped_has_no_gradient_and_the_rest_is_scaled():
    x, keys = torch.ones(2, 100, requires_grad=True), torch.tensor([4, 9], dtype=torch.int32)
    with noise(1):
        found = drop(x, keys, 0.2)
    found.sum().backward()
    assert torch.equal(x.grad, found.detach())
    assert set(found.flatten().tolist()) == {0.0, 1.25}


def test_features_are_dropped_and_scaled_by_their_keys():
    features, keys = torch.ones(3, 1000), torch.tensor([4, 9, 4], dtype=torch.int32)
    assert drop(features, keys, 0.2) is features
    with noise(1):
        found = drop(features, keys, 0.2)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert float(found.mean()) == pytest.approx(1, abs=0.05)


def test_one_thread_writes_while_another_reads_flat_rows():
    """Both share one network. Each is held in the middle of a forward pass while the other works; then both run freely."""
    config = FAMILIES["llama"]()
    config._attn_implementation = "eager"
    torch.manual_seed(3)
    writer = transformers.AutoModelForCausalLM.from_config(config).eval()
    body, tokens = writer.base_model, Tokens.of(ROWS)
    offset, options = fit_of(body).offset, {"use_cache": False}
    ids, mask = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]]), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    held: set[int] = set()
    reached, go_on = threading.Event(), threading.Event()

    def hold(*_):
        if threading.get_ident() in held:
            held.clear()
            reached.set()
            assert go_on.wait(60)

    body.layers[0].register_forward_hook(hold)

    @torch.no_grad()
    def read(times: int = 1):
        return [run_flat(body, tokens, offset, **options) for _ in range(times)][-1]

    def write(times: int = 1):
        return [writer.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0) for _ in range(times)][-1]

    told, written = read(), write()

    def in_the_middle_of(work):
        held.add(threading.get_ident())
        return work()

    for first, second in ((read, write), (write, read)):
        reached.clear()
        go_on.clear()
        with ThreadPoolExecutor(1) as pool:
            begun = pool.submit(in_the_middle_of, first)
            assert reached.wait(60)
            try:
                assert torch.equal(second(), written if second is write else told)
            finally:
                go_on.set()
            assert torch.equal(begun.result(60), told if first is read else written)
    with ThreadPoolExecutor(3) as pool:
        works = [pool.submit(read, 20), pool.submit(read, 20), pool.submit(write, 4)]
        assert [torch.equal(work.result(120), right) for work, right in zip(works, (told, told, written), strict=True)] == [True, True, True]


def test_a_listening_configuration_is_saved_and_copied_like_its_own(tmp_path):
    body = body_of("llama")
    before = (repr(body.config), body.config.to_json_string())
    assert fit_of(body).flat
    assert (repr(body.config), body.config.to_json_string()) == before
    assert body.config._attn_implementation == "eager"
    assert copy.deepcopy(body.config).to_json_string() == before[1]
    body.save_pretrained(tmp_path)
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is transformers.LlamaConfig
