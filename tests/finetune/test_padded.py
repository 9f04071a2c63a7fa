"""A base whose rows are padded trains as exactly as others: micro-batches, a stop and memory that runs out change nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from attune.core.events import Events
from attune.core.tunable import TunableModel
from attune.stages import finetune
from attune.stages.finetune import dropping, torch_learner

from .conftest import make_dataset, make_rows
from .test_engine import apart, learner_of, trained
from .test_resume import whole_and_again


@pytest.fixture(scope="module")
def mpnet(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer MPNet folder, with the tokenizer of the small BERT."""
    from transformers import AutoTokenizer, MPNetConfig, MPNetModel

    folder = tmp_path_factory.mktemp("tiny-mpnet")
    torch.manual_seed(0)
    size = len(AutoTokenizer.from_pretrained(tiny_base))
    MPNetModel(MPNetConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=66, pad_token_id=0)).save_pretrained(folder)
    for file in tiny_base.glob("*token*"):
        shutil.copy(file, folder)
    shutil.copy(tiny_base / "vocab.txt", folder) if (tiny_base / "vocab.txt").exists() else None
    return folder


@pytest.fixture
def padded(recipe_of, mpnet):
    """Recipes on the small MPNet."""
    import dataclasses

    def make(**train):
        recipe = recipe_of("full", **train)
        return dataclasses.replace(recipe, keys=recipe.keys.model_copy(update={"base_model": str(mpnet)}), given={**recipe.given, "base_model": str(mpnet)})

    return make


@pytest.mark.parametrize("method", ["full", {"name": "lora", "dropout": 0.1}, "head"], ids=["full", "lora", "head"])
def test_micro_batches_change_nothing_though_dropout_is_on(mpnet, method):
    learner = learner_of(mpnet, method)
    assert not learner.model.fit.flat
    assert learner.chosen.get("micro-batches") == (None if method == "head" else dropping.BY_ROW)
    whole = trained(learner)
    for size in (1, 5):
        assert apart(whole, trained(learner_of(mpnet, method, micro_batch_size=size))) < 2e-5
    assert apart(whole, trained(learner_of(mpnet, method, dropout=0.0))) > (1e-4 if method != "head" else -1)


def test_with_dropout_from_a_stream_micro_batches_change_it_and_the_record_says_so(mpnet, monkeypatch):
    """The must-fail twin."""
    monkeypatch.setattr(dropping, "learn_layouts", lambda body: None)
    learner = learner_of(mpnet)
    assert learner.chosen["micro-batches"] == dropping.BESIDE
    assert apart(trained(learner), trained(learner_of(mpnet, micro_batch_size=5))) > 1e-4


def test_a_dropout_that_strays_later_is_told(mpnet):
    learner = learner_of(mpnet)
    learner.model.body.embeddings.dropout.layouts = []
    learner.step(0)
    assert learner.chosen["micro-batches"] == dropping.BESIDE


def test_long_batches_are_computed_in_halves(mpnet, monkeypatch):
    whole = trained(learner_of(mpnet))
    read = []
    hidden = TunableModel.hidden

    def watched(self, tokens, at=None):
        if self.training:
            read.append(len(tokens.lengths) * int(tokens.lengths.max()))
        return hidden(self, tokens, at)

    monkeypatch.setattr(TunableModel, "hidden", watched)
    monkeypatch.setattr(torch_learner, "AT_ONCE", 60)
    assert apart(whole, trained(learner_of(mpnet))) < 2e-5
    assert read
    assert max(read) <= 60


def test_stop_and_resume_is_bit_identical(padded, workspace):
    recipe = padded(checkpoint_every=4)
    dataset = make_dataset(workspace, recipe, make_rows(80))
    assert whole_and_again(recipe, workspace, dataset).chosen["micro-batches"] == dropping.BY_ROW


def test_smaller_parts_when_memory_runs_out_change_nothing(padded, workspace, monkeypatch):
    recipe = padded(epochs=1)
    dataset = make_dataset(workspace, recipe, make_rows(80))
    clean = finetune.run(recipe, workspace, dataset, Events(), run="clean")
    hidden = TunableModel.hidden

    def short(self, tokens, at=None):
        if len(tokens.lengths) > (3 if self.training else 5) and torch.is_grad_enabled() == self.training:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes.")
        return hidden(self, tokens, at)

    monkeypatch.setattr(TunableModel, "hidden", short)
    told = []
    found = finetune.run(recipe, workspace, dataset, Events(None, [told.append]), run="short")
    assert [event["message"].split(": ", 1)[1] for event in told if event["kind"] == "warning"] == [
        "4 rows are computed at once from here on, before it was 8; the batch of 8 stays",
        "2 rows are computed at once from here on, before it was 4; the batch of 8 stays",
    ]
    assert found.steps == clean.steps
    for ours, theirs in zip(found.curve, clean.curve, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
