"""The tokens of a row as training sees them, in colours: learned, not learned, special, and the end token that is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attune.core.text import excerpt

if TYPE_CHECKING:
    from rich.text import Text

STYLES = {"learned": "black on green", "not learned": "dim", "special": "magenta", "end": "bold white on blue"}
SECOND = "black on bright_green"
"""Every second learned token, so that their ends can be seen."""
MARKS = {"learned": ("[", "]"), "end": ("[", "]")}
"""Around runs of learned tokens where there are no colours."""
MOST = 600
"""Tokens of a row that are shown."""


def legend(coloured: bool) -> Text:
    """What the colours mean."""
    from rich.text import Text

    text = Text("What is learned   ")
    for state, style in STYLES.items():
        text.append(f" {state} ", style).append("  ")
    return text if coloured else Text("What is learned stands in [brackets], its end token included")


def shown(row: dict[str, Any], coloured: bool) -> Text:
    """One row: its place and counts, then its tokens."""
    from rich.text import Text

    tokens: Sequence[tuple[int, str, str]] = row["tokens"]
    text = (
        Text()
        .append(f"\n{row['place']}", "bold")
        .append(f"  {row['answer']} answer" if row.get("answer") else "")
        .append(f"  {row['learned']} of {row['of']} tokens are learned{', the beginning is cut away' if row['cut'] else ''}\n", "dim")
    )
    inside = False
    for number, (_, piece, state) in enumerate(tokens[:MOST]):
        learned = state in MARKS
        if not coloured and learned != inside:
            text.append("[" if learned else "]")
        inside = learned
        text.append(_visible(piece), SECOND if state == "learned" and number % 2 else STYLES[state])
    if inside and not coloured:
        text.append("]")
    if len(tokens) > MOST:
        text.append(f" ... and {len(tokens) - MOST} more tokens", "dim")
    return text


def _visible(piece: str) -> str:
    """A token's text with line ends that can be seen; an empty one as a dot."""
    if not piece:
        return "·"
    return piece.replace("\r", "␍").replace("\n", "⏎\n").replace("\t", "⇥")


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """A line about all shown rows."""
    learned, every = sum(row["learned"] for row in rows), sum(row["of"] for row in rows)
    ends = sum(any(state == "end" for _, _, state in row["tokens"]) for row in rows)
    what = "answers" if any(row.get("answer") for row in rows) else "rows"
    return f"{learned} of {every} tokens are learned; {ends} of {len(rows)} {what} learn their end token" + excerpt("" if ends == len(rows) else ": a model that never learns it does not stop")
