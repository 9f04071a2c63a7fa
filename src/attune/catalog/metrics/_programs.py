"""What the metrics of programs share: running each program with its tests once, in a jailed process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from attune.core.contracts import Row
from attune.core.errors import DataError
from attune.core.jail import Limits, run_tests
from attune.core.programs import program_of, unit_tests_of


class Programs:
    """Remembers which programs passed.

    Args:
        name: the metric's, for errors.
        seconds: time that one program may take.
        memory_mb: memory that one program may take, in MiB.
        with_prompt: put the last turn of the prompt before the answer.
    """

    def __init__(self, name: str, seconds: float, memory_mb: int, with_prompt: bool) -> None:
        self.name, self.limits, self.with_prompt = name, Limits(seconds, memory_mb), with_prompt
        self._known: dict[tuple[str, str], bool] = {}

    def passed(self, rows: Sequence[Row], answers: Sequence[Sequence[str]]) -> np.ndarray:
        """Of the answers to each row: how many passed all its tests, and how many there are, float64 [n, 2]; zeros for a row without tests.

        Raises:
            DataError: no row has tests.
        """
        tests = {i: unit_tests_of(row.get("tests"), str(row.get("place") or row.get("row_id"))) for i, row in enumerate(rows)}
        tested = {i: text for i, text in tests.items() if text is not None}
        if rows and not tested:
            raise DataError("no row has unit tests", place=f"grade.metrics: {self.name}", fix="name their column in data.columns.tests, or leave the metric out")
        wanted = {i: [(self._program(rows[i], one), text) for one in answers[i]] for i, text in tested.items()}
        new = [one for one in dict.fromkeys(one for many in wanted.values() for one in many) if one not in self._known]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            self._known.update(zip(new, pool.map(lambda one: run_tests(one[0], one[1], self.limits).passed, new), strict=True))
        found = np.zeros((len(rows), 2))
        for i, many in wanted.items():
            found[i] = (sum(self._known[one] for one in many), len(many))
        return found

    def _program(self, row: Row, answer: str) -> str:
        program = program_of(answer)
        return f"{row['prompt'][-1]['content']}{program}" if self.with_prompt else program


def example() -> tuple[Row, str, str]:
    """A row, a program that is right, and one that ends before it is tested."""
    return {"tests": "assert double(2) == 4"}, "```python\ndef double(x):\n    return 2 * x\n```", "import sys\nsys.exit(0)"


def refuse(name: str) -> DataError:
    """Right answers alone do not say what to run."""
    return DataError(f"metric '{name}' needs the rows with their unit tests", place=f"grade.metrics: {name}", fix="grade it through of_rows")
