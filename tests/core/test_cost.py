"""A forecast is kept for the run that it is of and for no other; what a run took is told in words beside it."""

from __future__ import annotations

import pytest

from attune.core.cost import duration, forecast_key, forecast_of, hand_over, keep_forecast, keep_none, size, words
from attune.core.errors import IntegrityError
from attune.core.recipe import make_recipe

FORECAST = {"seconds": 40.0, "memory_bytes": 1.2e9, "disk_bytes": 3e8, "steps": 900, "parts": {"steps": 40.0}}
COST = {"seconds": 44.2, "memory_bytes": 1.31e9, "disk_bytes": 2.9e8, "starts": 1}


def recipe(tmp_path, **more):
    return make_recipe({"name": "small", "task": "text_classification", "data": {"path": "rows.csv"}, **more}, folder=tmp_path)


def test_a_kept_forecast_reaches_its_run_whole(tmp_path):
    key = forecast_key(recipe(tmp_path), {"digest": "a"}, {"sources": ["x"]})
    keep_forecast(tmp_path, key, FORECAST)
    hand_over(tmp_path, key, tmp_path / "run")
    assert forecast_of(tmp_path / "run") == {name: FORECAST[name] for name in ("seconds", "memory_bytes", "disk_bytes", "steps")}


def test_an_upper_estimate_says_of_what(tmp_path):
    keep_forecast(tmp_path, "a" * 64, FORECAST | {"upper": "all of it"})
    hand_over(tmp_path, "a" * 64, tmp_path / "run")
    found = forecast_of(tmp_path / "run")
    assert found is not None
    assert found["upper"] == "all of it"


def test_the_reason_for_none_takes_the_place_of_an_older_one(tmp_path):
    keep_forecast(tmp_path, "a" * 64, FORECAST)
    keep_none(tmp_path, "a" * 64, "too many rows")
    hand_over(tmp_path, "a" * 64, tmp_path / "run")
    assert forecast_of(tmp_path / "run") == {"none": "too many rows"}


def test_a_budget_is_part_of_the_key_of_auto(tmp_path):
    keys = {forecast_key(recipe(tmp_path, method="auto", **more), {"digest": "a"}, {"sources": ["x"]}) for more in ({}, {"budget": "1m"}, {"budget": "2m"})}
    assert len(keys) == 3


def test_without_one_there_is_none(tmp_path):
    hand_over(tmp_path, "0" * 64, tmp_path / "run")
    assert forecast_of(tmp_path / "run") is None


def test_another_recipe_base_or_rows_is_another_key(tmp_path):
    base, rows = {"digest": "a"}, {"sources": ["x"]}
    first = forecast_key(recipe(tmp_path), base, rows)
    assert first == forecast_key(recipe(tmp_path, gates=[]), base, rows)  # how it is graded costs no tuning
    others = [
        forecast_key(recipe(tmp_path, method="lora"), base, rows),
        forecast_key(recipe(tmp_path, seed=8), base, rows),
        forecast_key(recipe(tmp_path, train={"epochs": 1}), base, rows),
        forecast_key(recipe(tmp_path), {"digest": "b"}, rows),
        forecast_key(recipe(tmp_path), base, {"sources": ["y"]}),
    ]
    assert len({first, *others}) == 6


def test_a_damaged_forecast_is_refused(tmp_path):
    keep_forecast(tmp_path, "a" * 64, FORECAST)
    hand_over(tmp_path, "a" * 64, tmp_path / "run")
    path = tmp_path / "run" / "forecast.json"
    path.write_text(path.read_text().replace("40.0", "41.0"))
    with pytest.raises(IntegrityError, match="damaged"):
        forecast_of(tmp_path / "run")


def test_words():
    assert words(COST, 900) == "44 seconds, 1.3 GB of memory, 290 MB of disk"
    both = COST | {"predicted": FORECAST}
    assert words(both, 900) == "44 seconds (forecast 40 seconds), 1.3 GB of memory (1.2 GB), 290 MB of disk (300 MB)"
    assert words(both | {"starts": 3}, 300).endswith("; in 3 starts; the forecast was of 900 steps, 300 were made")
    most = words(COST | {"predicted": FORECAST | {"upper": "head and full"}}, 300)
    assert most == "44 seconds (forecast at most 40 seconds), 1.3 GB of memory (1.2 GB), 290 MB of disk (300 MB); the forecast is an upper estimate: head and full"
    assert words(COST | {"not_predicted": "too many rows"}, 900).endswith("290 MB of disk; no forecast: too many rows")
    assert (duration(600), duration(9000), size(5e6)) == ("10 minutes", "2.5 hours", "5 MB")
