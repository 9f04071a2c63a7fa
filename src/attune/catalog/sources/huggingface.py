"""A Hugging Face dataset: a folder written by save_to_disk (read without the `datasets` package), or an id from the hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attune.core.contracts import RawRecord, Source
from attune.core.errors import DataError, MachineError
from attune.core.files import fingerprint, shown
from attune.core.keys import Keys, key

HUB_ID = re.compile(r"(?:hf:)?[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE_ENDINGS = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson", ".parquet", ".pq", ".gz", ".txt", ".xlsx", ".xls", ".db", ".zip", ".arrow")


class HuggingfaceKeys(Keys):
    """Keys of the source."""

    split: str | None = key(None, "read one split only; default: all, with its name in a column `split`")
    config: str | None = key(None, "configuration (subset) of a hub id")
    revision: str | None = key(None, "commit of a hub id; without it the rows are read again each time")


class Huggingface(Source):
    """Reads saved folders with pyarrow and hub ids with `datasets`; numbers of a ClassLabel become its names."""

    keys_type = HuggingfaceKeys

    def recognises(self, location: str, folder: Path) -> bool:
        """True for a folder written by save_to_disk, and for owner/name or hf:name where no such path exists."""
        path = folder / location
        if os.path.isdir(path):
            return bool(self._splits(path))
        return bool(HUB_ID.fullmatch(location)) and not os.path.exists(path) and not os.path.isdir(path.parent) and not location.lower().endswith(FILE_ENDINGS)

    def _splits(self, path: Path) -> dict[str, Path]:
        if (path / "dataset_dict.json").is_file():
            names = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8")).get("splits", [])
            return {str(name): path / str(name) for name in names if "/" not in str(name) and (path / str(name) / "state.json").is_file()}
        return {"": path} if (path / "state.json").is_file() and (path / "dataset_info.json").is_file() else {}

    def fingerprint(self, location: str, folder: Path) -> str | None:
        """sha256 over the files of a saved folder; for a hub id its pinned revision, or None."""
        path = folder / location
        if os.path.isdir(path):
            return fingerprint(sorted(p for p in path.rglob("*") if p.is_file()))
        return f"{location}@{self.keys.revision}:{self.keys.config}:{self.keys.split}" if self.keys.revision else None

    def read(self, location: str, folder: Path) -> Iterator[RawRecord]:
        """Every row of the chosen splits."""
        path = folder / location
        if not os.path.isdir(path):
            yield from self._from_hub(location.removeprefix("hf:"))
            return
        splits = self._splits(path)
        if not splits:
            raise DataError("not a folder written by save_to_disk", place=str(path), fix="it must hold dataset_dict.json, or state.json and dataset_info.json")
        if self.keys.split is not None and self.keys.split not in splits:
            raise DataError(f"there is no split '{self.keys.split}'", place=str(path), fix="the splits are: " + ", ".join(s or "(one, without a name)" for s in splits))
        for split, part in splits.items():
            if self.keys.split in (None, split):
                yield from self._from_folder(part, split, shown(path, folder))

    def _from_folder(self, part: Path, split: str, name: str) -> Iterator[RawRecord]:
        import pyarrow as pa

        state = json.loads((part / "state.json").read_text(encoding="utf-8"))
        if state.get("_indices_data_files"):
            raise DataError("the folder was saved with an index over its rows", place=str(part), fix="call flatten_indices() before save_to_disk()")
        features = json.loads((part / "dataset_info.json").read_text(encoding="utf-8")).get("features") or {}
        number = 0
        try:
            for entry in state["_data_files"]:
                file = part / Path(entry["filename"]).name
                with pa.memory_map(str(file)) as stream:
                    for batch in pa.ipc.open_stream(stream):
                        for values in batch.to_pylist():
                            number += 1
                            yield RawRecord(f"{name}/{split}:{number}" if split else f"{name}:{number}", self._values(values, features, split))
        except (OSError, KeyError, pa.ArrowException) as error:
            raise DataError(f"the saved dataset is not whole: {error}", place=str(part), fix="save it again") from error

    def _values(self, values: dict[str, Any], features: dict[str, Any], split: str) -> dict[str, Any]:
        """Names for the numbers of ClassLabel columns, and the split's name where it has one."""
        for column, kind in features.items():
            inner = kind.get("feature", kind) if isinstance(kind, dict) else {}
            names = inner.get("names") if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else None
            if names:
                value = values.get(column)
                if isinstance(value, list):
                    values[column] = [names[i] for i in value if 0 <= i < len(names)]
                elif isinstance(value, int):
                    values[column] = names[value] if 0 <= value < len(names) else None
        return {**values, "split": split} if split and "split" not in values else values

    def _from_hub(self, name: str) -> Iterator[RawRecord]:
        try:
            import datasets
        except ImportError as error:
            raise MachineError("hub ids need the package `datasets`", place="data.path", fix="install attune[hub], or save the dataset with save_to_disk and give the folder") from error
        try:
            loaded = datasets.load_dataset(name, self.keys.config, revision=self.keys.revision, split=self.keys.split)
        except (OSError, ValueError) as error:
            raise DataError(f"dataset '{name}' cannot be loaded: {error}", place="data.path", fix="check id, config and split; Attune works offline unless the dataset was pulled before") from error
        parts = loaded.items() if isinstance(loaded, dict) else [(self.keys.split or "", loaded)]
        for split, rows in parts:
            features = {column: {"_type": "ClassLabel", "names": kind.names} for column, kind in rows.features.items() if hasattr(kind, "names")}
            for number, values in enumerate(rows, start=1):
                yield RawRecord(f"{name}/{split}:{number}" if split else f"{name}:{number}", self._values(dict(values), features, split))
