"""The watch stage on a real release: unmoved tickets raise no alarm, moved ones do and say how, and one request asks for another cycle."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import numpy as np
import pytest

from attune.core import catalog
from attune.core.contracts import WindowData
from attune.core.errors import IntegrityError, Refused
from attune.core.events import Events
from attune.core.pii import mask
from attune.core.randomness import generator
from attune.core.recipe import WatchKeys
from attune.core.records import RetuneRequest, Window
from attune.stages import watch
from attune.stages.watch.calibration import permutation_test
from attune.stages.watch.retune import ROWS_FILE, TO_LABEL_FILE, USEFUL_ROWS
from tests.watch.conftest import DAY, add_release, later

KEYS = WatchKeys()
TEXTS = WatchKeys(detectors=["embedding_shift"])
NO_TEXTS = WatchKeys(detectors=["label_shift", "performance_drop"])
"""Detectors that need no embeddings, where the test is about something else."""
LATER_THAN_ALL = DAY + timedelta(days=30)


def examined(workspace, keys=KEYS, now=LATER_THAN_ALL, **options):
    """Run and write the records, as the lifecycle does; returns windows, request and what was said."""
    said: list[dict] = []
    windows, request = watch.run(workspace, "tickets", keys, Events(None, [said.append]), now=now, **options)
    for record in [*windows, *([request] if request else [])]:
        workspace.ledger.add(record)
    return windows, request, " ".join(one["message"] for one in said)


def named(window: Window) -> dict[str, dict]:
    return {result["name"]: result for result in window.results}


def test_more_of_the_same_tickets_is_no_alarm(workspace, release, log):
    log(release, later("same"), feedback=1.0)
    (window,), request, said = examined(workspace)
    assert not window.alarm
    assert request is None
    assert "no alarm" in said
    assert all(result["p_value"] > 1 / 90 for result in window.results)
    assert [result["name"] for result in window.results] == ["embedding_shift", "label_shift", "performance_drop"]


def test_tickets_of_a_moved_world_alarm_in_plain_words(workspace, release, log):
    log(release, later("later"), feedback=1.0)
    (window,), request, said = examined(workspace)
    found = named(window)
    assert window.alarm
    assert window.labelled == window.rows == len(later("later"))
    assert found["embedding_shift"]["alarm"]
    assert found["embedding_shift"]["effect"] > 0.4
    assert any(word in found["embedding_shift"]["summary"] for word in ("battery", "hearthcell", "lamp"))
    assert found["performance_drop"]["measure"] == "accuracy"
    assert found["performance_drop"]["effect"] < -0.15
    assert set(found["performance_drop"]["examples"]) <= {text for text, _ in later("later")}
    assert "ALARM" in said
    assert request is not None
    assert request.release_id == release.id
    assert request.window_ids == (window.id,)
    assert found["embedding_shift"]["summary"] in request.reason


def test_without_feedback_the_drop_is_seen_in_the_confidence(workspace, release, log):
    log(release, later("later"))
    (window,), request, _ = examined(workspace)
    assert named(window)["performance_drop"]["measure"] == "confidence"
    assert named(window)["performance_drop"]["alarm"]
    assert request.new_rows == 0
    assert f"label about {USEFUL_ROWS} more" in request.reason


def test_the_request_holds_the_rows_with_right_answers_and_what_to_label(workspace, release, log):
    pairs = later("later")
    ids = log(release, pairs, feedback=0.25)
    _, request, _ = examined(workspace)
    folder = workspace.store.path(request.rows_key)
    rows = [json.loads(line) for line in (folder / ROWS_FILE).read_text(encoding="utf-8").splitlines()]
    count = round(0.25 * len(pairs))
    assert rows == [{"text": text, "label": label} for text, label in pairs[:count]]
    assert request.new_rows == count
    waiting = [json.loads(line) for line in (folder / TO_LABEL_FILE).read_text(encoding="utf-8").splitlines()]
    assert {one["request_id"] for one in waiting} <= set(ids[count:])
    first, last = ([one["confidence"] for one in part] for part in (waiting[:30], waiting[-30:]))
    assert np.mean(first) < np.mean(last)


def test_the_unusual_is_offered_for_labelling_before_the_ordinary(workspace, release, log):
    odd = [(text, label) for text, label in later("later") if "HearthCell" in text][:12]
    log(release, [*later("same")[:60], *odd])
    (window,), request, _ = examined(workspace)
    assert named(window)["embedding_shift"]["alarm"]
    waiting = [json.loads(line)["text"] for line in (workspace.store.path(request.rows_key) / TO_LABEL_FILE).read_text(encoding="utf-8").splitlines()]
    place = {text: number for number, text in enumerate(waiting)}
    assert np.mean([place[text] for text, _ in odd]) < np.mean(list(place.values()))


def test_a_large_window_is_embedded_in_part(workspace, release, log, monkeypatch):
    monkeypatch.setattr("attune.stages.watch.material.MOST_EMBEDDED", 70)
    log(release, later("later")[:150])
    (window,), request, _ = examined(workspace)
    found = named(window)
    assert (found["embedding_shift"]["rows"], found["label_shift"]["rows"]) == (70, 150)
    assert found["embedding_shift"]["alarm"]
    waiting = (workspace.store.path(request.rows_key) / TO_LABEL_FILE).read_text(encoding="utf-8").splitlines()
    assert len(waiting) == len({text for text, _ in later("later")[:150]})


def test_a_label_that_takes_over_is_named(workspace, release, log):
    log(release, later("same")[:80], output="refund_status")
    (window,), _, _ = examined(workspace, NO_TEXTS)
    found = named(window)["label_shift"]
    assert found["alarm"]
    assert "'refund_status'" in found["summary"]
    assert list(found["grew"]) == ["refund_status"]


def test_a_small_window_is_not_enough_data_and_never_an_alarm(workspace, release, log):
    log(release, later("later")[:49], feedback=1.0)
    (window,), request, said = examined(workspace)
    assert not window.alarm
    assert request is None
    assert all("not enough data: 49 requests, 50 needed" in result["summary"] and result["p_value"] is None for result in window.results)
    assert "watch.min_rows" in said
    assert examined(workspace)[0] == []


def test_a_small_unfinished_window_can_still_grow(workspace, release, log):
    log(release, later("later")[:80])
    noon = DAY + timedelta(hours=12)
    assert examined(workspace, NO_TEXTS, now=noon, include_open=True)[0] == []
    (window,), _, _ = examined(workspace, NO_TEXTS)
    assert window.rows == 80


def test_the_unfinished_day_waits_unless_asked_for(workspace, release, log):
    log(release, later("later")[:160])
    evening = DAY + timedelta(hours=18)
    windows, _, said = examined(workspace, NO_TEXTS, now=evening)
    assert windows == []
    assert "unfinished day waits" in said
    (window,), _, _ = examined(workspace, NO_TEXTS, now=evening, include_open=True)
    assert window.rows < 160
    assert datetime.fromisoformat(window.end) == evening


def test_no_window_is_examined_twice(workspace, release, log):
    log(release, later("same"))
    assert len(examined(workspace, NO_TEXTS)[0]) == 1
    windows, _, said = examined(workspace, NO_TEXTS)
    assert windows == []
    assert "no new window" in said


def test_the_same_requests_give_the_same_window(workspace, release, log):
    """An alarm can be replayed: every draw comes from the release and the window."""
    log(release, later("later"), feedback=1.0)
    first, again = (watch.run(workspace, "tickets", KEYS, Events(None), now=LATER_THAN_ALL) for _ in range(2))
    assert [w.id for w in first[0]] == [w.id for w in again[0]]
    assert first[1].id == again[1].id


def test_nothing_is_written_by_the_stage(workspace, release, log):
    log(release, later("later"))
    watch.run(workspace, "tickets", NO_TEXTS, Events(None), now=LATER_THAN_ALL)
    assert workspace.ledger.find(Window) == []
    assert workspace.ledger.find(RetuneRequest) == []


def test_requests_of_another_release_are_not_mixed_in(workspace, specialist, reference, log):
    old = add_release(workspace, specialist, reference, 1)
    log(old, later("later"), feedback=1.0)
    new = add_release(workspace, specialist, reference, 2)
    log(new, later("same"), feedback=1.0)
    (window,), request, _ = examined(workspace, NO_TEXTS)
    assert window.release_id == new.id
    assert window.rows == len(later("same"))
    assert request is None


def test_one_request_is_open_per_release(workspace, specialist, reference, release, log):
    for day in range(4):
        log(release, later("later")[60 * day : 60 * day + 60], day)
    windows, request, _ = examined(workspace, NO_TEXTS, now=DAY + timedelta(days=1))
    assert [w.alarm for w in windows] == [True]
    assert request is not None
    windows, second, said = examined(workspace, NO_TEXTS)
    assert sum(w.alarm for w in windows) >= 2
    assert second is None
    assert request.id in said
    assert all(w.id in said for w in windows if w.alarm)
    newer = add_release(workspace, specialist, reference, 2)
    log(newer, later("later")[:80], 9)
    assert examined(workspace, NO_TEXTS)[1].release_id == newer.id


def test_labelling_renews_the_open_request_once(workspace, release, log):
    pairs = later("later")
    ids = log(release, pairs)
    _, first, _ = examined(workspace, NO_TEXTS)
    assert first.new_rows == 0
    for number, (one, (_, label)) in enumerate(zip(ids, pairs, strict=True)):
        if number == USEFUL_ROWS - 1:
            assert examined(workspace, NO_TEXTS)[1] is None
        if number < USEFUL_ROWS:
            workspace.ledger.add_feedback(key=f"late-{one}", request_id=one, specialist="tickets", answer=label)
    _, renewed, said = examined(workspace, NO_TEXTS)
    assert renewed.new_rows == USEFUL_ROWS
    assert first.id in renewed.parents
    assert "renewed" in said
    assert "too few" not in renewed.reason
    assert examined(workspace, NO_TEXTS)[1] is None


def test_a_detector_that_does_not_fit_is_left_out_with_a_note(workspace, specialist, reference, monkeypatch, log):
    monkeypatch.setattr(type(specialist.task), "traits", frozenset({"text-in", "label-out", "torch"}))
    release = add_release(workspace, specialist, {**reference, "embeddings": None})
    log(release, later("same"))
    (window,), _, said = examined(workspace)
    assert set(named(window)) == {"label_shift", "performance_drop"}
    assert "left out: detector 'embedding_shift' does not fit" in said
    assert window.results[0]["level"] == pytest.approx(1 / 60)


def test_masks_on_one_side_only_are_no_drift(workspace, specialist, reference, tickets, log):
    """A recipe that keeps addresses in its rows, and a log that masks them: the same world, and no alarm."""
    signed = [f"{text} Write to anna.smith@example.org or call +44 20 7946 0958." for text in reference["columns"]["text"]]
    kept = {**reference, "columns": {**reference["columns"], "text": signed}, "embeddings": specialist.embed(signed)}
    release = add_release(workspace, specialist, kept)
    log(release, [(mask(f"{text} Write to me@example.com or call +44 20 7946 0111."), label) for text, label in later("same")[-100:]])
    (window,), _, _ = examined(workspace, TEXTS)
    assert not window.alarm
    detector = catalog.build("detectors", "embedding_shift")
    unmasked = WindowData(signed, kept["embeddings"], [""] * 200, np.zeros(200), np.zeros(200))
    logged = [r["input"]["text"] for r in workspace.ledger.requests("tickets")]
    masked = WindowData(logged, specialist.embed(logged), [""] * 100, np.zeros(100), np.zeros(100))
    assert permutation_test(detector, unmasked, masked, 1 / 30, 399, generator(1, "masks")).alarm, "the masks would be found if they stood on one side only"


def test_a_reference_without_embeddings_leaves_the_other_detectors_at_work(workspace, specialist, reference, log):
    release = add_release(workspace, specialist, {**reference, "embeddings": None})
    log(release, later("later")[:100], feedback=1.0)
    (window,), _, _ = examined(workspace)
    found = named(window)
    assert "not enough data" in found["embedding_shift"]["summary"]
    assert found["performance_drop"]["alarm"]


def test_without_an_approved_release_there_is_nothing_to_watch(workspace):
    with pytest.raises(Refused, match=r"no release of .tickets. is approved[^`]*`attune promote tickets`"):
        watch.run(workspace, "tickets", KEYS, Events(None))


def test_a_release_without_reference_is_an_error_that_says_what_to_do(workspace, specialist, reference, log):
    release = add_release(workspace, specialist, {**reference, "embeddings": reference["embeddings"][:-1]})
    log(release, later("same"))
    with pytest.raises(IntegrityError, match="200 rows but 199 embeddings"):
        examined(workspace)
