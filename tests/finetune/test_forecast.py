"""The forecast is measured with the recipe's own base, rows and settings, and says what would fit where it does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attune.core.errors import MachineError
from attune.stages.finetune import forecast as module
from attune.stages.finetune.forecast import Forecast, _expected, forecast

from .conftest import make_rows


def test_a_real_probe_says_time_memory_and_disk(recipe_of, tmp_path):
    found = forecast(recipe_of("full", epochs=4), make_rows(80), 1000, tmp_path / "not" / "there" / "yet")
    assert found.steps == 4 * 90  # 720 of 1,000 rows train, 8 a batch
    assert found.fits
    assert found.seconds == pytest.approx(sum(found.parts.values()), rel=0.01)
    assert found.parts["steps"] > 0
    assert 2e8 < found.memory_bytes < 4e9
    assert found.disk_bytes > 1e5
    assert found.free_memory > 0


def test_what_the_first_steps_would_raise_is_told(recipe_of, tmp_path):
    with pytest.raises(MachineError, match="there is no base model"):
        module._apart(dataclasses.replace(recipe_of("full")), make_rows(20), 20, {"base_model": "./nowhere"})


def ladder(monkeypatch, recipe_of, tmp_path, memory, free):
    asked = []

    def apart(recipe, rows, total, changes):
        asked.append(changes)
        return Forecast(1.0, memory(changes), 1.0, 1)

    monkeypatch.setattr(module, "_apart", apart)
    monkeypatch.setattr(module, "available_memory", lambda: free)
    return forecast(recipe_of("full"), make_rows(8), 8, tmp_path), asked


def test_the_first_rung_that_fits_is_named(monkeypatch, recipe_of, tmp_path):
    found, asked = ladder(monkeypatch, recipe_of, tmp_path, lambda changes: 50 if changes.get("method") == "lora" else 200, 100)
    assert not found.fits
    assert found.way_out == "method=lora"
    assert len(asked) == 4


def test_where_it_fits_no_rung_is_tried(monkeypatch, recipe_of, tmp_path):
    found, asked = ladder(monkeypatch, recipe_of, tmp_path, lambda changes: 50, 100)
    assert found.fits
    assert (found.way_out, asked) == ("", [{}])


def test_nothing_fits_is_said_too(monkeypatch, recipe_of, tmp_path):
    found, _ = ladder(monkeypatch, recipe_of, tmp_path, lambda changes: 500, 100)
    assert not found.fits
    assert found.way_out == ""


def test_a_steps_time_follows_its_tokens():
    assert _expected([(100, 1.0), (200, 2.0), (300, 3.0)], np.array([150.0, 250.0])) == pytest.approx(2.0)
    assert _expected([(100, 1.0)], np.array([100.0, 900.0])) == pytest.approx(1.0)
    assert _expected([(100, 2.0), (200, 1.0)], np.array([150.0])) == pytest.approx(1.5)  # noise must not make long batches free
