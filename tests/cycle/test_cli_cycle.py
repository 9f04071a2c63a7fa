"""From a CSV with odd column names to a verdict in three commands, and everything a person does with the result, on 120 rows."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from attune.core.events import read_events
from attune.core.recipe import read_recipe
from tests.cli.conftest import topic_rows, write_csv
from tests.cycle.conftest import document

QUICK = ("--set", "method=head", "--set", "train.epochs=2", "--set", "grade.rivals=[majority]", "--set", "grade.probes=[]", "--set", "grade.resamples=200", "--set", "data.splits.test=0.3")
OVER_MAJORITY = ("--set", "gates=[{metric: accuracy, better_than: majority}]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working directory for the whole story."""
    texts, labels = topic_rows(40)
    made = tmp_path_factory.mktemp("story")
    write_csv(made / "tickets.csv", {"Nr.": list(range(len(texts))), "What they wrote": texts, "Kind of case": labels}, ";")
    return made


def test_three_commands_from_nothing_to_a_verdict(attune, folder):
    assert attune("init", "claims", "--data", "tickets.csv")[0] == 0
    code, out, _ = attune("check", "--quick", "claims")
    assert code == 0
    assert out.count("would run") == 4
    code, out, err = attune("run", "claims", *QUICK, *OVER_MAJORITY)
    assert code == 0, err
    for said in ("SHIP", "claims v1", "every gate passed", "tuned", "majority", "36 sealed test rows", "120 read = 120 kept + 0 repaired + 0 quarantined", "report", "attune promote claims"):
        assert said in out, said
    for stage in ("curate", "finetune", "grade", "register"):
        assert any(line.startswith(stage) and line.endswith(" s") for line in err.splitlines())
    report = next(line.split()[1] for line in out.splitlines() if line.startswith("report"))
    assert "<html" in (folder / report).read_text()[:300]


def test_again_nothing_is_done(attune):
    found = document(attune("run", "claims", *QUICK, *OVER_MAJORITY, "--json"))
    assert found["verdict"] == "SHIP"
    assert found["release"]["version"] == 1
    _, _, err = attune("run", "claims", *QUICK, *OVER_MAJORITY)
    assert [line for line in err.splitlines() if line.endswith("unchanged")] == ["curate    unchanged", "finetune  unchanged", "grade     unchanged", "register  unchanged"]
    checked = document(attune("check", "--quick", "claims", *QUICK, *OVER_MAJORITY, "--json"))
    assert set(checked["stages"].values()) == {"unchanged"}


def test_only_what_changed_is_done(attune):
    _, out, err = attune("run", "claims", *QUICK, *OVER_MAJORITY, "--set", "grade.confidence=0.9", "--until", "grade")
    assert "some of these 36 test rows have been opened 2 times" in out
    assert "some of the 36 test rows have now been opened 2 times" in err
    assert "finetune  unchanged" in err
    assert "grade     unchanged" not in err
    checked = document(attune("check", "--quick", "claims", *QUICK, "--set", "train.epochs=3", "--json"))
    assert checked["stages"] == {"curate": "unchanged", "finetune": "would run", "grade": "would run", "register": "would run"}


def test_the_run_folder_keeps_the_recipe_and_what_happened(attune, folder):
    found = document(attune("finetune", "claims", *QUICK, *OVER_MAJORITY, "--json"))
    run = Path(found["run_folder"])
    assert run.name == found["run"]
    assert run.name.startswith("claims-")
    given, resolved = read_recipe(run / "recipe.given.yaml"), read_recipe(run / "recipe.resolved.yaml")
    assert given.resolved() == resolved.resolved()
    assert resolved.method.name == "head"
    kinds = [(event["kind"], event["message"], event.get("state")) for event in read_events(run / "events.jsonl")]
    assert ("stage", "curate", "started") in kinds, "what was said before the folder was known is there too"
    assert ("stage", "finetune", "finished") in kinds
    assert json.loads((run / "run.json").read_text())["recipe_folder"] == str(folder / "claims")


def test_a_setting_without_effect_is_an_error(attune):
    code, _, err = attune("curate", "claims", *QUICK, "--set", "data.splits.by=given", "--set", "data.splits.given=Nr.", "--set", "data.splits.test=0.4")
    assert code != 0
    assert "->" in err
    code, _, err = attune("finetune", "claims", *QUICK, "--set", "train.epochs=1", "--set", "objective={name: supervised, head_start: zero, probe_penalty: 3.0}")
    assert code == 2, err
    assert "objective.probe_penalty: this key was set and nothing read it" in err


