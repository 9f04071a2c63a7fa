"""Everything that can be known before training: the recipe, the base model, the rows as they would be read, what a run would do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from attune.cli.screen import Screen, at_settings
from attune.cli.tables import add, facts, table
from attune.core.errors import AttuneError, DataError, Problems, RecipeError

if TYPE_CHECKING:
    from attune.core.models import Base
    from attune.core.recipe import Recipe
    from attune.stages.curate.preview import Preview

FEW = 10
"""Fewer rows of a label than this are told."""
MOST_LABELS = 12
MOST_FILES = 5
CELL = 70
ENCODED = 40
"""Rows that are encoded for the few that are shown as tokens: some objectives need rows of several kinds."""


def look(screen: Screen, path: str, quick: bool = False, show_mask: int | None = None) -> dict[str, Any]:
    """Check a recipe; every problem is reported at once, and the exit code is 2 when there is one.

    Args:
        quick: neither load the base nor probe the machine.
        show_mask: how many rows to show as tokens.
    """
    from attune.core.models import require_base, resolve_base
    from attune.stages import grade
    from attune.stages.curate.preview import preview

    problems: list[AttuneError] = []
    recipe = _try(problems, lambda: screen.recipe(path))
    base, seen = None, None
    if recipe is not None:
        keys = recipe.keys
        base = _try(problems, lambda: resolve_base(keys.base_model, keys.revision, recipe.folder))
        if base is not None:
            _try(problems, lambda: require_base(recipe.task, base))
        seen = _try(problems, lambda: preview(recipe, count=not quick))
        _try(problems, lambda: _defaults(recipe))
        if not problems:  # a plug that cannot be built is told once
            _try(problems, lambda: grade.check(recipe))
        if seen is not None:
            _try(problems, lambda: _learnable(recipe, seen))
            seen.warnings += _crowd(recipe, seen)
    for problem in problems:
        at_settings(problem, screen.settings)
    result: dict[str, Any] = {"ok": not problems, "problems": [problem.as_json() for problem in problems]}
    if recipe is not None:
        template = _template(recipe, base)
        result |= {"specialist": recipe.name, "resolved": recipe.resolved(), "notices": [*recipe.notices, *(text for _, text in template)]}
        _show_recipe(screen, recipe, base, template)
    if recipe is not None and seen is not None:
        result["data"] = show_data(screen, seen)
    if recipe is not None and seen is not None and base is not None and not problems and "text-out" in recipe.task.traits and seen.sample:
        result |= _try(problems, lambda: _tripwires(screen, recipe, seen, base, not quick)) or {"tripwires": []}
        for problem in problems:
            at_settings(problem, screen.settings)
        result |= {"ok": not problems, "problems": [problem.as_json() for problem in problems]}
    if show_mask is not None and recipe is not None and seen is not None and base is not None:
        result["mask"] = _try(problems, lambda: _show_mask(screen, recipe, seen, show_mask))
        result |= {"ok": not problems, "problems": [problem.as_json() for problem in problems]}
    if recipe is not None and seen is not None and not problems:
        result |= _plan(screen, recipe, seen)
        if base is not None and not quick and result["stages"]["finetune"] == "would run":
            result["forecast"] = _forecast(screen, recipe, seen, base)
    screen.end_live()
    screen.exit_code = result["exit_code"] = RecipeError.exit_code if problems else 0
    if problems:
        title = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}; nothing was run"
        Screen.error(str(problems[0]) if len(problems) == 1 else str(Problems(problems, title=title)))
    else:
        screen.show("", "no problem found", f"next      attune run {path}")
    return result


def _try(problems: list[AttuneError], work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Problems as error:
        problems += error.problems
    except AttuneError as error:
        problems.append(error)
    return None


def _tripwires(screen: Screen, recipe: Recipe, seen: Preview, base: Base, weights: bool) -> dict[str, Any]:
    """Run the tripwires on the sampled rows; those that block are raised, the others told, and how many rows are too long."""
    from attune.core.receipts import ASIDE, CUT, place_of, words
    from attune.core.tripwires import as_error, require_known
    from attune.stages.curate.preview import kept
    from attune.stages.finetune.preflight import Preflight, preflight

    accepted = recipe.keys.train.accept
    require_known(accepted)
    rows = kept(recipe, [*seen.sample, *seen.general])
    found = preflight(recipe, rows, weights=weights) if rows else Preflight([], [])
    blocking = [as_error(wire, alarm) for wire, alarm in found.alarms if alarm.blocks and wire.name not in accepted]
    if blocking:
        raise Problems(blocking, title="tripwires")
    cut, length = sum(one.action == CUT for one in found.receipts), recipe.keys.train.max_length
    aside = [one for one in found.receipts if one.action == ASIDE]
    for sentence in words(aside, len(rows), "rows"):
        screen.warn(sentence.replace(" are set aside", " would be set aside", 1))
    if cut:
        room = getattr(base.config(), "max_position_embeddings", None) or 1 << 30
        way_out = "raise train.max_length" if length < room else f"shorten them: the base reads {room} tokens"
        screen.warn(f"{cut:,} of {found.encoded:,} rows are longer than train.max_length = {length} tokens and would lose the oldest part of their question -> {way_out}")
    for wire, alarm in found.alarms:
        screen.warn(f"{wire.name}: {alarm.what} ({alarm.place}) -> {alarm.fix}")
    told = [{"tripwire": wire.name, "what": alarm.what, "place": alarm.place, "fix": alarm.fix} for wire, alarm in found.alarms]
    receipts = [{"place": place_of(one.row), "check": one.check, "reason": one.reason, "fix": one.fix} for one in aside]
    return {"tripwires": told, "set_aside": receipts, "cut": {"rows": cut, "of": found.encoded, "max_length": length}}


def _show_mask(screen: Screen, recipe: Recipe, seen: Preview, count: int) -> list[dict[str, Any]]:
    """Print rows as tokens, and return them."""
    from attune.cli import mask
    from attune.stages.curate.preview import kept
    from attune.stages.finetune.preflight import masks

    rows = masks(recipe, kept(recipe, seen.sample[: max(4 * count, ENCODED)]), count)
    coloured = screen.out.is_terminal
    screen.show("", mask.legend(coloured), *(mask.shown(row, coloured) for row in rows), "", mask.summary(rows))
    return rows


def _learnable(recipe: Recipe, seen: Preview) -> None:
    """What would end the run after curation: too few rows for a held-out test, or a single class."""
    from attune.stages.curate.splits import require_enough

    problems: list[AttuneError] = []
    data = recipe.keys.data
    if data.test_path is None and data.splits.by != "given":
        _try(problems, lambda: require_enough(seen.read - len(seen.unreadable), data.splits.test))
    if len(seen.labels) == 1 and not getattr(recipe.task.keys, "multi_label", False):
        column = str(seen.columns.get("label", "label"))
        problems.append(
            DataError(
                f"every row has the label {next(iter(seen.labels))!r}: there is nothing to tell apart", place="data", fix=f"give rows of at least two classes, or name another column than '{column}'"
            )
        )
    if problems:
        raise Problems(problems, title="data")


def _crowd(recipe: Recipe, seen: Preview) -> list[str]:
    """A sentence where most rows would stay in one split."""
    from attune.stages.curate.preview import crowd, kept

    if recipe.keys.data.test_path is not None or recipe.keys.data.splits.by not in ("stratified", "group"):
        return []
    told = _try([], lambda: crowd(recipe, kept(recipe, seen.sample)))
    return [told] if told else []


def _defaults(recipe: Recipe) -> None:
    """Build the plugs that the task brings along, so that one which lacks a package is told now and not after training."""
    problems: list[AttuneError] = []
    keys, defaults = recipe.keys, recipe.task.defaults
    wanted = (
        ("checks", keys.data.checks, defaults.checks),
        ("metrics", keys.grade.metrics, defaults.metrics),
        ("rivals", keys.grade.rivals, defaults.rivals),
        ("probes", keys.grade.probes, defaults.probes),
        ("detectors", keys.watch.detectors, defaults.detectors),
    )
    for kind, given, default in wanted:
        _try(problems, partial(recipe.plugs, kind, given, default))
    if problems:
        raise Problems(problems, title="plugs")


def _show_recipe(screen: Screen, recipe: Recipe, base: Any, template: list[tuple[str, str]]) -> None:
    method = f"auto ({', '.join(one.name for one in recipe.candidates)})" if recipe.candidates else recipe.method.name
    parts = " · ".join((recipe.task.name, recipe.objective.name, method))
    screen.show(
        facts(
            [
                ("specialist", recipe.name),
                ("combines", parts),
                ("base model", f"{recipe.keys.base_model}" + (f"  ({base.folder})" if base.files else "") if base is not None else f"{recipe.keys.base_model}: not found"),
                *template,
            ]
        )
    )


def _template(recipe: Recipe, base: Base | None) -> list[tuple[str, str]]:
    """A line where the base has no chat template although conversations are learned."""
    asks = "text-out" in recipe.task.traits and any(role.name == "prompt" and role.required for role in recipe.task.roles)
    tokenizer = _try([], base.tokenizer) if base is not None and asks else None  # one that cannot be read is told by the tripwires
    if tokenizer is None or tokenizer.chat_template:
        return []
    return [("template", "the base has none, so a plain one is used (`User: ...`, `Assistant: ...`); it travels with the model")]


def show_data(screen: Screen, seen: Preview) -> dict[str, Any]:
    """Print and return what was seen in the rows."""
    from attune.cli.summary import MANY_SET_ASIDE, set_aside
    from attune.core.text import excerpt, readable
    from attune.stages.curate.card import general
    from attune.stages.curate.columns import shown

    roles = shown(seen.columns)
    count = f"{'more than ' if seen.more else ''}{seen.read:,} rows" if seen.beyond is None else f"{seen.read + seen.beyond:,} rows, of which the first {seen.read:,} were looked at"
    screen.show(facts([("data", ", ".join(f"{path} ({source})" for path, source in seen.sources)), ("", count), ("columns", roles or "the task reads the rows by itself"), *_shapes(seen)]))
    made = table("row", *(name for name in seen.rows[0] if name != "place"), title="\nThe first rows, as they are read") if seen.rows else None
    if made is not None:
        for row in seen.rows:
            add(made, row["place"], *(excerpt(readable(value), CELL) for name, value in row.items() if name != "place"))
        screen.show(made)
    if seen.labels:
        most = seen.labels.most_common()
        screen.show(
            "", f"{len(most)} labels: " + ", ".join(f"{_name(label)} {number}" for label, number in most[:MOST_LABELS]) + (f" and {len(most) - MOST_LABELS} more" if len(most) > MOST_LABELS else "")
        )
        few = [f"{_name(label)} {number}" for label, number in most if number < FEW]
        if few:
            screen.note(f"few rows: {', '.join(few[:MOST_LABELS])}{' ...' if len(few) > MOST_LABELS else ''}; a label needs rows in training, validation and test", "yellow")
    if seen.unreadable:
        many = len(seen.unreadable) > MANY_SET_ASIDE * seen.read
        screen.note(f"{len(seen.unreadable)} rows cannot be read and would be set aside, for example", "yellow")
        for place, problem, fix in seen.unreadable[:3]:
            screen.note(f"  {place}: {problem}" + (f" -> {fix}" if fix else ""), "yellow")
        if many:
            said = set_aside(len(seen.unreadable), seen.read, Counter(general(problem) for _, problem, _ in seen.unreadable)).replace("were set aside", "would be set aside")
            screen.warn(f"{said}; a run writes each with its reason into receipts.parquet of its dataset")
    for warning in seen.warnings:
        screen.warn(warning)
    for hint in seen.hints:
        screen.note(f"hint: {hint}")
    return {
        "sources": [{"path": path, "source": source} for path, source in seen.sources],
        "columns": seen.columns,
        "shapes": {file: dict(counts.most_common()) for file, counts in seen.shapes.items()},
        "all_columns": seen.names,
        "read": seen.read,
        "more": seen.more,
        "in_all": seen.read + (seen.beyond or 0) if seen.beyond is not None or not seen.more else None,
        "unreadable": [{"place": place, "problem": problem, "fix": fix} for place, problem, fix in seen.unreadable],
        "rows": seen.rows,
        "labels": dict(seen.labels.most_common()),
        "hints": seen.hints,
        "warnings": seen.warnings,
    }


def _shapes(seen: Preview) -> list[tuple[str, str]]:
    """A line per file (at most five), and whether it mixes shapes; one line for files that are all alike, as a folder of documents."""
    found: list[tuple[str, str]] = []
    alike = {shape for counts in seen.shapes.values() for shape in counts}
    if len(seen.shapes) > 1 and len(alike) == 1:
        return [("shape", f"{alike.pop()} in each of {len(seen.shapes):,} files")]
    for file, counts in list(seen.shapes.items())[:MOST_FILES]:
        mixed = "  (mixed: each row is read by its own)" if len(counts) > 1 else ""
        found.append(("shape" if not found else "", f"{file}: " + ", ".join(f"{shape} {number:,}" for shape, number in counts.most_common()) + mixed))
    return [*found, *([("", f"and {len(seen.shapes) - MOST_FILES} more files")] if len(seen.shapes) > MOST_FILES else [])]


def _name(label: str) -> str:
    """A label as it is, in quotes where spaces at its ends would not be seen."""
    return label if label and label == label.strip() else repr(label)


def _plan(screen: Screen, recipe: Recipe, seen: Preview) -> dict[str, Any]:
    """What would run, and how much that is."""
    from attune import lifecycle

    known: dict[str, Any] = dict.fromkeys(lifecycle.STAGES)
    try:
        cycle = lifecycle.unchanged(recipe, screen.workspace(create=False))
        known = dict(zip(lifecycle.STAGES, (cycle.dataset, cycle.checkpoint, cycle.scorecard, cycle.release), strict=True))
    except RecipeError as error:
        if error.place != "--workspace":
            raise
    stages = {name: "unchanged" if record is not None else "would run" for name, record in known.items()}
    made = table("stage", "", title="\nA run would")
    made.show_header = False
    for name, state in stages.items():
        add(made, f"  {name}", state if state == "would run" else f"unchanged ({known[name].id})", style="" if state == "would run" else "dim")
    screen.show(made)
    cost = _cost(recipe, seen)
    if stages["finetune"] == "would run":
        screen.show("", f"about {cost['train_rows']:,} training rows; {cost['words']}")
        if seen.more and seen.beyond is None:
            screen.warn(f"there are more rows than the first {seen.read:,}, which alone were looked at: the figures here are of a run on those; a run on all takes longer")
    return {"stages": stages, "cost": cost}


def _forecast(screen: Screen, recipe: Recipe, seen: Preview, base: Base) -> dict[str, Any] | None:
    """Time, memory and disk of tuning, from a short probe, kept for the run's record, or why there is none; None where nothing can be probed."""
    from attune.core.cost import duration, forecast_key, keep_forecast, keep_none
    from attune.stages import curate
    from attune.stages.finetune.forecast import forecast

    if not ("torch" in recipe.task.traits or recipe.method.brings_learner) or not seen.sample:
        return None
    screen.note("probing this machine with a few steps; --quick leaves that out")
    found, why = None, ""
    try:
        dealt = seen.dealt(recipe)
        found = forecast(recipe, seen.sample, dealt["train"], dealt["validation"], screen.root)
    except AttuneError as error:
        why = f"the probe was refused: {error.what}"
        screen.warn(f"no forecast: {error.what}" + (f" -> {error.fix}" if error.fix else ""))
    if found is not None:
        giga = 1e9
        whole, most = ("auto", "at most ") if found.upper else ("tuning", "at most " if found.may_stop_early else "")
        screen.show(
            "",
            f"{whole} would take {most}about {duration(found.seconds)}, {found.memory_bytes / giga:.1f} GB of memory ({found.free_memory / giga:.1f} free) "
            f"and {found.disk_bytes / giga:.2f} GB of disk ({found.free_disk / giga:.1f} free)",
            *([f"that is an upper estimate: {found.upper}"] if found.upper else []),
        )
        if not found.fits:
            screen.warn("that does not fit" + (f"; it would with {found.way_out}" if found.way_out else "; no setting tried here fits: choose a smaller base or a larger machine"))
    if seen.more and seen.beyond is None:
        why = why or f"there are more rows than could be counted beside the first {seen.read:,}, so what they take was not known before the run"
    try:
        key = forecast_key(recipe, base.identity, curate.inputs(recipe))
        if why or found is None:
            keep_none(screen.root, key, why)
        else:
            keep_forecast(screen.root, key, found.as_json())
    except OSError as error:
        screen.note(f"the forecast is not kept for the run's record: {error}")
    return found.as_json() if found is not None else None


def _cost(recipe: Recipe, seen: Preview) -> dict[str, Any]:
    """Rows and optimizer steps, roughly: before duplicates and rows that a check sets aside are taken out."""
    train = recipe.keys.train
    own = seen.dealt(recipe)["train"]
    rows = own + recipe.keys.data.replay.beside(own)
    if "torch" not in recipe.task.traits:
        return {"train_rows": rows, "words": f"method {recipe.method.name} decides how many steps"}
    steps = max(1, math.ceil(rows / train.batch_size))
    epochs = train.epochs or recipe.method.epochs
    if recipe.candidates:
        words = f"auto decides how many steps; {recipe.method.name} alone takes at most {math.ceil(steps * epochs):,} of {train.batch_size} rows"
        return {"train_rows": rows, "words": words}
    return {"train_rows": rows, "steps_per_epoch": steps, "steps": math.ceil(steps * epochs), "words": f"at most {math.ceil(steps * epochs):,} steps of {train.batch_size} rows ({epochs:g} epochs)"}
