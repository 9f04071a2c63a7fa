"""The wish for another cycle: which requests have right answers by now, which ones people should label first, and why all this.

One request is open per release. Later alarms do not make another; only clearly more right answers renew it, so a thousand alarms
make one request and a person who labels rows is heard.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attune.core.contracts import Row, Task
from attune.core.events import Events
from attune.core.records import Release, RetuneRequest, Window
from attune.core.workspace import Workspace
from attune.stages.watch.windows import Request

USEFUL_ROWS = 50
"""Rows with right answers from which another cycle can learn what moved."""
TO_LABEL = 200
"""Rows offered for labelling."""
ROWS_FILE = "new_rows.jsonl"
TO_LABEL_FILE = "to_label.jsonl"


def open_request(workspace: Workspace, release: Release) -> RetuneRequest | None:
    """The newest request for the release; it is open as long as this release is the approved one."""
    found = [one for one in workspace.ledger.find(RetuneRequest, release.specialist) if one.release_id == release.id]
    return found[-1] if found else None


def request_retune(
    workspace: Workspace, release: Release, task: Task, fresh: Sequence[Window], known: Sequence[Window], requests: Sequence[Request], novelty: Mapping[str, float], events: Events
) -> RetuneRequest | None:
    """A request for the alarmed windows, or None when nothing is due.

    Args:
        workspace: where the request's rows are stored.
        release: the approved release.
        task: reads inputs and knows the roles.
        fresh: alarmed windows of this examination.
        known: alarmed windows of earlier ones.
        requests: all logged requests of the release.
        novelty: request id -> distance of its text to the nearest row of the reference, where it was embedded.
        events: told when an open request stands in the way, or is renewed.
    """
    windows = [*known, *fresh]
    if not windows:
        return None
    inside = [r for r in requests if any(w.begin <= r["at"] < w.end for w in windows)]
    rows = [row for row in (labelled_row(task, r) for r in inside) if row is not None]
    before = open_request(workspace, release)
    if before is not None:
        if len(rows) < max(USEFUL_ROWS, 2 * before.new_rows):
            if fresh:
                events.note(f"{before.id} is already open for this release; it stands for these windows too: " + ", ".join(w.id for w in fresh), request=before.id)
            return None
        events.note(f"{len(rows)} rows have right answers now (there were {before.new_rows}): the open request is renewed", request=before.id)
    waiting = to_label(task, inside, novelty)
    key = workspace.store.put("retune", lambda folder: _write(folder, rows, waiting))
    return RetuneRequest(
        specialist=release.specialist,
        parents=(release.id, *(w.id for w in windows), *([before.id] if before else [])),
        release_id=release.id,
        window_ids=tuple(w.id for w in windows),
        reason=_reason(release, windows, len(rows), len(inside), waiting),
        rows_key=key,
        new_rows=len(rows),
    )


def labelled_row(task: Task, request: Request) -> Row | None:
    """Role values of a request with its right answer; None without one, or when the task's targets cannot be filled from it."""
    answer = request["answer"]
    targets = [role.name for role in task.roles if role.target]
    if answer is None or not targets:
        return None
    row: Row = {role.name: request["input"][role.name] for role in task.roles if not role.target and role.name in request["input"]}
    if len(targets) == 1:
        row[targets[0]] = answer
    elif isinstance(answer, dict) and set(targets) <= set(answer):
        row.update({name: answer[name] for name in targets})
    else:
        return None
    return row


def to_label(task: Task, requests: Sequence[Request], novelty: Mapping[str, float]) -> list[dict[str, Any]]:
    """Requests without an answer, those first that teach most: low confidence and far from everything in the reference (mean of both ranks)."""
    open_ones = {task.text(r["input"]): r for r in requests if r["answer"] is None}
    texts = list(open_ones)
    if not texts:
        return []
    doubt = np.array([0.0 if open_ones[t]["confidence"] is None else 1 - open_ones[t]["confidence"] for t in texts])
    far = np.array([novelty.get(open_ones[t]["id"], 0.0) for t in texts])
    order = np.argsort(-(_rank(doubt) + _rank(far)), kind="stable")[:TO_LABEL]
    fields = ("id", "output", "confidence")
    return [{"text": texts[i], **{("request_id" if f == "id" else f): open_ones[texts[i]][f] for f in fields}} for i in order]


def _rank(values: np.ndarray) -> np.ndarray:
    """Average ranks, so that equal values do not decide."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    found: np.ndarray = (ends - (counts - 1) / 2)[place]
    return found


def _write(folder: Path, rows: Sequence[Row], waiting: Sequence[dict[str, Any]]) -> None:
    for name, lines in ((ROWS_FILE, rows), (TO_LABEL_FILE, waiting)):
        (folder / name).write_text("".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines), encoding="utf-8")


def _reason(release: Release, windows: Sequence[Window], labelled: int, inside: int, waiting: Sequence[dict[str, Any]]) -> str:
    """Why, in plain words: what moved, how many rows there are to learn from, and what to label first."""
    lines = [f"Release v{release.version} of '{release.specialist}' meets other requests than it was proven on."]
    for window in windows[-3:]:
        lines += [f"{window.begin[:10]} ({window.rows} rows): {result['summary']}" for result in window.results if result["alarm"]]
    lines.append(f"{labelled} of the {inside} requests have right answers from feedback; they become new rows.")
    if labelled < USEFUL_ROWS:
        lines.append(f"That is too few to learn from: label about {USEFUL_ROWS - labelled} more and watch again.")
        if waiting:
            first = "; ".join(f"'{one['text'][:100]}'" for one in waiting[:3])
            lines.append(f"Start with the least certain and most unusual ones ({TO_LABEL_FILE} beside the new rows), for example: {first}.")
    return "\n".join(lines)
