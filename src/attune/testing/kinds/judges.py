"""A judge compares two answers, always alike, or says why it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.core.contracts import Duel
from attune.core.errors import AttuneError

if TYPE_CHECKING:
    from attune.testing.suite import Subject

PER_TASK = False
DUELS = [
    Duel("1", "What is two plus three?", "Five.", "Five.", "Seven, I think."),
    Duel("2", "What is two plus three?", "Five.", "Seven, I think.", "Five."),
    Duel("3", "Name a colour.", "Red.", "Red.", "Red."),
    Duel("4", "Name a colour.", None, "Red.", "Blue."),
]


def _said(subject: Subject) -> list[float | None] | None:
    """Its verdicts; None when it lacks something that its keys must name."""
    plug = subject.plug
    plug.folder = subject.folder
    refused: AttuneError | None = None
    try:
        found: list[float | None] = plug.prefer(DUELS)
    except AttuneError as error:
        refused = error
    if refused is None:
        return found
    assert refused.fix, f"it refuses without a way out: {refused}"
    return None


def check_verdicts_are_shares_or_silence(subject: Subject) -> None:
    """One verdict per duel, in [0, 1] or None; none for no duels."""
    said = _said(subject)
    if said is not None:
        assert len(said) == len(DUELS), f"{len(said)} verdicts on {len(DUELS)} duels"
        assert all(one is None or 0 <= one <= 1 for one in said), f"verdicts are not in [0, 1]: {said}"
        assert subject.plug.prefer([]) == [], "no duels do not give no verdicts"


def check_the_same_duels_get_the_same_verdicts(subject: Subject) -> None:
    """Asked twice, it says the same."""
    assert _said(subject) == _said(subject), "asked twice it says something else"
