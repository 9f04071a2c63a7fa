"""The question that a language model is asked as a judge, and how its answer is read."""

from __future__ import annotations

import re

from attune.core.contracts import Duel

CRITERION = "Which answer is more correct and more helpful?"
_SAID = re.compile(r"\b(A|B|TIE|tie|Tie)\b")


def question(duel: Duel, criterion: str) -> str:
    """The duel as a text that asks for A, B or TIE."""
    right = f"\n\n[A correct answer, for comparison]\n{duel.right}" if duel.right is not None else ""
    return (
        f"Two answers to a question are compared.\n\n[Question]\n{duel.question}{right}\n\n[Answer A]\n{duel.first}\n\n[Answer B]\n{duel.second}\n\n"
        f"{criterion} Neither the order nor the length of the answers counts. Reply with one word: A, B or TIE."
    )


def verdict(said: str) -> float | None:
    """1 for A, 0 for B, 0.5 for a tie; None where the reply names none of them, or both."""
    names = {name.upper() for name in _SAID.findall(said)}
    return {"A": 1.0, "B": 0.0, "TIE": 0.5}[names.pop()] if len(names) == 1 else None
