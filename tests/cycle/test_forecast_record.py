"""What `attune check` forecast stands in the run's record beside what it took; the forecast of other rows does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import topic_rows, write_csv
from tests.tables import loans, write

from .conftest import document

SETTINGS = ("--set", "method=head", "--set", "train.epochs=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("forecast")
    rows(made, 20)
    return made


def rows(folder: Path, number: int) -> None:
    texts, labels = topic_rows(number)
    write_csv(folder / "tickets.csv", {"text": texts, "label": labels})


def test_predicted_against_actual(attune, folder):
    assert attune("init", "claims", "--data", "tickets.csv")[0] == 0
    checked = document(attune("check", "claims", *SETTINGS, "--json"))["forecast"]
    assert checked["seconds"] > 0
    assert [path.name for path in (folder / ".attune").iterdir()] == ["forecasts"]  # nothing of the probe is left
    tuned = document(attune("finetune", "claims", *SETTINGS, "--json"))["checkpoint"]
    assert tuned["cost"]["predicted"] == {name: checked[name] for name in ("seconds", "memory_bytes", "disk_bytes", "steps")}
    assert tuned["cost"]["seconds"] > 0
    assert tuned["steps"] == checked["steps"]
    for words in (("finetune", "claims", *SETTINGS), ("show", tuned["id"])):
        said = attune(*words)[1]
        assert "took" in said
        assert "forecast" in said


def test_the_forecast_of_other_rows_is_not_taken(attune, folder):
    texts, labels = topic_rows(24)
    write_csv(folder / "claims" / "data" / "tickets.csv", {"text": texts, "label": labels})
    tuned = document(attune("finetune", "claims", *SETTINGS, "--json"))["checkpoint"]
    assert tuned["cost"]["seconds"] > 0
    assert "predicted" not in tuned["cost"]


# ---------------------------------------------------------------- tables, `method: auto`, more rows than are looked at

TREES = ("--set", "method.num_iterations=30", "--set", "method.num_leaves=5")


@pytest.fixture
def risk(attune, folder: Path) -> str:
    """The name of a recipe over a table of 400 rows."""
    pytest.importorskip("lightgbm")
    if not (folder / "risk").exists():
        write(folder / "loans.csv", loans(400))
        assert attune("init", "risk", "--data", "loans.csv")[0] == 0
    return "risk"


def took(attune, *words: str) -> str:
    """What the record of a run says of its cost."""
    tuned = document(attune("finetune", *words, "--json"))["checkpoint"]
    return " ".join(attune("show", tuned["id"])[1].split())


def said_and_warned(attune, *words: str) -> tuple[str, str]:
    """What `attune check` says, each on one line: the screen, and the warnings."""
    code, out, err = attune("check", *words)
    assert code == 0, err
    return " ".join(out.split()), " ".join(err.split())


def test_trees_are_forecast_too(attune, folder, risk):
    assert "tuning would take about" in said_and_warned(attune, risk, *TREES)[0]
    forecast = document(attune("check", risk, *TREES, "--json"))["forecast"]
    assert forecast["steps"] == 30
    tuned = document(attune("finetune", risk, *TREES, "--json"))["checkpoint"]
    assert tuned["cost"]["predicted"] == {name: forecast[name] for name in ("seconds", "memory_bytes", "disk_bytes", "steps")}
    assert "(forecast " in took(attune, risk, *TREES)


def test_a_search_is_forecast_as_an_upper_estimate(attune, folder, risk):
    auto = ("--set", "method=auto", "--set", "train.learning_rate=0.2")
    said, _ = said_and_warned(attune, risk, *auto)
    assert "auto would take at most about" in said
    assert "that is an upper estimate: boosted_trees, trained as far as its plan goes" in said
    checked = document(attune("check", risk, *auto, "--json"))["forecast"]
    tuned = document(attune("finetune", risk, *auto, "--json"))["checkpoint"]
    assert tuned["trials"]
    assert tuned["cost"]["predicted"]["upper"] == checked["upper"]
    assert tuned["cost"]["predicted"]["seconds"] == checked["seconds"]
    assert "the forecast is an upper estimate: boosted_trees" in took(attune, risk, *auto)
    budget = (*auto, "--set", "budget=1s")
    assert document(attune("check", risk, *budget, "--json"))["forecast"]["seconds"] == 1
    other = document(attune("finetune", risk, *budget, "--json"))["checkpoint"]
    assert other["cost"]["predicted"]["upper"].startswith("the budget of 1s; without it")


def test_rows_beyond_those_looked_at_are_counted_and_forecast(attune, folder, risk, monkeypatch):
    monkeypatch.setattr("attune.stages.curate.preview.MOST", 150)
    more = (*TREES, "--set", "seed=8")
    said, warned = said_and_warned(attune, risk, *more)
    assert "400 rows, of which the first 150 were looked at" in said
    assert "about 280 training rows" in said
    assert "a run on all takes longer" not in warned
    tuned = document(attune("finetune", risk, *more, "--json"))["checkpoint"]
    assert tuned["cost"]["predicted"]["steps"] == 30


def test_where_they_cannot_be_counted_the_record_says_why_there_is_none(attune, folder, risk, monkeypatch):
    monkeypatch.setattr("attune.stages.curate.preview.MOST", 150)
    monkeypatch.setattr("attune.stages.curate.preview.COUNTING", 0.0)
    more = (*TREES, "--set", "seed=9")
    said, warned = said_and_warned(attune, risk, *more)
    assert "more than 150 rows" in said
    assert "a run on all takes longer" in warned
    tuned = document(attune("finetune", risk, *more, "--json"))["checkpoint"]
    assert "predicted" not in tuned["cost"]
    assert "no forecast: there are more rows than could be counted beside the first 150" in took(attune, risk, *more)
