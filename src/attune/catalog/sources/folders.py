"""One folder of text files per label: the folder's name is the label, each file (or each line of it) is a text."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from attune.core.contracts import RawRecord, Source
from attune.core.errors import DataError
from attune.core.files import decode_lines, fingerprint, read_bytes, shown
from attune.core.keys import Keys, key


class FoldersKeys(Keys):
    """Keys of the source."""

    rows: Literal["file", "line"] = key("file", "what is one text: a whole file, or each line that is not blank")
    suffixes: list[str] = key([".txt", ".md"], "endings of the files that are read")


class Folders(Source):
    """Reads `folder/label/*.txt` as columns `text` and `label`."""

    keys_type = FoldersKeys

    def recognises(self, location: str, folder: Path) -> bool:
        """True for a folder with at least two folders of text files in it."""
        return len({path.parent for path in self._files(location, folder)}) > 1

    def fingerprint(self, location: str, folder: Path) -> str:
        """sha256 over labels, names and bytes."""
        files = self._files(location, folder)
        return fingerprint(files) + _names_digest([shown(path, folder) for path in files])

    def _files(self, location: str, folder: Path) -> list[Path]:
        root = folder / Path(location).expanduser()
        if not os.path.isdir(root):
            return []
        return sorted(p for p in root.glob("*/*") if p.is_file() and p.suffix in self.keys.suffixes and not p.name.startswith("."))

    def read(self, location: str, folder: Path) -> Iterator[RawRecord]:
        """Every text, by label and file name."""
        files = self._files(location, folder)
        if not files:
            raise DataError(f"'{location}' holds no folders of {' or '.join(self.keys.suffixes)} files", place="data.path", fix="make one folder per label and put the texts into it")
        for path in files:
            name = shown(path, folder)
            try:
                lines = decode_lines(read_bytes(path))
            except DataError as error:
                yield RawRecord(f"{name}:1", None, error.what, error.fix)
                continue
            if self.keys.rows == "file":
                repairs = tuple(sorted({repair for _, repair in lines if repair}))
                text = "\n".join(line for line, _ in lines)
                yield RawRecord(f"{name}:1", {"text": text, "label": path.parent.name}, repaired=repairs, raw=text)
                continue
            for number, (line, repair) in enumerate(lines, start=1):
                if line.strip():
                    yield RawRecord(f"{name}:{number}", {"text": line, "label": path.parent.name}, repaired=(repair,) if repair else (), raw=line)


def _names_digest(names: list[str]) -> str:
    """Names as one short text: a moved file changes its label."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
