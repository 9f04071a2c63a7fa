"""The ledger's contract, on both databases: records, lineage, promotions, test uses, requests, feedback, audit."""

from __future__ import annotations

import json
import math

import pytest
import sqlalchemy as sa

from attune.core.errors import IntegrityError, MachineError, Refused
from attune.core.ledger import AUDIT, FEEDBACK, RECORDS, REQUESTS, Ledger
from attune.core.records import Checkpoint, DatasetVersion, Estimate, Release, Scorecard, Window


def dataset(name="claims", digest="d1", **more):
    return DatasetVersion(
        specialist=name, store_key=f"dataset/{digest}", task="text_classification", signature={"labels": ["a", "ü"]}, columns={"text": "t"}, counts={"read": 3}, findings={}, rows_digest=digest, **more
    )


def checkpoint(data, name="claims"):
    return Checkpoint(
        specialist=name,
        parents=(data.id,),
        store_key="checkpoint/c1",
        dataset_id=data.id,
        task="text_classification",
        objective="supervised",
        method="head",
        base={"reference": "package:x", "revision": None, "digest": "b"},
        recipe_digest="r",
        best_step=1,
        steps=2,
        main_metric="accuracy",
        validation={"accuracy": 0.5},
        curve=({"step": 1.0, "loss": 0.25},),
        chosen={},
        run="r1",
    )


def scorecard(tuned, value=0.9):
    return Scorecard(
        specialist=tuned.specialist,
        parents=(tuned.id,),
        store_key="scorecard/s1",
        checkpoint_id=tuned.id,
        dataset_id=tuned.dataset_id,
        test_rows=10,
        test_uses=1,
        confidence=0.95,
        resamples=1000,
        results={"tuned": {"accuracy": Estimate(value=value, low=0.8, high=math.inf)}},
        comparisons=(),
        per_class={"f1": {"a": math.nan}},
        probes={"robustness": {"value": math.nan}},
        gates=(),
        verdict="SHIP",
        reasons=(),
    )


def release(version=1, name="claims", digest="x"):
    return Release(
        specialist=name,
        parents=("checkpoint-1", "scorecard-1"),
        store_key="release/r1",
        version=version,
        checkpoint_id="checkpoint-1",
        scorecard_id="scorecard-1",
        dataset_id="dataset-1",
        verdict="SHIP",
        bundle_digest=digest,
    )


def request(number, at="2026-01-02T00:00:00.000000+00:00", name="claims"):
    return {"id": f"req{number}", "specialist": name, "release_id": "release-1", "at": at, "input": '{"text": "hällo \\u0000"}', "output": '"a"', "confidence": 0.5}


def test_records_come_back_as_they_were(ledger):
    data = dataset()
    tuned = checkpoint(data)
    for record in (data, tuned):
        assert ledger.add(record) == record
        assert ledger.get(record.id) == record
    assert ledger.get(data.id[:14]) == data
    assert ledger.find(DatasetVersion) == [data]
    assert ledger.find(Checkpoint, "other") == []
    assert isinstance(ledger.find(Checkpoint, "claims")[0], Checkpoint)


def test_a_metric_that_is_not_a_number_comes_back_as_one(ledger):
    made = scorecard(checkpoint(dataset()), math.nan)
    ledger.add(made)
    back = ledger.get(made.id)
    assert isinstance(back, Scorecard)
    assert back.id == made.id
    assert math.isnan(back.results["tuned"]["accuracy"].value)
    assert back.results["tuned"]["accuracy"].high == math.inf
    assert math.isnan(back.per_class["f1"]["a"])
    assert math.isnan(back.probes["robustness"]["value"])


def test_adding_again_changes_nothing(ledger):
    first = ledger.add(dataset(created_at="2026-01-01T00:00:00+00:00"))
    again = ledger.add(dataset(created_at="2026-02-02T00:00:00+00:00"))
    assert again.created_at == first.created_at
    assert len(ledger.find(DatasetVersion)) == 1
    assert len(ledger.audit_log()) == 1


