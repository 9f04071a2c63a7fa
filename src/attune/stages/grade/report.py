"""The report as one HTML page that needs nothing else: no script, no request, readable on a phone and on paper. All data is escaped."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attune.core import catalog
from attune.core.answers import is_right, label_set
from attune.core.contracts import Figure, Metric
from attune.core.figures import Bits, Share
from attune.core.records import Comparison, Estimate
from attune.stages.grade import plots, provenance
from attune.stages.grade.gates import CURRENT, MIN_ROWS, TUNED
from attune.stages.grade.words import amount, interval, number, p_value, plain, sentence, signed

if TYPE_CHECKING:
    from attune.stages.grade.outputs import Grading

TEMPLATE = "report.html.jinja"
MOST_CLASSES = 20
MOST_PAIRS = 8
MOST_MISTAKES = 12
EXCERPT = 280
SURE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Confidences from which an answer might be used without a person."""
HEADLINES = {
    "SHIP": ("Ship it", "On rows it had never seen, the tuned model passed every gate."),
    "NO-SHIP": ("Do not ship it", "At least one gate was not passed."),
    "INCONCLUSIVE": ("Not proven yet", "Nothing speaks clearly against it, but these test rows are too few or too close to prove it."),
}
OUTCOMES = {"pass": "passed", "fail": "not passed", "inconclusive": "cannot tell"}


def report_html(grading: Grading, dataset_folder: Path) -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(TEMPLATE).render(**context(grading, dataset_folder))


def context(grading: Grading, dataset_folder: Path) -> dict[str, Any]:
    """Everything the template shows; texts are plain and get escaped there, drawings are SVG made here."""
    facts, recipe = grading.facts, grading.recipe
    main = grading.metrics[recipe.main_metric]
    headline, lead = HEADLINES[facts["verdict"]]
    right = [is_right(recipe.task, truth, answer.output) if recipe.task.answered(row) else None for row, truth, answer in zip(grading.rows, grading.truth, grading.answers[TUNED], strict=True)]
    return {
        "name": recipe.name,
        "task": plain(recipe.task.name),
        "verdict": facts["verdict"],
        "headline": headline,
        "sentence": lead,
        "gates": [{"gate": gate.gate, "outcome": gate.outcome, "said": OUTCOMES[gate.outcome], "reason": sentence(gate.reason)} for gate in _worst_first(facts["gates"])],
        "remarks": [sentence(reason) for reason in facts["reasons"][len(facts["gates"]) :]],
        "tiles": _tiles(grading, main),
        "confidence": f"{facts['confidence']:.0%}",
        "resamples": f"{facts['resamples']:,}",
        "main": _metric_facts(recipe.main_metric, main),
        "whiskers": _whiskers(grading, main),
        "table": _table(grading),
        "against": _against(grading),
        "classes": _classes(grading),
        "confusion": _confusion(grading),
        "mistakes": _mistakes(grading, right),
        "right_rows": right.count(True),
        "certainty": _certainty(grading, right),
        "probes": [_probe(name, probe) for name, probe in facts["probes"].items()],
        "curves": plots.curves(grading.checkpoint.curve, grading.checkpoint.best_step, grading.checkpoint.main_metric),
        "training": provenance.training(grading),
        "trials": provenance.trials(grading),
        "data": provenance.data(grading, dataset_folder),
        "made": provenance.made(grading),
        "limits": provenance.limits(grading),
    }


def _worst_first(gates: Sequence[Any]) -> list[Any]:
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    return sorted(gates, key=lambda gate: order[gate.outcome])


def _contestant(name: str) -> str:
    """A contestant's name for reading."""
    if name == TUNED:
        return "tuned model"
    if name == CURRENT:
        return "approved release"
    return plain(name)


def _purposes(grading: Grading) -> dict[str, str]:
    """Contestant -> a line about it."""
    known = {entry.name: entry.purpose for entry in catalog.entries("rivals")}
    said = {name: re.split(r"[:.;](?:\s|$)", known[grading.plugs["rivals"][name][0]])[0] for name in grading.rivals}
    return {
        TUNED: f"{grading.checkpoint.method} on {grading.checkpoint.base['reference'].removeprefix('package:').rstrip('/').rpartition('/')[2]}",
        CURRENT: grading.current.id if grading.current else "",
        **{name: f"{said[name]}; {rival.note}" if rival.note else said[name] for name, rival in grading.rivals.items()},
    }


