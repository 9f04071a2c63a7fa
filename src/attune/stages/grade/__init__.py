"""Checkpoint -> scorecard: the tuned model and its rivals on the sealed test rows, with intervals, paired tests, probes and one verdict."""

from attune.core.recipe import Recipe
from attune.stages.grade.stage import inputs, plugs_of, run

__all__ = ["check", "inputs", "run"]


def check(recipe: Recipe) -> None:
    """Raise what would keep this recipe from being graded: metrics, rivals, probes or gates that do not exist or do not fit the task."""
    plugs_of(recipe).samples()
