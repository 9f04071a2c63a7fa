"""The two other specialists through the same command line: text_generation x sft x lora, and embedding x contrastive x full."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attune.cli import program
from attune.core.randomness import generator
from attune.testing import tiny_llama

ANSWERS = {"where is": "It is on its way.", "cancel": "It is cancelled.", "I lost": "A new one was sent.", "who pays for": "We do, of course."}
THINGS = ("parcel", "invoice", "order", "voucher", "card", "ticket")
WORDS = ("please", "today", "now", "again", "hello", "thanks", "urgent", "kindly", "quick", "sorry")
Attune = Callable[..., tuple[int, str]]


def talk(count: int) -> list[tuple[str, str]]:
    """Questions in many wordings, each with one of four answers."""
    draw = generator(3, "talk")
    found = []
    for i in range(count):
        asked = sorted(ANSWERS)[i % 4]
        around = [WORDS[int(draw.integers(len(WORDS)))] for _ in range(4)]
        found.append((f"{around[0]} {around[1]} {asked} my {THINGS[int(draw.integers(len(THINGS)))]} {around[2]} {around[3]}", ANSWERS[asked]))
    return found


@pytest.fixture
def attune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Attune:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = program.run(list(words))
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert code == 0, said.out + said.err
        return code, said.out

    return call


def asked(attune: Attune, *words: str) -> Any:
    return json.loads(attune(*words, "--json")[1])


def test_a_speaker(tmp_path: Path, attune: Attune) -> None:
    rows = talk(160)
    lines = [json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}) for q, a in rows]
    (tmp_path / "talk.jsonl").write_text("\n".join(lines) + "\n")
    tiny_llama(tmp_path / "base", [text for pair in rows for text in pair])
    (tmp_path / "recipe.yaml").write_text(
        "name: speaker\n"
        "task: {name: text_generation, max_new_tokens: 16}\n"
        "base_model: base\n"
        "objective: sft\n"
        "method: {name: lora, rank: 16}\n"
        "data: {path: talk.jsonl, checks: [encoding, types, exact_duplicates]}\n"
        "train: {epochs: 8, batch_size: 16, learning_rate: 5e-3, max_length: 64, evaluations_per_epoch: 1}\n"
        "grade: {rivals: [majority, untouched_base], probes: [], resamples: 200}\n"
        "gates: [{metric: token_f1, better_than: majority}, {metric: exact_match, better_than: untouched_base}]\n"
    )
    made = asked(attune, "run", "recipe.yaml")
    assert made["verdict"] == "SHIP", made["reasons"]
    assert made["checkpoint"]["objective"] == "sft"
    assert made["checkpoint"]["method"] == "lora"
    attune("promote", "speaker")
    answers = asked(attune, "predict", "speaker", "please cancel my order now", "where is my card")
    assert [one["output"] for one in answers] == ["It is cancelled.", "It is on its way."]
    attune("export", "speaker", "--to", "out", "--format", "bundle", "--format", "transformers")
    assert (tmp_path / "out" / "transformers" / "adapter_model.safetensors").is_file()
    assert "Assistant:" in json.loads((tmp_path / "out" / "bundle" / "bundle.json").read_text())["signature"]["chat_template"]


def test_a_finder(tmp_path: Path, attune: Attune) -> None:
    rows = talk(96)
    (tmp_path / "pairs.csv").write_text("query,passage\n" + "\n".join(f'"{q}","{a} ({next(one for one in THINGS if one in q)})"' for q, a in rows) + "\n")
    (tmp_path / "recipe.yaml").write_text(
        "name: finder\n"
        "task: embedding\n"
        "objective: {name: contrastive, temperature: 0.05}\n"
        "method: full\n"
        "data: {path: pairs.csv, checks: [encoding, types], splits: {test: 0.35}}\n"
        "train: {epochs: 1, batch_size: 16, max_length: 32}\n"
        "grade: {metrics: [mrr, hit_at_1], rivals: [lexical, untouched_base], probes: [], resamples: 200}\n"
        "gates: [{metric: mrr, better_than: lexical}]\n"
    )
    made = asked(attune, "run", "recipe.yaml")
    assert made["verdict"] == "SHIP", made["reasons"]
    assert set(made["scorecard"]["results"]) == {"tuned", "lexical", "untouched_base"}
    attune("promote", "finder")
    (first, second) = asked(attune, "predict", "finder", "cancel my order", "cancel my order")
    assert len(first["output"]) == 384
    assert first["output"] == pytest.approx(second["output"], abs=1e-5)
    attune("export", "finder", "--to", "out", "--format", "transformers")
    assert (tmp_path / "out" / "transformers" / "model.safetensors").is_file()
