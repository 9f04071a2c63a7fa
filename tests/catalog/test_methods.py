"""The methods that add small weights: on many families, against plain PEFT, folded into the base, and what they refuse."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from attune.core import catalog
from attune.core.adapters import attention_and_feed_forward, chosen_layers, linear_layers, merged
from attune.core.errors import AttuneError, IntegrityError, PlugError
from attune.core.flat import network_of
from attune.core.four_bit import FourBit
from attune.core.models import Base
from attune.core.tokens import Tokens
from attune.core.tunable import TunableModel

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 120, "pad_token_id": 0}
GROUPED = SMALL | {"num_key_value_heads": 2}
FAMILIES = {
    "bert": lambda: transformers.BertConfig(**SMALL),
    "distilbert": lambda: transformers.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=120),
    "modernbert": lambda: transformers.ModernBertConfig(**SMALL, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2, local_attention=4),
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=16),
    "gemma2": lambda: transformers.Gemma2Config(**GROUPED, head_dim=16, query_pre_attn_scalar=8, sliding_window=4),
    "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=120),
    "phi3": lambda: transformers.Phi3Config(**GROUPED, original_max_position_embeddings=64),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SMALL),
    "mixtral": lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=4),
}
ENCODERS = ("bert", "distilbert", "modernbert")
METHODS = ("lora", "dora", "qlora", "ia3", "adapter", "prompt_tuning")
MERGEABLE = ("lora", "dora", "qlora", "ia3")
ROWS = [[7, 8, 9, 10, 11, 12, 13], [20, 21], [30, 31, 32, 33, 34, 35], [40, 41, 42], [70]]


def base_of(family: str) -> Any:
    config = FAMILIES[family]()
    config._attn_implementation = "eager"
    torch.manual_seed(3)
    auto = transformers.AutoModel if family in ENCODERS else transformers.AutoModelForCausalLM
    body = auto.from_config(config)
    with torch.no_grad():  # a fresh network is so flat that nothing would show
        for parameter in body.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return body.eval()


def moved(model: TunableModel) -> TunableModel:
    """The same, its trained weights moved as training would."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return model


def prepared(family: str, method: str, **keys: Any) -> tuple[Any, TunableModel]:
    plug = catalog.build("methods", {"name": method, **keys})
    return plug, plug.prepare(TunableModel(base_of(family)), 5).eval()


def specialist_of(plug: Any, model: TunableModel) -> Any:
    return SimpleNamespace(model=model, method=plug)


