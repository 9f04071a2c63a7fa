"""What `attune doctor` finds in a workspace: nothing in a healthy one, and each planted fault by its name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from attune.core.errors import IntegrityError
from attune.core.events import Events
from attune.core.examination import Look, examine
from attune.core.ledger import AUDIT, EDGES, PROMOTIONS, RECORDS, RESULTS
from attune.core.records import Checkpoint, DatasetVersion, Record, Release, Scorecard
from attune.core.releases import bundle_digest
from attune.core.workspace import Workspace
from tests.core.test_ledger import checkpoint, dataset, scorecard

Made = dict[str, Any]


@pytest.fixture
def workspace(tmp_path, ledger_url):
    made = Workspace(tmp_path / "space", ledger_url)
    yield made
    made.close()


@pytest.fixture
def made(workspace) -> Made:
    """Two releases with everything behind them: one was approved, the other after it, then the first again."""
    found: Made = {}

    def folder(kind: str, content: str) -> str:
        return workspace.store.put(kind, lambda place: (place / "bundle.json").write_text(content))

    def stage(record: Record) -> Any:
        return workspace.ledger.add(record, fingerprint=f"{record.kind}-{record.id}".ljust(64, "0"), stage=record.kind)

    data = stage(dataset().model_copy(update={"store_key": folder("datasets", "rows")}))
    tuned = stage(checkpoint(data).model_copy(update={"store_key": folder("bundle", "weights")}))
    for version in (1, 2):
        card = stage(scorecard(tuned, value=0.9 + version / 100).model_copy(update={"store_key": folder("scorecards", f"figures {version}")}))
        key = folder("release", "weights" if version == 1 else "more weights")
        digest = bundle_digest(workspace.store.path(key))
        release = Release(
            specialist="claims", parents=(tuned.id, card.id), store_key=key, version=version, checkpoint_id=tuned.id, scorecard_id=card.id, dataset_id=data.id, verdict="SHIP", bundle_digest=digest
        )
        found[f"release {version}"] = stage(release)
        workspace.ledger.promote(release, action="promote", actor="ann", reason="", forced=False)
    workspace.ledger.promote(found["release 1"], action="rollback", actor="bob", reason="complaints", forced=False)
    return found | {"dataset": data, "checkpoint": tuned, "scorecard": card}


def looks(workspace: Workspace, head: str | None = None) -> dict[str, Look]:
    return {look.name: look for look in examine(workspace, Events(), head)}


def faults(workspace: Workspace, head: str | None = None) -> dict[str, tuple[str, ...]]:
    return {name: look.faults for name, look in looks(workspace, head).items() if look.faults}


def change(workspace: Workspace, statement: Any) -> None:
    with workspace.ledger.engine.begin() as connection:
        connection.execute(statement)


def test_a_healthy_workspace_has_no_fault_and_nothing_to_note(workspace, made):
    found = looks(workspace, workspace.ledger.verify_audit())
    assert list(found) == ["database", "audit log", "approvals", "records", "approved releases", "store"]
    assert not any(look.faults or look.notes for look in found.values()), found
    assert all(look.said for look in found.values())
    assert workspace.ledger.verify_audit() in found["audit log"].said, "the whole head, to be noted"
    assert found["approvals"].said.startswith("3 ")
    assert found["approved releases"].said.startswith("2 releases and the 4 records")


def test_an_empty_workspace_is_healthy(workspace):
    assert faults(workspace) == {}


# ---------------------------------------------------------------- approvals


PROMOTION = {"specialist": "claims", "release_id": "release-0000000000000000", "action": "promote", "actor": "mallory", "reason": "", "forced": False, "at": "2026-01-01T00:00:00.000000+00:00"}


@pytest.mark.parametrize(
    ("column", "value"),
    [("specialist", "other"), ("release_id", "release-0000000000000000"), ("action", "rollback"), ("actor", "eve"), ("reason", "please"), ("forced", True), ("at", "2026-01-01T00:00:00.000000+00:00")],
)
def test_a_changed_promotion_is_found(workspace, made, column, value):
    assert workspace.ledger.verify_promotions() == 3
    change(workspace, PROMOTIONS.update().where(PROMOTIONS.c.sequence == 2).values({column: value}))
    with pytest.raises(IntegrityError, match=r"promotion 2 .* has no audit event that says the same; audit event .* has no promotion"):
        workspace.ledger.verify_promotions()
    assert "promotion 2 " in faults(workspace)["approvals"][0]


def test_a_promotion_that_nobody_made_is_found(workspace, made):
    change(workspace, PROMOTIONS.insert().values(**PROMOTION))
    [said] = faults(workspace)["approvals"]
    assert "by mallory) has no audit event that says the same" in said
    assert "has no promotion" not in said


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_deleted_promotion_is_found(workspace, made, number):
    change(workspace, PROMOTIONS.delete().where(PROMOTIONS.c.sequence == number))
    [said] = faults(workspace)["approvals"]
    assert f"{made['release 2' if number == 2 else 'release 1'].id}" in said
    assert "has no promotion" in said
    assert "no audit event" not in said


def test_promotions_that_changed_places_are_found(workspace, made):
    for new, old in ((100, 2), (2, 3), (3, 100)):
        change(workspace, PROMOTIONS.update().where(PROMOTIONS.c.sequence == old).values(sequence=new))
    assert "approvals" in faults(workspace)


# ---------------------------------------------------------------- audit log


def test_a_noted_head_that_is_gone_is_found(workspace, made):
    head = workspace.ledger.verify_audit()
    workspace.ledger.audit("ann", "did", "more")
    assert faults(workspace, head) == {}
    change(workspace, AUDIT.delete().where(AUDIT.c.subject == "more"))
    assert faults(workspace, head) == {}
    newest = workspace.ledger.audit_log()[-1]["sequence"]
    change(workspace, AUDIT.delete().where(AUDIT.c.sequence == newest))
    assert "the noted head is not in the audit chain" in faults(workspace, head)["audit log"][0]
    assert "audit log" not in faults(workspace), "without a head a shorter chain is a chain"
    assert "approvals" in faults(workspace), "but the promotion that it told of has lost its event"


def test_a_changed_audit_event_is_found(workspace, made):
    change(workspace, AUDIT.update().where(AUDIT.c.sequence == 2).values(actor="eve"))
    assert "audit event 2 does not fit" in faults(workspace)["audit log"][0]


# ---------------------------------------------------------------- records


def test_a_changed_record_is_found(workspace, made):
    record = made["scorecard"]
    change(workspace, RECORDS.update().where(RECORDS.c.id == record.id).values(body=record.model_copy(update={"verdict": "NO-SHIP"}).model_dump_json()))
    assert faults(workspace)["records"] == (f"record '{record.id}' is not what was written",)


@pytest.mark.parametrize(("column", "value"), [("specialist", "other"), ("created_at", "2020-01-01"), ("body", "{"), ("kind", "strange")])
def test_a_record_that_does_not_agree_with_its_row_is_found(workspace, made, column, value):
    record = made["scorecard"]
    change(workspace, RECORDS.update().where(RECORDS.c.id == record.id).values({column: value}))
    assert any(f"record '{record.id}'" in said for said in faults(workspace)["records"])


@pytest.mark.parametrize("kind", ["dataset", "checkpoint", "scorecard", "release 2"])
def test_a_record_that_is_gone_is_found_from_everywhere(workspace, made, kind):
    name = made[kind].id
    change(workspace, RECORDS.delete().where(RECORDS.c.id == name))
    said = "\n".join(faults(workspace)["records"])
    assert f"record '{name}' is gone" in said
    assert f"points to '{name}', which is no record" in said
    assert ("refers to '" + name + "'" in said) == (kind != "release 2")


def test_a_record_that_nobody_announced_is_found(workspace, made):
    lie = made["release 1"].model_copy(update={"version": 9})
    change(workspace, RECORDS.insert().values(id=lie.id, kind="release", specialist="claims", created_at=lie.created_at, body=lie.model_dump_json()))
    assert f"record '{lie.id}' was never announced in the audit log" in faults(workspace)["records"]


def test_a_torn_lineage_is_found(workspace, made):
    change(workspace, EDGES.delete().where(EDGES.c.parent == made["dataset"].id))
    [said] = faults(workspace)["records"]
    assert f"lineage of '{made['checkpoint'].id}' is not what the record says: {made['dataset'].id}" in said
    change(workspace, EDGES.insert().values(child="nobody", parent="nothing"))
    assert "lineage speaks of 'nobody', which is no record" in faults(workspace)["records"]


def test_a_stage_result_that_points_nowhere_is_found(workspace, made):
    change(workspace, RESULTS.insert().values(fingerprint="f" * 64, stage="grade", record_id="scorecard-none", created_at=""))
    assert faults(workspace) == {"records": ("stage result 'grade' (ffffffffffff) points to 'scorecard-none', which is no record",)}


# ---------------------------------------------------------------- store


@pytest.mark.parametrize("kind", ["dataset", "checkpoint", "scorecard", "release 1", "release 2"])
def test_one_flipped_byte_behind_an_approved_release_is_found(workspace, made, kind):
    file = workspace.store.root / made[kind].store_key / "bundle.json"
    body = bytearray(file.read_bytes())
    body[0] ^= 1
    file.write_bytes(body)
    [said] = faults(workspace)["approved releases"]
    assert made[kind].id in said
    assert "file 'bundle.json' is not what was committed" in said


def test_a_folder_behind_an_approved_release_that_is_gone_is_found(workspace, made):
    shutil.rmtree(workspace.store.root / made["dataset"].store_key)
    assert made["dataset"].id in faults(workspace)["approved releases"][0]


def test_a_folder_that_no_record_knows_is_told_and_is_no_fault(workspace, made):
    key = workspace.store.put("datasets", lambda folder: (folder / "a").write_text("left over"))
    found = looks(workspace)
    assert not any(look.faults for look in found.values())
    [said] = found["store"].notes
    assert f"no record knows the folder '{key}'" in said


def test_a_folder_of_an_unapproved_record_that_is_gone_is_told(workspace):
    key = workspace.store.put("datasets", lambda folder: (folder / "a").write_text("rows"))
    workspace.ledger.add(dataset().model_copy(update={"store_key": key}))
    assert looks(workspace)["store"].notes == ()
    shutil.rmtree(workspace.store.root / key)
    assert f"the folder '{key}' of a record is gone" in looks(workspace)["store"].notes[0]


def test_progress_is_told(workspace, made):
    heard: list[dict[str, Any]] = []
    list(examine(workspace, Events(None, (heard.append,))))
    assert {event["message"] for event in heard if event["kind"] == "progress"} == {"loading records", "verifying what was approved"}


def test_a_damaged_database_file_is_found(tmp_path: Path):
    workspace = Workspace(tmp_path / "space")
    for number in range(300):
        workspace.ledger.add(dataset(digest=f"d{number}"))
    workspace.ledger.rows(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
    workspace.close()
    assert faults(workspace) == {}
    workspace.close()
    file = tmp_path / "space" / "ledger.db"
    body = bytearray(file.read_bytes())
    size = 4096
    for page in range(20, len(body) // size - 1):
        body[page * size : page * size + 8] = b"\xff" * 8
    file.write_bytes(body)
    assert faults(workspace)["database"]
    workspace.close()


def test_kinds_used_here_are_the_real_ones(made):
    assert [type(made[name]) for name in ("dataset", "checkpoint", "scorecard", "release 1")] == [DatasetVersion, Checkpoint, Scorecard, Release]
