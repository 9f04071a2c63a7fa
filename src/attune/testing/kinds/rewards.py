"""A reward gives every answer a finite number of its own, the right one no less than a wrong one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from attune.core.errors import AttuneError
from attune.testing.kinds._compare import Unchanged

if TYPE_CHECKING:
    from attune.core.rewards import Reward
    from attune.testing.suite import Subject

PER_TASK = False
QUESTIONS = [("one and two", "3"), ("two and two", "4"), ("two and five", "7"), ("three and three", "6")]


def _rows(plug: Reward) -> list[dict[str, Any]]:
    """Rows with every column that the reward reads."""
    made: dict[str, Any] = {"tests": "assert True", "schema": {"type": "number"}}
    return [
        {"row_id": f"r{number}", "place": f"bench:{number}", "prompt": [{"role": "user", "content": asked}], **{role.name: made.get(role.name, right) for role in plug.roles}}
        for number, (asked, right) in enumerate(QUESTIONS)
    ]


def _ready(subject: Subject) -> Reward | None:
    """The reward, or None when it says what it still has to be given."""
    plug: Reward = subject.plug
    refused: AttuneError | None = None
    try:
        plug.folder = subject.folder
        plug.prepare()
    except AttuneError as error:
        refused = error
    if refused is None:
        return plug
    assert refused.fix, f"it refuses without a way out: {refused}"
    return None


def check_columns_are_roles(subject: Subject) -> None:
    """Each column that it reads has a name, a type and a meaning."""
    assert all(role.name and role.type and role.meaning for role in subject.plug.roles), "a column has no name, type or meaning"


def check_numbers_are_finite_and_of_the_answer_alone(subject: Subject) -> None:
    """One finite number per answer, the same alone as together and each time; nothing for nothing; rows stay as they are."""
    plug = _ready(subject)
    if plug is None:
        return
    rows, answers = _rows(plug), ["3", "", "seven 7", "{"]
    with Unchanged(rows, "rows"):
        together = plug.score(rows, answers)
    assert len(together) == len(rows), f"{len(together)} numbers for {len(rows)} answers"
    assert all(isinstance(one, float) and math.isfinite(one) for one in together), f"not finite numbers: {together}"
    alone = [plug.score([row], [answer])[0] for row, answer in zip(rows, answers, strict=True)]
    assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(together, alone, strict=True)), "an answer alone gets another number than among others"
    assert plug.score(rows, answers) == together, "asking twice gives two numbers"
    assert plug.score([], []) == [], "no answers do not give no numbers"


def check_right_answers_are_worth_as_much_as_wrong_ones_at_least(subject: Subject) -> None:
    """The right answers together get no less than wrong ones."""
    plug = _ready(subject)
    if plug is None:
        return
    rows = _rows(plug)
    right, wrong = (sum(plug.score(rows, answers)) for answers in ([answer for _, answer in QUESTIONS], ["nothing of the kind ["] * len(QUESTIONS)))
    assert right >= wrong, f"right answers get {right}, wrong ones {wrong}"
