"""Documents, hidden words and rewards through the whole cycle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attune.cli import program
from attune.core.randomness import generator
from attune.testing import tiny_llama

Asked = Callable[..., Any]
WHO, DOES, WHAT, WHEN = (
    ("the tenant", "the landlord", "the court"),
    ("pays", "repairs", "returns", "inspects"),
    ("the rent", "the roof", "the deposit"),
    ("in May", "each month", "before noon", "at once"),
)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asked:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Any:
        capsys.readouterr()
        code = program.run([*words, "--json"])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert code == 0, said.out + said.err
        return json.loads(said.out)

    return call


def documents(count: int, sentences: int) -> list[str]:
    draw = generator(5, "documents")

    def sentence() -> str:
        return " ".join(part[int(draw.integers(len(part)))] for part in (WHO, DOES, WHAT, WHEN))

    return [f"Case {number}: " + ". ".join(sentence() for _ in range(sentences + number % 3)) + "." for number in range(count)]


def test_documents_make_a_decoder_of_the_domain(tmp_path: Path, asked: Asked) -> None:
    texts = documents(150, 3)
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps({"id": f"c{i}", "content": text}) + "\n" for i, text in enumerate(texts)))
    tiny_llama(tmp_path / "base", texts)
    (tmp_path / "recipe.yaml").write_text(
        "name: reader\ntask: text_generation\nbase_model: base\nobjective: {name: pretraining, cut: sentences}\nmethod: full\n"
        "data: {path: cases.jsonl, checks: [encoding, types, exact_duplicates], splits: {test: 0.25}}\n"
        "train: {epochs: 3, batch_size: 16, learning_rate: 3e-3, max_length: 24, average: 0.9}\n"
        "grade: {probes: [], resamples: 200}\n"
        "gates: [{metric: perplexity, better_than: untouched_base}]\n"
    )
    made = asked("run", "recipe.yaml")
    assert made["verdict"] == "SHIP", made["reasons"]
    assert "pieces of at most 24 tokens" in made["checkpoint"]["chosen"]["rows"]
    results = made["scorecard"]["results"]
    assert set(results) == {"tuned", "untouched_base"}
    assert results["tuned"]["perplexity"]["value"] < 0.5 * results["untouched_base"]["perplexity"]["value"]


def test_documents_make_an_encoder_of_the_domain(tmp_path: Path, asked: Asked) -> None:
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(130, 1)))
    (tmp_path / "recipe.yaml").write_text(
        "name: adapted\ntask: fill_mask\nmethod: full\n"
        "data: {path: cases.jsonl, checks: [encoding, types], splits: {test: 0.3}}\n"
        "train: {epochs: 3, batch_size: 16, max_length: 32, average: 0.8}\n"
        "grade: {probes: [], resamples: 200}\n"
        "gates: [{metric: perplexity, better_than: untouched_base}]\n"
    )
    made = asked("run", "recipe.yaml")
    assert made["verdict"] == "SHIP", made["reasons"]
    assert set(made["scorecard"]["results"]["tuned"]) == {"perplexity", "masked_accuracy"}


def test_rewards_make_a_player(tmp_path: Path, asked: Asked) -> None:
    prompts = [f"say {first} {second} {number}" for number in range(12) for first, second in zip(WHO, WHAT, strict=True)] + [f"tell me {when} {number}" for number in range(30) for when in WHEN]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    tiny_llama(tmp_path / "base", prompts, vocabulary=280)
    (tmp_path / "recipe.yaml").write_text(
        "name: player\ntask: {name: text_generation, max_new_tokens: 4}\nbase_model: base\nmethod: full\n"
        "objective: {name: grpo, rewards: [{name: regex, pattern: '[aeiou]'}], group: 4, max_new_tokens: 4}\n"
        "data: {path: prompts.jsonl, checks: [encoding, types], splits: {test: 0.25}}\n"
        "train: {epochs: 3, batch_size: 16, learning_rate: 3e-3, max_length: 40, average: 0.0}\n"
        "grade: {probes: [], resamples: 200}\n"
        "gates: [{metric: mean_reward, better_than: untouched_base}]\n"
    )
    made = asked("run", "recipe.yaml")
    assert made["verdict"] == "SHIP", made["reasons"]
    assert made["scorecard"]["results"]["tuned"]["mean_reward"]["value"] > 0.9