def hidden(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return TunableModel(network).eval().hidden(Tokens.of(ROWS))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits_every_family(family: str, method: str) -> None:
    """It starts as the base (4-bit weights apart), reads flat rows, and every weight that it marks gets a gradient."""
    plain = hidden(base_of(family))
    _, model = prepared(family, method)
    assert model.fit.flat, model.fit.why
    if method not in ("qlora", "prompt_tuning"):
        with torch.no_grad():
            assert torch.allclose(model.hidden(Tokens.of(ROWS)), plain, atol=1e-4)
    moved(model)
    found = model.hidden(Tokens.of(ROWS))
    assert not torch.allclose(found, plain, atol=1e-3)
    found.square().sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    lost = [name for name, p in trained.items() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert not lost
    total = sum(p.numel() for p in base_of(family).parameters())
    assert sum(p.numel() for p in trained.values()) < 0.8 * total


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", MERGEABLE)
def test_a_merged_network_is_a_plain_one_that_answers_the_same(family: str, method: str) -> None:
    plug, model = prepared(family, method)
    moved(model)
    with torch.no_grad():
        told = model.hidden(Tokens.of(ROWS))
    network = merged(specialist_of(plug, model))
    assert type(network) is type(base_of(family))
    assert {name for name, _ in network.named_parameters()} == {name for name, _ in base_of(family).named_parameters()}
    assert {p.shape for p in network.parameters()} == {p.shape for p in base_of(family).parameters()}
    apart = (hidden(network) - told).abs().max() / told.abs().max()
    assert apart < 1e-5
    assert not torch.allclose(hidden(network), hidden(base_of(family)), atol=1e-3)
    with torch.no_grad():
        assert torch.equal(model.hidden(Tokens.of(ROWS)), told), "merging changed the specialist"


def test_a_merged_network_can_be_saved_and_loaded_without_peft(tmp_path: Path) -> None:
    for family in ("llama", "gpt2"):
        plug, model = prepared(family, "qlora")
        network = merged(specialist_of(plug, moved(model)))
        network.save_pretrained(tmp_path / family)
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / family, attn_implementation="eager").eval()
        assert torch.equal(hidden(again), hidden(network))


@pytest.mark.parametrize("method", ["adapter", "prompt_tuning"])
def test_what_cannot_be_merged_is_refused(method: str) -> None:
    plug, model = prepared("llama", method)
    with pytest.raises(PlugError, match=rf"'{method}' learned cannot be folded into the base"):
        merged(specialist_of(plug, model))


def test_full_has_nothing_to_merge() -> None:
    plug, model = prepared("llama", "full")
    assert merged(specialist_of(plug, model)) is model.body


# ---------------------------------------------------------------- against plain PEFT


def losses(model: Any, network: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of all tokens behind each row's first: flat through Attune, padded through transformers and PEFT."""
    tokens = Tokens.of(ROWS)
    targets = tokens.lay([[-100, *row[1:]] for row in ROWS])
    learned = (targets != -100).nonzero().squeeze(1)
    ours = model.output_loss(model.hidden(tokens)[learned - 1], targets[learned]) / len(learned)
    ids, mask = tokens.padded(0)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 0] = -100  # which PEFT would learn from the last virtual token
    return ours, network(input_ids=ids, attention_mask=mask, labels=labels).loss


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "prompt_tuning"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loss_and_gradients_are_those_of_plain_peft(tmp_path: Path, family: str, method: str) -> None:
    """What the method saves, read by PEFT alone, has the same loss on the same batch, and the same gradients."""
    from peft import PeftModel

    plug, model = prepared(family, method)
    moved(model)
    plug.save(model, tmp_path)
    plain = PeftModel.from_pretrained(base_of(family), tmp_path / "adapter", is_trainable=method != "prompt_tuning").eval()
    if method == "prompt_tuning":  # PEFT does not go on with saved virtual tokens by itself
        plain.prompt_encoder.requires_grad_(True)
    ours, theirs = losses(model, plain)
    assert float((ours - theirs).detach().abs()) < 1e-5
    ours.backward()
    theirs.backward()
    mine = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    other = {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}
    if method == "prompt_tuning":
        pairs = [(next(iter(mine.values())), next(iter(other.values())))]
    else:
        assert {name.removeprefix("body.") for name in mine} == set(other)
        pairs = [(mine[f"body.{name}"], grad) for name, grad in other.items()]
    for one, two in pairs:
        assert one is not None
        assert two is not None
        assert torch.allclose(one, two, atol=1e-5 * float(two.abs().max()) + 1e-7)


def test_the_comparison_with_peft_would_notice_another_update(tmp_path: Path) -> None:
    """The must-fail twin: weights that differ in one tensor do not agree."""
    from peft import PeftModel

    plug, model = prepared("llama", "dora")
    moved(model)
    plug.save(model, tmp_path)
    plain = PeftModel.from_pretrained(base_of("llama"), tmp_path / "adapter").eval()
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "magnitude" in name).mul_(1.2)
    ours, theirs = losses(model, plain)
    assert float((ours - theirs).detach().abs()) > 1e-4


# ---------------------------------------------------------------- layers