def test_before_a_person_approves(attune):
    code, out, err = attune("predict", "claims", "unlock account 12345", "refund invoice 77")
    assert code == 0
    assert "no release of 'claims' is approved; version 1 (SHIP) is used" in err
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["password", "refund"]
    for words in (("serve", "claims"), ("watch", "claims")):
        code, _, err = attune(*words)
        assert code == 5
        assert "attune promote claims" in err


def test_promote_predict_and_roll_back(attune, folder):
    assert "approved: version 1 of 'claims'" in attune("promote", "claims")[1]
    assert "approved already" in attune("promote", "claims@1")[1]
    answers = document(attune("predict", "claims", "where is parcel 5", "--json"))
    assert (answers[0]["output"], answers[0]["input"]) == ("delivery", {"text": "where is parcel 5"})
    assert sum(answers[0]["scores"].values()) == pytest.approx(1)
    write_csv(folder / "new.csv", {"What they wrote": ["=refund invoice 9", "order 3 is late"], "Clerk": ["x", "y"]})
    code, out, _ = attune("predict", "claims", "--file", "new.csv", "--out", "answers.csv")
    assert code == 0
    assert "2 answers of version 1" in out
    with (folder / "answers.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["output"] for row in rows] == ["refund", "delivery"]
    assert rows[0]["place"] == "new.csv:2"
    assert rows[0]["text"] == "'=refund invoice 9", "a spreadsheet would compute it"
    code, _, err = attune("rollback", "claims")
    assert code == 5
    assert 'attune rollback claims --reason "..."' in err
    code, _, err = attune("rollback", "claims", "--reason", "try")
    assert code == 5
    assert "no earlier approved release" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict", "claims"), "nothing to answer"),
        (("predict", "claims", "x", "--file", "new.csv"), "texts and --file at once"),
        (("predict", "claims", "where is it", " "), "text 2: the text is empty"),
        (("predict", "claims", "--file", "empty.csv"), "empty.csv:3: the text is empty"),
        (("predict", "claims", "--file", "old.csv"), "there is no file 'old.csv'"),
        (("predict", "claims", "--file", "wrong.csv"), "2 of 2 rows do not fit the task"),
        (("predict", "claims", "--file", "new.csv", "--out", "answers.xlsx"), "neither .csv nor .jsonl"),
        (("predict", "clams", "x"), "did you mean 'claims'?"),
        (("predict", "claims", "x", "--release", "claims@9"), "no version '9'"),
        (("predict", "claims", "x", "--release", "release-ffffffffffffffff"), "no record 'release-ffffffffffffffff'"),
        (("show", "claims@9"), "no version '9'"),
        (("show", "claims@9"), "versions: 1"),
        (("promote", "clams"), "did you mean 'claims'?"),
        (("promote", "claims", "--force"), "needs a written reason"),
        (("export", "claims", "--to", "out", "--format", "zip"), "there is no export 'zip'"),
        (("run", "claims", "--until", "tune"), "there is no stage 'tune'"),
        (("run", "claims", "--from-request", "retune-0000"), "no record 'retune-0000'"),
        (("show", "claim"), "did you mean 'claims'?"),
    ],
)
def test_mistakes_with_a_release(attune, folder, words, said):
    if words[-1] == "wrong.csv":
        write_csv(folder / "wrong.csv", {"colour": ["red", "blue"], "size": [1, 2]})
    if words[-1] == "empty.csv":
        write_csv(folder / "empty.csv", {"text": ["where is it", "  "], "size": [1, 2]})
    code, _, err = attune(*words)
    assert code not in (0, 1, 70)
    assert said in err
    assert "->" in err


