"""Commands as a person types them, in a folder of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers  # noqa: F401  (its log handler keeps the stderr of its first import; one that a test captured is closed behind that test)

from attune.cli import program

TOPICS = {
    "delivery": ["where is parcel {}", "order {} is late", "the courier lost box {}", "no sign of package {}", "when does shipment {} come"],
    "password": ["reset the login of account {}", "password {} is refused", "cannot sign in as user {}", "code {} for the login fails", "unlock account {}"],
    "refund": ["money back for order {}", "refund invoice {}", "charged twice on bill {}", "return the payment of {}", "reimburse item {}"],
}


@dataclass
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def attune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs `attune ARGUMENTS` in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        code = program.run(list(arguments))
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert "\x1b" not in said.out + said.err, "control codes where the output is no terminal"
        return Answer(code, said.out, said.err)

    return run


def write_csv(path: Path, columns: dict[str, list[Any]], delimiter: str = ",") -> Path:
    import csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def topic_rows(each: int = 20) -> tuple[list[str], list[str]]:
    """Texts and labels, `each` per label, no two alike."""
    pairs = [(TOPICS[label][number % 5].format(100 * number + place), label) for number in range(each) for place, label in enumerate(TOPICS)]
    return [text for text, _ in pairs], [label for _, label in pairs]


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    texts, labels = topic_rows()
    return write_csv(tmp_path / "tickets.csv", {"Nr.": list(range(len(texts))), "What they wrote": texts, "Kind of case": labels}, ";")
