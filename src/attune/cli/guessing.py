"""What rows are for: which task and objective take them, which columns they read, and how sure that is."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core import catalog
from attune.core.errors import AttuneError, DataError, RecipeError
from attune.core.shapes import ANSWERED, ASKED, PAIRED, PLAIN, SPEAKING, shapes_of

if TYPE_CHECKING:
    from attune.core.recipe import Recipe
    from attune.stages.curate.preview import Preview

FEW = 50
"""Up to so many rows a task is told by less, and a guess is called one."""
LABEL_LENGTH = 40
LOOKED_AT = 200
"""Rows of each file whose shapes say what they are for."""
SPEAKER = "text_generation"
"""The task of rows for language models."""


def understood(name: str, location: str, task: str | None, columns: dict[str, str], base: str | None = None) -> tuple[Recipe, Preview, list[str]]:
    """The recipe and preview of the task that the rows are for, and other tasks that few rows could be for as well; the errors of the likeliest task when they are for none.

    Args:
        name: of the specialist.
        location: where the rows are.
        task: the task that the user named.
        columns: role -> column, as far as the user named them.
        base: what kind of model is to learn from the rows (`core.models.base_kind`), where the user named one. One that writes is meant to write:
            classes are learned only from a column that says so.
    """
    from attune.stages.curate.columns import shown

    known = [entry.name for entry in catalog.entries("tasks") if catalog.load("tasks", entry.name).guessed]  # type: ignore[attr-defined]
    shapes, sources = _shapes(name, location)
    main = shapes.most_common(1)[0][0] if shapes and shapes.most_common(1)[0][1] > 0.5 * shapes.total() else ""
    main = main.removesuffix(" with tools")
    speaks = base is not None and base in catalog.load("tasks", SPEAKER).bases  # type: ignore[attr-defined]
    if task is not None:
        return *(_speaking(name, location, columns, main, ()) if task == SPEAKER else _tried(name, location, task, columns)), []
    if sources == {"documents"}:
        return *_tried(name, location, SPEAKER, columns, "pretraining"), ["fill_mask"]
    unheard = None
    if main in PAIRED or (main in SPEAKING and base is None) or speaks:
        try:
            return *_speaking(name, location, columns, main, known if speaks else None), ["reward"] if main in PAIRED else []
        except RecipeError:  # the user named a column for what only other tasks have
            unheard = None
        except DataError as error:
            if main in PAIRED or speaks:
                raise
            unheard = error
    found, errors = [], []
    for one in known:
        try:
            found.append(_speaking(name, location, columns, main, ()) if one == SPEAKER and main in ASKED else _tried(name, location, one, columns))
        except DataError as error:
            errors.append((one, error))
        except AttuneError as error:
            errors.append((one, DataError(error.what, place=error.place, fix=error.fix)))
    found = [(recipe, seen) for recipe, seen in found if recipe.task.name != SPEAKER or main in SPEAKING | ASKED | ANSWERED or not _answers_numbers(seen)]
    ranked = sorted(found, key=lambda pair: -_fit(pair[1]))
    if ranked and (len(ranked) == 1 or _fit(ranked[0][1]) > _fit(ranked[1][1])):
        best = _fit(ranked[0][1])
        unsure = ranked[0][1].read <= FEW and not seen_as_labels(ranked[0][1])
        return *ranked[0], [recipe.task.name for recipe, seen in ranked[1:] if unsure and _fit(seen) >= max(0, best - 1)]
    speaking = next((pair for pair in ranked if pair[0].task.name == SPEAKER and main in SPEAKING), None)
    if speaking is not None and _fit(speaking[1]) == _fit(ranked[0][1]):
        return *speaking, []
    if ranked:
        options = [(recipe.task.name, seen) for recipe, seen in ranked if _fit(seen) == _fit(ranked[0][1])]
        said = " or ".join(f"{task} ({shown(seen.columns) or 'read by itself'})" for task, seen in options)
        raise RecipeError(f"these rows could be for {said}", place="--data", fix=f"say which: --task {options[0][0]}")
    if unheard is not None:
        raise unheard
    wrong = min(errors, key=lambda pair: _distance(*pair))[1]
    wrong.fix = _as_options(wrong.fix or "")
    if main == "raw text":
        wrong.fix += f"; to learn plain texts as they are: --task {SPEAKER} (a model that writes) or --task fill_mask (one that reads)"
    raise wrong


def _speaking(name: str, location: str, columns: dict[str, str], main: str, others: Sequence[str] | None) -> tuple[Recipe, Preview]:
    """Rows for a model that writes: with the task's own objective where they hold answers, else with the one that learns their shape whole.

    Args:
        main: the shape of most rows.
        others: tasks that the rows are for where they hold no answers and a column is called like the label; None: rows without answers are for none.
    """
    whole = _learner(main) if main in SPEAKING else None
    try:
        recipe, seen = _tried(name, location, SPEAKER, columns, whole)
        if main in SPEAKING or (any(recipe.task.answered(row) for row in seen.sample) and (main not in PLAIN or _called(recipe, seen))):
            return recipe, seen
        refused = DataError("the rows hold no answers", place="data.columns.completion", fix="name the answer's column: --column completion=COLUMN")
    except DataError as error:
        error.fix = _as_options(error.fix or "")
        refused = error
    if whole is not None or others is None:
        raise refused
    objective = _learner(main if main in PLAIN else next(iter(ASKED)))
    for task, spec in [*((one, None) for one in others if one != SPEAKER), *((SPEAKER, one) for one in _specs(objective))]:
        try:
            recipe, seen = _tried(name, location, task, columns, spec)
        except AttuneError:
            continue
        if _says_label(recipe, seen) if spec is None else (_called(recipe, seen) and (not rewards_open(recipe, seen) or main in ASKED | ANSWERED or len(seen.names) == 1)):
            return recipe, seen
    raise refused


def _learner(shape: str) -> str | None:
    """The objective that learns rows of a shape whole; None where the task's own does."""
    return next((entry.name for entry in catalog.entries("objectives") if shape in catalog.load("objectives", entry.name).learns), None)  # type: ignore[attr-defined]


