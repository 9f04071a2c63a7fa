"""Figures that metrics and probes share: means, shares, perplexity and what it has risen by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from attune.core.proof import Figure


def means(values: Iterable[float]) -> np.ndarray:
    """float64 [n, 2]: the row's number and a one, so that sums can be divided."""
    column = np.fromiter((float(value) for value in values), dtype=np.float64)
    return np.stack([column, np.ones_like(column)], axis=1)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where there is nothing below."""
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


class Share(Figure):
    """A share of rows, or the mean of shares: contributions as `means` makes them."""

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        totals = np.asarray(totals, dtype=np.float64)
        return ratio(totals[..., 0], totals[..., 1])


class Burden(Share):
    """A share that should be small."""

    higher_is_better = False


class Gain(Share):
    """A mean of differences of shares, from -1 to 1."""

    bounds = (-1.0, 1.0)


class Bits(Share):
    """A mean number of bits that should be small."""

    higher_is_better = False
    percent = False
    bounds = (0.0, float("inf"))


class Perplexity(Figure):
    """exp of the mean negative log-likelihood per token; contributions are (nats, tokens)."""

    higher_is_better = False
    percent = False
    bounds = (1.0, float("inf"))

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Perplexity."""
        totals = np.asarray(totals, dtype=np.float64)
        with np.errstate(over="ignore"):
            return np.exp(ratio(totals[..., 0], totals[..., 1]))


class PerplexityRise(Figure):
    """Share by which perplexity is higher than before; contributions are (nats now, nats before, tokens) of the same texts."""

    higher_is_better = False
    bounds = (-1.0, float("inf"))

    def value(self, totals: np.ndarray) -> np.ndarray:
        """exp of the mean difference per token, less 1: 0.1 is a tenth more."""
        totals = np.asarray(totals, dtype=np.float64)
        with np.errstate(over="ignore"):
            return np.exp(ratio(totals[..., 0] - totals[..., 1], totals[..., 2])) - 1


def nats(likelihoods: Sequence[tuple[float, int]]) -> np.ndarray:
    """float64 [n, 2] from (negative log-likelihood, tokens) of each row."""
    return np.array(likelihoods, dtype=np.float64).reshape(-1, 2)
