"""Documents as they lie in folders: .txt, .md, .html, .pdf and .docx files, each a row with its whole text, its title and its path."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attune.core.contracts import RawRecord, Source
from attune.core.errors import DataError, MachineError
from attune.core.files import decode_lines, expand, fingerprint, read_bytes, shown
from attune.core.keys import Keys, key

RICH = {
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".gz", ".arrow")
HEADING = re.compile(r"\A#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
HEAD = re.compile(r"<head\b.*?</head\s*>", re.IGNORECASE | re.DOTALL)
TITLE = re.compile(r"<title[^>]*>(.*?)</title\s*>", re.IGNORECASE | re.DOTALL)
LONGEST_SECONDS = 120


class DocumentsKeys(Keys):
    """Keys of the source."""

    suffixes: list[str] = key([".txt", ".text", ".md", ".markdown", ".html", ".htm", ".pdf", ".docx"], "endings of the files that are read")


class Documents(Source):
    """Reads a file, a glob or a folder with everything below it; a document that cannot be read is one problem and costs no other."""

    keys_type = DocumentsKeys

    def recognises(self, location: str, folder: Path) -> bool:
        """True for a glob of documents, and for a folder that holds documents, no tables, and not one folder of texts per label; name the source for a single file."""
        root = folder / Path(location).expanduser()
        if os.path.isfile(root) or not location.strip() or "://" in location:
            return False
        if not os.path.isdir(root):
            found = expand(location, folder, ("",))
            return bool(found) and all(p.suffix.lower() in self.keys.suffixes for p in found)
        here = [p for p in root.iterdir() if p.is_file()]
        by_label = {p.parent for p in root.glob("*/*") if p.is_file() and p.suffix in (".txt", ".md") and not p.name.startswith(".")}
        return len(by_label) < 2 and not any(p.name.lower().endswith(TABLES) for p in here) and bool(self._files(location, folder))

    def fingerprint(self, location: str, folder: Path) -> str:
        """sha256 over names and bytes."""
        files = self._files(location, folder)
        return fingerprint(files) + hashlib.sha256("\n".join(shown(p, folder) for p in files).encode()).hexdigest()

    def _files(self, location: str, folder: Path) -> list[Path]:
        root = folder / Path(location).expanduser()
        if os.path.isdir(root):
            inside = (p for p in root.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(root).parts))
            return sorted(p for p in inside if p.suffix.lower() in self.keys.suffixes)
        return [p for p in expand(location, folder, ("",)) if os.path.isfile(root) or p.suffix.lower() in self.keys.suffixes]

    def read(self, location: str, folder: Path) -> Iterator[RawRecord]:
        """Every document, in order of its path.

        Raises:
            DataError: there is none.
            MachineError: there are documents for which the package that reads them is missing.
        """
        files = self._files(location, folder)
        if not files:
            raise DataError(
                f"'{location}' holds no documents ({', '.join(self.keys.suffixes)})",
                place="data.path",
                fix="give a folder, a glob or a file with documents; `source: {name: documents, suffixes: [...]}` reads others",
            )
        rich = [p for p in files if p.suffix.lower() in RICH]
        if rich and importlib.util.find_spec("kreuzberg") is None:
            raise MachineError(f"reading {rich[0].suffix} files needs the package kreuzberg", place=shown(rich[0], folder), fix="pip install 'attune[docs]', or give .txt and .md files alone")
        for path in files:
            name = shown(path, folder)
            try:
                text, title, repaired = _text(path)
            except DataError as error:
                yield RawRecord(f"{name}:1", None, error.what, error.fix, raw=name)
                continue
            if not text.strip():
                yield RawRecord(f"{name}:1", None, "there is no text in the document", "scanned pages need text recognition (OCR) first; else take the file out", raw=name)
                continue
            yield RawRecord(f"{name}:1", {"text": text, "title": title or path.stem, "path": name}, repaired=repaired, raw=text[:2000])


def _text(path: Path) -> tuple[str, str, tuple[str, ...]]:
    """A document's text, its title and what had to be repaired."""
    data = read_bytes(path)
    suffix = path.suffix.lower()
    if suffix in (".pdf", ".docx"):
        text, title = _extracted(data, RICH[suffix])
        return text, title or _heading(text), ()
    lines = decode_lines(data)
    repaired = tuple(sorted({repair for _, repair in lines if repair}))
    text = "\n".join(line for line, _ in lines)
    if suffix not in RICH:
        return text, _heading(text), repaired
    said = TITLE.search(text)
    body, title = _extracted(HEAD.sub("", text).encode(), RICH[suffix])
    return body, " ".join(said[1].split()) if said else title or _heading(body), repaired


def _extracted(data: bytes, kind: str) -> tuple[str, str]:
    """Text (as Markdown) and title of a document in another form; whatever goes wrong inside the reader is a DataError."""
    import kreuzberg

    settings = kreuzberg.ExtractionConfig(output_format="markdown", use_cache=False, disable_ocr=True, extraction_timeout_secs=LONGEST_SECONDS)  # type: ignore[call-arg,unused-ignore]
    try:
        found = kreuzberg.extract_bytes_sync(data, kind, settings)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the reader is no Exception
        raise DataError(f"the document cannot be read: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}", fix="open and save it again, or take the file out") from error
    facts: Any = found.metadata or {}
    return found.content.strip("\n"), str(facts.get("title") or "").strip()


def _heading(text: str) -> str:
    first = HEADING.search(text[:2000].lstrip())
    return first[1].strip() if first else ""
