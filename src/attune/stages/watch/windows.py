"""Cutting logged requests into windows: half-open periods in UTC, no request in two of them, unfinished ones only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

Request = dict[str, Any]
"""A logged request as `Ledger.requests` gives it."""
Span = tuple[str, str]
"""Begin (inclusive) and end (exclusive) as ISO 8601 in UTC with microseconds, so that text order is time order."""
LENGTH = {"day": timedelta(days=1), "week": timedelta(days=7)}


@dataclass(frozen=True)
class Period:
    """Requests of a period that no window held before."""

    begin: str
    end: str
    requests: list[Request]
    unfinished: bool
    """True when more requests of the period may come."""

    @property
    def name(self) -> str:
        """The period for people: the day, or from and to."""
        whole_day = datetime.fromisoformat(self.end) - datetime.fromisoformat(self.begin) == LENGTH["day"]
        return self.begin[:10] if whole_day else f"{self.begin[:16].replace('T', ' ')} to {self.end[:16].replace('T', ' ')} UTC"


def iso(moment: datetime) -> str:
    """A moment (with a time zone) as the ledger writes it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def cut(requests: Sequence[Request], kind: str, examined: Iterable[Span], now: datetime, include_open: bool) -> list[Period]:
    """Periods of requests (in time order) that are due.

    Args:
        requests: requests of one release, in time order.
        kind: day (from midnight UTC), week (from Monday) or all (everything up to now).
        examined: spans of the windows that exist already; their requests are not taken again.
        now: a period that ends later is unfinished.
        include_open: take unfinished days and weeks up to now as well; the rest of such a period comes as a window of its own.
    """
    spans = sorted(examined)
    limit = iso(now)
    fresh = [r for r in requests if r["at"] < limit and not any(begin <= r["at"] < end for begin, end in spans)]
    periods = []
    for start, group in groupby(fresh, key=lambda r: _start(r["at"], kind)):
        rows = list(group)
        end = iso(start + LENGTH[kind]) if start else limit
        unfinished = start is None or end > limit
        if unfinished and start is not None and not include_open:
            continue
        earlier = [known for _, known in spans if known <= rows[0]["at"]]
        begin = max([iso(start) if start else (earlier[-1] if earlier else rows[0]["at"]), *earlier])
        periods.append(Period(begin, min(end, limit), rows, unfinished))
    return periods


def _start(at: str, kind: str) -> datetime | None:
    """Beginning of the day or week of a moment; None for 'all'."""
    if kind == "all":
        return None
    day = datetime.fromisoformat(at).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day if kind == "day" else day - timedelta(days=day.weekday())