def _specs(objective: str | None) -> list[Any]:
    """An objective as a recipe may name it: as it is, or where it learns from rewards also with each of them, those that need no column last."""
    if objective is None or "rewards" not in catalog.load("objectives", objective).keys_type.model_fields:
        return [objective] if objective is not None else []
    needs = {entry.name: [role.required for role in catalog.load("rewards", entry.name).roles] for entry in catalog.entries("rewards")}  # type: ignore[attr-defined]
    return [objective, *({"name": objective, "rewards": [one]} for one in sorted(needs, key=lambda one: (not any(needs[one]), not needs[one], one)))]


def rewards_open(recipe: Recipe, seen: Preview) -> bool:
    """Whether the recipe learns from rewards, and none of them reads a column of these rows: what an answer is worth is left to the user then."""
    rewards: list[Any] = [part for part in recipe.objective.parts() if part.kind == "rewards"]
    return bool(rewards) and not any(role.name in seen.columns for reward in rewards for role in reward.roles)


def _called(recipe: Recipe, seen: Preview) -> bool:
    """Whether every column is called like what it is for, or was named by the user."""
    from attune.stages.curate.columns import fold

    names = {role.name: {fold(name) for name in (role.name, *role.hints)} for role in recipe.task.roles}
    return all(fold(column) in names[role] or role in recipe.keys.data.columns for role, column in seen.columns.items() if isinstance(column, str))


def _says_label(recipe: Recipe, seen: Preview) -> bool:
    """Whether the rows are texts with classes in a column of that very name."""
    from attune.stages.curate.columns import fold

    columns = [seen.columns.get(role.name) for role in recipe.task.roles if role.target and role.type in ("label", "labels")]
    return "text-in" in recipe.task.traits and "label" in [fold(one) for one in columns if isinstance(one, str)] and seen_as_labels(seen)


def _answers_numbers(seen: Preview) -> bool:
    """Whether every answer is a number, of which nothing but its name says that it is written and not measured."""
    return all(re.fullmatch(r"\s*[-+]?[\d.,]+\s*", str(row.get("completion"))) for row in seen.sample)


