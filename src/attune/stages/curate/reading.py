"""From what the recipe names to records: which source reads which path, what a path's rows depend on, and first help when it cannot be read."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attune.core import catalog
from attune.core.contracts import RawRecord, Source
from attune.core.errors import DataError, MachineError, nearest
from attune.core.files import shown
from attune.core.recipe import Recipe

ELSEWHERE = {
    (".xlsx", ".xls", ".ods", ".numbers"): "a spreadsheet: save the sheet as 'CSV UTF-8' and give that file",
    (
        ".pdf",
        ".docx",
        ".doc",
        ".rtf",
        ".html",
        ".htm",
        ".odt",
    ): "a document, not a table of rows: write `source: documents` under `data` to learn from its text (.html, .pdf, .docx), or make a CSV with one row per text and its label",
    (".zip", ".tar", ".tgz", ".7z", ".rar"): "an archive: unpack it and give the files inside",
    (".pkl", ".pickle", ".joblib", ".npy", ".npz", ".pt"): "a format that can hold code or bare numbers: save the rows as CSV, JSONL or Parquet",
    (".db", ".sqlite", ".sqlite3"): "a database: write `path: sqlite:///FILE` and `source: {name: sql, query: SELECT ...}`",
    (".arrow",): "an Arrow file: give the folder that save_to_disk wrote, or save as Parquet",
    (".txt", ".text", ".log", ".xml", ".dat"): "text without a known form: if it is delimited, write `source: csv`; for one whole text `source: documents`; else make a CSV with one row per text",
}


@dataclass(frozen=True)
class Location:
    """One path of the recipe with the source that reads it."""

    path: str
    source: Source
    split: str | None = None
    """'test' for rows that the recipe gives as test rows."""
    by_role: bool = False
    """True for rows whose keys are role names already (rows that feedback made)."""
    folder: Path = Path()

    def records(self) -> Iterator[RawRecord]:
        """Every record."""
        return self.source.read(self.path, self.folder)


def locations(recipe: Recipe, extra_rows: Path | None) -> list[Location]:
    """Every path of the recipe (training rows first, official test rows next, rows of the retune request last), each with its source."""
    data = recipe.keys.data
    paths = [data.path] if isinstance(data.path, str) else list(data.path)
    if not paths or not all(path.strip() for path in paths):
        raise DataError("no path is given", place="data.path", fix="write for example `path: data/*.csv`")
    found = [Location(path, _source(path, recipe), None, False, recipe.folder) for path in paths]
    if data.test_path is not None:
        found.append(Location(data.test_path, _source(data.test_path, recipe, "data.test_path"), "test", False, recipe.folder))
    if extra_rows is not None:
        folder = extra_rows.resolve().parent
        found.append(Location(extra_rows.name, _auto(extra_rows.name, folder, "extra rows"), None, True, folder))
    return found


def replay_location(recipe: Recipe) -> Location | None:
    """Where the general rows are; None without replay."""
    path = recipe.keys.data.replay.path
    return None if path is None else Location(path, _auto(path, recipe.folder, "data.replay.path"), None, False, recipe.folder)


def fingerprint(location: Location) -> str:
    """What the rows of a location depend on; a fresh value where a source cannot tell, so that they are read again."""
    return location.source.fingerprint(location.path, location.folder) or f"unknown-{uuid.uuid4().hex}"


def _source(path: str, recipe: Recipe, place: str = "data.path") -> Source:
    spec = recipe.keys.data.source
    if spec == "auto" or (isinstance(spec, dict) and spec.get("name") == "auto"):
        return _auto(path, recipe.folder, place)
    source: Source = catalog.build("sources", spec, "data.source")
    if not source.recognises(path, recipe.folder) and "://" not in path and not _matches(path, recipe.folder):
        raise _unreadable(path, recipe.folder, place)
    return source


def _auto(path: str, folder: Path, place: str) -> Source:
    """The one source that recognises a path."""
    able: list[Source] = []
    for entry in catalog.entries("sources"):
        source: Source = catalog.build("sources", entry.name)
        if source.recognises(path, folder):
            able.append(source)
    if len(able) == 1:
        return able[0]
    if able:
        names = ", ".join(f"'{source.name}'" for source in able)
        raise DataError(f"'{path}' could be read by {names}", place=place, fix=f"say which: `source: {able[0].name}`, or give a glob such as {path.rstrip('/')}/*.csv")
    raise _unreadable(path, folder, place)


def _matches(path: str, folder: Path) -> list[Path]:
    whole = folder / Path(path).expanduser()
    if whole.exists():
        return [whole]
    if any(sign in path for sign in "*?["):
        start = Path(whole.anchor)
        return sorted(start.glob(str(whole.relative_to(start))))
    return []


def _unreadable(path: str, folder: Path, place: str) -> DataError | MachineError:
    """Why a path cannot be read, and the way out."""
    if "://" in path:
        return DataError(f"'{path.partition('://')[0]}' addresses cannot be read", place=place, fix="download the file and give its path; databases: sqlite:///..., postgresql://...")
    matches = _matches(path, folder)
    if not matches:
        whole = folder / Path(path).expanduser()
        beside = sorted(p.name for p in whole.parent.iterdir() if not p.name.startswith(".")) if whole.parent.is_dir() else []
        near = nearest(whole.name, beside)
        if near:
            fix = f"did you mean '{shown(whole.parent / near, folder)}'?"
        elif beside:
            fix = f"in {whole.parent} there is: " + ", ".join(beside[:8])
        else:
            fix = f"paths are taken from the recipe's folder, {folder}; put the file there or write its whole path"
        return DataError(f"there is no file or folder '{path}'", place=place, fix=fix)
    first = matches[0]
    if first.is_dir():
        inside = sorted(p.name for p in first.iterdir())
        what = "an empty folder" if not inside else "a folder that holds " + ", ".join(inside[:5])
        return DataError(f"'{path}' is {what}", place=place, fix="put CSV, JSONL or Parquet files into it, or one folder of .txt files per label")
    for endings, advice in ELSEWHERE.items():
        if first.suffix.lower() in endings:
            return DataError(f"'{first.name}' is {advice.partition(':')[0]}", place=place, fix=advice.partition(": ")[2])
    known = ", ".join(entry.name for entry in catalog.entries("sources"))
    return DataError(f"no source knows how to read '{first.name}'", place=place, fix=f"say which one should: `source: csv` (there are: {known})")
