"""The order of the cycle, on one screen. Nothing else knows it: stages know neither each other nor what comes next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from attune.core.events import Events
from attune.core.recipe import Recipe, WatchKeys
from attune.core.records import Checkpoint, DatasetVersion, Record, Release, RetuneRequest, Scorecard, Window, digest
from attune.core.runs import added_rows, recipe_folder, run_alone, to_beat, with_sealed
from attune.core.workspace import Workspace, actor

R = TypeVar("R", bound=Record)
STAGES = ("curate", "finetune", "grade", "register")


@dataclass
class Cycle:
    """What one pass of the cycle made or found made, as far as it went."""

    run: str = ""
    """The run folder's name; the same recipe, rows and base always give the same, so that a killed run is found again."""
    dataset: DatasetVersion | None = None
    checkpoint: Checkpoint | None = None
    scorecard: Scorecard | None = None
    release: Release | None = None
    current: Release | None = None
    """The approved release that this one had to beat."""


def run(recipe: Recipe, workspace: Workspace, *, until: str = STAGES[-1], request: RetuneRequest | None = None, fresh: bool = False) -> Cycle:
    """Rows -> dataset -> checkpoint -> scorecard -> release; a stage whose inputs are unchanged is not done again.

    Args:
        recipe: the specialist's recipe.
        workspace: where everything is kept.
        until: the last stage to run.
        request: a retune request: its new rows are added to the old ones, and its release is what has to be beaten.
        fresh: do every stage again.
    """
    cycle = Cycle()
    with ExitStack() as held:
        for done in _stages(recipe, workspace, cycle, held, request, fresh):
            if done == until:
                break
    return cycle


def unchanged(recipe: Recipe, workspace: Workspace) -> Cycle:
    """What a run would find done already, as far as the first stage that would run."""
    cycle = Cycle()
    with suppress(_WouldRun):
        list(_stages(recipe, workspace, cycle))
    return cycle


def watch(workspace: Workspace, specialist: str, keys: WatchKeys | None = None, *, now: datetime | None = None, include_open: bool = False) -> tuple[list[Window], RetuneRequest | None]:
    """Examine what the approved release was asked, and write down the windows and, when one is due, a retune request. It starts no training.

    Args:
        keys: when to raise an alarm; default: as in the recipe that travels with the release.
        now: with a time zone; default: the clock.
        include_open: examine unfinished days and weeks as far as they go.
    """
    from attune.stages import watch as stage

    release = workspace.ledger.approved(specialist)
    base = recipe_folder(workspace, release) if release is not None else None
    windows, request = stage.run(workspace, specialist, keys, Events(None, workspace.listeners), now=now, include_open=include_open, base_folder=base)
    for record in (*windows, *([request] if request is not None else [])):
        workspace.ledger.add(record, actor=actor(), stage="watch")
    return windows, request


def _stages(recipe: Recipe, workspace: Workspace, cycle: Cycle, held: ExitStack | None = None, request: RetuneRequest | None = None, fresh: bool = False) -> Iterator[str]:
    """The cycle itself; yields after each stage, and fills in `cycle` as it goes. The run stays locked as long as `held`; a pass without it is dry."""
    from attune.stages import curate, finetune, grade, register

    events = Events(None, () if held is None else workspace.listeners)

    def stage(name: str, inputs: dict[str, Any], kind: type[R], work: Callable[[], R], *sections: str) -> R:
        """A stage through the workspace; `sections` of the recipe are its own: a key set there that it did not read is an error."""
        if held is None and workspace.known(name, inputs, kind) is None:
            raise _WouldRun

        def honest() -> R:
            made = work()
            recipe.require_read(*sections)
            return made

        return workspace.stage(name, inputs, kind, honest, events=events, fresh=fresh)

    more = added_rows(recipe, workspace, request) if request is not None else {}
    cycle.dataset = dataset = stage("curate", with_sealed(workspace, recipe.name, rows := curate.inputs(recipe, **more)), DatasetVersion, lambda: curate.run(recipe, workspace, events, **more), "data")
    tuning = finetune.inputs(recipe, dataset)
    cycle.run = name = f"{recipe.name}-{digest(tuning)[:12]}"
    if held is not None:
        held.enter_context(run_alone(workspace, name, recipe, dataset, events, fresh=fresh, forecast=(tuning["base"], rows)))
    yield "curate"

    grade.check(recipe)  # what would end the grading is told before hours of training
    cycle.checkpoint = checkpoint = stage("finetune", tuning, Checkpoint, lambda: finetune.run(recipe, workspace, dataset, events, run=name), "train", "objective", "method")
    yield "finetune"

    cycle.current = current = to_beat(workspace, checkpoint)
    grading = grade.inputs(recipe, dataset, checkpoint, current)
    cycle.scorecard = scorecard = stage("grade", grading, Scorecard, lambda: grade.run(recipe, workspace, dataset, checkpoint, events, current=current), "grade", "gates")
    yield "grade"

    cycle.release = stage("register", register.inputs(recipe, checkpoint, scorecard), Release, lambda: register.run(recipe, workspace, checkpoint, scorecard, events))
    yield "register"


class _WouldRun(Exception):
    """A dry pass has reached the first stage that would run."""