def test_a_release_that_failed_its_gate_is_not_promoted_but_by_force_with_a_reason(attune):
    found = document(attune("run", "claims", *QUICK, "--set", "gates=[{metric: accuracy, at_most: 0.1}]", "--json"))
    assert found["verdict"] == "NO-SHIP"
    assert found["current"] is None, "the approved release is this very checkpoint: it has not to beat itself"
    code, _, err = attune("promote", "claims")
    assert code == 5
    assert "its verdict is NO-SHIP" in err
    assert 'attune promote claims --force --reason "..."' in err
    forced = document(attune("promote", "claims", "--force", "--reason", "pilot", "--json"))
    assert forced["approved"]["version"] == 2
    shown = document(attune("show", "claims", "--json"))
    assert [event["action"] for event in shown["promotions"]] == ["promote", "promote"]
    assert (shown["promotions"][-1]["forced"], shown["promotions"][-1]["reason"]) == (True, "pilot")
    back = document(attune("rollback", "claims", "--reason", "worse", "--json"))
    assert back["approved"]["version"] == 1


def test_running_the_approved_recipe_again_changes_nothing(attune):
    _, _, err = attune("run", "claims", *QUICK, *OVER_MAJORITY)
    assert err.count("unchanged") == 4


def test_show_and_list_what_there_is(attune):
    assert "claims v1" not in attune("list", "releases")[1]
    assert [one["version"] for one in document(attune("list", "releases", "--json"))] == [1, 2]
    assert {one["specialist"] for one in document(attune("list", "specialists", "--json"))} == {"claims"}
    assert len(document(attune("list", "datasets", "--json"))) >= 1
    [release, *_] = document(attune("list", "releases", "--json"))
    shown = document(attune("show", release["id"], "--json"))
    assert [record["id"].split("-")[0] for record in shown["lineage"]][-1] == "dataset"
    assert Path(shown["folder"]).is_dir()
    for words in (
        ("show", release["id"][:14]),
        ("show", release["scorecard_id"]),
        ("show", release["dataset_id"]),
        ("show", "claims"),
        ("show", "./claims"),
        ("show", "lora"),
        ("show", "methods/lora"),
        ("list", "runs"),
    ):
        code, out, _ = attune(*words)
        assert code == 0
        assert out.strip()
    run = document(attune("list", "runs", "--json"))[0]["run"]
    assert document(attune("show", run, "--json"))["events"]


def test_a_release_is_shown_by_its_version_with_its_run_folder_and_source_files(attune, folder):
    for release in document(attune("list", "releases", "--json")):
        shown = document(attune("show", f"claims@{release['version']}", "--json"))
        assert shown["id"] == release["id"]
        lineage = {one["id"].split("-")[0]: one for one in shown["lineage"]}
        assert Path(lineage["checkpoint"]["run_folder"]).name == lineage["checkpoint"]["run"]
        assert (Path(lineage["checkpoint"]["run_folder"]) / "run.json").is_file()
        assert lineage["dataset"]["source_files"] == {"data/tickets.csv": 120}
    assert document(attune("show", "claims@v2", "--json"))["version"] == 2
    said = attune("show", "claims@1")[1]
    assert f"run folder .attune/runs/{lineage['checkpoint']['run']}" in said
    assert "tickets.csv (120 rows)" in said
    assert f".attune/runs/{lineage['checkpoint']['run']}" in attune("show", lineage["checkpoint"]["id"])[1]
    aside = folder / ".attune" / "store" / lineage["dataset"]["store_key"]
    aside.rename(aside.with_name("aside"))
    try:
        said = attune("show", "claims@1")[1]
        assert "its files cannot be read" in said
        assert "tickets.csv" not in said
    finally:
        aside.with_name("aside").rename(aside)


def test_export_answers_like_the_release(attune, folder):
    found = document(attune("export", "claims", "--to", "out", "--format", "transformers", "--json"))
    assert Path(found["formats"]["transformers"]["folder"]).is_dir()
    assert (folder / "out" / "transformers" / "config.json").is_file()


def test_doctor_finds_the_workspace_fit_and_notices_a_changed_audit_log(attune, folder):
    found = {one["name"]: one for one in document(attune("doctor", "--recipe", "claims", "--json"))["findings"]}
    assert found["audit log"]["state"] == "ok"
    assert found["base model"]["state"] == "ok"
    import sqlite3

    with sqlite3.connect(folder / ".attune" / "ledger.db") as ledger:
        before = ledger.execute("SELECT facts FROM audit WHERE sequence = 2").fetchone()
        ledger.execute("UPDATE audit SET facts = '{}' WHERE sequence = 2")
    code, out, _ = attune("doctor")
    assert code == 7
    assert "audit event 2 does not fit the chain" in out
    with sqlite3.connect(folder / ".attune" / "ledger.db") as ledger:
        ledger.execute("UPDATE audit SET facts = ? WHERE sequence = 2", before)
    assert attune("doctor")[0] == 0


