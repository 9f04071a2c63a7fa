"""The end of a run on one screen: verdict, figures with intervals, what curation did, where the report is, what to type next."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.cli.names import record_json
from attune.cli.screen import Screen
from attune.cli.tables import add, facts, table
from attune.core.cost import words
from attune.core.learner import words_of_start

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from attune.core.contracts import Metric
    from attune.core.recipe import Recipe
    from attune.core.records import Checkpoint, DatasetVersion, Scorecard
    from attune.core.workspace import Workspace
    from attune.lifecycle import Cycle

MANY_SET_ASIDE = 0.05
"""A larger share of quarantined rows is told with its reasons."""
MAIN_REASONS = 3
COLOURS = {"SHIP": "bold white on green", "NO-SHIP": "bold white on red", "INCONCLUSIVE": "bold black on yellow"}
MEANING = {
    "SHIP": "every gate passed",
    "NO-SHIP": "a gate failed: this model should not replace what there is",
    "INCONCLUSIVE": "the test rows are too few or too close to tell; more of them would",
}


def document(workspace: Workspace, recipe: Recipe, cycle: Cycle) -> dict[str, Any]:
    """What a run made, for machines."""
    scorecard = cycle.scorecard
    many = many_set_aside(cycle.dataset, workspace.store.path(cycle.dataset.store_key)) if cycle.dataset else None
    return {
        "specialist": recipe.name,
        "run": cycle.run,
        "run_folder": str(workspace.root / "runs" / cycle.run),
        "dataset": record_json(cycle.dataset),
        "checkpoint": record_json(cycle.checkpoint),
        "scorecard": record_json(scorecard),
        "release": record_json(cycle.release),
        "current": cycle.current.id if cycle.current else None,
        "verdict": scorecard.verdict if scorecard else None,
        "reasons": list(scorecard.reasons) if scorecard else [],
        "report": str(workspace.store.path(scorecard.store_key) / "report.html") if scorecard else None,
        "warnings": [many] if many else [],
        "notices": recipe.notices,
    }


def print_summary(screen: Screen, recipe: Recipe, cycle: Cycle, result: dict[str, Any], again: str, option: str) -> None:
    """Print it.

    Args:
        again: recipe and settings, as the next command has to be given them.
        option: the next command's option for the workspace.
    """
    from rich.text import Text

    if screen.as_json:
        return
    screen.show("")
    if cycle.scorecard is not None:
        screen.show(verdict(recipe.name, cycle.scorecard, cycle.release.version if cycle.release else None), "")
        screen.show(contestants(recipe.main_metric, cycle.scorecard), "")
    pairs: list[tuple[str, Any]] = []
    if cycle.dataset is not None:
        pairs += data_lines(cycle.dataset)
        if result["warnings"]:
            pairs += [("warning", Text(one, "yellow")) for one in result["warnings"]]
    if cycle.checkpoint is not None:
        tuned = cycle.checkpoint
        start, means = words_of_start(tuned.chosen)
        best = f"best at {tuned.best_step}" if tuned.best_step else f"none of which was better on the validation rows than {start}: {means}, the model is kept as it began"
        pairs.append(("training", f"{tuned.method} · {tuned.steps} steps, {best} · validation " + ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in tuned.validation.items())))
        if tuned.cost:
            pairs.append(("", f"took {words(tuned.cost, tuned.steps)}"))
        if tuned.trials:
            screen.show(trials(tuned, recipe.main_metric), "")
    if result["report"]:
        pairs.append(("report", short(Path(result["report"]))))
    elif cycle.dataset is not None:
        pairs.append(("run folder", short(Path(result["run_folder"]))))
    pairs.append(("next", next_command(recipe, cycle, again, option)))
    screen.show(facts(pairs))


def trials(tuned: Checkpoint, main_metric: str) -> Table:
    """What `method: auto` tried, in order."""
    value_name = main_metric.replace("_", " ")
    made = table("tried", "learning rate", "steps", "seconds", value_name, "validation loss", "", right=("learning rate", "steps", "seconds", value_name, "validation loss"))
    for one in tuned.trials:
        value, loss = (f"{one[name]:.4f}" if one[name] is not None else "" for name in ("validation", "loss"))
        kept = one["outcome"].endswith("kept")
        add(
            made,
            one["method"] + (" (sweep)" if one["kind"] == "sweep" else ""),
            f"{one['learning_rate']:.2g}",
            one["steps"],
            f"{one['seconds']:.1f}",
            value,
            loss,
            one["outcome"],
            style="bold" if kept else "",
        )
    return made


def verdict(name: str, scorecard: Scorecard, version: int | None) -> Text:
    """The verdict in colour and words, with its reasons."""
    from rich.text import Text

    title = f"{name} v{version}" if version else name
    text = Text.assemble((f" {scorecard.verdict} ", COLOURS[scorecard.verdict]), ("  " + title, "bold"), f": {MEANING[scorecard.verdict]}")
    for number, reason in enumerate(scorecard.reasons):
        text.append(f"\n  • {reason}", "" if number < len(scorecard.gates) else "yellow")
    if scorecard.test_uses > 1:
        text.append(f"\n  • some of these {scorecard.test_rows} test rows have been opened {scorecard.test_uses} times; each look makes a lucky result likelier", "yellow")
    return text


def metrics_of(names: list[str]) -> dict[str, Metric]:
    """Metric plugs by their names in a scorecard, for how their values are shown."""
    from attune.core import catalog

    return {name: catalog.build("metrics", catalog.plug_name("metrics", name)) for name in names}


def contestants(main_metric: str, scorecard: Scorecard) -> Table:
    """The tuned model and its rivals, the best first, with intervals, and how far the tuned model is ahead."""
    from rich.text import Text

    from attune.stages.grade.words import interval, p_value, plain, signed

    tuned = scorecard.results["tuned"]
    shown = list(dict.fromkeys((main_metric, *tuned)))[:2]
    metrics = metrics_of(shown)
    main = metrics[main_metric]
    sign = -1 if main.higher_is_better else 1
    against = {one.rival: one for one in scorecard.comparisons if one.metric == main_metric}
    percent = f"{scorecard.confidence:.0%} intervals, {scorecard.test_rows} sealed test rows"
    made = table("", *(plain(name) for name in shown), f"tuned is ahead by ({plain(main_metric)})", title=f"On the same rows ({percent})")
    order = sorted(scorecard.results, key=lambda name: sign * scorecard.results[name][main_metric].value if main_metric in scorecard.results[name] else float("inf"))
    for name in order:
        own = scorecard.results[name]
        cells = [interval(own[metric], metrics[metric]) if metric in own else "–" for metric in shown]
        one = against.get(name)
        ahead: Any = ""
        if one is not None:
            ahead = Text(f"{signed(one.difference, main)} ({signed(one.low, main)} to {signed(one.high, main)}), {p_value(one.p_value)}", "green" if one.low > 0 else "red" if one.high < 0 else "")
        add(made, Text(plain(name), "bold cyan" if name == "tuned" else ""), *cells, ahead, style="bold" if name == "tuned" else "")
    return made


def many_set_aside(dataset: DatasetVersion, folder: Path) -> str | None:
    """A sentence when more than `MANY_SET_ASIDE` of the rows were quarantined: the main reasons with their counts, and where each row's receipt is."""
    aside, read = dataset.counts["quarantined"], dataset.counts["read"]
    if aside <= MANY_SET_ASIDE * read:
        return None
    reasons: Counter[str] = Counter()
    if (folder / "curation.json").is_file():
        for section in json.loads((folder / "curation.json").read_text(encoding="utf-8")).get("findings", []):
            for one in section["reasons"]:
                reasons[one["reason"]] += one["rows"] if one["action"] == "quarantine" else 0
    said = set_aside(aside, read, reasons)
    return f"{said}; each with its reason in {short(folder / 'receipts.parquet')}, whole in quarantine.parquet beside it, a summary in card.md"


