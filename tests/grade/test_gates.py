"""Gates: what passes, what fails, what cannot tell; and how often they are wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from attune.core import catalog
from attune.core.recipe import GateKeys
from attune.core.records import Comparison, Estimate
from attune.stages.grade.gates import MIN_ROWS, Evidence, decide
from attune.stages.grade.statistics import Measured, measure


def measured(name="accuracy", tuned=(0.92, 0.89, 0.95), rivals=None, differences=None):
    """A metric as grading measured it; differences: opponent -> (difference, low, high, p)."""
    rivals = {"linear": (0.83, 0.8, 0.86)} if rivals is None else rivals
    differences = {"linear": (0.09, 0.052, 0.129, 0.0005)} if differences is None else differences
    estimates = {who: Estimate(value=v, low=low, high=high) for who, (v, low, high) in {"tuned": tuned, **rivals}.items()}
    comparisons = {who: Comparison(rival=who, metric=name, difference=d, low=low, high=high, p_value=p) for who, (d, low, high, p) in differences.items()}
    return Measured(name, catalog.build("metrics", name), estimates, comparisons, {})


def evidence(*found, rows=500, rivals=("linear",), current=False):
    return Evidence({one.name: one for one in found or (measured(),)}, rows, rivals, current, 0.95)


def outcome(gate, proof):
    (result,), verdict, (reason,) = decide([gate], "accuracy", proof)
    assert verdict == {"pass": "SHIP", "fail": "NO-SHIP", "inconclusive": "INCONCLUSIVE"}[result.outcome]
    assert reason == result.reason
    return result


def test_the_default_gate_is_better_than_the_best_rival_in_plain_words():
    (result,), verdict, reasons = decide(None, "accuracy", evidence())
    assert verdict == "SHIP"
    assert reasons == ("tuned accuracy 92.0% (89.0–95.0) beats the best rival, linear (83.0%), by 9.0 points (5.2–12.9), p < 0.001",)
    assert result.gate == "accuracy better than best rival"


@pytest.mark.parametrize(
    ("tuned", "verdict"), [((0.555, 0.305, 0.761), "INCONCLUSIVE"), ((0.45, 0.4, 0.49), "NO-SHIP"), ((0.6, 0.52, 0.68), "SHIP")], ids=["may be guessing", "below guessing", "above guessing"]
)
def test_a_model_that_beats_its_base_but_not_guessing_does_not_ship(tuned, verdict):
    proof = evidence(measured("desirable_auc", tuned, {"untouched_base": (0.3, 0.2, 0.4)}, {"untouched_base": (0.25, 0.1, 0.4, 0.001)}), rivals=("untouched_base",))
    assert decide(None, "desirable_auc", proof)[1] == verdict
    assert decide([GateKeys(metric="desirable_auc", better_than="untouched_base")], "desirable_auc", proof)[1] == "SHIP"  # the user's own gates hold as they are


@pytest.mark.parametrize(
    ("limit", "expected"),
    [({"at_least": 0.89}, "pass"), ({"at_least": 0.9}, "inconclusive"), ({"at_least": 0.951}, "fail"), ({"at_most": 0.95}, "pass"), ({"at_most": 0.94}, "inconclusive"), ({"at_most": 0.88}, "fail")],
)
def test_thresholds_read_the_whole_interval(limit, expected):
    assert outcome(GateKeys(metric="accuracy", **limit), evidence()).outcome == expected


@pytest.mark.parametrize(
    ("difference", "by", "expected"),
    [
        ((0.03, 0.001, 0.06, 0.03), 0.0, "pass"),
        ((0.03, 0.001, 0.06, 0.06), 0.0, "inconclusive"),  # the permutation test does not agree
        ((0.03, 0.0, 0.06, 0.04), 0.0, "inconclusive"),
        ((0.0, 0.0, 0.0, 1.0), 0.0, "fail"),
        ((-0.03, -0.06, -0.001, 0.03), 0.0, "fail"),
        ((0.03, 0.001, 0.06, 0.03), 0.02, "inconclusive"),
        ((0.03, 0.021, 0.06, 0.001), 0.02, "pass"),
        ((0.0, -0.005, 0.005, 1.0), -0.01, "pass"),
        ((0.0, -0.02, 0.02, 1.0), -0.01, "inconclusive"),
        ((-0.04, -0.06, -0.02, 0.001), -0.01, "fail"),
    ],
)
def test_better_than_reads_the_paired_difference(difference, by, expected):
    gate = GateKeys(metric="accuracy", better_than="linear", by=by)
    assert outcome(gate, evidence(measured(differences={"linear": difference}))).outcome == expected


def test_what_is_missing_fails_and_says_what():
    nan = math.nan
    cases = [
        (GateKeys(metric="acuracy", at_least=0.5), evidence(), "did you mean 'accuracy'"),
        (GateKeys(metric="accuracy", better_than="liner"), evidence(), "did you mean 'linear'"),
        (GateKeys(metric="accuracy", better_than="best_rival"), evidence(rivals=()), "no rival was graded"),
        (GateKeys(metric="accuracy"), evidence(), "says nothing to pass"),
        (GateKeys(metric="acuracy", at_least=0.5), evidence(rows=MIN_ROWS - 1), "did you mean 'accuracy'"),
        (GateKeys(metric="accuracy", better_than="liner"), evidence(rows=MIN_ROWS - 1), "did you mean 'linear'"),
        (GateKeys(metric="accuracy", at_least=0.1), evidence(measured(tuned=(nan, nan, nan))), "undefined"),
        (GateKeys(metric="accuracy", at_least=0.1), evidence(measured(tuned=(0.9, nan, nan))), "undefined"),
        (GateKeys(metric="accuracy", better_than="linear"), evidence(measured(differences={"linear": (nan, nan, nan, nan)})), "undefined"),
        (GateKeys(metric="accuracy", better_than="linear"), evidence(measured(differences={"linear": (0.1, 0.05, 0.2, nan)})), "undefined"),
        (
            GateKeys(metric="accuracy", better_than="best_rival"),
            evidence(measured(rivals={"linear": (nan, nan, nan)})),
            "no rival has a value of accuracy (linear), so there is none to be better than",
        ),
        (GateKeys(metric="accuracy", better_than="best_rival"), evidence(measured(rivals={}, differences={})), "no rival has a value of accuracy (linear), so there is none to be better than"),
        (
            GateKeys(metric="accuracy", better_than="best_rival"),
            evidence(measured(rivals={"linear": (nan, nan, nan), "majority": (0.2, 0.1, 0.3)}, differences={"linear": (nan,) * 4, "majority": (0.7, 0.6, 0.8, 0.001)}), rivals=("linear", "majority")),
            "accuracy of linear is undefined, so the best rival cannot be told",
        ),
    ]
    for gate, proof, words in cases:
        result = outcome(gate, proof)
        assert result.outcome == "fail", gate
        assert words in result.reason, result.reason


@pytest.mark.parametrize("condition", [{"at_least": 0.5}, {"at_least": 0.99}, {"better_than": "linear"}, {"better_than": "best_rival"}])
def test_too_few_rows_decide_nothing(condition):
    result = outcome(GateKeys(metric="accuracy", **condition), evidence(rows=MIN_ROWS - 1))
    assert result.outcome == "inconclusive"
    assert "29 independent test rows are too few" in result.reason


def test_too_few_rows_has_a_clean_twin():
    assert outcome(GateKeys(metric="accuracy", at_least=0.5), evidence(rows=MIN_ROWS)).outcome == "pass"
    assert outcome(GateKeys(metric="accuracy", at_least=0.99), evidence(rows=MIN_ROWS)).outcome == "fail"


def test_rows_that_count_for_nothing_decide_nothing():
    few = replace(measured("pass_at_1", (1.0, 0.996, 1.0)), rows=3, asked=1000)
    result = outcome(GateKeys(metric="pass_at_1", at_least=0.9), evidence(few, rows=1000))
    assert result.outcome == "inconclusive"
    assert "only 3 of 1,000 independent rows count for pass_at_1" in result.reason
    none = outcome(GateKeys(metric="pass_at_1", at_least=0.9), evidence(replace(few, rows=0), rows=1000))
    assert none.outcome == "fail"
    assert "none of 1,000 independent rows counts for pass_at_1" in none.reason
    assert outcome(GateKeys(metric="pass_at_1", at_least=0.9), evidence(replace(few, rows=40), rows=1000)).outcome == "pass"


def test_a_probe_with_few_rows_says_which_key_gives_more():
    few = replace(measured("accuracy"), rows=20, asked=20, more="raise `rows` of probe memorisation in grade.probes, now 20")
    result = outcome(GateKeys(metric="accuracy", at_least=0.5), evidence(few))
    assert result.reason == "20 independent rows are too few to decide anything: at least 30 are needed, a few hundred are better; raise `rows` of probe memorisation in grade.probes, now 20"
    close = outcome(GateKeys(metric="accuracy", at_least=0.9), evidence(replace(few, rows=60)))
    assert "more rows would decide" in close.reason
    assert close.reason.endswith("raise `rows` of probe memorisation in grade.probes, now 20")


RIVALS = {"majority": (0.2, 0.17, 0.23), "linear": (0.915, 0.88, 0.94)}
FAR = (0.72, 0.68, 0.76, 0.0005)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ((0.005, -0.01, 0.02, 0.5), "linear, which is not clearly behind the tuned model: accuracy 91.5% against 92.0%, tuned is ahead by +0.5 (−1.0 to +2.0), p = 0.500"),
        ((0.0, -0.01, 0.01, 1.0), "linear, which reached as much as the tuned model"),
        ((-0.01, -0.03, 0.01, 0.4), "linear, which reached more than the tuned model"),
        ((-0.03, -0.05, -0.01, 0.002), "linear, which is better than the tuned model"),
        ((0.02, 0.001, 0.04, 0.06), "linear, which is not clearly behind"),
    ],
)
@pytest.mark.parametrize("gate", [{"better_than": "majority"}, {"at_least": 0.5}])
def test_an_easy_gate_does_not_hide_a_rival_that_is_as_good(difference, words, gate):
    proof = evidence(measured(rivals=RIVALS, differences={"majority": FAR, "linear": difference}), rivals=("majority", "linear"))
    results, verdict, reasons = decide([GateKeys(metric="accuracy", **gate)], "accuracy", proof)
    assert verdict == "SHIP"
    assert reasons[0] == results[0].reason
    assert len(reasons) == 2
    assert reasons[1].startswith("no gate asks about " + words)


@pytest.mark.parametrize(
    ("gates", "difference"),
    [
        ([{"better_than": "majority"}], (0.09, 0.052, 0.129, 0.0005)),  # the other rival is clearly behind
        ([{"better_than": "linear"}], (0.005, -0.01, 0.02, 0.5)),  # its own gate speaks
        ([{"better_than": "majority"}, {"better_than": "best_rival"}], (0.005, -0.01, 0.02, 0.5)),
    ],
)
def test_rivals_that_are_behind_or_asked_about_are_not_told_again(gates, difference):
    proof = evidence(measured(rivals=RIVALS, differences={"majority": FAR, "linear": difference}), rivals=("majority", "linear"))
    results, _, reasons = decide([GateKeys(metric="accuracy", **one) for one in gates], "accuracy", proof)
    assert len(reasons) == len(results)


def test_an_approved_release_that_is_as_good_is_not_hidden_either():
    rivals = {"linear": (0.83, 0.8, 0.86), "current": (0.93, 0.9, 0.96)}
    proof = evidence(measured(rivals=rivals, differences={"linear": FAR, "current": (-0.01, -0.03, 0.01, 0.4)}), current=True)
    assert "no gate asks about the approved release, which reached more" in decide([GateKeys(metric="accuracy", better_than="best_rival")], "accuracy", proof)[2][-1]


def test_best_rival_goes_by_the_metrics_direction():
    rivals = {"linear": (0.6, 0.5, 0.7), "majority": (0.9, 0.8, 1.0)}
    differences = {"linear": (0.3, 0.2, 0.4, 0.001), "majority": (0.6, 0.5, 0.7, 0.001)}
    loss = measured("log_loss", (0.3, 0.25, 0.35), rivals, differences)
    result = outcome(GateKeys(metric="log_loss", better_than="best_rival"), evidence(loss, rivals=("linear", "majority")))
    assert result.reason == "tuned log_loss 0.300 (0.250–0.350) beats the best rival, linear (0.600), by 0.300 (0.200–0.400), p = 0.001"
    share = measured("accuracy", (0.95, 0.9, 0.99), rivals, differences)
    assert "majority" in outcome(GateKeys(metric="accuracy", better_than="best_rival"), evidence(share, rivals=("linear", "majority"))).reason


def test_with_an_approved_release_the_new_one_must_not_be_worse():
    rivals = {"linear": (0.83, 0.8, 0.86), "current": (0.93, 0.9, 0.96)}
    better = (0.09, 0.05, 0.13, 0.001)
    for against_current, verdict in (((-0.01, -0.03, 0.009, 0.4), "INCONCLUSIVE"), ((-0.05, -0.08, -0.02, 0.001), "NO-SHIP"), ((0.0, -0.009, 0.009, 1.0), "SHIP")):
        proof = evidence(measured(rivals=rivals, differences={"linear": better, "current": against_current}), current=True)
        results, said, _ = decide(None, "accuracy", proof)
        assert (len(results), said) == (2, verdict)


def test_not_worse_does_not_boast():
    """Half a point ahead with an interval across zero passes for 'not worse', and is not said to beat anything."""
    proof = evidence(measured(rivals={"current": (0.915, 0.88, 0.95)}, differences={"current": (0.005, -0.003, 0.013, 0.3)}), rivals=(), current=True)
    reason = outcome(GateKeys(metric="accuracy", better_than="current", by=-0.01), proof).reason
    assert "is at most 1.0 point worse than the approved release (91.5%): difference +0.5 (−0.3 to +1.3)" in reason
    assert "beats" not in reason


def test_a_gate_about_a_release_that_does_not_exist_proves_nothing_by_itself():
    gate = GateKeys(metric="accuracy", better_than="current", by=-0.01)
    results, verdict, _ = decide([gate], "accuracy", evidence(measured(differences={"linear": (-0.05, -0.08, -0.02, 0.001)})))
    assert [one.outcome for one in results] == ["pass", "fail"]
    assert verdict == "NO-SHIP"


def test_the_worst_gate_decides_and_speaks_first():
    gates = [GateKeys(metric="accuracy", at_least=0.8), GateKeys(metric="accuracy", at_least=0.9), GateKeys(metric="accuracy", at_least=0.99)]
    results, verdict, reasons = decide(gates, "accuracy", evidence())
    assert [one.outcome for one in results] == ["pass", "inconclusive", "fail"]
    assert verdict == "NO-SHIP"
    assert "misses at least 99.0%" in reasons[0]
    assert decide(gates[:2], "accuracy", evidence())[1] == "INCONCLUSIVE"


def test_inconclusive_says_how_many_more_rows():
    """Difference 2, half width 3 at 500 rows: (3/2)^2 x 500 rows are needed, 625 more."""
    result = outcome(GateKeys(metric="accuracy", better_than="linear"), evidence(measured(differences={"linear": (0.02, -0.01, 0.05, 0.2)})))
    assert "about 630 more test rows would decide (for it" in result.reason
    result = outcome(GateKeys(metric="accuracy", at_least=0.93), evidence())
    assert "about 4,000 more test rows would decide (against it" in result.reason


# ---------------------------------------------------------------- how often gates are wrong


def verdicts(pairs: int, rows: int, *, fixed: float, broken: float, shared: float, seed: int, gates=None, current=False) -> list[str]:
    """Verdicts on simulated pairs of models: both wrong on `shared` rows; the tuned one mends `fixed` of the rows and breaks `broken`."""
    random = np.random.default_rng(seed)
    metric = catalog.build("metrics", "accuracy")
    ones = np.ones(rows)
    found = []
    for number in range(pairs):
        draw = random.random(rows)
        ours = 1.0 - ((draw < shared) | ((draw >= shared + fixed) & (draw < shared + fixed + broken)))
        theirs = 1.0 - ((draw < shared) | ((draw >= shared) & (draw < shared + fixed)))
        name = "current" if current else "linear"
        contributions = {"accuracy": {"tuned": np.stack([ours, ones], 1), name: np.stack([theirs, ones], 1)}}
        one = measure({"accuracy": metric}, contributions, first="tuned", groups=None, resamples=300, confidence=0.95, seed=number)
        found.append(decide(gates, "accuracy", Evidence(one, rows, () if current else ("linear",), current, 0.95))[1])
    return found


@pytest.mark.parametrize("disagree", [0.004, 0.01, 0.03, 0.08])
def test_an_equal_model_ships_in_at_most_one_of_twenty(disagree):
    """Also where the two models hardly differ, which is where a bootstrap alone is too sure."""
    shipped = verdicts(400, 500, fixed=disagree, broken=disagree, shared=0.08, seed=1).count("SHIP")
    assert shipped <= 20


def test_three_points_better_ships_nine_times_of_ten():
    assert verdicts(200, 1000, fixed=0.045, broken=0.015, shared=0.07, seed=2).count("SHIP") >= 180


def test_two_points_worse_never_ships():
    assert verdicts(400, 500, fixed=0.02, broken=0.04, shared=0.08, seed=3).count("SHIP") == 0


def test_two_points_worse_than_the_approved_release_never_passes_for_not_worse():
    gate = [GateKeys(metric="accuracy", better_than="current", by=-0.01)]
    assert verdicts(300, 500, fixed=0.01, broken=0.03, shared=0.08, seed=4, gates=gate, current=True).count("SHIP") <= 3


def test_the_gate_that_compares_bare_means_is_caught():
    """The must-fail twin of the simulation: 'mean higher' ships an equal model about half of the time."""
    random = np.random.default_rng(5)
    shipped = sum(int((random.random(500) < 0.03).sum() > (random.random(500) < 0.03).sum()) for _ in range(400))
    assert shipped > 140
