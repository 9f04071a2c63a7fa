"""Every metric against scikit-learn or a formula written out by hand, as values of additive rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.preprocessing import MultiLabelBinarizer

from attune.core import catalog
from attune.core.contracts import Prediction

LABELS = ["a", "b", "c", "d", "never"]
SINGLE = {"labels": LABELS, "multi_label": False}
SEVERAL = {"labels": LABELS[:4], "multi_label": True}


def score(name, truth, predictions, signature, **keys):
    metric = catalog.build("metrics", {"name": name, **keys})
    rows = metric.contributions(truth, predictions, signature)
    assert rows.shape[0] == len(truth)
    assert rows.dtype == np.float64
    return float(metric.value(rows.sum(0)))


def single_rows(seed, n=200):
    """Truth, answers and scores; 'd' is in the truth and never predicted, 'c' is predicted and never true, 'never' is neither."""
    random = np.random.default_rng(seed)
    truth = random.choice(["a", "b", "d"], n, p=[0.7, 0.2, 0.1]).tolist()
    said = random.choice(["a", "b", "c"], n, p=[0.6, 0.3, 0.1]).tolist()
    scores = random.dirichlet(np.ones(len(LABELS)), n)
    predictions = [Prediction(label, dict(zip(LABELS, map(float, row), strict=True)), float(row.max())) for label, row in zip(said, scores, strict=True)]
    return truth, said, scores, predictions


@pytest.mark.parametrize("share", ["f1", "precision", "recall"])
@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("seed", range(3))
def test_shares_equal_scikit_learn_with_classes_missing_on_either_side(share, average, seed):
    truth, said, _, predictions = single_rows(seed)
    expected = getattr(sklearn_metrics, f"{share}_score")(truth, said, average=average, zero_division=0)
    assert score(f"{share}_{average}", truth, predictions, SINGLE) == pytest.approx(expected, abs=1e-12)


def test_weighted_f1_and_accuracy_equal_scikit_learn():
    truth, said, _, predictions = single_rows(5)
    assert score("f1_weighted", truth, predictions, SINGLE) == pytest.approx(sklearn_metrics.f1_score(truth, said, average="weighted", zero_division=0))
    assert score("accuracy", truth, predictions, SINGLE) == pytest.approx(sklearn_metrics.accuracy_score(truth, said))


def test_breakdown_gives_each_class_that_occurs():
    truth, said, _, predictions = single_rows(6)
    report = sklearn_metrics.classification_report(truth, said, output_dict=True, zero_division=0)
    for name, key in (("f1_macro", "f1-score"), ("precision_macro", "precision"), ("recall_macro", "recall")):
        metric = catalog.build("metrics", name)
        parts = metric.breakdown(metric.contributions(truth, predictions, SINGLE).sum(0), SINGLE)
        assert parts == pytest.approx({label: report[label][key] for label in "abcd"})


def test_a_resample_without_a_rare_class_is_graded_over_the_classes_it_has():
    """The twin of a bootstrap that counts a class that was not drawn as zero: a perfect model would get less than 1."""
    truth = ["a"] * 9 + ["d"]
    predictions = [Prediction(label) for label in truth]
    metric = catalog.build("metrics", "f1_macro")
    rows = metric.contributions(truth, predictions, SINGLE)
    weights = np.array([[1.0] * 9 + [0.0], [1.0] * 10])
    assert metric.value(weights @ rows).tolist() == [1.0, 1.0]


def test_a_label_the_model_never_saw_counts_as_missed():
    predictions = [Prediction("a"), Prediction("a")]
    assert score("accuracy", ["a", "new"], predictions, SINGLE) == 0.5
    assert score("f1_macro", ["a", "new"], predictions, SINGLE) == pytest.approx(sklearn_metrics.f1_score(["a", "new"], ["a", "a"], average="macro", zero_division=0))


def several_rows(seed, n=150):
    random = np.random.default_rng(seed)
    labels = SEVERAL["labels"]
    truth = [[label for label, hit in zip(labels, random.random(4) < [0.5, 0.2, 0.0, 0.1], strict=True) if hit] for _ in range(n)]
    scores = random.random((n, 4))
    said = [[label for label, p in zip(labels, row, strict=True) if p > least] for row, least in zip(scores, np.full(n, 0.6), strict=True)]
    return truth, said, scores, [Prediction(one, dict(zip(labels, map(float, row), strict=True)), 0.5) for one, row in zip(said, scores, strict=True)]


@pytest.mark.parametrize("name", ["f1_macro", "f1_micro", "f1_weighted", "precision_macro", "precision_micro", "recall_macro", "recall_micro"])
def test_several_labels_a_row_equal_scikit_learn(name):
    truth, said, _, predictions = several_rows(1)
    assert any(not one for one in truth)
    binary = MultiLabelBinarizer(classes=SEVERAL["labels"])
    share, average = name.split("_")
    expected = getattr(sklearn_metrics, f"{share}_score")(binary.fit_transform(truth), binary.transform(said), average=average, zero_division=0)
    assert score(name, truth, predictions, SEVERAL) == pytest.approx(expected, abs=1e-12)


def test_several_labels_accuracy_is_of_the_whole_set_in_any_order():
    truth = [["a", "b"], ["a"], [], ["c"]]
    predictions = [Prediction(["b", "a"]), Prediction(["a", "b"]), Prediction([]), Prediction([])]
    assert score("accuracy", truth, predictions, SEVERAL) == 0.5


def test_empty_answers_everywhere_are_no_hits_and_no_crash():
    truth, predictions = [["a"], ["b"]], [Prediction([]), Prediction([])]
    assert [score(f"{share}_{average}", truth, predictions, SEVERAL) for share in ("precision", "recall", "f1") for average in ("micro", "macro")] == [0.0] * 6
    assert math.isnan(score("f1_macro", [[]], [Prediction([])], SEVERAL))


def test_log_loss_equals_scikit_learn():
    truth, _, scores, predictions = single_rows(7)
    assert score("log_loss", truth, predictions, SINGLE) == pytest.approx(sklearn_metrics.log_loss(truth, scores, labels=LABELS))
    truth, _, scores, predictions = several_rows(8)
    each = [sklearn_metrics.log_loss([label in one for one in truth], scores[:, i], labels=[False, True]) for i, label in enumerate(SEVERAL["labels"])]
    assert score("log_loss", truth, predictions, SEVERAL) == pytest.approx(np.mean(each))


def test_log_loss_of_a_sure_mistake_is_large_and_finite_and_unknown_without_scores():
    sure = [Prediction("a", {"a": 1.0, "b": 0.0}, 1.0)]
    assert 30 < score("log_loss", ["b"], sure, {"labels": ["a", "b"]}) < 40
    assert score("log_loss", ["a"], sure, {"labels": ["a", "b"]}) == pytest.approx(0, abs=1e-12)
    assert math.isnan(score("log_loss", ["a", "a"], [*sure, Prediction("a")], {"labels": ["a", "b"]}))


def reference_ece(confidence, right, bins):
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.digitize(confidence, edges) - 1, 0, bins - 1)
    return sum(np.mean(places == b) * abs(np.mean(confidence[places == b]) - np.mean(right[places == b])) for b in range(bins) if np.any(places == b))


@pytest.mark.parametrize("bins", [2, 15])
def test_calibration_error_equals_its_formula(bins):
    truth, said, _, predictions = single_rows(9)
    confidence, right = np.array([p.confidence for p in predictions]), np.array(truth) == np.array(said)
    assert score("ece", truth, predictions, SINGLE, bins=bins) == pytest.approx(reference_ece(confidence, right, bins))
    truth, _, scores, predictions = several_rows(10)
    right = np.array([[label in one for label in SEVERAL["labels"]] for one in truth])
    assert score("ece", truth, predictions, SEVERAL, bins=bins) == pytest.approx(reference_ece(scores.ravel(), right.ravel(), bins))


def test_calibration_error_tells_honest_from_overconfident():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 4000)
    right = random.random(4000) < confidence
    truth = ["a" if hit else "b" for hit in right]
    honest = [Prediction("a", confidence=float(p)) for p in confidence]
    boasting = [Prediction("a", confidence=1.0) for _ in confidence]
    assert score("ece", truth, honest, SINGLE) < 0.03
    assert score("ece", truth, boasting, SINGLE) == pytest.approx(1 - right.mean())
    assert math.isnan(score("ece", ["a"], [Prediction("a")], SINGLE))


def test_texts():
    truth = ["The cat sat.", "42", ["yes", "yeah"], "A", "same words here"]
    predictions = [Prediction("the  cat sat"), Prediction("43"), Prediction("Yeah!"), Prediction(""), Prediction("here are words")]
    assert score("exact_match", truth, predictions, {}) == pytest.approx(2 / 5)
    assert score("exact_match", truth, predictions, {}, normalise=False) == 0
    assert score("token_f1", truth, predictions, {}) == pytest.approx((1 + 0 + 1 + 0 + 2 / 3) / 5)
    assert score("token_f1", ["", "x"], [Prediction(""), Prediction("")], {}) == 0.5


def test_ranked_lists():
    many = [f"t{i}" for i in range(20)]
    truth = ["t0", "t1", "t15", "absent", ["t0", "t3"]]
    predictions = [Prediction(many)] * 5
    assert score("hit_at_1", truth, predictions, {}) == pytest.approx(2 / 5)
    assert score("mrr", truth, predictions, {}) == pytest.approx((1 + 1 / 2 + 1 / 16 + 0 + 1) / 5)
    assert score("recall_at_10", truth, predictions, {}) == pytest.approx((1 + 1 + 0 + 0 + 1) / 5)
    relevance = np.zeros((1, 20))
    relevance[0, [0, 3]] = 1
    both = sklearn_metrics.ndcg_score(relevance, np.arange(20, 0, -1)[None], k=10)
    assert score("ndcg_at_10", truth, predictions, {}) == pytest.approx((1 + 1 / math.log2(3) + 0 + 0 + both) / 5)
    assert score("mrr", ["t0"], [Prediction([])], {}) == 0


def test_every_metric_is_additive_and_keeps_the_shape_of_its_sums():
    """Weights of rows and repeating rows must agree: what intervals and paired tests rest on."""
    truth, _, _, predictions = single_rows(11, 40)
    weights = np.random.default_rng(1).integers(0, 4, 40)
    rows = np.repeat(np.arange(40), weights)
    names = [entry.name for entry in catalog.entries("metrics") if set(entry.requires) <= {"label-out"}]
    assert len(names) >= 10
    for name in names:
        metric = catalog.build("metrics", name)
        sums = weights.astype(float) @ metric.contributions(truth, predictions, SINGLE)
        repeated = metric.contributions([truth[i] for i in rows], [predictions[i] for i in rows], SINGLE).sum(0)
        assert metric.value(np.stack([sums, sums])).shape == (2,)
        assert float(metric.value(sums)) == pytest.approx(float(metric.value(repeated))), name


def test_preference_accuracy_counts_ties_half_and_is_undefined_without_margins():
    answers = [Prediction("", extra={"margin": margin}) for margin in (0.5, 1e-9, 0.0, -2.0)]
    assert score("preference_accuracy", [None] * 4, answers, {}) == pytest.approx(2.5 / 4)
    assert math.isnan(score("preference_accuracy", [None] * 2, [answers[0], Prediction("")], {}))
    assert math.isnan(score("preference_accuracy", [None] * 2, [answers[0], Prediction("", extra={"margin": math.nan})], {}))


@pytest.mark.parametrize("seed", range(3))
def test_desirable_auc_equals_scikit_learn_on_the_bins(seed):
    random = np.random.default_rng(seed)
    good = random.random(300) < 0.4
    held = np.round((-4 + 0.5 * good + random.normal(size=300)) / 0.05) * 0.05 + 0.01  # in the middle of a bin, many of them alike
    held[:3] = (-80.0, -13.0, 0.0)
    answers = [Prediction("", extra={"likelihood": float(one), "desirable": bool(flag)}) for one, flag in zip(held, good, strict=True)]
    expected = sklearn_metrics.roc_auc_score(good, np.maximum(held, -12.0))
    assert score("desirable_auc", [None] * 300, answers, {}) == pytest.approx(expected, abs=1e-9)
    turned = [Prediction("", extra={**one.extra, "desirable": not one.extra["desirable"]}) for one in answers]
    assert score("desirable_auc", [None] * 300, turned, {}) == pytest.approx(1 - expected, abs=1e-9)


def test_desirable_auc_is_undefined_without_both_kinds_or_without_likelihoods():
    answers = [Prediction("", extra={"likelihood": -1.0, "desirable": True})] * 3
    assert math.isnan(score("desirable_auc", [None] * 3, answers, {}))
    assert math.isnan(score("desirable_auc", [None] * 4, [*answers, Prediction("")], {}))
