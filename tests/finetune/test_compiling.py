"""Compiled layers give the same weights up to rounding; `auto` keeps them only where they pay back."""

from __future__ import annotations

import shutil

import pytest
import torch

from attune.core.errors import MachineError, Problems
from attune.core.events import Events
from attune.stages import finetune
from attune.stages.finetune import compiling
from attune.stages.finetune.compiling import Compiling, compilable, pays

from ..core.test_flat import FAMILIES, body_of
from .conftest import make_dataset, make_rows
from .test_engine import apart, learner_of, trained

compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@compiler
def test_compiled_layers_train_as_plain_ones_and_a_resume_goes_on_compiled(tiny_base, monkeypatch):
    """One kind of part alone: a compiler's first call takes seconds for each."""
    monkeypatch.setattr(compiling, "compilable", lambda body: [part for part in compilable(body) if type(part).__name__ == "BertIntermediate"])
    plain, compiled, resumed = learner_of(tiny_base), learner_of(tiny_base, compile="on"), learner_of(tiny_base, compile="on")
    assert "compile" not in plain.chosen
    assert compiled.chosen["compile"].startswith("on: set in the recipe: ")
    assert compiled.compiling.on
    assert len(compiled.compiling.parts) == 2
    tensors, facts = compiled.state()
    resumed.compiling.switch(False)
    resumed.load_state({name: tensor.clone() for name, tensor in tensors.items()}, facts)
    assert resumed.compiling.on
    found = trained(compiled)
    assert 0 < apart(found, trained(plain)) < 1e-4
    assert apart(found, trained(resumed)) < 1e-5


def test_a_wrong_answer_would_show(tiny_base, monkeypatch):
    """The must-fail twin, without a compiler: what stands in for a compiled part answers a little too much."""
    monkeypatch.setattr(torch, "compile", lambda own, **_: lambda *args: own(*args) * 1.01)
    assert apart(trained(learner_of(tiny_base)), trained(learner_of(tiny_base, compile="on"))) > 1e-4


@pytest.mark.parametrize(("slow", "wrong", "outcome"), [(0.0, 1.0, "on: "), (0.002, 1.0, "off: "), (0.0, 1.5, "off: ")], ids=["pays", "is slower", "is wrong"])
def test_auto_keeps_what_pays_and_agrees(slow, wrong, outcome, monkeypatch):
    """The clock and the parts are the test's own: 1 ms a batch, compiled `slow` more or a half less."""
    clock = [0.0]
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(compiling, "EXPECTED", 0.0)
    monkeypatch.setattr(torch, "compile", lambda own, **_: own)
    one = Compiling(body_of("bert"))

    def run(index):
        clock[0] += 0.001 + (slow or -0.0005) * one.on
        return wrong if one.on else 1.0

    said = one.choose("auto", run, [0, 1, 2], 1000, "fp32")
    assert said.startswith(outcome), said
    assert one.on == (outcome == "on: ")


def test_a_short_run_is_not_compiled_by_auto(tiny_base, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    learner = learner_of(tiny_base, compile="auto")
    assert learner.chosen["compile"].startswith("off: 6 steps take")
    assert apart(trained(learner), trained(learner_of(tiny_base))) == 0


def test_without_a_compiler_on_is_refused_and_auto_goes_on(tiny_base, monkeypatch):
    def missing(own, **_):
        def forward(*_):
            raise RuntimeError("No working C++ compiler found\nand more")

        return forward

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(MachineError, match="No working C"):
        learner_of(tiny_base, compile="on")
    monkeypatch.setattr(compiling, "EXPECTED", 0.0)
    learner = learner_of(tiny_base, compile="auto")
    assert learner.chosen["compile"] == "off: it cannot be compiled here (No working C++ compiler found)"
    assert apart(trained(learner), trained(learner_of(tiny_base))) == 0


def test_what_was_chosen_is_in_the_record_and_a_frozen_body_takes_no_such_key(recipe_of, workspace):
    dataset = make_dataset(workspace, recipe_of(), make_rows(40))
    checkpoint = finetune.run(recipe_of(epochs=0.5, compile="auto"), workspace, dataset, Events(), run="full")
    assert checkpoint.chosen["compile"].startswith("off: ")
    with pytest.raises(Problems, match=r"train\.compile"):
        finetune.run(recipe_of("head", epochs=0.5, compile="auto"), workspace, dataset, Events(), run="head")


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"electra"}))
def test_no_dense_part_holds_attention(family):
    parts = compilable(body_of(family))
    assert len(parts) >= 4
    for part in parts:
        assert not any("Attention" in type(inner).__name__ for inner in part.modules())


def test_what_is_compiled_of_a_bert():
    """Of each layer: what stands behind the attention, and the two of the feed-forward part."""
    assert [type(part).__name__ for part in compilable(body_of("bert"))] == ["BertSelfOutput", "BertIntermediate", "BertOutput"] * 2


def test_paying_back():
    assert pays(0.2, 0.18, 20, 1100)
    assert not pays(0.2, 0.18, 20, 900)
    assert not pays(0.2, 0.21, 0, 900)
