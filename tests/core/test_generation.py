"""Decoding against transformers' own, alone and among others; slots, cancelling, queues; adapters in one batch; families that fit and one that does not."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from attune.core import generation, kv_cache
from attune.core.adapter_bank import Adapter, Bank, own_adapter, read_adapter
from attune.core.errors import DataError, IntegrityError, MachineError, RecipeError, Refused
from attune.core.generation import Full, Generator, Request
from attune.core.kv_cache import CachedReader, PlainReader, reader_of
from attune.core.sampling import Said, Sampling, choose
from attune.core.text_stream import TextStream, token_bytes
from attune.core.tool_calls import CallForm, calls_in

SMALL = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
FAMILIES: dict[str, Any] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SMALL, head_dim=16)),
    "mistral with a window": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL, sliding_window=8)),
    "gemma2 with a window and soft caps": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**SMALL, head_dim=8, sliding_window=8, attn_logit_softcapping=5.0, final_logit_softcapping=3.0)
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=256)),
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256, word_embed_proj_dim=32)
    ),
    "mamba, which keeps no keys": lambda: transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=8)),
}


def network(name: str = "llama", seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = FAMILIES[name]()
        with torch.no_grad():
            for one in made.parameters():
                if one.dim() > 1:
                    one.mul_(8)  # far from uniform, so that a wrong token cannot hide
    made.config.pad_token_id = 0
    return made.eval()


def prompts(count: int = 9, longest: int = 30, seed: int = 3) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, longest, (count,), generator=draw).tolist()
    return [torch.randint(4, 97, (size,), generator=draw).tolist() for size in sizes]


def reference(model: Any, prompt: list[int], size: int, **more: Any) -> list[int]:
    with torch.no_grad():
        found = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=size,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=more.pop("eos", None),
            **more,
        )
    return found[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_answers_are_those_of_transformers(name: str) -> None:
    model = network(name)
    asked = prompts()
    told = [reference(model, one, 12) for one in asked]
    found = Generator(model, slots=4).run([Request(one, Sampling(max_tokens=12)) for one in asked])
    assert [one.ids for one in found] == told
    assert {one.finish for one in found} == {"length"}
    assert len({tuple(one) for one in told}) > 1, "the network must say different things"


@pytest.mark.parametrize("name", FAMILIES)
def test_which_families_are_read_with_a_cache(name: str) -> None:
    why: list[str] = []
    reader = reader_of(network(name), why.append)
    if "no keys" in name:
        assert isinstance(reader, PlainReader)
        assert why
    else:
        assert isinstance(reader, CachedReader), why


def test_a_cache_that_answers_differently_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the test above: a fault in the attention is found by the trial, and the answers stay right."""
    put = kv_cache.Slots.put
    monkeypatch.setattr(kv_cache.Slots, "put", lambda self, layer, rows, places, keys, values: put(self, layer, rows, places, keys, values * (1.01 if layer else 1.0)))
    model, why = network(), []
    generator = Generator(model, told=why.append)
    assert isinstance(generator.reader, PlainReader)
    assert "differs" in why[0]
    asked = prompts(3)
    assert [one.ids for one in generator.run([Request(one, Sampling(max_tokens=6)) for one in asked])] == [reference(model, one, 6) for one in asked]


def test_long_answers_outgrow_the_first_slots() -> None:
    model = network()
    asked = prompts(6)
    generator = Generator(model, slots=6)
    found = generator.run([Request(one, Sampling(max_tokens=150 if number % 2 else 5)) for number, one in enumerate(asked)])
    for number, (one, answer) in enumerate(zip(asked, found, strict=True)):
        assert answer.ids == reference(model, one, 150 if number % 2 else 5)
    assert generator.reader.slots.places == 256
    assert generator.reader.slots.lengths == []


