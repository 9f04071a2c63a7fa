"""Chance that one of k sampled programs passes the row's unit tests, estimated without bias from more samples; run as by pass_at_1. Linux."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means, _programs
from attune.core.contracts import Metric, Prediction, Row, Signature
from attune.core.errors import RecipeError
from attune.core.keys import Keys, key


class PassAtKKeys(Keys):
    """Keys of the metric."""

    k: int = key(5, "programs of which one must pass", ge=1)
    samples: int = key(20, "programs that are sampled for each row, at least k; more make the estimate steadier", aliases=("n", "num_samples"), ge=1)
    temperature: float = key(0.8, "of the sampling", gt=0)
    seconds: float = key(10.0, "time that one program may take", gt=0)
    memory_mb: int = key(512, "memory that one program may take, in MiB", ge=64)
    with_prompt: bool = key(False, "put the last turn of the prompt before the answer: for answers that go on where the prompt ends (HumanEval)")


class PassAtK(Metric):
    """pass@k (Chen et al. 2021, section 2.1, equation 1). A contestant that always answers the same has that answer for every sample."""

    keys_type = PassAtKKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})

    def __init__(self, keys: Keys | None = None) -> None:
        super().__init__(keys)
        if self.keys.samples < self.keys.k:
            raise RecipeError(f"{self.keys.samples} samples cannot say what one of {self.keys.k} does", place="grade.metrics: pass_at_k.samples", fix=f"set it to {self.keys.k} or more")
        self._programs = _programs.Programs("pass_at_k", self.keys.seconds, self.keys.memory_mb, self.keys.with_prompt)

    def samples(self) -> tuple[int, float]:
        """As the keys say."""
        return self.keys.samples, self.keys.temperature

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """Refused: see `of_rows`."""
        raise _programs.refuse("pass_at_k")

    def of_rows(self, rows: Sequence[Row], truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """The estimate for each row; a row without tests counts for nothing."""
        passed = self._programs.passed(rows, [one.extra.get("samples") or [str(one.output)] * self.keys.samples for one in predictions])
        return np.array([(chance(int(n), int(c), self.keys.k), 1.0) if n else (0.0, 0.0) for c, n in passed]).reshape(len(rows), 2)

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over the rows with tests."""
        return _means.mean(totals)

    def example(self) -> tuple[Row, Any, Any] | None:
        """A program that is right, and one that ends before it is tested."""
        return _programs.example()


def chance(n: int, c: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): that k of n samples, of which c pass, hold one that does (Chen et al. 2021, equation 1)."""
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1))) if n - c >= k else 1.0