def test_the_routers_of_a_mixture_are_left_alone_and_named_layers_found() -> None:
    body = transformers.Qwen2MoeForCausalLM(
        transformers.Qwen2MoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=48, decoder_sparse_step=1, mlp_only_layers=[])
    )
    names = {name.split("layers.")[1][2:] for name in linear_layers(body)}
    assert names == {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"}
    assert attention_and_feed_forward(body)["feed_forward"] == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert chosen_layers(body, ["k_proj"]) == ["model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.k_proj"]
    with pytest.raises(PlugError, match="no linear layer ends in c_attn"):
        chosen_layers(body, ["c_attn", "k_proj"])


@pytest.mark.parametrize(
    ("family", "keys_values", "attention", "feed_forward"),
    [
        ("bert", ["attention.self.key", "attention.self.value"], "attention.output.dense", "output.dense"),
        ("distilbert", ["attention.k_lin", "attention.v_lin"], "attention.out_lin", "ffn.lin2"),
        ("modernbert", ["attn.Wqkv"], "attn.Wo", "mlp.Wo"),
        ("llama", ["self_attn.k_proj", "self_attn.v_proj"], "self_attn.o_proj", "mlp.down_proj"),
        ("qwen3", ["self_attn.k_proj", "self_attn.v_proj"], "self_attn.o_proj", "mlp.down_proj"),
        ("gpt2", ["attn.c_attn"], "attn.c_proj", "mlp.c_proj"),
        ("phi3", ["self_attn.qkv_proj"], "self_attn.o_proj", "mlp.down_proj"),
        ("gpt_neox", ["attention.query_key_value"], "attention.dense", "mlp.dense_4h_to_h"),
        ("mixtral", ["self_attn.k_proj", "self_attn.v_proj"], "self_attn.o_proj", "mlp"),
    ],
)
def test_blocks_are_told_by_their_structure(family: str, keys_values: list[str], attention: str, feed_forward: str) -> None:
    found = attention_and_feed_forward(base_of(family))
    for kind, ends in (("keys_values", keys_values), ("attention", [attention]), ("feed_forward", [feed_forward])):
        assert len(found[kind]) == 2 * len(ends), found[kind]
        assert all(name.endswith(tuple(f".{number}.{end}" for number in (0, 1) for end in ends)) for name in found[kind]), found[kind]
    assert all(".1." in f"{name}." for name in attention_and_feed_forward(base_of(family), 1)["attention"])


@pytest.mark.parametrize("method", ["lora", "dora", "qlora", "ia3", "adapter"])
def test_only_the_last_layers(method: str) -> None:
    _, model = prepared("llama", method, layers=1)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(".layers.1." in name for name in trained)


# ---------------------------------------------------------------- each method's own


def test_four_bit_layers_hold_an_eighth_and_stand_for_their_dequantised_weights() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(96, 64)
    packed = FourBit(layer, "nf4", nested=False)
    assert packed.weight.numel() * packed.weight.element_size() * 8 == layer.weight.numel() * 4
    x, grad = torch.randn(5, 96, requires_grad=True), torch.randn(5, 64)
    whole = packed.whole()
    assert 0 < (whole.weight - layer.weight).abs().max() < 0.3 * layer.weight.abs().max()
    (packed(x) * grad).sum().backward()
    mine, x.grad = x.grad, None
    (whole(x) * grad).sum().backward()
    assert mine is not None
    assert x.grad is not None
    assert torch.allclose(packed(x), whole(x), atol=1e-6)
    assert torch.allclose(mine, x.grad, atol=1e-6)
    with torch.no_grad():
        told = packed.eval()(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert packed(x).dtype == torch.bfloat16
        assert torch.equal(packed.train()(x), told), "evaluation and training must compute the same, also after bf16"
    assert packed.bias is not None
    assert packed.bias.dtype == torch.float32
    assert torch.equal(copy.deepcopy(packed)(x), packed(x))


def test_qlora_learns_on_the_four_bit_base_and_leaves_the_output_layer_whole() -> None:
    _, model = prepared("llama", "qlora", quantisation="nf4", nested=True)
    network = network_of(model.body)
    four = [name for name, module in network.named_modules() if isinstance(module, FourBit)]
    assert len(four) == 14
    assert type(network.get_output_embeddings()) is nn.Linear
    assert model.frozen_as == "nf4 nested"
    assert prepared("llama", "qlora", quantisation="fp4", nested=False)[1].frozen_as == "fp4"


def test_virtual_tokens_read_flat_as_padded_and_refuse_rows_beyond_the_base() -> None:
    _, model = prepared("llama", "prompt_tuning", tokens=6)
    moved(model)
    tokens = Tokens.of(ROWS)
    with torch.no_grad():
        flat = model.hidden(tokens)
        object.__setattr__(model.fit, "flat", False)
        padded = model.hidden(tokens)
        assert torch.allclose(flat, padded, atol=1e-4)
    assert flat.shape[0] == tokens.ids.shape[1]
    room = model.body.config.max_position_embeddings
    with pytest.raises(PlugError, match="6 virtual ones is longer"):
        model.hidden(Tokens.of([[5] * (room - 5)]))


def test_generation_goes_on_behind_the_virtual_tokens(tmp_path: Path) -> None:
    """Greedy answers, together and alone, are those that the flat network would choose token by token."""
    from attune.testing.bench import bench

    place = bench("text_generation")
    specialist = place.tuned(catalog.build("methods", {"name": "prompt_tuning", "tokens": 5}))
    rows = place.questions()
    together = [one.output for one in specialist.predict(rows)]
    assert together == [specialist.predict([row])[0].output for row in rows]
    from attune.core.conversation import messages_of, prompt_ids

    ids, _ = prompt_ids(specialist, messages_of(rows[0]["prompt"], "prompt"), 100)
    written = list(ids)
    output = specialist.model.body.get_output_embeddings()
    with torch.no_grad():
        for _ in range(4):
            written.append(int(output(specialist.model.hidden(Tokens.of([written]))[-1]).argmax()))
    said = specialist.tokenizer.decode(written[len(ids) :], skip_special_tokens=True).strip()
    assert together[0].startswith(said)


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_of_another_shape_is_refused(tmp_path: Path, method: str) -> None:
    plug, model = prepared("llama", method)
    plug.save(model, tmp_path)

    def build(_base: Base, _signature: Any) -> TunableModel:
        config = transformers.LlamaConfig(**GROUPED | {"hidden_size": 48, "num_hidden_layers": 3})
        return TunableModel(transformers.LlamaForCausalLM(config))

    with pytest.raises((AttuneError, RuntimeError)):
        plug.load(SimpleNamespace(build=build), Base("x", None, tmp_path), {}, tmp_path)


@pytest.mark.parametrize("method", ["lora", "dora", "ia3"])
def test_a_saved_adapter_says_nothing_of_this_machine(tmp_path: Path, method: str) -> None:
    """PEFT fills in the folder that the base was loaded from, and adds a card with nothing in it; both would be part of the bundle's hash."""
    from attune.core.adapters import FOLDER

    transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)).save_pretrained(tmp_path / "base")
    plug = catalog.build("methods", method)
    model = plug.prepare(TunableModel(transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")), 1)
    plug.save(model, tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved" / FOLDER).iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert str(tmp_path) not in (tmp_path / "saved" / FOLDER / "adapter_config.json").read_text()


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "adapter"])
def test_an_adapter_for_fewer_layers_is_refused(tmp_path: Path, method: str) -> None:
    """PEFT would leave what is missing at random and say so in a warning alone."""
    plug, model = prepared("llama", method)
    plug.save(model, tmp_path)

    def build(_base: Base, _signature: Any) -> TunableModel:
        return TunableModel(transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED | {"num_hidden_layers": 1})))

    with pytest.raises((IntegrityError, ValueError)):
        plug.load(SimpleNamespace(build=build), Base("x", None, tmp_path), {}, tmp_path)