MIXED = [
    Sampling(max_tokens=14, temperature=1.0, seed=5, request=1),
    Sampling(max_tokens=9, temperature=0.7, top_p=0.8, seed=5, request=2),
    Sampling(max_tokens=12, temperature=1.3, top_k=7, seed=6),
    Sampling(max_tokens=11, temperature=1.0, min_p=0.05, repetition_penalty=1.3, seed=5, request=4),
    Sampling(max_tokens=10, frequency_penalty=0.8, presence_penalty=0.5),
    Sampling(max_tokens=13),
]


def test_what_else_is_in_the_batch_changes_nothing() -> None:
    model = network()
    asked = prompts(6)
    alone = [Generator(model).run([Request(one, sampling)])[0].ids for one, sampling in zip(asked, MIXED, strict=True)]
    together = [one.ids for one in Generator(model, slots=3).run([Request(one, sampling) for one, sampling in zip(asked, MIXED, strict=True)])]
    backwards = [one.ids for one in Generator(model).run([Request(one, sampling) for one, sampling in zip(asked[::-1], MIXED[::-1], strict=True)])][::-1]
    assert alone == together == backwards
    other = [Generator(model).run([Request(one, dataclasses.replace(sampling, seed=99))])[0].ids for one, sampling in zip(asked[:4], MIXED[:4], strict=True)]
    assert all(a != b for a, b in zip(alone, other, strict=False)), "another seed must say something else"


def test_a_shared_prompt_is_read_once_and_answered_by_request() -> None:
    model = network()
    prompt = prompts(1, 30)[0] * 3
    asked = [Request(prompt, Sampling(max_tokens=8, temperature=1.0, seed=1, request=number)) for number in range(5)]
    generator = Generator(model)
    read: list[int] = []
    before = generator.reader.prompts
    generator.reader.prompts = lambda rows, adapters=(): (read.append(len(rows)), before(rows, adapters))[1]
    together = [one.ids for one in generator.run(asked)]
    assert read == [1]
    assert together == [Generator(model).run([one])[0].ids for one in asked]
    assert len({tuple(one) for one in together}) == 5