def test_the_doctor_finds_the_workspace_as_it_was_written_and_a_planted_fault(attune, folder):
    found = {one["name"]: one for one in document(attune("doctor", "--json"))["findings"]}
    for name in ("database", "audit log", "approvals", "records", "approved releases"):
        assert found[name]["state"] == "ok", found[name]
    head = found["audit log"]["found"].rpartition(" ")[2]
    code, out, _ = attune("doctor", "--audit-head", head)
    assert code == 0
    assert "the noted head is in it" in out
    assert "fit" in out.splitlines()[-1]
    code, out, _ = attune("doctor", "--audit-head", "0123" * 16)
    assert code == 7
    assert "the noted head is not in the audit chain any more" in out
    with closing(sqlite3.connect(folder / ".attune" / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE promotions SET actor = 'mallory' WHERE sequence = 1")
    try:
        answer = attune("doctor", "--json")
        [fault] = [one for one in json.loads(answer[1])["findings"] if one["state"] == "fault"]
        assert (answer[0], fault["name"]) == (7, "approvals")
        assert "by mallory) has no audit event that says the same" in fault["found"]
        assert "restore the ledger from a backup" in fault["fix"]
    finally:
        with closing(sqlite3.connect(folder / ".attune" / "ledger.db")) as ledger, ledger:
            ledger.execute("UPDATE promotions SET actor = (SELECT actor FROM audit WHERE action = 'release.promote' ORDER BY sequence LIMIT 1) WHERE sequence = 1")


def test_a_damaged_result_is_made_again(attune, folder):
    found = document(attune("run", "claims", *QUICK, *OVER_MAJORITY, "--json"))
    victim = folder / ".attune" / "store" / found["scorecard"]["store_key"] / "scorecard.json"
    victim.write_text(victim.read_text() + " ")
    _, _, err = attune("run", "claims", *QUICK, *OVER_MAJORITY)
    assert "finetune  unchanged" in err
    assert "grade     unchanged" not in err
    assert "register" in err


@pytest.fixture
def started(folder: Path) -> Iterator[Callable[..., Tuning]]:
    """started(sign, settings ...) begins a tuning and returns when its new run folder shows `sign`; what still runs is ended afterwards."""
    found: list[Tuning] = []

    def start(sign: str, *settings: str) -> Tuning:
        command = [sys.executable, "-m", "attune", "finetune", "claims", *[word for one in settings for word in ("--set", one)]]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        before = set(folder.glob(".attune/runs/*"))
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        found.append(Tuning(child, lambda: subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)))
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and child.poll() is None:
            if any(path not in before and list(path.glob(f"checkpoints/{sign}")) for path in folder.glob(".attune/runs/*")):
                break
            time.sleep(0.02)
        return found[-1]

    yield start
    for one in found:
        one.child.kill()
        one.child.wait(30)


class Tuning(NamedTuple):
    """A process that tunes, and the same command once more, to its end."""

    child: subprocess.Popen[str]
    again: Callable[[], subprocess.CompletedProcess[str]]


def test_a_killed_run_goes_on_with_the_same_command(started):
    tuning = started("step-*", "method=lora", "train.epochs=4", "train.batch_size=8", "train.checkpoint_every=1", "train.max_length=16")
    assert tuning.child.poll() is None, tuning.child.stderr.read() if tuning.child.stderr else ""
    tuning.child.send_signal(signal.SIGKILL)
    tuning.child.wait(30)
    done = tuning.again()
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr


def test_sigterm_commits_a_checkpoint_and_says_how_to_go_on(started):
    tuning = started("best-*", "method=lora", "train.epochs=6", "train.batch_size=4", "train.checkpoint_every=1000", "train.max_length=16")  # the steps have begun
    tuning.child.send_signal(signal.SIGTERM)
    _, told = tuning.child.communicate(timeout=120)
    assert tuning.child.returncode == 143, told
    assert "is saved; the same command goes on from there" in told
    assert "stopped; the same command goes on where it stands" in told
    done = tuning.again()
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