def _metric_facts(name: str, metric: Metric) -> dict[str, Any]:
    purpose = next((entry.purpose for entry in catalog.entries("metrics") if entry.name == metric.name), "")
    return {
        "name": plain(name),
        "purpose": purpose,
        "direction": "no value is better than another" if metric.neutral else "higher is better" if metric.higher_is_better else "lower is better",
        "unit": "%" if metric.percent else "",
    }


def _tiles(grading: Grading, main: Metric) -> list[dict[str, str]]:
    """The few figures a reader takes away."""
    name, results = grading.recipe.main_metric, grading.facts["results"]
    tiles = [{"what": f"tuned model: {plain(name)}", "value": amount(results[TUNED][name].value, main), "note": f"{_span(results[TUNED][name], main)} ({grading.facts['confidence']:.0%} interval)"}]
    rivals = [who for who, rival in grading.rivals.items() if rival.opponent and who in _known(results, name)]
    if rivals:
        best = (max if main.higher_is_better else min)(rivals, key=lambda who: results[who][name].value)
        tiles.append({"what": f"best rival: {plain(best)}", "value": amount(results[best][name].value, main), "note": _span(results[best][name], main)})
    for who in ([best] if rivals else []) + ([CURRENT] if CURRENT in results else []):
        found = next(one for one in grading.facts["comparisons"] if one.rival == who and one.metric == name)
        if math.isfinite(found.difference):
            tiles.append(
                {
                    "what": f"gain over {'the approved release' if who == CURRENT else plain(who)}",
                    "value": signed(found.difference, main),
                    "note": f"{_range(found, main)}{' points' if main.percent else ''}, {p_value(found.p_value)}",
                }
            )
    uses = grading.facts["test_uses"]
    tiles.append({"what": "sealed test rows", "value": f"{grading.facts['test_rows']:,}", "note": "opened for the first time" if uses == 1 else f"some opened {uses} times so far"})
    return tiles


def _known(results: dict[str, dict[str, Estimate]], name: str) -> dict[str, Estimate]:
    """Contestant -> its value of a metric, where it has one."""
    return {who: estimates[name] for who, estimates in results.items() if name in estimates and math.isfinite(estimates[name].value)}


def _span(estimate: Estimate, metric: Figure) -> str:
    unit = "%" if metric.percent else ""
    return f"{number(estimate.low, metric)}–{number(estimate.high, metric)}{unit}"


def _range(comparison: Comparison, metric: Figure) -> str:
    return f"{signed(comparison.low, metric)} to {signed(comparison.high, metric)}"