@pytest.mark.parametrize(("name", "settings"), [("top_k", {"top_k": 5}), ("top_p", {"top_p": 0.6}), ("min_p", {"min_p": 0.2}), ("all three", {"top_k": 20, "top_p": 0.7, "min_p": 0.02}), ("none", {})])
@pytest.mark.parametrize("head", [4, 512])
def test_drawn_tokens_follow_the_limits_of_transformers(name: str, settings: dict[str, Any], head: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same set of tokens can be drawn as by transformers' own warpers, with the same probabilities (chi-square, bound at 1 in 100,000)."""
    from scipy.stats import chisquare
    from transformers import LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    monkeypatch.setattr("attune.core.sampling.HEAD", head)
    logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(2)) * 2
    warpers: list[Any] = [TemperatureLogitsWarper(0.9)]
    warpers += [kind(settings[key]) for key, kind in (("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper), ("min_p", MinPLogitsWarper)) if key in settings]
    wanted = LogitsProcessorList(warpers)(torch.zeros(1, 1, dtype=torch.long), logits.clone()).softmax(-1)[0].double()
    count = 3000
    said = [Said(Sampling(temperature=0.9, seed=8, request=number, **settings), [1], []) for number in range(count)]
    seen = torch.bincount(torch.tensor([one.token for one in choose(logits.expand(count, -1), said)]), minlength=60).double()
    assert not bool(seen[wanted == 0].any())
    often = wanted * count >= 5
    observed, expected = [*seen[often].tolist(), float(seen[~often].sum())], [*(wanted[often] * count).tolist(), float((wanted[~often] * count).sum())]
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    assert len(observed) == 1 or chisquare(observed, [one * sum(observed) / sum(expected) for one in expected]).pvalue > 1e-5


def test_repetition_penalty_is_that_of_transformers() -> None:
    model, asked = network(), prompts(4)
    found = Generator(model).run([Request(one, Sampling(max_tokens=15, repetition_penalty=1.7)) for one in asked])
    told = [reference(model, one, 15, repetition_penalty=1.7) for one in asked]
    assert [one.ids for one in found] == told
    assert told != [reference(model, one, 15) for one in asked]


def test_log_probabilities_are_the_networks_own() -> None:
    model, prompt = network(), prompts(1)[0]
    [answer] = Generator(model).run([Request(prompt, Sampling(max_tokens=6, temperature=1.5, logit_bias={5: -100.0}, seed=3, top_logprobs=4))])
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([prompt + answer.ids])).logits[0, len(prompt) - 1 :].log_softmax(-1)
    for place, choice in enumerate(answer.choices):
        assert choice.logprob == pytest.approx(float(logs[place, choice.token]), abs=1e-4)
        assert [one for one, _ in choice.top] == logs[place].topk(4).indices.tolist()


def test_an_end_token_ends_and_the_context_bounds() -> None:
    model, prompt = network(), prompts(1)[0]
    free = reference(model, prompt, 20)
    end = free[6]
    [answer] = Generator(model).run([Request(prompt, Sampling(max_tokens=20), frozenset({end}))])
    assert answer.ids == free[: free.index(end) + 1]
    assert answer.finish == "stop"
    [full] = Generator(model).run([Request([5] * 250, Sampling(max_tokens=50))])
    assert (len(full.ids), full.finish) == (6, "length")
    with pytest.raises(DataError, match="no room"):
        Generator(model).submit(Request([5] * 256))
    with pytest.raises(DataError, match="empty"):
        Generator(model).submit(Request([]))


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": -0.1}, {"max_tokens": 0}, {"min_p": 2.0}, {"stop": ("",)}, {"temperature": float("nan")}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="means nothing"):
        Sampling(**wrong)


def test_cancelling_frees_the_slot_and_leaves_the_others() -> None:
    model, asked = network(), prompts(4)
    generator = Generator(model, slots=2)
    tickets = [generator.submit(Request(one, Sampling(max_tokens=40 if number < 2 else 6))) for number, one in enumerate(asked)]
    generator.step()
    assert len(generator._running) == 2
    tickets[0].cancel()
    tickets[3].cancel()
    while generator.step():
        pass
    for number in (0, 3):
        with pytest.raises(CancelledError):
            tickets[number].answer.result(0)
    assert len(tickets[0].ids) < 5
    assert [tickets[i].answer.result(0).ids for i in (1, 2)] == [reference(model, asked[1], 40), reference(model, asked[2], 6)]
    assert generator.reader.slots.lengths == []
    assert generator.busy == 0


def test_a_full_queue_says_so() -> None:
    generator = Generator(network(), slots=1, waiting=2)
    for _ in range(3):
        generator.submit(Request([5, 6]))
    with pytest.raises(Full, match="wait already"):
        generator.submit(Request([5, 6]))


def test_memory_bounds_how_many_run_and_all_are_answered() -> None:
    model, asked = network(), prompts(8)
    small = Generator(model, memory=reader_of(model).bytes_for(4, 100))
    most = 0
    tickets = [small.submit(Request(one, Sampling(max_tokens=10))) for one in asked]
    while small.step():
        most = max(most, len(small._running))
    assert 1 < most <= 4
    assert [one.answer.result(0).ids for one in tickets] == [reference(model, one, 10) for one in asked]


def test_a_listener_that_fails_hurts_only_its_own() -> None:
    model, asked = network(), prompts(3)

    def broken(_: Any) -> None:
        raise ValueError("gone")

    generator = Generator(model)
    tickets = [generator.submit(Request(one, Sampling(max_tokens=8), listener=broken if number == 1 else None)) for number, one in enumerate(asked)]
    while generator.step():
        pass
    with pytest.raises(ValueError, match="gone"):
        tickets[1].answer.result(0)
    assert [tickets[i].answer.result(0).ids for i in (0, 2)] == [reference(model, asked[i], 8) for i in (0, 2)]


def test_a_thread_takes_requests_while_others_run() -> None:
    model, asked = network(), prompts(12)
    generator = Generator(model, slots=4)
    generator.start()
    try:
        found: dict[int, list[int]] = {}
        threads = [threading.Thread(target=lambda i=i: found.update({i: generator.run([Request(asked[i], Sampling(max_tokens=10))])[0].ids})) for i in range(12)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
    finally:
        generator.stop()
    assert [found[i] for i in range(12)] == [reference(model, one, 10) for one in asked]
    assert not generator.alive()


def test_a_step_that_fails_ends_its_requests_and_not_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(network())
    generator.start()
    try:
        run = generator.reader.tokens
        monkeypatch.setattr(generator.reader, "tokens", lambda *_: (_ for _ in ()).throw(RuntimeError("planted")))
        with pytest.raises(RuntimeError, match="planted"):
            generator.run([Request([5, 6], Sampling(max_tokens=5))])
        monkeypatch.setattr(generator.reader, "tokens", run)
        assert len(generator.run([Request([5, 6], Sampling(max_tokens=5))])[0].ids) == 5
    finally:
        generator.stop()


def test_a_temperature_of_almost_nothing_is_greedy() -> None:
    model, asked = network(), prompts(3)
    wanted = [reference(model, one, 8) for one in asked]
    settings = [Sampling(max_tokens=8, temperature=1e-40), Sampling(max_tokens=8), Sampling(max_tokens=8, temperature=1e-40, top_p=0.5, as_drawn=True)]
    assert [one.ids for one in Generator(model).run([Request(one, sampling) for one, sampling in zip(asked, settings, strict=True)])] == wanted


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=8, temperature=1.0, repetition_penalty=1e-44),
        Sampling(max_tokens=8, temperature=1.0, top_p=0.9, repetition_penalty=1e-44),
        Sampling(max_tokens=8, temperature=1.0, min_p=0.1, top_k=3, repetition_penalty=1e-44),
    ],
)
def test_an_answer_without_probabilities_fails_alone(sampling: Sampling) -> None:
    model, asked = network(), prompts(3)
    generator = Generator(model)
    tickets = [generator.submit(Request(one, sampling if number == 1 else Sampling(max_tokens=8))) for number, one in enumerate(asked)]
    while generator.step():
        pass
    with pytest.raises(MachineError, match="no probabilities"):
        tickets[1].answer.result(0)
    assert [tickets[i].answer.result(0).ids for i in (0, 2)] == [reference(model, asked[i], 8) for i in (0, 2)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_network_that_gives_no_numbers_for_one_row_fails_that_row(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = network(), prompts(3)
    generator = Generator(model)
    read = generator.reader.tokens
    monkeypatch.setattr(generator.reader, "tokens", lambda *given: torch.cat([(found := read(*given))[:1] * float("nan"), found[1:]]) if generator.steps == 2 else read(*given))
    tickets = [generator.submit(Request(one, Sampling(max_tokens=8, temperature=temperature if number == 0 else 0.0))) for number, one in enumerate(asked)]
    while generator.step():
        pass
    with pytest.raises(MachineError, match="no probabilities"):
        tickets[0].answer.result(0)
    assert [tickets[i].answer.result(0).ids for i in (1, 2)] == [reference(model, asked[i], 8) for i in (1, 2)]


@pytest.mark.parametrize("name", ["repeat", "prompts"])
def test_a_join_that_fails_leaves_nobody_waiting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(network())

    def planted(*_: Any) -> Any:
        raise ValueError("planted")

    monkeypatch.setattr(generator.reader, name, planted)
    tickets = [generator.submit(Request([5, 6, 7], Sampling(max_tokens=4, temperature=1.0, seed=number))) for number in range(3)]
    generator.start()
    try:
        for one in tickets:
            with pytest.raises(ValueError, match="planted"):
                one.answer.result(60)
        monkeypatch.undo()
        assert len(generator.run([Request([5, 6], Sampling(max_tokens=5))])[0].ids) == 5
    finally:
        generator.stop()


def test_biases_must_be_numbers() -> None:
    with pytest.raises(RecipeError, match="logit_bias"):
        Sampling(logit_bias={5: float("nan")})


# ---------------------------------------------------------------- adapters


def adapted(seed: int, folder: Path, rank: int = 4, name: str = "llama", **more: Any) -> Any:
    """The network with a LoRA by PEFT whose update is not zero, saved as a method saves it; returns PEFT's model."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        targets = ["c_attn", "c_proj"] if name == "gpt2" else ["q_proj", "v_proj", "down_proj"] if seed % 2 else ["q_proj", "o_proj", "up_proj"]
        body = get_peft_model(network(name), LoraConfig(r=rank, lora_alpha=7, target_modules=targets, fan_in_fan_out=name == "gpt2", **more))
        with torch.no_grad():
            for part, one in body.named_parameters():
                if "lora_B" in part:
                    one.normal_(std=1.0)
    body.save_pretrained(folder / "adapter")
    return body.eval()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_row_of_a_batch_is_answered_with_its_own_adapter(name: str, tmp_path: Path) -> None:
    asked = prompts(10)
    bodies = [adapted(seed, tmp_path / str(seed), rank=3 + seed, name=name, use_rslora=seed == 2) for seed in range(4)]
    served = bodies[0]
    generator = Generator(served, slots=5)
    for seed in (1, 2, 3):
        generator.load(read_adapter(str(seed), tmp_path / str(seed)))
    which = [number % 4 for number in range(10)]
    told = [reference(bodies[i], one, 10) for i, one in zip(which, asked, strict=True)]
    found = generator.run([Request(one, Sampling(max_tokens=10), adapter=str(i) if i else None) for i, one in zip(which, asked, strict=True)])
    assert [one.ids for one in found] == told
    plain = network(name)
    assert sum(a != reference(plain, one, 10) for a, one in zip(told, asked, strict=True)) >= 8, "the adapters must change the answers"
    generator.stop()
    assert reference(served, asked[0], 10) == told[0], "the network must be as it was"


def test_adapters_on_a_network_without_one(tmp_path: Path) -> None:
    adapted_body = adapted(1, tmp_path)
    model, asked = network(), prompts(4)
    generator = Generator(model)
    generator.load(read_adapter("one", tmp_path))
    found = generator.run([Request(one, Sampling(max_tokens=8), adapter="one" if number % 2 else None) for number, one in enumerate(asked)])
    assert [one.ids for one in found] == [reference(adapted_body if number % 2 else network(), one, 8) for number, one in enumerate(asked)]


def test_an_evicted_adapter_serves_what_runs_with_it_and_nothing_more(tmp_path: Path) -> None:
    body, prompt = adapted(1, tmp_path), prompts(1)[0]
    generator = Generator(network())
    generator.load(read_adapter("one", tmp_path))
    ticket = generator.submit(Request(prompt, Sampling(max_tokens=20), adapter="one"))
    generator.step()
    assert generator.evict("one")
    assert not generator.evict("one")
    with pytest.raises(Refused, match="not loaded"):
        generator.submit(Request(prompt, adapter="one"))
    while generator.step():
        pass
    assert ticket.answer.result(0).ids == reference(body, prompt, 20)


def test_adapters_that_cannot_share_a_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(Refused, match="no adapter"):
        read_adapter("none", tmp_path)
    adapted(1, tmp_path / "dora", use_dora=True)
    with pytest.raises(Refused, match="use_dora"):
        read_adapter("dora", tmp_path / "dora")
    adapted(1, tmp_path / "zero")
    path = tmp_path / "zero" / "adapter" / "adapter_model.safetensors"
    kept = load_file(path)
    save_file({key: value * ("lora_B" not in key) for key, value in kept.items()}, path)
    with pytest.raises(IntegrityError, match="changes nothing"):
        read_adapter("zero", tmp_path / "zero")
    other = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, "hidden_size": 64})).eval()
    save_file(kept, path)
    with pytest.raises(Refused, match="another base"):
        Generator(other).load(read_adapter("one", tmp_path / "zero"))
    with pytest.raises(Refused, match="cannot carry"):
        Generator(network("mamba, which keeps no keys")).load(Adapter("x", {}))
    assert own_adapter(adapted(2, tmp_path / "dora again", use_dora=True)) is None


def test_a_bank_that_mixes_rows_up_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The must-fail twin: with the stacks shifted by one slot the answers are others."""
    bodies = [adapted(seed, tmp_path / str(seed)) for seed in (1, 3)]
    asked = prompts(4)
    fill = Bank._fill
    monkeypatch.setattr(Bank, "_fill", lambda self, adapters: fill(self, [*adapters[1:], adapters[0]]))
    generator = Generator(network())
    for seed in (1, 3):
        generator.load(read_adapter(str(seed), tmp_path / str(seed)))
    found = generator.run([Request(one, Sampling(max_tokens=10), adapter="13"[number % 2]) for number, one in enumerate(asked)])
    assert [one.ids for one in found] != [reference(bodies[number % 2], one, 10) for number, one in enumerate(asked)]


# ---------------------------------------------------------------- text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from attune.testing.models import tiny_llama

    return transformers.AutoTokenizer.from_pretrained(tiny_llama(tmp_path_factory.mktemp("words"), ["the cat sat on the mat, and then the end came", "naïve café"]))


@pytest.mark.parametrize("text", ["naïve café, the cat 🐈‍⬛ sat 中文字 on the mat", "a", " leading and trailing ", "\n\nlines\n", "🐈🐈🐈"])
def test_pieces_are_the_whole_and_no_piece_is_half_a_character(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert any(b"\xf0\x9f" in token_bytes(tokenizer, one) or token_bytes(tokenizer, one) == b"\xf0" for one in ids) == ("🐈" in text)
    stream = TextStream(tokenizer)
    pieces = [stream.push(one) for one in ids] + [stream.end()]
    assert "".join(pieces) == text == stream.text
    assert not any("\ufffd" in one for one in pieces)


def test_bytes_that_are_no_character_are_shown_as_the_decoder_shows_them(tokenizer: Any) -> None:
    cat, word = tokenizer("🐈", add_special_tokens=False)["input_ids"], tokenizer(" the", add_special_tokens=False)["input_ids"]
    for ids in (cat[:-1], cat[:-1] + word, word + cat[:1] + word):
        stream = TextStream(tokenizer)
        assert "".join([stream.push(one) for one in ids] + [stream.end()]) == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("the cat sat on the mat", (" sat",), "the cat"),
        ("the cat sat on the mat", ("t s", "cat"), "the "),
        ("the cat sat", ("dog",), "the cat sat"),
        ("the end the en", ("the end!",), "the end the en"),
        ("aaab", ("aab",), "a"),
        ("café 🐈 end", ("🐈",), "café "),
    ],
)
def test_stop_texts_are_found_across_tokens_and_never_shown(tokenizer: Any, text: str, stop: tuple[str, ...], wanted: str) -> None:
    for ids in (tokenizer(text, add_special_tokens=False)["input_ids"], [one for letter in text for one in tokenizer(letter, add_special_tokens=False)["input_ids"]]):
        stream = TextStream(tokenizer, stop)
        said = ""
        for token in ids:
            said += stream.push(token)
            assert wanted.startswith(said), "nothing may be told that is taken back"
            if stream.stopped:
                break
        assert said + stream.end() == wanted
        assert stream.stopped == (wanted != text)


def test_a_stop_text_ends_an_answer(tokenizer: Any) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, "vocab_size": len(tokenizer)})).eval()
    request = Request(tokenizer("the cat")["input_ids"], Sampling(max_tokens=40, temperature=1.0, seed=2), tokenizer=tokenizer)
    [free] = Generator(model).run([request])
    stop = free.text[7:9]
    [cut] = Generator(model).run([dataclasses.replace(request, sampling=dataclasses.replace(request.sampling, stop=(stop,)))])
    assert cut.finish == "stop"
    assert cut.text == free.text[: free.text.index(stop)]
    assert len(cut.ids) < len(free.ids)


