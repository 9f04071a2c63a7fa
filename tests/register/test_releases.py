"""Releases: what is in the folder, versions, lineage, the card, promotion and rollback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attune.core.errors import IntegrityError, Refused
from attune.core.records import Release
from attune.core.releases import bundle_digest, open_release, release_folder
from attune.core.workspace import Workspace
from attune.core.yaml_reader import read_yaml_file
from attune.stages import register
from tests import releases


@pytest.fixture
def workspace(tmp_path: Path):
    made = Workspace(tmp_path / "space")
    yield made
    made.close()


def test_a_release_holds_everything_and_answers_as_the_checkpoint_did(workspace):
    made = releases.recipe()
    model = releases.specialist(20.0, made)
    tuned = releases.checkpoint(workspace, made, model)
    released = releases.release(workspace, made=made, model=model)
    folder = release_folder(workspace, released)
    assert {"README.md", "recipe.yaml", "scorecard.json", "reference.parquet", "bundle.json", "model/head.safetensors"} <= {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert not (folder / "report.html").exists()
    assert released.version == 1
    assert released.bundle_digest == bundle_digest(workspace.store.path(tuned.store_key))
    opened = open_release(workspace, released)
    assert opened.id == released.id
    rows = [{"text": text} for text in releases.QUESTIONS]
    for a, b in zip(model.predict(rows), opened.predict(rows), strict=True):
        assert a.output == b.output
        assert a.scores == pytest.approx(b.scores, abs=1e-7)
    assert read_yaml_file(folder / "recipe.yaml")[0] == made.resolved()


def test_versions_count_up_per_specialist_and_equal_inputs_are_registered_once(workspace):
    made = releases.recipe()
    tuned = releases.checkpoint(workspace, made, releases.specialist(20.0, made))
    card = releases.scorecard(workspace, tuned)
    events = workspace.events("test")

    def registered() -> Release:
        return workspace.stage("register", register.inputs(made, tuned, card), Release, lambda: register.run(made, workspace, tuned, card, events), events=events)

    assert registered() == registered()
    assert [releases.release(workspace, scale=scale).version for scale in (21.0, 22.0)] == [2, 3]
    with pytest.raises(Refused, match="version 3"):
        workspace.ledger.add(workspace.ledger.find(Release)[-1].model_copy(update={"bundle_digest": "0" * 64}))


def test_a_scorecard_of_another_checkpoint_is_refused(workspace):
    made = releases.recipe()
    one = releases.checkpoint(workspace, made, releases.specialist(20.0, made))
    other = releases.checkpoint(workspace, made, releases.specialist(21.0, made))
    with pytest.raises(IntegrityError, match="does not grade"):
        register.run(made, workspace, one, releases.scorecard(workspace, other), workspace.events("test"))


def test_the_card_is_one_that_model_hubs_read(workspace):
    from huggingface_hub import ModelCard

    released = releases.release(workspace)
    text = (release_folder(workspace, released) / "README.md").read_text()
    facts = ModelCard(text).data
    assert facts.pipeline_tag == "text-classification"
    assert (facts.license, facts.license_name) == ("other", "not-chosen")  # the specialist's licence is its owner's choice
    assert facts.language is None
    assert "apache-2.0 (its model card); MIT (the Python package" in text
    assert {result.metric_type: result.metric_value for result in facts.eval_results} == {"accuracy": 0.95, "f1_macro": 0.94}
    for wanted in ("## Intended use", "## Data", "## Training", "## Evaluation", "## Limits", "## How to load", released.bundle_digest, "majority", "0.9100 to 0.9800", "`delivery`"):
        assert wanted in text


def card_of(workspace, **changes):
    from attune.core.records import Estimate, Scorecard
    from attune.stages.register.card import model_card

    released = releases.release(workspace)
    made, found = releases.recipe(), workspace.ledger
    scorecard = found.get(released.scorecard_id)
    assert isinstance(scorecard, Scorecard)
    results = {**scorecard.results, "tuned": {**scorecard.results["tuned"], "f1_macro": Estimate(value=changes.pop("f1", 0.9), low=0.8, high=1.0)}}
    scorecard = scorecard.model_copy(update={"results": results, **changes})
    return model_card(made, found.get(released.dataset_id), found.get(released.checkpoint_id), scorecard, 1, "0" * 64, {})


def test_the_card_names_only_classes_that_are_weaker(workspace):
    perfect = card_of(workspace, f1=1.0, per_class={"f1_macro": dict.fromkeys("abcd", 1.0)})
    assert "Weakest" not in perfect
    assert "Weakest classes by f1_macro: `b` (0.500)." in card_of(workspace, f1=0.875, per_class={"f1_macro": {"a": 1.0, "b": 0.5, "c": 1.0, "d": 1.0}})


def test_the_card_rounds_probes_and_says_how_intervals_were_made(workspace):
    text = card_of(workspace, probes={"robustness": {"value": 0.9876543210987, "meaning": "share of answers that stay the same"}})
    assert "Probe robustness: 0.988, the share of answers that stay the same." in text
    assert "0.98765" not in text
    assert "widened to Wilson's" in text


def test_the_cards_export_command_is_one_that_works(workspace, tmp_path, monkeypatch):
    import re
    import shlex

    from attune.cli.program import run

    text = card_of(workspace)
    command = next(one for one in re.findall(r"`(attune export [^`]*)`", text))
    register.promote(workspace, workspace.ledger.find(Release)[-1], actor="ann")
    monkeypatch.chdir(tmp_path)
    assert run([*shlex.split(command)[1:], "--workspace", str(workspace.root)]) == 0
    assert (tmp_path / "FOLDER" / "transformers" / "predict.py").is_file()


def test_lineage_goes_back_to_the_rows(workspace):
    released = releases.release(workspace)
    found = register.lineage(workspace, released)
    assert [record["kind"] for record in found["ancestors"]] == ["release", "checkpoint", "scorecard", "dataset"]
    known = {(row["row_id"], row["place"], row["split"]) for row in releases.rows()}
    assert {(row["row_id"], row["place"], split) for split, rows in found["rows"].items() for row in rows} == known
    assert all(set(row) == {"row_id", "place"} for row in found["rows"]["test"])


def test_promotion_needs_a_ship_or_a_written_reason(workspace):
    bad = releases.release(workspace, verdict="NO-SHIP")
    with pytest.raises(Refused, match="NO-SHIP"):
        register.promote(workspace, bad, actor="ann")
    with pytest.raises(Refused, match="written reason"):
        register.promote(workspace, bad, actor="ann", force=True, reason="  ")
    assert workspace.ledger.approved(releases.NAME) is None
    register.promote(workspace, bad, actor="ann", force=True, reason="needed for the fair")
    assert workspace.ledger.approved(releases.NAME) == bad
    good = releases.release(workspace, scale=21.0)
    register.promote(workspace, good, actor="bob")
    register.promote(workspace, good, actor="bob")
    told = workspace.ledger.promotions(releases.NAME)
    assert [(e["release_id"], e["actor"], e["forced"], e["reason"]) for e in told] == [(bad.id, "ann", True, "needed for the fair"), (good.id, "bob", False, "")]
    audited = [event for event in workspace.ledger.audit_log() if event["action"] == "release.promote"]
    assert [event["subject"] for event in audited] == [bad.id, good.id]


def test_damaged_unknown_and_dishonest_releases_are_not_promoted(workspace):
    released = releases.release(workspace)
    with pytest.raises(IntegrityError):
        register.promote(workspace, released.model_copy(update={"version": 9}), actor="ann")
    bad = releases.release(workspace, scale=21.0, verdict="NO-SHIP")
    lie = workspace.ledger.add(bad.model_copy(update={"verdict": "SHIP", "version": 3}))
    with pytest.raises(IntegrityError, match="does not match its scorecard"):
        register.promote(workspace, lie, actor="ann")
    weights = workspace.store.root / released.store_key / "model" / "head.safetensors"
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(body)
    with pytest.raises(IntegrityError, match=r"head\.safetensors"):
        register.promote(workspace, released, actor="ann", force=True, reason="please")
    assert workspace.ledger.approved(releases.NAME) is None


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("release", "model/head.safetensors"),
        ("release", "scorecard.json"),
        ("scorecard", "report.html"),
        ("scorecard", "reference.parquet"),
        ("checkpoint", "bundle.json"),
        ("checkpoint", "model/head.safetensors"),
    ],
)
def test_one_flipped_byte_of_what_a_verdict_rests_on_stops_the_promotion(workspace, kind, file):
    released = releases.release(workspace)
    records = {record.kind: record for record in workspace.ledger.lineage(released.id)}
    path = workspace.store.root / records[kind].store_key / file
    whole = path.read_bytes()
    body = bytearray(whole)
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    for force in ({}, {"force": True, "reason": "please"}):
        with pytest.raises(IntegrityError, match=f"file '{file}' is not what was committed") as caught:
            register.promote(workspace, released, actor="ann", **force)
        assert records[kind].store_key in str(caught.value)
    assert workspace.ledger.approved(releases.NAME) is None
    path.write_bytes(whole)
    register.promote(workspace, released, actor="ann")
    assert workspace.ledger.approved(releases.NAME) == released


def test_a_release_whose_checkpoint_is_gone_is_not_promoted(workspace):
    released = releases.release(workspace)
    [tuned] = [record for record in workspace.ledger.lineage(released.id) if record.kind == "checkpoint"]
    shutil.rmtree(workspace.store.root / tuned.store_key)
    with pytest.raises(IntegrityError, match="its checkpoint is damaged") as caught:
        register.promote(workspace, released, actor="ann", force=True, reason="please")
    assert "run the recipe again" in str(caught.value)


def test_a_metric_that_is_not_a_number_is_never_promoted_by_itself(workspace):
    made = releases.recipe()
    tuned = releases.checkpoint(workspace, made, releases.specialist(20.0, made))
    card = releases.scorecard(workspace, tuned, value=float("nan"))
    released = workspace.ledger.add(register.run(made, workspace, tuned, card, workspace.events("test")))
    with pytest.raises(Refused, match="not a number"):
        register.promote(workspace, released, actor="ann")


def test_rollback_goes_back_release_by_release(workspace):
    one, two, three = (releases.release(workspace, scale=scale) for scale in (20.0, 21.0, 22.0))
    with pytest.raises(Refused, match="no earlier"):
        register.rollback(workspace, releases.NAME, actor="ann", reason="bad")
    for each in (one, two, three):
        register.promote(workspace, each, actor="ann")
    with pytest.raises(Refused, match="reason"):
        register.rollback(workspace, releases.NAME, actor="ann", reason=" ")
    assert register.rollback(workspace, releases.NAME, actor="ann", reason="complaints") == two
    assert workspace.ledger.approved(releases.NAME) == two
    assert register.rollback(workspace, releases.NAME, actor="ann", reason="still") == one  # never back to the one just given up
    with pytest.raises(Refused, match="no earlier"):
        register.rollback(workspace, releases.NAME, actor="ann", reason="more")
    register.promote(workspace, three, actor="ann")
    assert register.rollback(workspace, releases.NAME, actor="ann", reason="again") == one


def test_rollback_to_a_damaged_release_is_refused(workspace):
    one, two = (releases.release(workspace, scale=scale) for scale in (20.0, 21.0))
    for each in (one, two):
        register.promote(workspace, each, actor="ann")
    (workspace.store.root / one.store_key / "README.md").unlink()
    with pytest.raises(IntegrityError, match=r"README\.md"):
        register.rollback(workspace, releases.NAME, actor="ann", reason="bad")
    assert workspace.ledger.approved(releases.NAME) == two


def test_the_card_says_when_tuning_did_not_help(workspace):
    from attune.core.records import Checkpoint
    from attune.stages.register.card import _steps

    released = releases.release(workspace)
    checkpoint = workspace.ledger.get(released.checkpoint_id)
    assert isinstance(checkpoint, Checkpoint)
    assert _steps(checkpoint).startswith("4 of 6 (best by accuracy")
    assert "tuning did not help" in _steps(checkpoint.model_copy(update={"best_step": 0}))
    trained = _steps(checkpoint.model_copy(update={"best_step": 0, "chosen": {"start": "a logistic regression"}}))
    assert "the start (a logistic regression), which is kept" in trained
    assert "did not help" not in trained


def test_the_card_speaks_only_of_roles_that_the_rows_have():
    from types import SimpleNamespace

    from attune.core import catalog
    from attune.stages.register import card

    task = catalog.build("tasks", "text_generation")
    said = card._intended_use(task, SimpleNamespace(columns={"prompt": "messages"}, signature={}))
    assert "`completion` (the right answer)" in said
    assert "unit tests" not in said
    assert "functions that may be called" not in said
    assert "unit tests" in card._intended_use(task, SimpleNamespace(columns={"prompt": "text", "completion": "code", "tests": "test_list"}, signature={}))
