"""From numbers to a verdict: each gate passes, fails or cannot tell, by intervals on the sealed test rows. What is missing fails, never passes;
too few rows decide nothing.

Tests used: `at_least` and `at_most` read the metric's interval; `better_than` reads the interval of the paired difference and, where it claims
a gain (by >= 0), also wants the paired permutation test to agree. There is no correction for the number of gates: every gate must pass, which
only makes a wrong SHIP rarer; and `best_rival` picks the strongest opponent after looking, which makes the claim harder, not easier.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from attune.core.contracts import Metric
from attune.core.errors import did_you_mean
from attune.core.recipe import GateKeys
from attune.core.records import Comparison, GateResult, Verdict
from attune.stages.grade.statistics import Measured
from attune.stages.grade.words import amount, interval, number, p_value, plain, points, signed

TUNED, CURRENT, BEST = "tuned", "current", "best_rival"
MIN_ROWS = 30
"""Fewer independent test rows than this decide nothing."""
MARGIN = 0.01
"""How much worse than the approved release the default gate lets a new one be."""
MOST_ROWS = 1_000_000
Outcome = Literal["pass", "fail", "inconclusive"]
VERDICTS: dict[Outcome, Verdict] = {"fail": "NO-SHIP", "inconclusive": "INCONCLUSIVE", "pass": "SHIP"}
"""The verdict that the worst outcome of any gate leads to, worst first."""


@dataclass(frozen=True)
class Evidence:
    """What gates may look at."""

    measured: Mapping[str, Measured]
    rows: int
    """Independent test rows (or groups of rows)."""
    rivals: tuple[str, ...]
    """Those that the tuned model has to beat; companions are not among them."""
    has_current: bool
    confidence: float
    not_comparable: str | None = None
    """Why the approved release, though there is one, cannot be compared on these rows."""

    def rows_of(self, name: str) -> int:
        """Independent rows behind a metric, or behind a probe's measure, which has rows of its own."""
        own = self.measured[name].rows
        return self.rows if own is None else own


def default_gates(main_metric: str, evidence: Evidence, has_current: bool) -> list[GateKeys]:
    """Better than the best rival on the main metric, and than guessing where no rival guesses; and not worse than the approved release beyond a margin, where there is one."""
    gates = [GateKeys(metric=main_metric, better_than=BEST)]
    known = evidence.measured.get(main_metric)
    if known is not None and known.metric.guessing is not None:
        limit, above = known.metric.guessing, known.metric.higher_is_better
        gates.append(GateKeys(metric=main_metric, at_least=limit if above else None, at_most=None if above else limit))
    return [*gates, GateKeys(metric=main_metric, better_than=CURRENT, by=-MARGIN)] if has_current else gates


def decide(gates: Sequence[GateKeys] | None, main_metric: str, evidence: Evidence) -> tuple[tuple[GateResult, ...], Verdict, tuple[str, ...]]:
    """Outcome of every gate, the verdict, and the reasons with the deciding ones first.

    Any failed gate: NO-SHIP. Else any that cannot tell: INCONCLUSIVE. Else SHIP. Gates that would all be about an approved release that does
    not exist yet prove nothing, so the default gate is added to them. Behind the reasons of the gates, one each, stand the rivals that no gate
    compares and that are as good.
    """
    chosen = list(gates) if gates else default_gates(main_metric, evidence, evidence.has_current or evidence.not_comparable is not None)
    if not evidence.has_current and all(gate.better_than == CURRENT and gate.at_least is None and gate.at_most is None for gate in chosen):
        chosen += default_gates(main_metric, evidence, False)
    results = tuple(result for gate in chosen for result in _examine(gate, evidence))
    worst_first = list(VERDICTS)
    ordered = sorted(results, key=lambda result: worst_first.index(result.outcome))
    reasons = (*(result.reason for result in ordered), *_not_asked(chosen, main_metric, evidence))
    return results, VERDICTS[ordered[0].outcome], reasons


def _not_asked(gates: Sequence[GateKeys], main_metric: str, evidence: Evidence) -> Iterator[str]:
    """Rivals that are as good as the tuned model on the main metric and that no gate compares with it: a gate that is easy to pass must not hide them."""
    asked = {gate.better_than for gate in gates if gate.metric == main_metric}
    measured = evidence.measured.get(main_metric)
    if measured is None or evidence.rows_of(main_metric) < MIN_ROWS:
        return
    for who in [*([] if BEST in asked else evidence.rivals), *([CURRENT] if evidence.has_current else [])]:
        against = measured.comparisons.get(who)
        if who in asked or against is None or not _finite(against.difference, against.low, against.high, against.p_value) or _outcome(against, 0.0, evidence.confidence) == "pass":
            continue
        metric = measured.metric
        named = "the approved release" if who == CURRENT else plain(who)
        how = "is better than" if against.high < 0 else "reached more than" if against.difference < 0 else "reached as much as" if against.difference == 0 else "is not clearly behind"
        yield (
            f"no gate asks about {named}, which {how} the tuned model: {plain(main_metric)} {amount(measured.estimates[who].value, metric)} against "
            f"{amount(measured.estimates[TUNED].value, metric)}, tuned is ahead by {signed(against.difference, metric)} ({signed(against.low, metric)} to {signed(against.high, metric)}), {p_value(against.p_value)}"
        )


