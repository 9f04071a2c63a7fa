"""The data card: what was read, what was done to it and what came out, for machines (curation.json) and for people (card.md)."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.contracts import Check, Row, Task
from attune.core.recipe import Recipe
from attune.core.rows import SPLITS
from attune.stages.curate.columns import Columns, shown
from attune.stages.curate.gate import READING, Gate
from attune.stages.curate.splits import labels_of

EXAMPLES = 3
QUOTED = re.compile(r"(?<!\w)'[^']*'(?!\w)")
"""What a reason quotes from its row; an apostrophe inside a word quotes nothing."""
MEANINGS = {"flag": "told only", "repair": "repaired", "quarantine": "set aside"}


def facts(recipe: Recipe, gate: Gate, by_split: dict[str, list[Row]], columns: Columns, notes: list[str], counts: dict[str, int], checks: list[Check]) -> dict[str, Any]:
    """Everything the card says, as JSON; no dates and no places of this machine, so that equal data gives an equal card."""
    labels: dict[str, Counter[str]] = {}
    for split in SPLITS:
        for row in by_split[split]:
            for label in labels_of(recipe.task, row):
                labels.setdefault(label, Counter())[split] += 1
    labels.pop("", None)
    words = sorted(len(recipe.task.text(row).split()) for rows in by_split.values() for row in rows) if "text-in" in recipe.task.traits else []
    files: Counter[str] = Counter(row["place"].rpartition(":")[0] for rows in by_split.values() for row in rows)
    aside: Counter[str] = Counter(one["file"] for one in gate.quarantine)
    purposes = {entry.name: entry.purpose for entry in catalog.entries("checks")}
    sections = []
    for name in [READING, *(check.name for check in checks)]:
        receipts = [r for r in gate.receipts if r["check"] == name]
        reasons: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for receipt in receipts:
            reasons.setdefault((receipt["action"], general(receipt["reason"])), []).append(receipt)
        sections.append(
            {
                "check": name,
                "purpose": purposes.get(name, "what reading itself found: broken records, other encodings, rows the task cannot use"),
                "findings": len(receipts),
                "reasons": [
                    {"action": action, "reason": reason, "rows": len(inside), "examples": [{k: r[k] for k in ("file", "row", "reason", "fix", "excerpt")} for r in inside[:EXAMPLES]]}
                    for (action, reason), inside in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
                ],
            }
        )
    return {
        "specialist": recipe.name,
        "task": recipe.task.name,
        "columns": columns,
        "counts": counts,
        "files": {file: {"used": files[file], "quarantined": aside[file]} for file in sorted({*files, *aside})},
        "split_by": recipe.keys.data.splits.by,
        "seed": recipe.keys.seed,
        "labels": {label: {split: labels[label][split] for split in SPLITS} for label in sorted(labels)},
        "words": {"shortest": words[0], "median": words[len(words) // 2], "longest": words[-1]} if words else {},
        "features": _features(recipe.task, [row for rows in by_split.values() for row in rows]),
        "checks": {check.name: check.keys.model_dump(mode="json") for check in checks},
        "findings": sections,
        "notes": notes,
    }


def _features(task: Task, rows: list[Row]) -> list[dict[str, Any]]:
    """What each column of a table is, and how much of it is missing."""
    roles = [role.name for role in task.roles if role.type == "features"]
    kinds = {one["name"]: one["kind"] for one in task.signature(rows).get("features", [])} if roles else {}
    found = []
    for role in roles:
        for name in sorted({name for row in rows for name in row[role]}):
            cells = [row[role].get(name) for row in rows]
            filled = [one for one in cells if one is not None]
            numbers = [float(one) for one in filled] if kinds.get(name) == "number" else []
            values = f"{min(numbers):g} to {max(numbers):g}" if numbers else ", ".join(f"{value} ({n})" for value, n in Counter(map(str, filled)).most_common(4))
            found.append({"name": name, "kind": kinds.get(name, ""), "missing": len(cells) - len(filled), "different": len(set(map(str, filled))), "values": values})
    return found


def general(reason: str) -> str:
    """A reason without what is particular to one row, so that equal reasons count together."""
    return QUOTED.sub("…", reason.partition(": ")[0])


def losses(gate: Gate) -> str:
    """How many rows were set aside and why, the commonest reasons first; '' where none was."""
    reasons = Counter(general(one["reason"]) for one in gate.quarantine)
    return f"{len(gate.quarantine)} of {gate.read} were set aside: " + "; ".join(f"{number} {reason}" for reason, number in reasons.most_common(3)) if reasons else ""


def write(folder: Path, found: dict[str, Any]) -> None:
    """curation.json and card.md."""
    (folder / "curation.json").write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    (folder / "card.md").write_text(markdown(found), encoding="utf-8")


def markdown(found: dict[str, Any]) -> str:
    """The card as a page."""
    counts = found["counts"]
    lines = [
        f"# Data card: {found['specialist']}",
        "",
        f"{counts['read']} rows were read. {counts['kept']} went on unchanged, {counts['repaired']} were repaired and went on, {counts['quarantined']} were set aside (quarantined) with a reason each. "
        f"{counts['read']} = {counts['kept']} + {counts['repaired']} + {counts['quarantined']}.",
        "",
        f"Task: {found['task']}. Columns: " + (shown(found["columns"]) or "read by the task itself") + ".",
        "",
        "| split | rows | used for |",
        "|---|---|---|",
        f"| train | {counts['train']} | learning |",
        f"| validation | {counts['validation']} | choosing the best checkpoint |",
        f"| test | {counts['test']} | the verdict; sealed until grading |",
        "",
        f"Split: {found['split_by']}, seed {found['seed']}." + ("" if found["split_by"] == "given" else " Equal rows, and the nearly equal texts named below, stand in one split."),
        "",
    ]
    if found["words"]:
        lines += [f"Length in words: {found['words']['shortest']} to {found['words']['longest']}, half of the rows have {found['words']['median']} or fewer.", ""]
    if found["features"]:
        lines += ["## Features", "", "A missing cell stays missing.", "", "| column | kind | missing | different values | values |", "|---|---|---|---|---|"]
        lines += [f"| {_cell(one['name'])} | {one['kind']} | {one['missing']} | {one['different']} | {_cell(one['values'])} |" for one in found["features"]] + [""]
    lines += ["## Files", "", "| file | rows used | set aside |", "|---|---|---|"]
    lines += [f"| {_cell(file)} | {n['used']} | {n['quarantined']} |" for file, n in found["files"].items()] + [""]
    if found["labels"]:
        lines += ["## Labels", "", "| label | train | validation | test | all |", "|---|---|---|---|---|"]
        ordered = sorted(found["labels"].items(), key=lambda item: (-sum(item[1].values()), item[0]))
        lines += [f"| {_cell(label)} | {n['train']} | {n['validation']} | {n['test']} | {sum(n.values())} |" for label, n in ordered] + [""]
    if found["notes"]:
        lines += ["## Worth knowing", "", *(f"- {_cell(note)}" for note in found["notes"]), ""]
    lines += ["## What was looked for, and found", ""]
    for section in found["findings"]:
        lines += [f"### {section['check']}: {section['findings'] or 'nothing found'}", "", _cell(section["purpose"]), ""]
        for reason in section["reasons"]:
            lines.append(f"- **{_cell(reason['reason'])}**: {reason['rows']} row(s), {MEANINGS[reason['action']]}.")
            for one in reason["examples"]:
                lines.append(f"  - {_cell(one['file'])}, row {one['row']}: {_cell(one['reason'])}. `{_cell(one['excerpt'])}` Fix: {_cell(one['fix'])}.")
        if section["reasons"]:
            lines.append("")
    lines += ["Every finding is in receipts.parquet; every row that was set aside is in quarantine.parquet with its raw text, personal data included.", ""]
    return "\n".join(lines)


def _cell(text: Any) -> str:
    """Text of data inside Markdown: nothing in it may act as a table, code or HTML."""
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'").replace("<", "&lt;").replace("\n", " ")
