"""Windows: half-open, in UTC, no request in two, the unfinished one only when asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from attune.stages.watch.windows import cut, iso

START = datetime(2026, 3, 2, tzinfo=UTC)
"""A Monday."""


def at(day: int, hour: float = 12) -> dict:
    moment = START + timedelta(days=day, hours=hour)
    return {"id": f"{day}-{hour}", "at": iso(moment)}


def ids(periods) -> list[list[str]]:
    return [[r["id"] for r in p.requests] for p in periods]


def test_days_are_cut_at_midnight_utc():
    last, first = at(0, 23.9999), at(1, 0)
    periods = cut([at(0), last, first], "day", [], START + timedelta(days=2), False)
    assert ids(periods) == [["0-12", "0-23.9999"], ["1-0"]]
    assert periods[0].end == periods[1].begin == "2026-03-03T00:00:00.000000+00:00"
    assert periods[0].name == "2026-03-02"


def test_another_time_zone_names_the_same_moment():
    east = datetime(2026, 3, 3, 1, 30, tzinfo=timezone(timedelta(hours=5)))
    assert iso(east) == "2026-03-02T20:30:00.000000+00:00"
    assert ids(cut([at(0, 20)], "day", [], east, False)) == []
    assert ids(cut([at(0, 20)], "day", [], east, True)) == [["0-20"]]


def test_the_unfinished_day_waits_unless_asked_for():
    requests, now = [at(0), at(1, 9)], START + timedelta(days=1, hours=10)
    assert ids(cut(requests, "day", [], now, False)) == [["0-12"]]
    closed, unfinished = cut(requests, "day", [], now, True)
    assert (closed.unfinished, unfinished.unfinished) == (False, True)
    assert unfinished.end == iso(now)


def test_the_rest_of_a_day_comes_as_a_window_of_its_own():
    now = START + timedelta(hours=10)
    (early,) = cut([at(0, 9)], "day", [], now, True)
    (rest,) = cut([at(0, 9), at(0, 15)], "day", [(early.begin, early.end)], START + timedelta(days=1), False)
    assert ids([rest]) == [["0-15"]]
    assert rest.begin == early.end
    assert rest.end == "2026-03-03T00:00:00.000000+00:00"


def test_what_was_examined_is_not_taken_again():
    requests, now = [at(0), at(1), at(2)], START + timedelta(days=3)
    first = cut(requests, "day", [], now, False)
    assert len(first) == 3
    assert cut(requests, "day", [(p.begin, p.end) for p in first], now, True) == []
    assert ids(cut(requests, "week", [(p.begin, p.end) for p in first[:2]], START + timedelta(days=7), False)) == [["2-12"]]


def test_weeks_begin_on_monday():
    periods = cut([at(0), at(6, 23), at(7, 0)], "week", [], START + timedelta(days=14), False)
    assert ids(periods) == [["0-12", "6-23"], ["7-0"]]
    assert periods[1].begin == "2026-03-09T00:00:00.000000+00:00"


def test_all_takes_everything_up_to_now_once():
    requests, now = [at(0), at(3), at(9)], START + timedelta(days=5)
    (period,) = cut(requests, "all", [], now, False)
    assert ids([period]) == [["0-12", "3-12"]]
    (rest,) = cut(requests, "all", [(period.begin, period.end)], START + timedelta(days=10), False)
    assert ids([rest]) == [["9-12"]]
    assert rest.begin == period.end


def test_days_without_requests_make_no_window():
    assert ids(cut([at(0), at(5)], "day", [], START + timedelta(days=8), False)) == [["0-12"], ["5-12"]]
    assert cut([], "day", [], START, True) == []
