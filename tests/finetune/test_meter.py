"""A run's record says what it took over all its starts, beside the forecast that was made of it."""

from __future__ import annotations

import json

import pytest

from attune.core import memory
from attune.core.cost import FILE, hand_over, keep_forecast, keep_none
from attune.core.events import Events
from attune.stages import finetune
from attune.stages.finetune.meter import Meter

from .conftest import make_dataset, make_rows

FORECAST = {"seconds": 40.0, "memory_bytes": 1.2e9, "disk_bytes": 3e8, "steps": 900}


def test_an_earlier_start_counts(monkeypatch):
    monkeypatch.setattr("attune.stages.finetune.meter.peak_memory", lambda: 5e8)
    meter = Meter()
    meter.go_on({"seconds": 100.0, "memory_bytes": 9e8, "disk_bytes": 7.0, "starts": 2})
    meter.saw(3.0)
    found = meter.facts()
    assert 100 <= found["seconds"] < 160
    assert (found["memory_bytes"], found["disk_bytes"], found["starts"]) == (9e8, 7.0, 3)
    meter.go_on({"seconds": 30.0, "memory_bytes": 1e9, "disk_bytes": 9.0, "starts": 1})  # another trial of that start, which ended earlier
    meter.go_on(found | {"seconds": 1e6})  # what this start wrote itself
    assert 100 <= meter.facts()["seconds"] < 160
    assert meter.facts()["starts"] == 3
    again = Meter()  # must-fail twin: a meter that is not told of the earlier start knows nothing of it
    assert again.facts()["seconds"] < 100
    assert again.facts()["starts"] == 1


def test_the_peak_is_this_process_own_and_can_be_forgotten():
    held = bytearray(64_000_000)
    with_it = memory.peak_memory()
    del held
    memory.forget_peak()
    assert 1e7 < memory.peak_memory() <= with_it


def run(recipe, workspace, dataset, forecast=None):
    if forecast is not None:
        keep_forecast(workspace.root, "f" * 64, forecast)
        hand_over(workspace.root, "f" * 64, workspace.run_folder("r"))
    return finetune.run(recipe, workspace, dataset, Events(), run="r")


def test_the_record_holds_what_it_took(recipe_of, workspace):
    recipe = recipe_of()
    made = run(recipe, workspace, make_dataset(workspace, recipe, make_rows(60)))
    checkpoints = sum(path.stat().st_size for path in (workspace.run_folder("r") / "checkpoints").rglob("*") if path.is_file())
    assert made.cost["seconds"] > 0
    assert made.cost["memory_bytes"] > 1e8
    assert made.cost["disk_bytes"] > checkpoints > 0
    assert made.cost["starts"] == 1
    assert "predicted" not in made.cost
    assert made.id == made.model_copy(update={"cost": {}}).id  # the same result may take longer another time


def test_and_what_was_forecast(recipe_of, workspace):
    recipe = recipe_of()
    made = run(recipe, workspace, make_dataset(workspace, recipe, make_rows(60)), FORECAST)
    assert made.cost["predicted"] == FORECAST


def test_or_why_nothing_was(recipe_of, workspace):
    recipe = recipe_of()
    keep_none(workspace.root, "f" * 64, "too many rows")
    hand_over(workspace.root, "f" * 64, workspace.run_folder("r"))
    made = run(recipe, workspace, make_dataset(workspace, recipe, make_rows(60)))
    assert made.cost["not_predicted"] == "too many rows"
    assert "predicted" not in made.cost


def test_a_damaged_forecast_is_told_and_left_out(recipe_of, workspace):
    recipe = recipe_of()
    dataset = make_dataset(workspace, recipe, make_rows(60))
    (workspace.run_folder("r") / FILE).write_text(json.dumps({"sha256": "0", "value": FORECAST}))
    said = []
    made = finetune.run(recipe, workspace, dataset, Events(None, (said.append,)), run="r")
    assert "predicted" not in made.cost
    assert any("forecast is left out" in event["message"] for event in said)


def test_the_time_of_a_stopped_start_is_in_the_record(recipe_of, workspace, monkeypatch):
    recipe = recipe_of()
    dataset = make_dataset(workspace, recipe, make_rows(60))
    from attune.stages.finetune.torch_learner import TorchLearner

    step = TorchLearner.step

    def stops(self, index):
        if index == 7:
            raise KeyboardInterrupt
        return step(self, index)

    monkeypatch.setattr(TorchLearner, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, workspace, dataset)
    kept = [json.loads(path.read_text())["used"] for path in sorted((workspace.run_folder("r") / "checkpoints").glob("step-*/state.json"))]
    assert kept[-1]["seconds"] > 0
    monkeypatch.setattr(TorchLearner, "step", step)
    made = run(recipe, workspace, dataset)
    assert made.cost["starts"] == 2
    assert made.cost["seconds"] > kept[-1]["seconds"]
