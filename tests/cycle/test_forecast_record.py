"""What `attune check` forecast stands in the run's record beside what it took; the forecast of other rows does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import topic_rows, write_csv

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
