"""Share of answers, Python programs, that pass the row's unit tests, each run in a jailed process: no network, limited time and memory. Linux."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means
from attune.core.contracts import Metric, Prediction, Row, Signature
from attune.core.errors import DataError
from attune.core.jail import Limits, run_tests
from attune.core.keys import Keys, key

_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


class PassAt1Keys(Keys):
    """Keys of the metric."""

    seconds: float = key(10.0, "time that one program may take", gt=0)
    memory_mb: int = key(512, "memory that one program may take, in MiB", ge=64)
    with_prompt: bool = key(False, "put the last turn of the prompt before the answer: for answers that go on where the prompt ends (HumanEval)")


class PassAt1(Metric):
    """pass@1 of one answer per row (Chen et al. 2021, section 2.1, with n = k = 1). Rows carry their tests in the column `tests`."""

    keys_type = PassAt1Keys
    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})

    def __init__(self, keys: Keys | None = None) -> None:
        super().__init__(keys)
        self._known: dict[tuple[str, str], bool] = {}

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """Refused: right answers alone do not say what to run."""
        raise DataError("metric 'pass_at_1' needs the rows with their unit tests", place="grade.metrics: pass_at_1", fix="grade it through of_rows")

    def of_rows(self, rows: Sequence[Row], truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """1 where all tests pass; a row without tests counts for nothing."""
        tested = [i for i, row in enumerate(rows) if row.get("tests")]
        if rows and not tested:
            raise DataError("no row has unit tests", place="grade.metrics: pass_at_1", fix="name their column in data.columns.tests, or leave the metric out")
        limits = Limits(self.keys.seconds, self.keys.memory_mb)
        wanted = [(self._program(rows[i], str(predictions[i].output)), str(rows[i]["tests"])) for i in tested]
        new = [one for one in dict.fromkeys(wanted) if one not in self._known]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            self._known.update(zip(new, pool.map(lambda one: run_tests(one[0], one[1], limits).passed, new), strict=True))
        found = np.zeros((len(rows), 2))
        for i, one in zip(tested, wanted, strict=True):
            found[i] = (float(self._known[one]), 1.0)
        return found

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Share of the rows with tests."""
        return _means.mean(totals)

    def example(self) -> tuple[Row, Any, Any] | None:
        """A program that is right, and one that ends before it is tested."""
        return {"tests": "assert double(2) == 4"}, "```python\ndef double(x):\n    return 2 * x\n```", "import sys\nsys.exit(0)"

    def _program(self, row: Row, answer: str) -> str:
        block = _FENCED.search(answer)
        program = block[1] if block else answer
        return f"{row['prompt'][-1]['content']}{program}" if self.keys.with_prompt else program
