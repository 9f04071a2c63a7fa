"""What tuning took beside what was forecast: a forecast is kept until the run that it is for, and both are told in the same words everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attune.core.commit import read_checked, write_checked, write_text
from attune.core.recipe import Recipe
from attune.core.records import digest

FILE = "forecast.json"
_KEPT = ("seconds", "memory_bytes", "disk_bytes", "steps")


def forecast_key(recipe: Recipe, base: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    """What a forecast is of: how it tunes, from which base (its identity), on which rows (curation's inputs). Other values, another forecast."""
    parts = ("task", "objective", "method", "seed", "train", *(("budget",) if recipe.candidates else ()))
    return digest({"recipe": recipe.part(*parts), "main_metric": recipe.main_metric, "base": base, "rows": rows})


def keep_forecast(root: Path, key: str, forecast: Mapping[str, Any]) -> None:
    """Write a forecast into the workspace at `root`; a newer one of the same key takes its place. `upper`, where it has one, says of what it is the most."""
    write_checked(_place(root, key), {name: forecast[name] for name in _KEPT} | ({"upper": forecast["upper"]} if forecast.get("upper") else {}))


def keep_none(root: Path, key: str, why: str) -> None:
    """Write down, in the place of a forecast, why there is none."""
    write_checked(_place(root, key), {"none": why})


def hand_over(root: Path, key: str, folder: Path) -> None:
    """Copy the kept forecast of a key, where there is one, as it is into the folder of the run that it is for; `forecast_of` looks whether it is whole."""
    if _place(root, key).is_file():
        write_text(folder / FILE, _place(root, key).read_text(encoding="utf-8", errors="replace"))


def forecast_of(folder: Path) -> dict[str, Any] | None:
    """The forecast that a run's folder holds, or None; of one that could not be made it holds only `none`, which says why.

    Raises:
        IntegrityError: it is damaged.
    """
    found: dict[str, Any] | None = read_checked(folder / FILE) if (folder / FILE).is_file() else None
    return found


def words(cost: Mapping[str, Any], steps: int) -> str:
    """What a checkpoint's `cost` says, with the forecast in brackets: '41 seconds (forecast 38 seconds), 1.2 GB of memory (1.1 GB), ...'.

    Args:
        cost: of a checkpoint record, not empty.
        steps: that were made; a forecast is of the whole plan, which patience may have ended before.
    """
    predicted: Mapping[str, Any] = cost.get("predicted") or {}
    upper = predicted.get("upper", "")
    parts: list[str] = []
    for name, form, what in (("seconds", duration, ""), ("memory_bytes", size, " of memory"), ("disk_bytes", size, " of disk")):
        before = f" ({('forecast at most ' if upper else 'forecast ') if not parts else ''}{form(predicted[name])})" if predicted else ""
        parts.append(f"{form(cost[name])}{what}{before}")
    said = ", ".join(parts)
    if cost.get("starts", 1) > 1:
        said += f"; in {cost['starts']} starts"
    if upper:
        said += f"; the forecast is an upper estimate: {upper}"
    elif predicted and steps < predicted["steps"]:
        said += f"; the forecast was of {predicted['steps']:,} steps, {steps:,} were made"
    if cost.get("not_predicted"):
        said += f"; no forecast: {cost['not_predicted']}"
    return said


def duration(seconds: float) -> str:
    """Seconds in words: seconds below 100, minutes below two hours, else hours."""
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def size(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _place(root: Path, key: str) -> Path:
    return root / "forecasts" / f"{key[:32]}.json"