def test_unknown_and_ambiguous_ids_are_told(ledger):
    for digest in ("d1", "d2"):
        ledger.add(dataset(digest=digest))
    with pytest.raises(IntegrityError, match="several ids"):
        ledger.get("dataset-")
    with pytest.raises(IntegrityError, match="no record 'release-0'"):
        ledger.get("release-0")
    near = dataset().id[:-1] + "x"
    with pytest.raises(IntegrityError, match=f"did you mean '{dataset().id}'"):
        ledger.get(near)
    with pytest.raises(IntegrityError, match="no record"):
        ledger.get("data%")


def test_the_newest_result_of_a_stage_is_found(ledger):
    assert ledger.result("f") is None
    one, two = ledger.add(dataset(digest="d1"), fingerprint="f", stage="curate"), dataset(digest="d2")
    assert ledger.result("f") == one
    ledger.add(two, fingerprint="f", stage="curate")
    assert ledger.result("f") == two
    ledger.add(one, fingerprint="g", stage="curate")
    assert ledger.result("g") == one


def test_lineage_goes_back_to_the_rows(ledger):
    earlier = ledger.add(dataset(digest="d0"))
    data = ledger.add(dataset(digest="d1", parents=(earlier.id,)))
    tuned = ledger.add(checkpoint(data))
    card = ledger.add(scorecard(tuned))
    released = ledger.add(release().model_copy(update={"parents": (tuned.id, card.id)}))
    assert [record.id for record in ledger.lineage(released.id)] == [released.id, *sorted([tuned.id, card.id]), data.id, earlier.id]


def test_versions_are_given_once_per_specialist(ledger):
    ledger.add(release(1))
    ledger.add(release(1, name="other"))
    ledger.add(release(2))
    assert ledger.add(release(1)).version == 1  # the same again is no second one
    with pytest.raises(Refused, match="version 2"):
        ledger.add(release(2, digest="y"))


def test_the_last_promotion_counts(ledger):
    one, two = ledger.add(release(1)), ledger.add(release(2))
    assert ledger.approved("claims") is None
    ledger.promote(one, action="promote", actor="ann", reason="", forced=False)
    ledger.promote(two, action="promote", actor="bob", reason="in a hurry", forced=True)
    assert ledger.approved("claims") == two
    ledger.promote(one, action="rollback", actor="ann", reason="bad", forced=False)
    assert ledger.approved("claims") == one
    assert ledger.approved("other") is None
    assert [(e["release_id"], e["action"], e["actor"], e["reason"], e["forced"]) for e in ledger.promotions("claims")] == [
        (one.id, "promote", "ann", "", False),
        (two.id, "promote", "bob", "in a hurry", True),
        (one.id, "rollback", "ann", "bad", False),
    ]
    assert [e["action"] for e in ledger.audit_log()][-3:] == ["release.promote", "release.promote", "release.rollback"]


def test_uses_of_test_rows_are_counted_row_by_row(ledger):
    assert [ledger.use_test_rows("claims", "dataset-1", ["a", "b"], "grade") for _ in range(3)] == [1, 2, 3]
    assert ledger.use_test_rows("claims", "dataset-2", ["b", "c"], "another seed") == 4, "another dataset version does not make a row fresh"
    assert ledger.use_test_rows("claims", "dataset-2", ["c", "d"], "grade") == 2, "the most over the rows opened, not over all"
    assert ledger.use_test_rows("claims", "dataset-3", ["e", "e"], "grade") == 1, "a row counts once per opening"
    assert ledger.use_test_rows("other", "dataset-1", ["a", "b"], "grade") == 1, "another specialist's looks are its own"
    assert ledger.opened_rows("claims") == {"a": 3, "b": 4, "c": 2, "d": 1, "e": 1}
    assert ledger.use_test_rows("claims", "dataset-4", [], "grade") == 0
    opened = [event for event in ledger.audit_log() if event["action"] == "test_rows.open"]
    assert len(opened) == 8, "one event per opening, however many rows"
    assert json.loads(opened[3]["facts"]) == {"purpose": "another seed", "specialist": "claims", "rows": 2}


