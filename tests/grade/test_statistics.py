"""Intervals and paired tests against scipy, exact formulas and their promised rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from attune.core import catalog, resampling
from attune.core.contracts import Prediction
from attune.core.figures import Share
from attune.stages.grade.statistics import agresti_min, bootstrap_weights, measure, permutation_p, sum_by_group, wilson

LABELS = ["a", "b", "c"]
SIGNATURE = {"labels": LABELS, "multi_label": False}


def contestants(n=300, seed=0):
    random = np.random.default_rng(seed)
    truth = random.choice(LABELS, n).tolist()
    answers = {
        who: [Prediction(t if hit else LABELS[(LABELS.index(t) + 1) % 3]) for t, hit in zip(truth, random.random(n) < share, strict=True)]
        for who, share in (("tuned", 0.9), ("weak", 0.7), ("twin", 0.9))
    }
    return truth, answers


def measured(names=("accuracy", "f1_macro", "f1_weighted"), n=300, seed=0, groups=None, resamples=1000):
    truth, answers = contestants(n, seed)
    metrics = {name: catalog.build("metrics", name) for name in names}
    contributions = {name: {who: metric.contributions(truth, one, SIGNATURE) for who, one in answers.items()} for name, metric in metrics.items()}
    return measure(metrics, contributions, first="tuned", groups=groups, resamples=resamples, confidence=0.95, seed=3), truth, answers


def test_weights_are_bootstrap_draws_and_the_same_for_the_same_seed():
    parts = list(bootstrap_weights(50, 400, 1))
    weights = np.concatenate(parts)
    assert weights.shape == (400, 50)
    assert (weights.sum(1) == 50).all()
    assert weights.var() == pytest.approx(0.98, abs=0.06)
    assert np.array_equal(weights, np.concatenate(list(bootstrap_weights(50, 400, 1))))
    assert not np.array_equal(weights, np.concatenate(list(bootstrap_weights(50, 400, 2))))


def test_values_and_intervals_agree_with_scikit_learn_and_scipy():
    found, truth, answers = measured()
    said = [p.output for p in answers["tuned"]]
    estimate = found["f1_macro"].estimates["tuned"]
    assert estimate.value == pytest.approx(f1_score(truth, said, average="macro"))
    true, said = np.array(truth), np.array(said)
    reference = stats.bootstrap((np.arange(300),), lambda i: f1_score(true[i], said[i], average="macro"), vectorized=False, n_resamples=400, method="percentile", rng=np.random.default_rng(0))
    assert estimate.low == pytest.approx(reference.confidence_interval.low, abs=0.012)
    assert estimate.high == pytest.approx(reference.confidence_interval.high, abs=0.012)


def test_a_wider_confidence_gives_a_wider_interval():
    truth, answers = contestants()
    metric = catalog.build("metrics", "f1_macro")
    rows = {"f1_macro": {who: metric.contributions(truth, one, SIGNATURE) for who, one in answers.items()}}
    wide, narrow = (measure({"f1_macro": metric}, rows, first="tuned", groups=None, resamples=500, confidence=level, seed=1)["f1_macro"].estimates["tuned"] for level in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_paired_difference_finds_the_weaker_and_not_the_twin():
    found, _, _ = measured(seed=2)
    for name in ("accuracy", "f1_macro", "f1_weighted"):
        weak, twin = (found[name].comparisons[who] for who in ("weak", "twin"))
        assert weak.low > 0.1
        assert weak.p_value == pytest.approx(1 / 1001)
        assert twin.low < 0 < twin.high
        assert twin.p_value > 0.05


def test_permutation_test_equals_the_exact_sign_test():
    """Ten differing rows, nine for us: McNemar's exact two-sided p is 22/1024."""
    ours = np.stack([np.r_[np.ones(9), np.zeros(91)], np.ones(100)], 1)
    theirs = np.stack([np.r_[np.zeros(9), 1.0, np.zeros(90)], np.ones(100)], 1)
    p = permutation_p(ours, theirs, lambda t: t[..., 0] / t[..., 1], 40_000, 1)
    assert p == pytest.approx(stats.binomtest(9, 10).pvalue, abs=0.004)


