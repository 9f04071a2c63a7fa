"""Parity: voices, greedy answers from drafts, and what counts as the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attune.core import catalog
from attune.core.contracts import Prediction
from attune.core.errors import IntegrityError
from attune.core.parity import EXACT, Limits, NetworkVoice, Voice, constants_of, differences, examine, metric_difference, other_constants, room_of, voice_of
from attune.core.specialist import Specialist
from tests import speakers


@pytest.fixture(scope="module")
def specialist(tmp_path_factory: pytest.TempPathFactory) -> Specialist:
    return speakers.speaker(speakers.base_of(tmp_path_factory.mktemp("base") / "llama"))


def judged(specialist: Specialist, theirs: Voice, limits: Limits = EXACT, rows: list | None = None) -> dict:
    longest, most = room_of(specialist)
    return examine(voice_of(specialist), theirs, rows or speakers.ROWS, longest=longest, most=most, limits=limits, first=specialist.tokenizer.bos_token_id)[0]


def test_a_model_is_itself(specialist: Specialist) -> None:
    found = judged(specialist, voice_of(specialist))
    assert found["disagreements"] == []
    assert found["token_agreement"] == 1.0
    assert found["divergence_mean"] == 0.0
    assert found["answers_the_same"] == found["prompts_with_the_same_tokens"] == len(speakers.ROWS)


def test_what_the_voice_says_is_what_the_task_answers(specialist: Specialist) -> None:
    voice, (_, most) = voice_of(specialist), room_of(specialist)
    said = [voice.spoken(voice.answer(voice.prompt(row["prompt"]), most)) for row in speakers.ROWS]
    assert said == [one.output for one in specialist.predict(speakers.ROWS)]


def test_a_draft_saves_steps_and_changes_nothing(specialist: Specialist) -> None:
    voice = voice_of(specialist)
    prompt = voice.prompt(speakers.ROWS[0]["prompt"])
    true = voice.answer(prompt, 8)
    passes = []
    hear = voice.logits
    voice.logits = lambda ids: passes.append(1) or hear(ids)  # type: ignore[method-assign, func-returns-value]
    assert Voice.answer(voice, prompt, 8, true) == true
    assert len(passes) == 1
    wrong = [*true[:3], (true[3] + 1) % 300, *true[4:]]
    assert Voice.answer(voice, prompt, 8, wrong) == true
    assert Voice.answer(voice, prompt, 8) == true
    voice.stops = frozenset({true[2]})
    assert Voice.answer(voice, prompt, 8, true) == true[: true.index(true[2]) + 1]


def test_what_differs_before_a_word_is_said(specialist: Specialist) -> None:
    own = voice_of(specialist)
    other = voice_of(specialist)
    assert differences(own, other) == []
    other.template = str(own.template) + " "
    assert "template" in differences(own, other)[0]
    other = voice_of(specialist)
    other.stops = frozenset()
    assert "ends an answer of the tuned model" in differences(own, other)[0]
    other.stops = own.stops | {40}
    assert differences(own, other) == ["token 40 ends its answers and none of the tuned model's"]
    other.stops = own.stops | {specialist.tokenizer.bos_token_id}
    assert differences(own, other) == []  # a special token that no answer holds
    other.constants = {**constants_of(specialist.model.body), "norm_epsilon": 1e-5}
    assert differences(own, other) == ["its norm epsilon is 1e-05, the tuned model's is 1e-06"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"end_tokens": [1, 3]}, None),
        ({"end_tokens": [0, 3]}, "its end tokens are 0, 3, the tuned model's are 1, 3"),
        ({"end_tokens": [3]}, "its end tokens are 3, the tuned model's are 1, 3"),
        ({"end_tokens": []}, "its end tokens are none, the tuned model's are 1, 3"),
        ({"norm_epsilon": (float(np.float32(1e-6)),), "layers": 2}, None),
        ({"norm_epsilon": (1e-6, 1e-5)}, "its norm epsilon is 1e-06, 1e-05, the tuned model's is 1e-06"),
        ({"layers": 3}, "its layers are 3, the tuned model's are 2"),
    ],
    ids=str,
)
def test_what_a_file_states_of_ends_and_constants(said: dict, told: str | None, specialist: Specialist) -> None:
    """An engine may know more ends than the file names; one that obeys the file does not."""
    own, theirs = voice_of(specialist), voice_of(specialist)
    assert own.stops == {1, 3}
    theirs.constants = said
    assert differences(own, theirs) == ([told] if told else [])


def test_constants_are_as_exact_as_float32() -> None:
    assert other_constants({"end_tokens": {128001}}, {"end_tokens": [128000]}) == ["its end tokens are 128000, the tuned model's are 128001"]
    assert other_constants({"rope_base": 1e6}, {"rope_base": 5e6}) == ["its rope base is 5000000, the tuned model's is 1000000"]
    assert other_constants({"rope_base": 3580165449.0, "heads": 4}, {"rope_base": float(np.float32(3580165449.0)), "layers": 4}) == []


def test_epsilons_are_those_that_the_modules_compute_with(specialist: Specialist) -> None:
    import torch
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, OlmoConfig, OlmoForCausalLM

    shape = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(**shape, rms_norm_eps=1e-5))
    llama.model.layers[1].input_layernorm.variance_epsilon = 1e-6
    assert constants_of(llama)["norm_epsilon"] == (1e-6, 1e-5)
    assert constants_of(BertModel(BertConfig(**shape)))["norm_epsilon"] == (1e-12,)
    assert "norm_epsilon" not in constants_of(OlmoForCausalLM(OlmoConfig(**shape, pad_token_id=0)))  # its modules hide it and its configuration has none
    llama.model.norm = type("HiddenNorm", (torch.nn.Module,), {})()
    assert constants_of(llama)["norm_epsilon"] == 1e-5  # as its configuration says


def test_another_model_is_told_with_row_and_reason(specialist: Specialist, tmp_path: Path) -> None:
    other = speakers.speaker(speakers.base_of(tmp_path / "other", seed=5))
    found = judged(specialist, voice_of(other))
    assert any("nats from the tuned model's" in one["why"] for one in found["disagreements"])
    assert any(one["row_id"] == "r0" and "of the answer is" in one["why"] for one in found["disagreements"])
    near = NetworkVoice(specialist.model.body, specialist.tokenizer, voice_of(specialist).template, sorted(voice_of(specialist).stops))
    hear = near.logits
    near.logits = lambda ids: hear(ids) * 1.05  # type: ignore[method-assign]
    assert judged(specialist, near)["disagreements"], "the same choices with other certainty"
    near.logits = lambda ids: hear(ids) + 7.0  # type: ignore[method-assign]
    assert judged(specialist, near)["disagreements"] == [], "a constant on all logits is no difference"
    near.logits = lambda ids: hear(ids) * np.float32("nan")  # type: ignore[method-assign]
    assert judged(specialist, near)["disagreements"], "no number is no agreement"
    near.logits = lambda ids: hear(ids)[:, :-1]  # type: ignore[method-assign]
    assert "it chooses from" in judged(specialist, near)["disagreements"][0]["why"]


def test_nothing_to_answer_is_an_error(specialist: Specialist) -> None:
    class Mute(NetworkVoice):
        def prompt(self, messages, tools=None):
            return []

    own = voice_of(specialist)
    mute = Mute(own.network, own.tokenizer, own.template, sorted(own.stops))
    with pytest.raises(IntegrityError, match="none of the golden rows"):
        examine(mute, mute, speakers.ROWS, longest=9, most=4, limits=EXACT)


def test_metric_difference() -> None:
    task, metric = catalog.build("tasks", "text_generation"), catalog.build("metrics", "exact_match")
    rows = [{"completion": "a"}, {"completion": "b"}, {"completion": None}]
    a, b = [Prediction("a"), Prediction("b"), Prediction("c")], [Prediction("a"), Prediction("x"), Prediction("d")]
    assert metric_difference(metric, task, {}, rows, a, b) == {"name": "exact_match", "rows": 2, "tuned": 1.0, "exported": 0.5, "difference": 0.5}
    assert metric_difference(metric, task, {}, rows[2:], a[2:], b[2:]) is None
