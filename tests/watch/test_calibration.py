"""The promise 'at most one false alarm in N days' holds in simulation, a rule without it breaks, and real shifts are still seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from attune.core import catalog
from attune.core.contracts import Detector, WindowData
from attune.core.randomness import generator
from attune.core.recipe import WatchKeys
from attune.stages.watch.calibration import permutation_test, resamples_needed, significance
from tests.watch.worlds import world

NAMES = ("embedding_shift", "label_shift", "performance_drop")


def alarm(name: str, reference: WindowData, window: WindowData, seed: int, level: float, resamples: int) -> bool:
    detector = catalog.build("detectors", name)
    return permutation_test(detector, reference.take(detector.usable(reference)), window.take(detector.usable(window)), level, resamples, generator(seed, name)).alarm


@pytest.mark.parametrize(
    ("keys", "detectors", "level"),
    [
        ({"false_alarms_days": 30}, 3, 1 / 90),
        ({"false_alarms_days": 365}, 3, 1 / 1095),
        ({"false_alarms_days": 70, "window": "week"}, 2, 1 / 20),
        ({"false_alarms_days": 1}, 1, 0.05),
        ({"false_alarms_days": 100, "window": "all"}, 1, 0.01),
    ],
)
def test_the_level_spends_the_budget(keys, detectors, level):
    watch = WatchKeys(**keys)
    found = significance(watch, detectors)
    assert found == pytest.approx(level)
    draws = resamples_needed(watch, found)
    assert draws >= watch.resamples
    assert (draws + 1) * found >= 10 - 1e-6


class Mean(Detector):
    """A detector that is small enough to count on fingers."""

    def usable(self, window: WindowData) -> np.ndarray:
        return np.arange(len(window))

    def statistic(self, reference: WindowData, window: WindowData) -> float:
        return float(window.confidence.mean() - reference.confidence.mean())

    def explain(self, reference: WindowData, window: WindowData) -> dict:
        return {}


def numbers(*values: float) -> WindowData:
    return WindowData(["t"] * len(values), np.zeros((len(values), 0)), ["l"] * len(values), np.array(values), np.zeros(len(values)))


def test_the_p_value_is_that_of_all_divisions():
    """Two of five numbers: 10 divisions, the real one is the largest alone, so p is 1/10 but for the draws."""
    outcome = permutation_test(Mean(), numbers(1, 2, 3), numbers(8, 9), 0.2, 9999, generator(1, "all"))
    assert outcome.p_value == pytest.approx(0.1, abs=0.01)
    assert outcome.alarm
    middle = permutation_test(Mean(), numbers(1, 9, 3), numbers(8, 2), 0.2, 9999, generator(1, "all"))
    assert middle.p_value > 0.4
    assert not middle.alarm


@pytest.mark.parametrize("resamples", [19, 99, 400])
def test_threshold_and_p_value_tell_the_same_story(resamples):
    for seed in range(40):
        outcome = permutation_test(Mean(), numbers(*generator(seed, "a").normal(size=30)), numbers(*(generator(seed, "b").normal(size=20) + 0.4)), 0.05, resamples, generator(seed, "c"))
        assert outcome.alarm == (outcome.p_value <= 0.05) == (outcome.statistic > outcome.threshold)


def test_too_few_resamples_for_the_level_never_alarm():
    outcome = permutation_test(Mean(), numbers(*range(30)), numbers(*range(500, 530)), 0.001, 100, generator(1, "few"))
    assert not outcome.alarm
    assert outcome.threshold == math.inf


def test_equal_rows_are_no_shift():
    assert permutation_test(Mean(), numbers(*[1.0] * 40), numbers(*[1.0] * 40), 0.05, 199, generator(1, "same")).p_value == 1


def test_large_tables_are_drawn_in_blocks(monkeypatch):
    """Blocks change nothing about what is tested."""
    monkeypatch.setattr("attune.stages.watch.calibration._CELLS_AT_ONCE", 500)
    outcome = permutation_test(Mean(), numbers(*range(30)), numbers(*range(20, 40)), 0.05, 399, generator(1, "blocks"))
    assert outcome.alarm
    assert 1 / 400 <= outcome.p_value <= 0.05


@pytest.mark.parametrize(("reference", "rows"), [(200, 60), (120, 400)], ids=["small window", "window larger than the reference"])
@pytest.mark.parametrize("name", NAMES)
def test_without_drift_the_level_is_kept(name, reference, rows):
    """Level 0.05 on 300 pairs: neither above what chance allows, nor so far below that the test would be asleep."""
    trials = 300
    alarms = sum(alarm(name, world(reference, 2 * i), world(rows, 2 * i + 1), i, 0.05, 199) for i in range(trials))
    assert binom.ppf(0.0005, trials, 0.05) <= alarms <= binom.ppf(0.9995, trials, 0.05)


def test_the_bound_is_broken_by_thresholds_that_overlook_the_reference():
    """The must-fail twin: the usual bootstrap (windows drawn from the reference itself) forgets that the reference is a sample too."""
    detector = catalog.build("detectors", "performance_drop")
    trials, alarms = 300, 0
    for i in range(trials):
        reference, window = world(120, 2 * i), world(400, 2 * i + 1)
        draw = generator(i, "bootstrap")
        by_chance = [detector.statistic(reference, reference.take(draw.integers(0, 120, 400))) for _ in range(59)]
        alarms += detector.statistic(reference, window) > np.quantile(by_chance, 0.95)
    assert alarms > binom.ppf(0.9995, trials, 0.05)


def test_half_a_year_without_drift_stays_in_the_budget():
    """Three detectors on 180 days with one false alarm in 30 days allowed: at most what a rate of 6 gives by chance."""
    keys = WatchKeys(false_alarms_days=30)
    level = significance(keys, len(NAMES))
    draws = resamples_needed(keys, level)
    alarms = 0
    for day in range(180):
        reference, window = world(200, 10_000 + 2 * day), world(80, 10_001 + 2 * day)
        alarms += any(alarm(name, reference, window, day, level, draws) for name in NAMES)
    assert alarms <= binom.ppf(0.999, 180, 1 / 30)


@pytest.mark.parametrize(
    ("name", "moved"),
    [("label_shift", {"class_points": 0.10}), ("embedding_shift", {"embedding_sd": 0.5}), ("performance_drop", {"accuracy_points": 0.10})],
)
def test_a_real_shift_is_seen_the_same_day(name, moved):
    """Ten points of one class, half a standard deviation, ten points of accuracy, on 300 rows against 1,000: at least 27 of 30 days."""
    keys = WatchKeys(false_alarms_days=30)
    level = significance(keys, len(NAMES))
    draws = resamples_needed(keys, level)
    seen = sum(alarm(name, world(1000, 2 * i), world(300, 2 * i + 1, **moved), i, level, draws) for i in range(30))
    assert seen >= 27