def test_permutation_of_a_nonlinear_metric_recomputes_it_from_the_swapped_rows():
    found, truth, answers = measured(("f1_macro",), n=40, resamples=2000)
    random = np.random.default_rng(0)
    ours, theirs = (np.array([p.output for p in answers[who]]) for who in ("tuned", "weak"))

    def gap(first, second):
        return f1_score(truth, first, average="macro") - f1_score(truth, second, average="macro")

    observed = gap(ours, theirs)
    reached = 0
    for _ in range(600):
        swap = random.random(40) < 0.5
        reached += abs(gap(np.where(swap, theirs, ours), np.where(swap, ours, theirs))) >= abs(observed) - 1e-12
    assert found["f1_macro"].comparisons["weak"].p_value == pytest.approx((reached + 1) / 601, abs=0.03)


def test_lower_is_better_turns_the_difference_round():
    truth = ["a", "b"] * 50
    sure = [Prediction(t, {"a": 0.9 if t == "a" else 0.1, "b": 0.1 if t == "a" else 0.9}, 0.9) for t in truth]
    vague = [Prediction(t, {"a": 0.6 if t == "a" else 0.4, "b": 0.4 if t == "a" else 0.6}, 0.6) for t in truth]
    metric = catalog.build("metrics", "log_loss")
    rows = {who: metric.contributions(truth, one, {"labels": ["a", "b"]}) for who, one in (("tuned", sure), ("vague", vague))}
    found = measure({"log_loss": metric}, {"log_loss": rows}, first="tuned", groups=None, resamples=300, confidence=0.95, seed=1)["log_loss"]
    assert found.estimates["tuned"].value < found.estimates["vague"].value
    assert found.comparisons["vague"].difference == pytest.approx(math.log(0.9) - math.log(0.6))
    assert found.comparisons["vague"].low > 0


def test_rows_of_one_customer_are_one_piece_of_evidence():
    """Ten copies of each row must give the interval of the rows without copies, not one a third as wide."""
    truth, answers = contestants(60)
    metric = catalog.build("metrics", "f1_macro")
    plain = {who: metric.contributions(truth, one, SIGNATURE) for who, one in answers.items()}
    copied = {who: np.repeat(rows, 10, axis=0) for who, rows in plain.items()}
    groups = np.repeat(np.arange(60), 10)

    def width(rows, groups):
        estimate = measure({"f1_macro": metric}, {"f1_macro": rows}, first="tuned", groups=groups, resamples=1000, confidence=0.95, seed=1)["f1_macro"].estimates["tuned"]
        return estimate.high - estimate.low

    assert width(copied, groups) == pytest.approx(width(plain, None))
    assert width(copied, None) < width(plain, None) / 2
    assert sum_by_group(np.array([[1.0], [2.0], [4.0]]), [7, 3, 7]).tolist() == [[2.0], [5.0]]


def test_perfect_answers_are_not_certainty():
    truth = ["a", "b", "c"] * 20
    answers = [Prediction(t) for t in truth]
    metrics = {name: catalog.build("metrics", name) for name in ("accuracy", "f1_macro")}
    rows = {name: {"tuned": m.contributions(truth, answers, SIGNATURE), "same": m.contributions(truth, answers, SIGNATURE)} for name, m in metrics.items()}
    for one in measure(metrics, rows, first="tuned", groups=None, resamples=300, confidence=0.95, seed=1).values():
        assert one.estimates["tuned"].value == one.estimates["tuned"].high == 1
        assert one.estimates["tuned"].low == pytest.approx(wilson(1.0, 60, 0.95)[0])
        assert one.comparisons["same"].low == -one.comparisons["same"].high < -0.02
        assert one.comparisons["same"].p_value == 1


