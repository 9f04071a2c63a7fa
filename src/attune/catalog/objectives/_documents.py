"""Rows that are documents: which column holds them, and how their rows of tokens are cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attune.core.contracts import Role

COLUMN = ("text", "content", "document", "body", "article", "passage", "story", "abstract", "completion")
"""Column names that suggest a document, most telling first."""
ROLES = (
    Role("prompt", "messages", "stays empty: a document answers nothing", required=False),
    Role("completion", "text", "the document", COLUMN, target=True),
)


def parse(values: dict[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the document as its completion and an empty prompt."""
    return {"prompt": [], "completion": values.get(columns["completion"])}
