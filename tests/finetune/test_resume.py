"""A run that was killed ends with the very same weights; what is torn or flipped is not used."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attune.core.commit import MANIFEST, manifest_of
from attune.core.errors import MachineError
from attune.core.events import Events
from attune.stages import finetune
from attune.stages.finetune.checkpoints import Checkpoints

from .conftest import make_dataset, make_rows


class Stopped(Exception):
    pass


def stop_at(step):
    def listen(event):
        if (event["kind"], event["message"]) == ("progress", "train") and event["done"] == step:
            raise Stopped

    return Events(None, [listen])


def whole_and_again(recipe, workspace, dataset):
    """A run, and another that is stopped three times and goes on, which has to be the same to the last bit; returns the whole one's checkpoint."""
    whole = finetune.run(recipe, workspace, dataset, Events(), run="whole")
    for step in (2, 6, 9):
        with pytest.raises(Stopped):
            finetune.run(recipe, workspace, dataset, stop_at(step), run="broken")
    again = finetune.run(recipe, workspace, dataset, Events(), run="broken")
    assert again.store_key == whole.store_key
    assert again.curve == whole.curve
    return whole


@pytest.mark.parametrize("method", ["full", "lora", "head", "dora", "qlora", "ia3", "adapter", "prompt_tuning", {"name": "lora", "layers": 1, "dropout": 0.1}, "full with neftune"])
def test_stop_and_resume_is_bit_identical(recipe_of, workspace, method):
    noisy = {"neftune": 5.0} if method == "full with neftune" else {}
    recipe = recipe_of("full" if noisy else method, checkpoint_every=4, **noisy)
    dataset = make_dataset(workspace, recipe, make_rows(80))
    whole_and_again(recipe, workspace, dataset)


def test_a_key_that_only_the_start_reads_may_be_set_when_a_run_goes_on(recipe_of, workspace):
    recipe = recipe_of("head", objective={"name": "supervised", "probe_penalty": 2.0})
    dataset = make_dataset(workspace, recipe, make_rows(80))
    with pytest.raises(Stopped):
        finetune.run(recipe, workspace, dataset, stop_at(8), run="broken")
    again = recipe_of("head", objective={"name": "supervised", "probe_penalty": 2.0})
    finetune.run(again, workspace, dataset, Events(), run="broken")
    again.require_read("train", "objective", "method")


def test_a_key_without_effect_is_told_after_the_first_step(recipe_of, workspace, monkeypatch):
    from attune.core.errors import Problems
    from attune.stages.finetune.torch_learner import TorchLearner

    steps = []
    step = TorchLearner.step
    monkeypatch.setattr(TorchLearner, "step", lambda self, index: (steps.append(index), step(self, index))[1])
    recipe = recipe_of("head", objective={"name": "supervised", "head_start": "zero", "probe_penalty": 2.0})
    with pytest.raises(Problems, match=r"objective\.probe_penalty"):
        finetune.run(recipe, workspace, make_dataset(workspace, recipe, make_rows(80)), Events(), run="r")
    assert steps == [0]


def test_dropout_for_a_network_that_has_none_is_refused(recipe_of, workspace, tiny_base, tmp_path):
    """A state space model drops nothing; the same key on a BERT is taken."""
    import shutil

    from transformers import MambaConfig, MambaModel

    from attune.core.errors import Problems

    dataset = make_dataset(workspace, recipe_of(), make_rows(40))
    finetune.run(recipe_of(epochs=0.5, dropout=0.2), workspace, dataset, Events(), run="taken")
    for file in tiny_base.glob("token*.json"):
        shutil.copy(file, tmp_path)
    MambaModel(MambaConfig(vocab_size=30522, hidden_size=16, num_hidden_layers=1, state_size=4)).save_pretrained(tmp_path)
    for dropout in (None, 0.2):
        recipe = recipe_of(epochs=0.5, **({} if dropout is None else {"dropout": dropout}))
        recipe = dataclasses.replace(recipe, keys=recipe.keys.model_copy(update={"base_model": str(tmp_path)}))
        if dropout is None:
            finetune.run(recipe, workspace, dataset, Events(), run="without")
        else:
            with pytest.raises(Problems, match=r"train\.dropout"):
                finetune.run(recipe, workspace, dataset, Events(), run="refused")