@pytest.mark.parametrize("groups", [None, list(range(1000))], ids=["rows", "groups"])
def test_rows_that_count_for_nothing_are_no_evidence(groups):
    """Three rows with unit tests among a thousand, all passed: as uncertain as three rows alone."""
    rows = np.zeros((1000, 2))
    rows[[10, 500, 900]] = 1.0
    by_who = {"tuned": rows, "same": rows}
    figures = {"pass_at_1": catalog.build("metrics", "pass_at_1")}
    among, alone = (
        measure(figures, {"pass_at_1": {who: one[kept] for who, one in by_who.items()}}, first="tuned", groups=groups[: kept.sum()] if groups else None, resamples=300, confidence=0.95, seed=1)[
            "pass_at_1"
        ]
        for kept in (np.ones(1000, dtype=bool), rows[:, 1] > 0)
    )
    assert (among.rows, among.asked, alone.rows, alone.asked) == (3, 1000, 3, 3)
    assert among.estimates["tuned"] == alone.estimates["tuned"]
    assert among.estimates["tuned"].low == pytest.approx(wilson(1.0, 3, 0.95)[0])
    assert among.comparisons["same"].low == alone.comparisons["same"].low == agresti_min(0, 0, 3, 0.95)[0]


def test_a_row_counts_when_it_adds_something_for_anybody():
    ours, theirs = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    found = measure({"x": Share()}, {"x": {"tuned": ours, "other": theirs}}, first="tuned", groups=None, resamples=200, confidence=0.95, seed=1)["x"]
    assert found.rows == 2


def test_an_interval_holds_its_value_also_where_the_bootstrap_is_biased():
    """The calibration error of a well calibrated model: nearly every resample lies above it."""
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 600)
    right = np.zeros(600, dtype=bool)
    for place in range(15):
        inside = np.flatnonzero((confidence * 15).astype(int) == place)
        right[inside[: round(confidence[inside].sum())]] = True
    metric = catalog.build("metrics", "ece")
    rows = metric.contributions(["a" if hit else "b" for hit in right], [Prediction("a", confidence=float(c)) for c in confidence], SIGNATURE)
    estimate = measure({"ece": metric}, {"ece": {"tuned": rows}}, first="tuned", groups=None, resamples=300, confidence=0.95, seed=1)["ece"].estimates["tuned"]
    sums = np.concatenate(list(bootstrap_weights(600, 300, 1))) @ rows
    assert np.quantile(metric.value(sums), 0.025) > estimate.value
    assert estimate.low == estimate.value < estimate.high


def test_undefined_stays_undefined():
    truth, predictions = ["a", "b"], [Prediction("a"), Prediction("b")]
    metric = catalog.build("metrics", "log_loss")
    rows = {who: metric.contributions(truth, predictions, SIGNATURE) for who in ("tuned", "other")}
    found = measure({"log_loss": metric}, {"log_loss": rows}, first="tuned", groups=None, resamples=200, confidence=0.95, seed=1)["log_loss"]
    assert all(math.isnan(x) for x in (found.estimates["tuned"].value, found.estimates["tuned"].low, found.comparisons["other"].difference, found.comparisons["other"].p_value))


def test_wilson_and_agresti_min_equal_their_formulas():
    expected = stats.binomtest(46, 50).proportion_ci(0.95, method="wilson")
    assert wilson(0.92, 50, 0.95) == pytest.approx((expected.low, expected.high))
    low, high = agresti_min(9, 1, 100, 0.95)
    assert ((low + high) / 2, (high - low) / 2) == pytest.approx((8 / 102, 1.959964 * math.sqrt(11 - 64 / 102) / 102))


@pytest.mark.parametrize("share", [0.7, 0.95])
def test_intervals_cover_the_truth_about_as_often_as_they_say(share):
    metric = catalog.build("metrics", "accuracy")
    hits = np.random.default_rng(1).random((300, 120)) < share
    covered = 0
    for number, row in enumerate(hits):
        rows = {"accuracy": {"tuned": np.stack([row.astype(float), np.ones(120)], 1)}}
        estimate = measure({"accuracy": metric}, rows, first="tuned", groups=None, resamples=300, confidence=0.9, seed=number)["accuracy"].estimates["tuned"]
        covered += estimate.low <= share <= estimate.high
    assert 0.85 <= covered / 300 <= 0.97


def test_chunks_do_not_change_the_sums(monkeypatch):
    whole, _, _ = measured(("f1_macro",), n=50, resamples=300)
    monkeypatch.setattr(resampling, "CHUNK_CELLS", 50 * 64)
    again, _, _ = measured(("f1_macro",), n=50, resamples=300)
    assert whole["f1_macro"].estimates == again["f1_macro"].estimates