def _distance(name: str, error: DataError) -> tuple[bool, bool, bool]:
    """How far rows are from a task that cannot take them: tasks with labels first, those whose input was found before others, texts before tables."""
    task: Any = catalog.load("tasks", name)
    lacks_input = any(f"looks like the {role.name} " in error.what for role in task.roles if not role.target)
    return "label-out" not in task.traits, lacks_input, "text-in" not in task.traits


def _as_options(fix: str) -> str:
    """A way out that speaks of a recipe, for somebody who has none yet: `columns: {label: Kind or Clerk}` -> --column label=Kind."""
    asked = re.search(r"`columns: \{(.*)\}` under `data`", fix)
    if asked is None:
        return fix
    pairs = [part.strip().split(": ", 1) for part in asked[1].split(", ")]
    unsure = [(role, column.split(" or ")[0]) for role, column in pairs if " or " in column] or [(role, column) for role, column in pairs]
    return "say which, for example: " + " ".join(f"--column {shlex.quote(f'{role}={column}')}" for role, column in unsure)


def _shapes(name: str, location: str) -> tuple[Counter[str], set[str]]:
    """The shapes of the first rows as a language model's, and the names of the sources that read them; none where nothing can be read, which is told later."""
    from attune.core.recipe import make_recipe
    from attune.stages.curate.reading import locations

    shapes: Counter[str] = Counter()
    sources: set[str] = set()
    recipe = make_recipe({"name": name, "task": SPEAKER, "data": {"path": location}}, folder=Path.cwd(), name="the recipe for these rows")
    try:
        for place in locations(recipe, None):
            sources.add(place.source.name)
            shapes.update(shapes_of(record.values for record in islice(place.records(), LOOKED_AT) if record.values is not None))
    except AttuneError:
        return Counter(), set()
    return shapes, sources


def _tried(name: str, location: str, task: str, columns: dict[str, str], objective: Any = None) -> tuple[Recipe, Preview]:
    from attune.core.recipe import make_recipe
    from attune.stages.curate.preview import preview

    values: dict[str, Any] = {"name": name, "task": task, "data": {"path": location, **({"columns": columns} if columns else {})}}
    if objective is not None:
        values["objective"] = objective
    recipe = make_recipe(values, folder=Path.cwd(), name="the recipe for these rows")
    seen = preview(recipe)
    if "multi_label" in recipe.task.keys_type.model_fields and any(isinstance(row.get("label"), list) for row in seen.rows):
        recipe = make_recipe({**values, "task": {"name": task, "multi_label": True}}, folder=Path.cwd(), name="the recipe for these rows")
        seen = preview(recipe)
    targets = [role for role in recipe.task.roles if role.target]
    if targets and not any(row.get(role.name) not in (None, "", []) for row in seen.rows for role in targets):
        raise DataError(f"no column holds the {targets[0].name} ({targets[0].meaning})", place="data.columns", fix=f"write `columns: {{{targets[0].name}: COLUMN}}` under `data`")
    return recipe, seen


def _fit(seen: Preview) -> int:
    """How well rows fit a task: values that come again and again speak for labels, a column called like a role for its task."""
    if seen.labels and seen.labels.most_common(1)[0][1] == 1:
        return -1  # no value stands twice: these are no classes
    labels = 4 if seen_as_labels(seen) else 0
    tables = sum(2 for column in seen.columns.values() if not isinstance(column, str))  # any rows are a table: only where no task reads more out of them
    return labels - tables + sum(1 for role, column in seen.columns.items() if isinstance(column, str) and role.casefold() == column.strip().casefold())


def seen_as_labels(seen: Preview) -> bool:
    """True when the target's values look like labels: few different ones among many rows or, among few rows, short ones most of which stand more than once."""
    rows = max(1, seen.read - len(seen.unreadable))
    if not seen.labels:
        return False
    again = sum(number for number in seen.labels.values() if number > 1)
    short = all(len(label) <= LABEL_LENGTH for label in seen.labels)
    return len(seen.labels) <= max(2, 0.34 * rows) or (rows <= FEW and short and again >= 0.5 * seen.labels.total())
