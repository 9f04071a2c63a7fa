"""Share of answers, Python programs, that pass the row's unit tests, each run in a jailed process: no network, limited time and memory. Linux."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means, _programs
from attune.core.contracts import Metric, Prediction, Row, Signature
from attune.core.keys import Keys, key


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
        self._programs = _programs.Programs("pass_at_1", self.keys.seconds, self.keys.memory_mb, self.keys.with_prompt)

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """Refused: see `of_rows`."""
        raise _programs.refuse("pass_at_1")

    def of_rows(self, rows: Sequence[Row], truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """1 where all tests pass; a row without tests counts for nothing."""
        return self._programs.passed(rows, [[str(one.output)] for one in predictions])

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Share of the rows with tests."""
        return _means.mean(totals)

    def example(self) -> tuple[Row, Any, Any] | None:
        """A program that is right, and one that ends before it is tested."""
        return _programs.example()
