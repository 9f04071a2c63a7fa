"""A small table of loans made up for tests: numbers, names, missing cells, an id; who fails to pay back follows from the cells, with noise."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from attune.core.randomness import generator

PURPOSES = ("car", "house", "tools", "travel")


def loans(count: int, *, number: int = 0, labels: tuple[str, ...] = ("kept", "late")) -> list[dict[str, Any]]:
    """`count` records as a CSV would hold them; `number` names another sample of the same world."""
    draw = generator(17, "loans", number)
    found = []
    for i in range(count):
        amount, age, purpose = float(draw.integers(5, 200)), int(draw.integers(19, 80)), PURPOSES[int(draw.integers(4))]
        risk = (amount > 120) + (age < 30) + (purpose == "travel") + float(draw.normal(0, 0.35))
        label = labels[min(int(risk > 0.8) + int(risk > 1.7), len(labels) - 1)]
        found.append(
            {
                "loan id": f"L{number}-{i:05d}",
                "amount": "" if draw.random() < 0.1 else f"{amount:g}",
                "age": "?" if draw.random() < 0.1 else str(age),
                "purpose": "n/a" if draw.random() < 0.1 else purpose,
                "branch code": str(10 + int(draw.integers(5))),
                "outcome": label,
            }
        )
    return found


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path