def _examine(gate: GateKeys, evidence: Evidence) -> list[GateResult]:
    """One result per condition of a gate."""
    found = []
    if gate.at_least is not None:
        found.append(_threshold(gate.metric, gate.at_least, True, evidence))
    if gate.at_most is not None:
        found.append(_threshold(gate.metric, gate.at_most, False, evidence))
    if gate.better_than is not None:
        found.append(_better(gate, gate.better_than, evidence))
    return found or [_failed(gate.metric, f"the gate on {gate.metric} says nothing to pass: give it at_least, at_most or better_than")]


def _failed(gate: str, reason: str) -> GateResult:
    return GateResult(gate=gate, outcome="fail", reason=reason)


def _unusable(gate: str, metric: str, evidence: Evidence, opponent: str | None = None) -> GateResult | None:
    """The result of a gate that cannot be examined: what it names is missing (fail), or there are too few rows to say anything (inconclusive). None: it can."""
    if metric not in evidence.measured:
        return _failed(gate, f"'{metric}' was not measured; {did_you_mean(metric, evidence.measured)}")
    if opponent is not None and (missing := _no_opponent(opponent, evidence.measured[metric], evidence)):
        return _failed(gate, missing)
    found = evidence.measured[metric]
    rows, asked = evidence.rows_of(metric), found.asked
    if asked and not rows:
        return _failed(gate, f"none of {asked:,} independent rows counts for {metric}, so it has no value")
    if rows < MIN_ROWS:
        named = f"{rows} independent {'' if found.more else 'test '}rows are" if asked in (None, rows) else f"only {rows} of {asked:,} independent rows count for {metric}: they are"
        return GateResult(
            gate=gate, outcome="inconclusive", reason=f"{named} too few to decide anything: at least {MIN_ROWS} are needed, a few hundred are better" + (f"; {found.more}" if found.more else "")
        )
    estimate = found.estimates[TUNED]
    if not _finite(estimate.value, estimate.low, estimate.high):
        return _failed(gate, f"{metric} of the tuned model is undefined on these test rows")
    return None


def _finite(*numbers: float) -> bool:
    return all(math.isfinite(one) for one in numbers)


def _threshold(name: str, limit: float, at_least: bool, evidence: Evidence) -> GateResult:
    side = "at least" if at_least else "at most"
    if unusable := _unusable(f"{name} {side} {limit:g}", name, evidence):
        return unusable
    metric, estimate = evidence.measured[name].metric, evidence.measured[name].estimates[TUNED]
    wanted = f"{side} {amount(limit, metric)}"
    said = f"tuned {name} {interval(estimate, metric)}"
    sign = 1 if at_least else -1
    value, low, high = sign * estimate.value, *sorted((sign * estimate.low, sign * estimate.high))
    gate = f"{name} {wanted}"
    if low >= sign * limit:
        return GateResult(gate=gate, outcome="pass", reason=f"{said} is {wanted} over its whole interval")
    if high < sign * limit:
        return _failed(gate, f"{said} misses {wanted}")
    reason = f"{said} may or may not be {wanted}; {_more_rows(value, low, high, sign * limit, evidence.rows_of(name), evidence.measured[name].more)}"
    return GateResult(gate=gate, outcome="inconclusive", reason=reason)


def _better(gate: GateKeys, opponent: str, evidence: Evidence) -> GateResult:
    name = gate.metric
    label = f"{name} {'better' if gate.by >= 0 else 'not worse'} than {plain(opponent)}"
    if opponent == CURRENT and evidence.not_comparable:
        return GateResult(gate=label, outcome="inconclusive", reason=evidence.not_comparable)
    if opponent == CURRENT and not evidence.has_current:
        return GateResult(gate=label, outcome="pass", reason="there is no approved release yet, so there is none to be worse than")
    if unusable := _unusable(label, name, evidence, opponent):
        return unusable
    measured = evidence.measured[name]
    if gate.by:
        label += f" by {'' if gate.by > 0 else 'more than '}{points(gate.by, measured.metric)}"
    who, problem = _opponent(opponent, measured, evidence)
    if problem:
        return _failed(label, problem)
    against = measured.comparisons[who]
    if not _finite(against.difference, against.low, against.high, against.p_value):
        return _failed(label, f"the difference in {name} between tuned and {plain(who)} is undefined on these test rows")
    outcome = _outcome(against, gate.by, evidence.confidence)
    reason = _sentence(against, gate.by, outcome, opponent, measured)
    if outcome == "inconclusive":
        reason += f"; {_more_rows(against.difference, against.low, against.high, gate.by, evidence.rows_of(name), measured.more)}"
    return GateResult(gate=label, outcome=outcome, reason=reason)