# ---------------------------------------------------------------- JSON


SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["cat", "dog"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["ok", "kind", "count"],
    "additionalProperties": False,
}


def test_answers_obey_a_schema_whatever_the_network_would_say(tokenizer: Any) -> None:
    import json

    import jsonschema

    from attune.core.json_grammar import Vocabulary

    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, "vocab_size": len(tokenizer)})).eval()
    vocabulary = Vocabulary(tokenizer, [tokenizer.eos_token_id])
    asked = [
        Request(
            tokenizer("the cat")["input_ids"],
            Sampling(max_tokens=200, temperature=1.0, seed=number),
            frozenset({tokenizer.eos_token_id}),
            tokenizer,
            grammar=vocabulary.grammar(SCHEMA) if number % 2 else None,
        )
        for number in range(8)
    ]
    found = Generator(model).run(asked)
    for number, one in enumerate(found):
        if number % 2:
            assert one.finish == "stop"
            jsonschema.validate(json.loads(one.text), SCHEMA)
        else:
            with pytest.raises(json.JSONDecodeError):
                json.loads(one.text)


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"type": "object", "properties": 3}, {"$ref": "#/none"}, {"type": "string", "pattern": "(" * 40}, {"enum": ["x" * 70_000]}])
def test_schemas_that_cannot_be_obeyed_are_refused(tokenizer: Any, schema: dict[str, Any]) -> None:
    from attune.core.json_grammar import Vocabulary

    with pytest.raises(DataError, match="schema"):
        Vocabulary(tokenizer, [tokenizer.eos_token_id]).grammar(schema)


