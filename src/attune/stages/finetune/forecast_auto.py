"""What `method: auto` will take at most: a forecast of each method that it may try, with the sweep before it, within the budget.

A search mostly ends earlier, because a larger method did not improve on a smaller one or because patience ended; nobody knows that before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attune.core.recipe import Recipe
from attune.stages.finetune.autopilot import LOOKS, SWEPT_RATES, SWEPT_STEPS, UNITS
from attune.stages.finetune.forecast import Forecast, instead

AFTERWARDS = ("settling", "bundle", "loading again", "training again")
"""Parts of a forecast that only the method that is kept has."""
OPENED = ("building", "reading rows", "computed once")
"""Parts that every opening of a loop has, a sweep's and the last one of the method that is kept too."""


def at_most(recipe: Recipe, probed: Callable[[dict[str, Any]], Forecast]) -> Forecast:
    """The forecasts of all candidates together.

    Args:
        recipe: with its candidates.
        probed: the forecast of the recipe with some changes; the largest method is probed first, for it most likely lacks memory.
    """
    found = {method.name: probed(instead(recipe, method)) for method in reversed(recipe.candidates)}
    found = {method.name: found[method.name] for method in recipe.candidates}
    parts: dict[str, float] = {"loading": max(_of(one, "loading") for one in found.values())}
    given, swept = recipe.keys.train.learning_rate is not None, [one.name for one in recipe.candidates if one.sweeps]
    for name, one in found.items():
        parts[name] = one.seconds - _of(one, "loading", *AFTERWARDS)
        if name in swept:
            parts[f"rates of {name}"] = _sweep(one, 1 if given else SWEPT_RATES)
    parts["the kept one"] = max(_of(one, *OPENED) + _of(one, *AFTERWARDS) for one in found.values())
    seconds, budget = sum(parts.values()), recipe.keys.budget
    *smaller, largest = found
    upper = f"{', '.join(smaller)} and {largest}, each trained as far as its plan goes" if smaller else f"{largest}, trained as far as its plan goes"
    upper += f", and {1 if given else SWEPT_RATES} learning rate{'s' * (not given)} tried for {' and '.join(swept)}" if swept else ""
    if budget is not None and seconds > _seconds(budget):
        seconds, upper = _seconds(budget), f"the budget of {budget}; without it {upper}"
    return Forecast(
        seconds,
        max(one.memory_bytes for one in found.values()),
        sum(one.disk_bytes for one in found.values()),
        sum(one.steps for one in found.values()),
        {name: round(value, 3) for name, value in parts.items()},
        looks=sum(one.looks for one in found.values()),
        upper=upper,
        may_stop_early=True,
    )


def _seconds(budget: str) -> float:
    return float(budget[:-1]) * UNITS[budget[-1]]


def _of(one: Forecast, *names: str) -> float:
    parts: Mapping[str, float] = one.parts
    return sum(parts.get(name, 0.0) for name in names)


def _sweep(one: Forecast, rates: int) -> float:
    """Seconds of a sweep: the loop is opened once, then each rate has a model of its own, some steps and some looks; what frozen layers say is computed for each."""
    step, look = _of(one, "steps") / max(1, one.steps), _of(one, "evaluations") / max(1, one.looks)
    each = _of(one, "building", "first step", "frozen layers") + SWEPT_STEPS * step + LOOKS * look
    return _of(one, *OPENED, "frozen layers", "start of the head") + rates * each