def test_an_opening_of_very_many_rows_is_one_write(ledger):
    ids = [f"{number:020x}" for number in range(100_000)]
    assert [ledger.use_test_rows("claims", "dataset-1", ids, "grade") for _ in range(2)] == [1, 2]
    assert ledger.use_test_rows("claims", "dataset-2", [*ids[-1:], "new"], "grade") == 3
    assert len(ledger.opened_rows("claims")) == 100_001
    assert len(ledger.audit_log()) == 3


def test_requests_come_back_in_time_order_with_the_newest_answer(ledger):
    days = ["2026-01-03", "2026-01-01", "2026-01-02"]
    ledger.log_requests([request(n, f"{day}T00:00:00.000000+00:00") for n, day in enumerate(days)])
    ledger.log_requests([])
    ledger.log_requests([request(9, name="other")])
    assert ledger.add_feedback(key="k1", request_id="req1", specialist="claims", answer="a") == "first"
    assert ledger.add_feedback(key="k2", request_id="req1", specialist="claims", answer=["b", "ü"], comment="no") == "replaced"
    found = ledger.requests("claims")
    assert [row["id"] for row in found] == ["req1", "req2", "req0"]
    assert [row["answer"] for row in found] == [["b", "ü"], None, None]
    assert found[0]["input"] == {"text": "hällo \x00"}
    assert found[0]["output"] == "a"
    assert [row["id"] for row in ledger.requests("claims", "2026-01-01T00:00:00.000000+00:00", "2026-01-03T00:00:00.000000+00:00")] == ["req1", "req2"]


def test_feedback_is_stored_once_per_key(ledger):
    ledger.log_requests([request(1), request(2)])
    give = {"key": "k", "request_id": "req1", "specialist": "claims", "answer": "a"}
    assert [ledger.add_feedback(**give) for _ in range(3)] == ["first", "known", "known"]
    with pytest.raises(Refused, match="another answer"):
        ledger.add_feedback(**{**give, "answer": "b"})
    with pytest.raises(Refused, match="another answer"):
        ledger.add_feedback(**{**give, "request_id": "req2"})
    with pytest.raises(Refused, match="no logged request"):
        ledger.add_feedback(**{**give, "key": "k9", "request_id": "req9"})
    with pytest.raises(Refused, match="no logged request"):
        ledger.add_feedback(**{**give, "key": "k9", "specialist": "other"})


def test_a_request_id_is_logged_once(ledger):
    ledger.log_requests([request(1)])
    with pytest.raises(MachineError):
        ledger.log_requests([request(2), request(1)])
    assert [row["id"] for row in ledger.requests("claims")] == ["req1"]  # all or nothing


def test_retention_takes_old_requests_with_their_feedback_and_says_so(ledger):
    ledger.log_requests([request(1, "2026-01-01T00:00:00.000000+00:00"), request(2, "2026-01-05T00:00:00.000000+00:00"), request(3, "2026-01-01T00:00:00.000000+00:00", "other")])
    for number in (1, 2):
        ledger.add_feedback(key=f"k{number}", request_id=f"req{number}", specialist="claims", answer="a")
    assert ledger.forget_requests("claims", "2026-01-05T00:00:00.000000+00:00") == 1
    assert [row["id"] for row in ledger.requests("claims")] == ["req2"]
    assert [row["id"] for row in ledger.requests("other")] == ["req3"]
    with ledger.engine.connect() as connection:
        assert [row.key for row in connection.execute(sa.select(FEEDBACK.c.key))] == ["k2"]
    assert ledger.audit_log()[-1]["action"] == "requests.forget"
    before = len(ledger.audit_log())
    assert ledger.forget_requests("claims", "2026-01-05T00:00:00.000000+00:00") == 0
    assert len(ledger.audit_log()) == before


def test_a_second_opening_sees_everything(ledger_url):
    first = Ledger(ledger_url)
    stored = first.add(dataset())
    second = Ledger(ledger_url)
    assert second.find(DatasetVersion) == [stored]
    second.add(dataset(digest="d2"))
    assert len(first.find(DatasetVersion)) == 2
    first.close()
    second.close()