@pytest.mark.parametrize(
    "form", [CallForm("", "", "name", "parameters", False), CallForm("[CALLS]", "", "name", "arguments", True), CallForm("<tool_call>", "</tool_call>", "name", "arguments", False)]
)
def test_a_call_is_written_in_the_form_of_the_template(tokenizer: Any, form: CallForm) -> None:
    from attune.core.json_grammar import Vocabulary

    inner = {"properties": {"at": {"enum": ['the "mat"']}}, "required": ["at"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": name, "parameters": inner}} for name in ("look", "sit \\ down")]
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 512})).eval()
    stop, vocabulary = tokenizer.eos_token_id, Vocabulary(tokenizer, [tokenizer.eos_token_id])
    asked = [Request([5, 6], Sampling(max_tokens=400, temperature=1.0, seed=number), frozenset({stop}), tokenizer, grammar=vocabulary.calls(form, tools)) for number in range(4)]
    for one in Generator(model).run(asked):
        said, [call] = calls_in(form, one.text, ("look", "sit \\ down")) or ("", [{}])
        assert (said, one.finish, call["arguments"]) == ("", "stop", {"at": 'the "mat"'})


def test_generate_numbers_the_rows_of_one_seed(tokenizer: Any) -> None:
    from types import SimpleNamespace

    heard: list[tuple[str, int, int]] = []
    specialist: Any = SimpleNamespace(model=SimpleNamespace(body=network()), tokenizer=tokenizer, generator=None, told=lambda *said: heard.append(said))
    asked = prompts(4)
    found = generation.generate(specialist, asked, Sampling(max_tokens=6, temperature=1.0, seed=4), stops=[])
    again = [Generator(network()).run([Request(one, Sampling(max_tokens=6, temperature=1.0, seed=4, request=number))])[0].ids for number, one in enumerate(asked)]
    assert [one.ids for one in found] == again
    assert heard[-1] == ("writes answers", 4, 4)
