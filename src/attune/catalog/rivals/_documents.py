"""Text documents cut into passages of about equal length, at the ends of paragraphs where there are some."""

from __future__ import annotations

import re
from pathlib import Path

from attune.core.errors import DataError

SUFFIXES = (".txt", ".md", ".rst", ".text")


def files(path: Path) -> list[Path]:
    """Text files of a folder, its subfolders included, or the one file, in order of name."""
    if path.is_file():
        return [path]
    return sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file()) if path.is_dir() else []


def passages(path: Path, words: int, rival: str) -> list[str]:
    """Passages of at most about `words` words: paragraphs are joined until they are full, longer ones are cut."""
    place = f"grade.rivals: {rival}.documents"
    there = files(path)
    if not there:
        raise DataError(f"there are no text files at '{path}'", place=place, fix=f"give a file or a folder with {', '.join(SUFFIXES)} files, relative to the recipe")
    found: list[str] = []
    for file in there:
        held: list[str] = []
        for paragraph in re.split(r"\n\s*\n", file.read_text(encoding="utf-8", errors="replace")):
            parts = paragraph.split()
            if held and len(held) + len(parts) > words:
                found.append(" ".join(held))
                held = []
            held += parts
            while len(held) > words:
                found.append(" ".join(held[:words]))
                held = held[words:]
        if held:
            found.append(" ".join(held))
    if not found:
        raise DataError(f"the text files at '{path}' are empty", place=place, fix="give files with text")
    return found