def _no_opponent(asked: str, measured: Measured, evidence: Evidence) -> str | None:
    """A sentence when no value is better than another, or the gate names a contestant that was not graded."""
    if measured.metric.neutral:
        return f"no value of {plain(measured.name)} is better than another, so nobody can be better at it: use at_least or at_most"
    known = list(measured.comparisons)
    if asked == BEST:
        if not evidence.rivals:
            return "no rival was graded, so there is none to be better than: add some under grade.rivals"
        valued = any(who in measured.estimates and math.isfinite(measured.estimates[who].value) for who in evidence.rivals)
        return (
            None
            if valued
            else f"no rival has a value of {measured.name} ({', '.join(map(plain, evidence.rivals))}), so there is none to be better than: give the gate a limit, or add a rival that has one"
        )
    return None if asked in known else f"there is no rival '{asked}' in this grading; {did_you_mean(asked, [*known, BEST])}"


def _opponent(asked: str, measured: Measured, evidence: Evidence) -> tuple[str, str | None]:
    """The contestant that a gate means, or a sentence that says why it cannot be told."""
    if asked != BEST:
        return asked, None
    values = {who: measured.estimates[who].value for who in evidence.rivals if who in measured.comparisons}
    if isinstance(measured.metric, Metric) and not measured.metric.of_answers:
        values = {who: value for who, value in values.items() if math.isfinite(value)}
    unknown = [plain(who) for who, value in values.items() if not math.isfinite(value)]
    if unknown:
        return "", f"{measured.name} of {', '.join(unknown)} is undefined, so the best rival cannot be told"
    return (max if measured.metric.higher_is_better else min)(values, key=lambda who: values[who]), None


def _outcome(against: Comparison, by: float, confidence: float) -> Outcome:
    if against.high <= by:
        return "fail"
    sure = against.low > by and (by < 0 or against.p_value <= 1 - confidence + 1e-12)
    return "pass" if sure else "inconclusive"


def _sentence(against: Comparison, by: float, outcome: Outcome, opponent: str, measured: Measured) -> str:
    """The comparison in words, with both values, the difference and its interval."""
    metric, who = measured.metric, against.rival
    theirs = amount(measured.estimates[who].value, metric)
    named = {BEST: f"the best rival, {plain(who)} ({theirs})", CURRENT: f"the approved release ({theirs})"}.get(opponent, f"{plain(who)} ({theirs})")
    ours = f"tuned {against.metric} {interval(measured.estimates[TUNED], metric)}"
    spread = f"({signed(against.low, metric)} to {signed(against.high, metric)})"
    if outcome == "pass" and against.low > 0:
        least = f", more than the {points(by, metric)} asked for" if by > 0 else ""
        span = f"({number(against.low, metric)}–{number(against.high, metric)})"
        return f"{ours} beats {named}{',' if opponent == BEST else ''} by {points(against.difference, metric)} {span}{least}, {p_value(against.p_value)}"
    if outcome == "pass":
        return f"{ours} is at most {points(by, metric)} worse than {named}: difference {signed(against.difference, metric)} {spread}"
    if outcome == "fail":
        missed = (
            "is worse than" if against.high < 0 <= by else "is no better than" if by == 0 else f"is not {points(by, metric)} better than" if by > 0 else f"is more than {points(by, metric)} worse than"
        )
        return f"{ours} {missed} {named}: difference {signed(against.difference, metric)} {spread}"
    asked = "better" if by == 0 else f"{points(by, metric)} better" if by > 0 else f"within {points(by, metric)} of it"
    return f"{ours} against {named}: difference {signed(against.difference, metric)} {spread}, {p_value(against.p_value)}, too close to call it {asked}"


def _more_rows(value: float, low: float, high: float, limit: float, rows: int, how: str) -> str:
    """How many more rows would roughly move the limit out of the interval, whose width falls with the root of the rows, and `how` a probe gets them."""
    kind = "rows" if how else "test rows"
    gap = value - limit
    near = value - low if gap > 0 else high - value
    needed = rows * (near / gap) ** 2 - rows if gap else math.inf
    if needed > MOST_ROWS:
        return f"more {kind} of this kind would hardly tell, because the value sits on the limit"
    more = max(needed, rows / 10)
    unit = 10 ** max(0, len(str(int(more))) - 2)
    side = "for it" if gap > 0 else "against it"
    return f"about {math.ceil(more / unit) * unit:,} more {kind} would decide ({side}, if the value stays where it is)" + (f": {how}" if how else "")
