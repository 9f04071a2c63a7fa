"""A check speaks of rows it was given, changes none, and says the same each time."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from attune.core.contracts import CheckContext, Finding, Row
from attune.testing.kinds._compare import Unchanged

if TYPE_CHECKING:
    from attune.testing.suite import Subject

PER_TASK = True
ACTIONS = ("flag", "repair", "quarantine", "block")


def _messy(subject: Subject) -> tuple[list[Row], CheckContext]:
    """The bench's rows with faults among them: copies, an empty text, broken characters, personal data."""
    bench = subject.bench
    rows = copy.deepcopy(bench.rows)
    inputs = [role for role in bench.task.roles if not role.target and role.type == "text"]
    for number, row in enumerate(rows[:4]):
        rows.append({**copy.deepcopy(row), "row_id": f"copy-{number}", "place": f"bench:{900 + number}"})
    for role in inputs:
        rows[0][role.name] = "caf\u00c3\u00a9 \ufffd closed"
        rows[1][role.name] = "write to jane.doe@example.org or 4111 1111 1111 1111"
        rows[2][role.name] = "  "
    splits = {row["row_id"]: ("train", "validation", "test")[number % 3] for number, row in enumerate(rows)}
    return rows, CheckContext(bench.task, bench.signature, 5, splits if subject.plug.phase == "split" else None)


def check_findings_can_be_applied(subject: Subject) -> None:
    """Every finding names a row it was given, one of its columns, a known action, a reason and a way out."""
    rows, context = _messy(subject)
    known = {row["row_id"]: row for row in rows}
    for finding in subject.plug.examine(rows, context):
        assert isinstance(finding, Finding), f"a {type(finding).__name__} is not a Finding"
        assert finding.row_id in known, f"row '{finding.row_id}' was not given to it"
        assert finding.related is None or finding.related in known, f"related row '{finding.related}' was not given to it"
        assert finding.action in ACTIONS, f"action '{finding.action}' is none of {', '.join(ACTIONS)}"
        assert finding.reason, "a finding has no reason"
        assert finding.fix, f"'{finding.reason}' says no way out"
        if finding.action == "repair":
            row = known[finding.row_id]
            assert finding.column in row, f"it repairs '{finding.column}', which the row does not have"
            assert finding.replacement != row[finding.column], "it repairs a value with the same value"


def check_is_pure(subject: Subject) -> None:
    """It changes no row, and finds the same things when it looks again."""
    rows, context = _messy(subject)
    with Unchanged(rows, "rows"):
        first = list(subject.plug.examine(rows, context))
    again = list(subject.plug.examine(rows, context))
    assert first == again, "a second look found other things"


def check_phase_and_order_are_known(subject: Subject) -> None:
    """Its phase is one of row, table and split; what must come before it is named without itself."""
    plug = subject.plug
    assert plug.phase in ("row", "table", "split"), f"phase '{plug.phase}' is unknown"
    assert plug.name not in plug.after, "it waits for itself"