def set_aside(aside: int, read: int, reasons: Counter[str]) -> str:
    """How many rows were set aside and mainly why: '69 of 1,265 rows (5.5%) were set aside: no text 40, empty 20 and others 9'."""
    main = [(reason, number) for reason, number in reasons.most_common(MAIN_REASONS) if number]
    rest = aside - sum(number for _, number in main)
    named = ", ".join(f"{reason} {number:,}" for reason, number in main)
    others = f"{' and ' if named else ''}other reasons {rest:,}" if rest > 0 else ""
    return f"{aside:,} of {read:,} rows ({aside / read:.1%}) were set aside: {named}{others}"


def data_lines(dataset: DatasetVersion) -> list[tuple[str, str]]:
    """What curation did, in counts."""
    counts = dataset.counts
    lines = [
        ("rows", f"{counts['read']:,} read = {counts['kept']:,} kept + {counts['repaired']:,} repaired + {counts['quarantined']:,} quarantined"),
        ("", f"train {counts['train']:,} · validation {counts['validation']:,} · test {counts['test']:,}"),
    ]
    found = " · ".join(f"{name.replace('_', ' ')} {number}" for name, number in sorted(dataset.findings.items(), key=lambda one: -one[1]) if number)
    return [*lines, ("found", found)] if found else lines


def next_command(recipe: Recipe, cycle: Cycle, again: str, option: str) -> str:
    """What a person would type next."""
    if cycle.checkpoint is None:
        return f"attune finetune {again}{option}"
    if cycle.scorecard is None:
        return f"attune grade {again}{option}"
    if cycle.release is None:
        return f"attune register {again}{option}"
    if cycle.release.verdict == "SHIP":
        return f"attune promote {recipe.name}{option}   then   attune serve {recipe.name}{option}"
    return f"open the report; then better rows or another method, and `attune run {again}{option}` again"


def short(path: Path) -> str:
    """A path relative to the working directory where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve())) or "."
    except ValueError:
        return str(path)
