"""What `method: auto` takes at most: every candidate with its sweep, no more than the budget."""

from __future__ import annotations

import pytest

from attune.core.recipe import make_recipe
from attune.stages.finetune import forecast as general
from attune.stages.finetune.forecast import Forecast
from attune.stages.finetune.forecast_auto import at_most

from .conftest import make_rows

PARTS = {"loading": 3.0, "building": 1.0, "reading rows": 2.0, "first step": 0.5, "steps": 10.0, "evaluations": 5.0, "settling": 0.25, "bundle": 0.75}


def auto(recipe_of, budget=None, **train):
    given = {**recipe_of(**train).given, "method": "auto"} | ({"budget": budget} if budget else {})
    if "learning_rate" not in train:
        del given["train"]["learning_rate"]
    return make_recipe(given, folder=recipe_of().folder)


def summed(recipe, memory=lambda name: 1e9):
    asked = []

    def probed(changes):
        asked.append(changes)
        return Forecast(sum(PARTS.values()), memory(changes["method"]), 4e8, 100, PARTS, looks=5)

    return at_most(recipe, probed), asked


def test_every_candidate_and_sweep_counts(recipe_of):
    found, asked = summed(auto(recipe_of))
    assert [one["method"] for one in asked] == ["full", "lora", "head"], "the largest first"
    each = 1 + 2 + 0.5 + 10 + 5
    sweep = (1 + 2) + 4 * (1 + 0.5 + 30 * 10 / 100 + 3 * 5 / 5)
    kept = 1 + 2 + 0.25 + 0.75
    assert found.seconds == pytest.approx(3 + 3 * each + 2 * sweep + kept)
    assert found.seconds == pytest.approx(sum(found.parts.values()))
    assert (found.steps, found.disk_bytes) == (300, pytest.approx(1.2e9))
    assert found.upper == "head, lora and full, each trained as far as its plan goes, and 4 learning rates tried for lora and full"
    fixed, _ = summed(auto(recipe_of, learning_rate=1e-3))
    assert fixed.seconds == pytest.approx(3 + 3 * each + 2 * (3 + 7.5) + kept), "a rate that is given is tried alone"
    assert fixed.upper.endswith("and 1 learning rate tried for lora and full")


def test_the_largest_says_what_memory_is_needed(recipe_of):
    found, _ = summed(auto(recipe_of), lambda name: {"head": 1e9, "lora": 2e9, "full": 5e9}[name])
    assert found.memory_bytes == 5e9


def test_the_budget_is_the_most(recipe_of):
    found, asked = summed(auto(recipe_of, "1m"))
    assert found.seconds == 60
    assert found.upper.startswith("the budget of 1m; without it head, lora and full, each")
    assert asked[0] == {"method": "full", "budget": None}
    ample, _ = summed(auto(recipe_of, "2h"))
    assert ample.seconds == pytest.approx(summed(auto(recipe_of))[0].seconds), "what is not used up is not forecast"
    assert "budget" not in ample.upper


def test_a_real_search_is_probed_method_by_method(recipe_of, tmp_path):
    recipe = auto(recipe_of, epochs=1)
    found = general.forecast(recipe, make_rows(60), 42, 6, tmp_path)
    assert {"head", "lora", "full", "rates of lora", "rates of full", "the kept one"} <= found.parts.keys()
    assert found.parts["full"] > 0
    assert found.parts["rates of full"] > 0
    assert found.seconds == pytest.approx(sum(found.parts.values()), rel=0.01)
    assert found.upper
    assert found.fits