# ---------------------------------------------------------------- exports


@pytest.mark.parametrize(("method", "adapter"), [("dora", True), ("ia3", True), ("qlora", False)])
def test_the_transformers_export_answers_as_the_specialist(tmp_path: Path, method: str, adapter: bool) -> None:
    """An adapter beside its base; of a 4-bit base the whole network, because the adapter would answer otherwise on the whole base."""
    import json

    from attune.testing.bench import bench

    place = bench("text_generation")
    specialist = place.tuned(catalog.build("methods", method))
    bundle = place.bundle(specialist, tmp_path / "bundle")
    export, folder = catalog.build("exports", "transformers"), tmp_path / "out"
    folder.mkdir()
    export.write(specialist, bundle, folder)
    assert json.loads((folder / "answering.json").read_text())["adapter"] is adapter
    assert (folder / "adapter_config.json").is_file() is adapter
    rows = place.questions()
    assert [one.output for one in export.replay(folder, rows)] == [one.output for one in specialist.predict(rows)]


@pytest.mark.parametrize("method", ["adapter", "prompt_tuning"])
def test_the_transformers_export_refuses_what_no_plain_network_can_do(tmp_path: Path, method: str) -> None:
    from attune.testing.bench import bench

    place = bench("text_generation")
    with pytest.raises(PlugError, match="cannot be folded into the base"):
        catalog.build("exports", "transformers").write(place.tuned(catalog.build("methods", method)), tmp_path, tmp_path)