def test_a_failed_write_leaves_nothing_and_blocks_nobody(ledger):
    class Broken(Exception):
        pass

    def torn():
        with ledger._begin() as connection:
            connection.execute(REQUESTS.insert(), [request(1)])
            raise Broken

    with pytest.raises(Broken):
        torn()
    assert ledger.requests("claims") == []
    ledger.log_requests([request(1)])
    assert len(ledger.requests("claims")) == 1


# ---------------------------------------------------------------- what was written stays written


def _change(ledger, statement):
    with ledger.engine.begin() as connection:
        connection.execute(statement)


@pytest.fixture
def log(ledger):
    for number in range(8):
        ledger.audit("ann", "did", f"thing-{number}", {"number": number, "text": "ü"})
    return ledger


def test_an_untouched_audit_log_verifies(log):
    head = log.verify_audit()
    assert head == log.audit_log()[-1]["hash"]
    log.audit("bob", "did", "more")
    assert log.verify_audit(head) != head  # an older head is still in the chain


@pytest.mark.parametrize("place", [1, 4, 8])
@pytest.mark.parametrize("column", ["at", "actor", "action", "subject", "facts", "previous", "hash"])
def test_any_edit_of_the_audit_log_is_noticed(log, place, column):
    head = log.verify_audit()
    _change(log, AUDIT.update().where(AUDIT.c.sequence == place).values({column: "0" * 64 if column in ("previous", "hash") and place > 1 else "x"}))
    with pytest.raises(IntegrityError):
        log.verify_audit(head)


@pytest.mark.parametrize("place", [1, 4])
def test_a_deleted_audit_event_is_noticed(log, place):
    _change(log, AUDIT.delete().where(AUDIT.c.sequence == place))
    with pytest.raises(IntegrityError, match="does not fit"):
        log.verify_audit()


def test_reordered_audit_events_are_noticed(log):
    for new, old in ((100, 3), (3, 4), (4, 100)):
        _change(log, AUDIT.update().where(AUDIT.c.sequence == old).values(sequence=new))
    with pytest.raises(IntegrityError, match="does not fit"):
        log.verify_audit()


@pytest.mark.parametrize("kept", [0, 7])
def test_a_log_cut_off_at_the_end_is_noticed_by_a_noted_head(log, kept):
    head = log.verify_audit()
    _change(log, AUDIT.delete().where(AUDIT.c.sequence > kept))
    log.verify_audit()  # a shorter chain is a chain: only the noted head shows the cut
    with pytest.raises(IntegrityError, match="noted head"):
        log.verify_audit(head)
    log.audit("mallory", "did", "thing-7")  # writing on does not hide it
    with pytest.raises(IntegrityError, match="noted head"):
        log.verify_audit(head)


def test_a_changed_record_is_noticed(ledger):
    bad = release().model_copy(update={"verdict": "NO-SHIP"})
    ledger.add(bad)
    body = bad.model_copy(update={"verdict": "SHIP"}).model_dump_json()
    _change(ledger, RECORDS.update().where(RECORDS.c.id == bad.id).values(body=body))
    with pytest.raises(IntegrityError, match="not what was written"):
        ledger.get(bad.id)
    with pytest.raises(IntegrityError, match="not what was written"):
        ledger.find(Release)


def test_a_ledger_that_cannot_be_opened_says_where_and_hides_the_password(tmp_path):
    with pytest.raises(MachineError) as caught:
        Ledger("postgresql+psycopg://ann:secret@127.0.0.1:1/none?connect_timeout=2")
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    with pytest.raises(MachineError, match="cannot be read"):
        Ledger("no url at all")
    with pytest.raises(MachineError):
        Ledger(f"sqlite:///{tmp_path / 'missing' / 'ledger.db'}")
    with pytest.raises(MachineError):
        Ledger("nosuchdatabase://x/y")
    (tmp_path / "garbage.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(MachineError):
        Ledger(f"sqlite:///{tmp_path / 'garbage.db'}")


def test_every_kind_of_record_can_be_stored(ledger):
    window = Window(specialist="claims", release_id="release-1", begin="a", end="b", rows=1, labelled=0, results=({"name": "label_shift", "statistic": 0.1, "examples": ["ü"]},), alarm=False)
    ledger.add(window)
    assert ledger.get(window.id) == window