def test_rates_of_dropout_that_are_plain_attributes_are_set_too():
    from transformers import AutoModel, OPTConfig

    from attune.stages.finetune.dropping import dropouts

    body = AutoModel.from_config(OPTConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2, word_embed_proj_dim=16))
    assert {(type(module).__name__, name) for module, name in dropouts(body)} >= {("OPTDecoderLayer", "dropout"), ("OPTAttention", "dropout")}


def test_a_resume_without_optimizer_state_would_differ(recipe_of, workspace, monkeypatch):
    """The must-fail twin: leave something out of the state and the test above notices."""
    from attune.stages.finetune.torch_learner import TorchLearner

    recipe = recipe_of(checkpoint_every=4)
    dataset = make_dataset(workspace, recipe, make_rows(80))
    whole = finetune.run(recipe, workspace, dataset, Events(), run="whole")
    with pytest.raises(Stopped):
        finetune.run(recipe, workspace, dataset, stop_at(6), run="broken")
    load = TorchLearner.load_state
    monkeypatch.setattr(TorchLearner, "load_state", lambda self, tensors, facts: load(self, {k: v for k, v in tensors.items() if not k.startswith("optimizer/")}, facts))
    assert finetune.run(recipe, workspace, dataset, Events(), run="broken").store_key != whole.store_key


def test_newest_valid_checkpoint_wins(recipe_of, workspace, tmp_path):
    import torch

    kept = Checkpoints(tmp_path / "c")
    facts = {"step": 0, "best": {}, "learner": {}}
    for step in (1, 2, 3):
        kept.save(step, {"w": torch.full((4,), float(step))}, {**facts, "step": step})
    assert sorted(p.name for p in kept.folder.iterdir()) == ["step-00000002", "step-00000003"]
    weights = kept.folder / "step-00000003" / "state.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert kept.newest()[1]["step"] == 2
    (kept.folder / "step-00000002" / MANIFEST).unlink()
    assert kept.newest() is None
    assert manifest_of(kept.folder / "step-00000003")


def test_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    import shutil

    import torch

    kept = Checkpoints(tmp_path / "c")
    kept.save(1, {"w": torch.zeros(4)}, {"step": 1, "best": {}})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(MachineError, match="bytes of disk"):
        kept.save(2, {"w": torch.zeros(4)}, {"step": 2, "best": {}})
    assert kept.newest()[1]["step"] == 1


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.finetune.conftest import make_dataset, make_rows
from attune.core.recipe import make_recipe
from attune.core.workspace import Workspace
from attune.core.events import Events
from attune.stages import finetune
workspace = Workspace(sys.argv[2])
train = {"epochs": 3, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32", "checkpoint_every": 2, "max_length": 32}
recipe = make_recipe({"name": "small", "task": "text_classification", "method": "full", "base_model": sys.argv[3], "data": {"path": "rows.csv"}, "train": train}, folder=Path("."))
dataset = make_dataset(workspace, recipe, make_rows(80))
listener = lambda e: print("step", e["done"], flush=True) if (e["kind"], e["message"]) == ("progress", "train") else None
print("done", finetune.run(recipe, workspace, dataset, Events(None, [listener]), run="r").store_key, flush=True)
"""


def start(workspace: Path, base: Path) -> subprocess.Popen:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(root), str(workspace), str(base)], stdout=subprocess.PIPE, text=True, env=environment)


def test_sigkill_and_resume_in_another_process(tiny_base, tmp_path):
    """A real SIGKILL in the middle of a run, twice, then the same bundle as an undisturbed run."""
    whole, _ = start(tmp_path / "whole", tiny_base).communicate(timeout=120)
    for kill_at in (5, 11):
        child = start(tmp_path / "killed", tiny_base)
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("step") and int(line.split()[1]) >= kill_at:
                time.sleep(0.003 * kill_at)
                child.send_signal(signal.SIGKILL)
                break
        child.wait(timeout=60)
        assert child.returncode == -signal.SIGKILL
    again, _ = start(tmp_path / "killed", tiny_base).communicate(timeout=120)
    assert int(again.split()[1]) > 1, "the last start must have resumed"
    assert again.splitlines()[-1] == whole.splitlines()[-1]
