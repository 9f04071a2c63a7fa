"""Answers that are Python programs: where the program stands in an answer, and what a row's unit tests are. Rewards and metrics read both alike."""

from __future__ import annotations

import ast
from typing import Any

from attune.core.contracts import Role
from attune.core.errors import DataError

TESTS = Role("tests", "any", "unit tests that the answer, a Python program, must pass: Python code as a text or a list of lines", ("tests", "test_list", "unit_tests"), target=True)
PYTHON = ("python", "py", "python3")


def program_of(answer: str) -> str:
    """The first block between fences (```) that is marked as Python, else the first without a mark, else the whole answer. A block may lack its end."""
    blocks: list[tuple[str, list[str]]] = []
    inside = False
    for line in answer.split("\n"):
        if line.lstrip().startswith("```"):
            inside = not inside
            if inside:
                blocks.append((line.strip().strip("`").strip().casefold(), []))
        elif inside:
            blocks[-1][1].append(line)
    for marks in (PYTHON, ("",)):
        for mark, lines in blocks:
            if mark in marks:
                return "\n".join(lines)
    return answer


def unit_tests_of(given: Any, column: str) -> str | None:
    """A row's unit tests as one program; None where there are none. A list may also be written as text, as tables hold it.

    Raises:
        DataError: something else than text, or a list of texts.
    """
    lines = given if isinstance(given, (list, tuple)) else _listed(given) if isinstance(given, str) else [] if given is None else [given]
    if not all(isinstance(line, str) for line in lines):
        raise DataError("the unit tests are not text", place=column, fix="give Python code, as one text or a list of lines")
    return "\n".join(lines) if any(line.strip() for line in lines) else None


def _listed(text: str) -> list[Any]:
    """The elements of a list of texts that is written as text (JSON's or Python's way), which as a program would test nothing; any other text alone."""
    try:
        body = ast.parse(text.strip(), mode="eval").body if text.lstrip().startswith("[") else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        body = None
    if not isinstance(body, ast.List):
        return [text]
    return [one.value if isinstance(one, ast.Constant) else None for one in body.elts]
