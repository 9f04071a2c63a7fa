"""Write docs/recipe.md and docs/benchmarks.md from the code and from the benchmark results; `--check` only says whether they are up to date."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.keys import Keys
from attune.core.recipe import RecipeKeys

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "benchmarks" / "results"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def type_name(annotation: Any) -> str:
    text = getattr(annotation, "__name__", "") if isinstance(annotation, type) else str(annotation)
    for old, new in (("typing.", ""), ("attune.core.recipe.", ""), ("Optional", ""), ("NoneType", "null"), ("None", "null"), ("str | dict[str, Any]", "plug"), ("Literal", "")):
        text = text.replace(old, new)
    return f"`{text}`"


def key_table(model: type[Keys]) -> list[str]:
    lines = ["| key | type | default | meaning | also accepted |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, Keys)
        default = "required" if field.is_required() else "see below" if nested else f"`{json.dumps(field.default, default=str)}`"
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        aliases = ", ".join(f"`{a}`" for a in extra.get("aliases", []))  # type: ignore[union-attr]
        lines.append(f"| `{name}` | {'section' if nested else cell(type_name(field.annotation))} | {cell(default)} | {cell(field.description or '')} | {aliases} |")
    return lines


def sections(model: type[Keys], path: str) -> list[str]:
    lines: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if name == "gates":
            from attune.core.recipe import GateKeys as inner  # type: ignore[assignment]
        if isinstance(inner, type) and issubclass(inner, Keys):
            where = f"{path}.{name}" if path else name
            lines += ["", f"## `{where}`", "", (inner.__doc__ or "").strip().split("\n")[0], "", *key_table(inner), *sections(inner, where)]
    return lines


def recipe_reference() -> str:
    lines = ["# Recipe reference", "", "Written by `python docs/generate.py` from the code. Keys are strict: an unknown one is an error with the nearest name.", ""]
    lines += key_table(RecipeKeys) + sections(RecipeKeys, "")
    lines += ["", "# Plugs", "", "A plug is named in a recipe by its name, or by a mapping with `name` and its keys: `method: {name: lora, rank: 8}`.", ""]
    for kind in sorted(catalog.KINDS):
        lines += [f"## {kind}", "", "| name | what for | keys (default) |", "|---|---|---|"]
        for entry in catalog.entries(kind):
            if entry.origin == "attune":
                keys = "<br>".join(f"`{k.name}` ({cell(k.default)}): {cell(k.meaning)}" for k in entry.keys)
                lines.append(f"| `{entry.name}` | {cell(entry.purpose)} | {keys} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def classification_table(body: dict[str, Any]) -> list[str]:
    machine = body["machine"]
    lines = ["## Text classification, through the command line", "", "`python benchmarks/classification.py --data DATA_FOLDER`", ""]
    lines += [f"Base: all-MiniLM-L6-v2 (22 million parameters). {machine['processor']}, {machine['cores']} cores. Mean over seeds, per cent; in brackets the lowest and the highest seed.", ""]
    for name, described in body["sets"].items():
        runs = [run for run in body["runs"] if run["set"] == name]
        if not runs:
            continue
        metrics = list(runs[0]["results"]["tuned"])
        lines += [
            f"### {name}",
            "",
            f"{described['protocol']}; {runs[0]['test_rows']} test rows.",
            "",
            "| model | n seeds | " + " | ".join(metrics) + " | commit |",
            "|---|---|" + "---|" * (len(metrics) + 1),
        ]
        for method in dict.fromkeys(run["method"] for run in runs):
            mine = [run for run in runs if run["method"] == method]
            cells = []
            for metric in metrics:
                values = [run["results"]["tuned"][metric]["value"] for run in mine]
                spread = f" ({percent(min(values))}-{percent(max(values))})" if len(values) > 1 else ""
                cells.append(f"**{percent(sum(values) / len(values))}**{spread}")
            lines.append(f"| Attune `{method}` | {len(mine)} | " + " | ".join(cells) + f" | {', '.join(sorted({run['commit'] for run in mine}))} |")
        rivals = max((run["results"] for run in runs), key=len)
        for rival in rivals:
            if rival != "tuned":
                lines.append(f"| {rival} | 1 | " + " | ".join(percent(rivals[rival][metric]["value"]) for metric in metrics) + " | |")
        lines += ["", "Published: " + "; ".join(described["published"]) + ".", ""]
    return lines


def kill_table(body: dict[str, Any]) -> list[str]:
    return [
        "## SIGKILL and resume",
        "",
        "`python benchmarks/kill_resume.py`",
        "",
        f"{body['identical']} of {body['n']} runs killed at a random moment and started again end with a bundle that is bit-identical to an undisturbed run's "
        f"(`{body['method']}` on the shipped tickets, {body['seconds_undisturbed']} s undisturbed, seed {body['seed']}, commit {body['commit']}). "
        f"A planted flipped bit is {'noticed' if body['must_fail_twin_noticed'] else 'NOT noticed'}.",
        "",
    ]


def fault_table(bodies: list[dict[str, Any]]) -> list[str]:
    """What the fault harness counted, of Attune and of others, in one table."""
    lines = ["## Faults: kills, full disks, flipped bits, power loss", ""]
    lines += ["A small real model through the real `finetune` stage, a checkpoint at every step. Each harness also runs planted faults that it has to catch.", ""]
    lines += ["| what | command | n | failures | at most (95 %) | details | planted faults caught | commit |", "|---|---|---|---|---|---|---|---|"]
    for body in bodies:
        details = []
        for name, value in body["details"].items():
            text = ", ".join(f"{inner}: {count}" for inner, count in value.items()) if isinstance(value, dict) else str(value)
            details.append(f"{name.replace('_', ' ')}: {text}")
        caught = f"{sum(body['twins'].values())} of {len(body['twins'])}" if body["twins"] else ""
        cells = [body["what"], f"`{body['command']}`", body["n"], f"**{body['failures']}**", percent(body["upper95"]) + " %", "; ".join(details), caught, body["commit"]]
        lines.append("| " + " | ".join(cell(str(value)) for value in cells) + " |")
    return [*lines, ""]


def generic_table(body: dict[str, Any]) -> list[str]:
    """A benchmark that brings its own table: `title`, `command`, `columns`, `rows`, `notes`."""
    lines = [f"## {body['title']}", "", f"`{body['command']}`", "", "| " + " | ".join(body["columns"]) + " |", "|" + "---|" * len(body["columns"])]
    lines += ["| " + " | ".join(cell(str(value)) for value in row) + " |" for row in body["rows"]]
    return [*lines, "", *body.get("notes", []), f"Commit {body['commit']}, {body['date']}, {body['machine']['processor']}, {body['machine']['cores']} cores.", ""]


def benchmarks() -> str:
    lines = ["# Benchmarks", "", "Every figure is written by the command beside it; nothing here is typed by hand (`python docs/generate.py`).", ""]
    bodies = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    faults = [body for body in bodies if body["name"].startswith("faults_")]
    if faults:
        lines += fault_table(faults)
    for body in bodies:
        if body in faults:
            continue
        if body["name"] == "classification":
            lines += classification_table(body)
        elif body["name"] == "kill_resume":
            lines += kill_table(body)
        else:
            lines += generic_table(body)
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for name, text in (("recipe.md", recipe_reference()), ("benchmarks.md", benchmarks())):
        path = HERE / name
        if not path.is_file() or path.read_text() != text:
            stale.append(name)
            if not options.check:
                path.write_text(text)
    if stale:
        print(("out of date: " if options.check else "written: ") + ", ".join(stale))
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
