"""Asking a release: inputs from the command line or a file, answers as a table, a file or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attune.cli.names import approved_or_newest, release_of
from attune.cli.screen import Screen, json_text
from attune.cli.tables import add, table
from attune.core.errors import AttuneError, DataError, Problems, RecipeError

MOST_SCORES = 3
MOST_SHOWN = 50
MOST_PROBLEMS = 20


def ask(screen: Screen, name: str, texts: list[str], file: Path | None, out: Path | None, release_id: str | None) -> list[dict[str, Any]]:
    """Answer, print and return the answers."""
    from attune.core.records import DatasetVersion
    from attune.core.releases import open_release
    from attune.core.runs import recipe_folder

    if bool(texts) == (file is not None):
        raise RecipeError("nothing to answer" if not texts else "texts and --file at once", place="attune predict", fix=f'attune predict {name} "a text"   or   attune predict {name} --file rows.csv')
    if out is not None and out.suffix not in (".csv", ".jsonl"):
        raise RecipeError(f"'{out.name}' ends in neither .csv nor .jsonl", place="--out", fix="name the file answers.csv or answers.jsonl")
    release = release_of(screen, release_id) if release_id else approved_or_newest(screen, name)
    workspace = screen.workspace(create=False)
    dataset = workspace.ledger.get(release.dataset_id)
    assert isinstance(dataset, DatasetVersion)
    specialist = open_release(workspace, release, base_folder=recipe_folder(workspace, release))
    inputs = [role.name for role in specialist.task.roles if not role.target and role.required]
    payloads = _of_texts(texts, inputs) if texts else _of_file(file or Path(), dataset.columns)
    rows = _rows(specialist, payloads)
    answers = []
    for (place, _), row, one in zip(payloads, rows, specialist.predict(rows), strict=True):
        best = dict(sorted(one.scores.items(), key=lambda pair: -pair[1]))
        answers.append({"place": place, "input": row, "output": one.output, "confidence": one.confidence, "scores": best, "release": release.id})
    if out is not None:
        _write(out, answers)
        screen.show(f"{len(answers)} answers of version {release.version} in {out}")
    else:
        _show(screen, answers, inputs)
    return answers


def _of_texts(texts: list[str], inputs: list[str]) -> list[tuple[str, dict[str, Any]]]:
    if len(inputs) != 1:
        raise RecipeError(f"this task takes {', '.join(inputs)}, not one text", place="attune predict", fix="give the rows as a file: --file rows.jsonl")
    return [(f"text {number}", {inputs[0]: text}) for number, text in enumerate(texts, start=1)]


def _of_file(file: Path, columns: dict[str, str | list[str]]) -> list[tuple[str, dict[str, Any]]]:
    """(place, payload) of a file's records; columns may be named as in training or as the task's inputs."""
    from attune.core import catalog

    if not file.is_file():
        raise DataError(f"there is no file '{file}'", place="--file", fix="give the path of a CSV, JSONL or Parquet file")
    folder, able = file.resolve().parent, []
    for entry in catalog.entries("sources"):
        source = catalog.build("sources", entry.name)
        if source.recognises(file.name, folder):
            able.append(source)
    if len(able) != 1:
        raise DataError(f"'{file.name}' is not a table of rows", place="--file", fix="give a CSV, JSONL or Parquet file")
    back = {column: role for role, column in columns.items() if isinstance(column, str)}
    groups = {role: column for role, column in columns.items() if not isinstance(column, str)}
    found: list[tuple[str, dict[str, Any]]] = []
    problems: list[AttuneError] = []
    for record in able[0].read(file.name, folder):
        if record.values is None:
            problems.append(DataError(record.problem or "not readable", place=record.place, fix=record.fix))
        else:
            cells = {role: {name: record.values[name] for name in column if name in record.values} for role, column in groups.items()}
            found.append((record.place, {back.get(name, name): value for name, value in record.values.items()} | {role: group for role, group in cells.items() if group}))
    if problems:
        raise Problems(problems[:MOST_PROBLEMS], title=f"{len(problems)} rows of {file.name} cannot be read:")
    if not found:
        raise DataError("the file holds no rows", place=str(file), fix="give a file with a heading line and rows")
    return found


def _rows(specialist: Any, payloads: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    task, rows, problems = specialist.task, [], []
    for place, payload in payloads:
        try:
            row = task.request(payload)
            task.require_known(row, specialist.signature)
            asked = [row[role.name] for role in task.roles if not role.target and role.name in row]
            if asked and all(isinstance(one, str) and not one.strip() for one in asked):
                raise DataError("the text is empty", fix="write some text, or leave the row out")
            rows.append(row)
        except DataError as error:
            problems.append(DataError(error.what, place=f"{place} {error.place or ''}".strip(), fix=error.fix))
    if problems:
        raise Problems(problems[:MOST_PROBLEMS], title=f"{len(problems)} of {len(payloads)} rows do not fit the task '{task.name}':")
    return rows


def _show(screen: Screen, answers: list[dict[str, Any]], inputs: list[str]) -> None:
    from attune.core.text import excerpt, readable

    scored = any(answer["scores"] for answer in answers)
    sure = any(answer["confidence"] is not None for answer in answers)
    made = table("answer", *(["confidence"] if sure else []), *(["runners-up"] if scored else []), *inputs, right=("confidence",))
    for answer in answers[:MOST_SHOWN]:
        said = answer["output"] if isinstance(answer["output"], list) else [answer["output"]]
        others = [f"{label} {p:.1%}" for label, p in answer["scores"].items() if label not in said][: MOST_SCORES - 1]
        confidence = [f"{answer['confidence']:.1%}" if answer["confidence"] is not None else ""] if sure else []
        add(made, _output(answer["output"]), *confidence, *([" · ".join(others)] if scored else []), *(excerpt(readable(answer["input"].get(name, "")), 80) for name in inputs))
    screen.show(made)
    if len(answers) > MOST_SHOWN:
        screen.note(f"and {len(answers) - MOST_SHOWN} more; `--out answers.csv` or `--json` gives them all")


def _output(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], float):
        return f"[{', '.join(f'{one:.3f}' for one in value[:4])}, … {len(value)} numbers]"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _write(out: Path, answers: list[dict[str, Any]]) -> None:
    from attune.core.commit import write_text
    from attune.core.files import table_text

    if out.suffix == ".jsonl":
        write_text(out, "".join(json_text(answer, None) + "\n" for answer in answers))
        return
    names = list(answers[0]["input"])
    rows: list[list[Any]] = [["place", *names, "output", "confidence", "release"]]
    for answer in answers:
        output = answer["output"] if isinstance(answer["output"], str) else json.dumps(answer["output"], ensure_ascii=False)
        rows.append([answer["place"], *(answer["input"].get(name, "") for name in names), output, answer["confidence"], answer["release"]])
    write_text(out, table_text(rows))
