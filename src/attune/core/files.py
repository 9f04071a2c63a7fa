"""Files as users name them: a path, a folder or a glob becomes a sorted list of files; bytes become text whatever wrote them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attune.core.commit import sha256_file
from attune.core.errors import DataError

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would compute."""


def expand(location: str, folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of a path, glob or folder (relative to `folder`) whose names end in one of `suffixes`, sorted; empty when there is none."""
    if "://" in location:
        return []
    path = Path(location).expanduser()
    if not path.is_absolute():
        path = folder / path
    if os.path.isdir(path):  # unlike Path.is_dir, also answers for a name that is too long for the file system
        found = [p for p in path.iterdir() if p.is_file()]
    elif os.path.isfile(path):
        found = [path]
    elif any(sign in location for sign in "*?["):
        start = Path(path.anchor)
        found = [p for p in start.glob(str(path.relative_to(start))) if p.is_file()]
    else:
        found = []
    return sorted(p for p in found if not p.name.startswith(".") and p.name.lower().endswith(tuple(suffixes)))


def matching(location: str, folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files a source is to read: those with its suffixes, else whatever the user named; raises DataError when there is none."""
    files = expand(location, folder, suffixes) or expand(location, folder, ("",))
    if not files:
        raise DataError(f"no file matches '{location}'", place="data.path", fix=f"paths are taken from {folder}")
    return files


def shown(path: Path, folder: Path) -> str:
    """A file's name for places: relative to the recipe's folder where it lies below it, so that the same data elsewhere reads the same."""
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return path.name


def fingerprint(paths: Sequence[Path]) -> str:
    """sha256 over names and bytes of files."""
    return hashlib.sha256("\n".join(f"{p.name} {sha256_file(p)}" for p in paths).encode()).hexdigest()


def read_bytes(path: Path) -> bytes:
    """A file's bytes, unpacked when its name ends in .gz; raises DataError when it cannot be read or is empty."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"the file cannot be read: {error}", place=str(path), fix="copy it again, or mend its permissions") from error
    if not data.strip(b" \t\r\n\x00\xef\xbb\xbf\xff\xfe"):
        raise DataError("the file is empty", place=str(path), fix="export the rows again, or take the file out of `data.path`")
    return data


def require_table_text(data: bytes, path: Path) -> None:
    """Refuse a file that is no delimited text whatever its name says: a workbook, a PDF, a web page, JSON; raises DataError with the way out."""
    head = data[:1000].removeprefix(b"\xef\xbb\xbf").lstrip()
    folded = head.lower()
    if head.startswith(b"PK\x03\x04"):
        what, fix = ("an Excel workbook", "open it and save it as 'CSV UTF-8'") if b"xl/" in data or b"[Content_Types].xml" in head else ("a zip archive", "unpack it and give the file inside")
    elif head.startswith(b"\xd0\xcf\x11\xe0"):
        what, fix = "an old Excel workbook", "open it and save it as 'CSV UTF-8'"
    elif head.startswith(b"%PDF"):
        what, fix = "a PDF document", "export the rows as CSV from the program they come from"
    elif folded.startswith((b"<!doctype", b"<html")):
        what, fix = "a web page (perhaps a sign-in page that was saved in place of the download)", "download the file again and look at it in a text editor"
    elif re.match(rb'(\[\s*)?\{\s*"[^"]*"\s*:', head):
        what, fix = "JSON", "rename it to .json (or .jsonl for one object a line), or write `source: json` under `data`"
    else:
        return
    raise DataError(f"this is {what}, not a table as text", place=str(path), fix=fix)


def decode_lines(data: bytes) -> list[tuple[str, str | None]]:
    """Lines of a text file without their ends, and per line what had to be done to read it (None: plain UTF-8 or UTF-16).

    UTF-8 with or without mark and UTF-16 are recognised from the bytes. In any other file each line is read as UTF-8 where it is
    valid UTF-8 and as cp1252 (Windows, Western) where it is not, so that a file put together from both survives whole.
    """
    text = _whole(data)
    if text is not None:
        return [(line, None) for line in _split(text)]
    lines: list[tuple[str, str | None]] = []
    body = data.removeprefix(b"\xef\xbb\xbf")
    ends = b"\n" if b"\n" in body else b"\r"
    for raw in body.split(ends):
        one = raw.removesuffix(b"\r")
        try:
            lines.append((one.decode("utf-8"), None))
        except UnicodeDecodeError:
            try:
                lines.append((one.decode("cp1252"), "not UTF-8: read as cp1252"))
            except UnicodeDecodeError:
                lines.append((one.decode("latin-1"), "not UTF-8: read as latin-1"))
    if lines and not lines[-1][0]:
        lines.pop()
    return lines


def _whole(data: bytes) -> str | None:
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if data.startswith(mark):
            return data[2 : len(data) - len(data) % 2].decode(encoding, "replace")
    head = data[:4000]
    if len(head) >= 4:
        even, odd = head[0::2].count(0), head[1::2].count(0)
        if odd > len(head) * 0.3 and even < len(head) * 0.05:
            return data[: len(data) - len(data) % 2].decode("utf-16-le", "replace")
        if even > len(head) * 0.3 and odd < len(head) * 0.05:
            return data[: len(data) - len(data) % 2].decode("utf-16-be", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _split(text: str) -> list[str]:
    """Lines at LF or CRLF, or at CR in a file without LF; other separators of Unicode are content."""
    lines = text.split("\r") if "\n" not in text else [line.removesuffix("\r") for line in text.split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    return lines


def table_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of cells as CSV for people; a text that a spreadsheet would compute gets an apostrophe in front."""
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerows([f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell for cell in row] for row in rows)
    return made.getvalue()