def _whiskers(grading: Grading, main: Metric) -> dict[str, Any]:
    """Dots and whiskers of the main metric: positions in per cent of the axis, best first, the tuned model on top."""
    name, purposes = grading.recipe.main_metric, _purposes(grading)
    found = _known(grading.facts["results"], name)
    if not found:
        return {"rows": [], "ticks": []}
    low, high = (0.0, 1.0) if main.percent else _padded(min(e.low for e in found.values()), max(e.high for e in found.values()))

    def at(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    sign = -1 if main.higher_is_better else 1
    order = sorted(found, key=lambda who: (who != TUNED, who != CURRENT, sign * found[who].value))
    rows = [
        {
            "who": _contestant(who),
            "note": purposes[who],
            "tuned": who == TUNED,
            "text": interval(found[who], main),
            "dot": at(found[who].value),
            "left": at(found[who].low),
            "width": round(max(at(found[who].high) - at(found[who].low), 0.4), 2),
        }
        for who in order
    ]
    return {
        "rows": rows,
        "ticks": [{"at": at(value), "text": f"{100 * value:.0f}%" if main.percent else number(value, main)} for value in np.linspace(low, high, 5)],
        "tuned_at": at(found[TUNED].value) if TUNED in found else None,
    }


def _padded(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.08 or 0.5
    return max(0.0, low - room) if low >= 0 else low - room, high + room


def _table(grading: Grading) -> dict[str, Any]:
    """Metrics x contestants with intervals; the best value of each metric is marked."""
    results = grading.facts["results"]
    rows = []
    for name, metric in grading.metrics.items():
        values = {who: one.value for who, one in _known(results, name).items()}
        best = (max if metric.higher_is_better else min)(values.values()) if values and not metric.neutral else None
        cells = [
            {"value": amount(one[name].value, metric), "span": _span(one[name], metric) if math.isfinite(one[name].low) else "", "best": values.get(who) == best and best is not None}
            if name in one
            else {"value": "–", "span": "", "best": False}
            for who, one in results.items()
        ]
        rows.append({**_metric_facts(name, metric), "main": name == grading.recipe.main_metric, "cells": cells})
    return {"heads": [_contestant(who) for who in results], "rows": rows}


def _against(grading: Grading) -> dict[str, Any]:
    """Paired comparisons: the main metric's, and those of the other metrics."""
    rows = []
    for one in sorted(grading.facts["comparisons"], key=lambda one: (one.difference, one.rival) if math.isfinite(one.difference) else (-math.inf, one.rival)):
        metric = grading.metrics[one.metric]
        reading = "undefined" if not math.isfinite(one.difference) else "" if metric.neutral else "better" if one.low > 0 else "worse" if one.high < 0 else "no clear difference"
        difference = f"{signed(one.difference, metric)}{' points' if metric.percent else ''}" if math.isfinite(one.difference) else "undefined"
        rows.append(
            {
                "main": one.metric == grading.recipe.main_metric,
                "metric": plain(one.metric),
                "who": _contestant(one.rival),
                "difference": difference,
                "range": _range(one, metric) if math.isfinite(one.low) else "",
                "p": p_value(one.p_value) if math.isfinite(one.p_value) else "",
                "reading": reading,
            }
        )
    return {"main": [row for row in rows if row["main"]], "others": [row for row in rows if not row["main"]]}


def _classes(grading: Grading) -> dict[str, Any] | None:
    """Per-class figures, the weakest class first; columns that say the same are shown once."""
    columns: dict[str, dict[str, float]] = {}
    for name, parts in grading.facts["per_class"].items():
        if parts and parts not in columns.values():
            columns[name] = parts
    if not columns:
        return None
    support = Counter(label for truth in grading.truth for label in label_set(truth))
    chief = next((name for name in columns if name.startswith("f1")), next(iter(columns)))
    labels = sorted({label for parts in columns.values() for label in parts}, key=lambda label: (columns[chief].get(label, 0.0), label))
    heads = [plain(name.removesuffix("_macro")) for name in columns]
    rows = [
        {
            "label": label,
            "rows": support[label],
            "few": support[label] < 10,
            "cells": [
                {"text": amount(parts[label], grading.metrics[name]) if label in parts else "", "bar": round(100 * min(max(parts.get(label, 0.0), 0.0), 1.0), 1)} for name, parts in columns.items()
            ],
        }
        for label in labels
    ]
    return {"heads": heads, "rows": rows, "few": any(row["few"] for row in rows)}


def _confusion(grading: Grading) -> dict[str, Any] | None:
    """Heat map and most confused pairs, for tasks with exactly one label a row."""
    if "label-out" not in grading.recipe.task.traits or grading.dataset.signature.get("multi_label"):
        return None
    pairs = [(str(truth), str(answer.output)) for truth, answer in zip(grading.truth, grading.answers[TUNED], strict=True)]
    labels = sorted({label for pair in pairs for label in pair})
    wrong = Counter(pair for pair in pairs if pair[0] != pair[1])
    shown = labels
    if len(labels) > MOST_CLASSES:
        burden: Counter[str] = Counter()
        for (truth, said), rows in wrong.items():
            burden[truth] += rows
            burden[said] += rows
        shown = sorted(sorted(labels, key=lambda label: (-burden[label], label))[:MOST_CLASSES])
    place = {label: number for number, label in enumerate(shown)}
    counts = np.zeros((len(shown), len(shown)))
    for truth, said in pairs:
        if truth in place and said in place:
            counts[place[truth], place[said]] += 1
    confused = []
    for (truth, said), rows in sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:MOST_PAIRS]:
        examples = [_excerpt(text) for text, pair in zip(grading.texts, pairs, strict=True) if pair == (truth, said)]
        confused.append({"truth": truth, "said": said, "rows": rows, "of": sum(1 for pair in pairs if pair[0] == truth), "examples": examples[:2]})
    return {"svg": plots.confusion(counts, shown), "shown": len(shown), "all": len(labels), "pairs": confused, "wide": len(shown) > 8}


def _excerpt(value: Any, most: int = EXCERPT) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _answer(value: Any) -> str:
    """An answer or a truth as one short text."""
    if isinstance(value, (list, tuple)):
        if not value:
            return "(none)"
        return _excerpt(", ".join(str(one) for one in value)) if all(len(str(one)) < 60 for one in value) else _excerpt(value[0])
    return _excerpt(value) or "(empty)"


def _mistakes(grading: Grading, right: Sequence[bool | None]) -> dict[str, Any] | None:
    """Wrong answers, the surest first; where every rival that reads the text agrees with a wrong answer, the row's own label deserves a second look.
    None where no row says what is right (`right` None): documents, prompts for rewards."""
    if right.count(None) == len(right):
        return None
    answers, ranked = grading.answers[TUNED], "vector-out" in grading.recipe.task.traits
    wrong = sorted((i for i, fine in enumerate(right) if fine is False), key=lambda i: (-(answers[i].confidence or 0.0), i))
    thinking = [who for who in grading.rivals if any(one.output != grading.answers[who][0].output for one in grading.answers[who])]
    shown = []
    for i in wrong[:MOST_MISTAKES]:
        output = answers[i].output[0] if ranked and answers[i].output else answers[i].output
        agree = [plain(who) for who in thinking if grading.answers[who][i].output == answers[i].output]
        suspicious = "label-out" in grading.recipe.task.traits and 2 <= len(agree) == len(thinking)
        confidence = answers[i].confidence
        shown.append(
            {
                "text": _excerpt(grading.texts[i]),
                "truth": _answer(grading.truth[i]),
                "said": _answer(output),
                "confidence": f"{confidence:.0%}" if confidence is not None else "",
                "agree": agree if suspicious else [],
                "row": str(grading.rows[i].get("place", "")) or str(grading.rows[i]["row_id"]),
            }
        )
    return {"rows": shown, "all": len(wrong), "unsaid": right.count(None), "confident": any(row["confidence"] for row in shown), "ranked": ranked, "written": "text-out" in grading.recipe.task.traits}


def _certainty(grading: Grading, right: Sequence[bool | None]) -> dict[str, Any] | None:
    """Stated confidence against right answers, and what is left when unsure answers go to a person; None without enough confidences, and where
    texts are written and none is word for word the right one, which says nothing of doubt."""
    if "text-out" in grading.recipe.task.traits and not any(right):
        return None
    known = [(answer.confidence, fine) for answer, fine in zip(grading.answers[TUNED], right, strict=True) if answer.confidence is not None and fine is not None]
    if len(known) < MIN_ROWS:
        return None
    confidence, fine = np.array([c for c, _ in known]), np.array([float(one) for _, one in known])
    rows = []
    for least in SURE:
        used = confidence >= least
        if used.any():
            rows.append({"least": f"{least:.0%}", "used": f"{used.mean():.1%}", "rows": int(used.sum()), "right": f"{fine[used].mean():.1%}"})
    return {"svg": plots.reliability(confidence, fine), "rows": rows, "several": bool(grading.dataset.signature.get("multi_label"))}


def _probe(name: str, probe: dict[str, Any]) -> dict[str, Any]:
    examples = [[{"name": plain(str(k)), "value": _excerpt(v, 160)} for k, v in example.items()] for example in probe["examples"][:6]]
    value = probe["value"]
    shown = "not known yet" if not math.isfinite(value) else f"{value:.1%}" if probe["percent"] and abs(value) < 100 else f"{value:.3f}"
    return {"name": plain(name), "value": shown, "meaning": sentence(probe["meaning"]), "rows": probe["rows"], "examples": examples, "measures": _measures(probe["measures"])}


def _both(estimate: Estimate, figure: Figure) -> dict[str, str]:
    """A value and its interval, for a cell."""
    return {"value": amount(estimate.value, figure), "span": _span(estimate, figure) if math.isfinite(estimate.low) else ""}


def _measures(measures: dict[str, Any]) -> list[dict[str, Any]]:
    """A probe's figures, a line for each contestant that the tuned model is compared with."""
    rows = []
    for name, one in measures.items():
        figure: Figure = Share() if one["percent"] else Bits()
        tuned = Estimate(**one["results"][TUNED])
        line = {"name": plain(name), "meaning": one["meaning"], "rows": one["rows"], "tuned": _both(tuned, figure), "who": "", "theirs": {}, "difference": "", "range": "", "p": "", "reading": ""}
        for given in one["comparisons"]:
            found = Comparison(**given)
            if not math.isfinite(found.difference):
                continue
            reading = "better" if found.low > 0 else "worse" if found.high < 0 else "no clear difference"
            unit = " points" if one["percent"] else ""
            rows.append(
                {
                    **line,
                    "who": _contestant(found.rival),
                    "theirs": _both(Estimate(**one["results"][found.rival]), figure),
                    "difference": f"{signed(found.difference, figure)}{unit}",
                    "range": _range(found, figure),
                    "p": p_value(found.p_value),
                    "reading": reading,
                }
            )
        if not one["comparisons"]:
            rows.append(line)
    return rows
