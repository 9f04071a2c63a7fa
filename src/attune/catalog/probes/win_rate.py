"""How often a judge prefers the tuned model's answer to another's, row by row, asked in both orders."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from attune.core import catalog, randomness
from attune.core.contracts import Duel, Figure, Judge, Measure, Probe, ProbeContext, ProbeResult, Task
from attune.core.errors import RecipeError, did_you_mean
from attune.core.figures import Share
from attune.core.keys import Keys, key
from attune.core.resampling import groups_of


class WinRateKeys(Keys):
    """Keys of the probe."""

    judge: str | dict[str, Any] = key("reference", "who judges: a plug of the kind judges, for example {name: local_model, base: FOLDER}", plugs="judges")
    against: list[str] = key(["untouched_base"], "contestants of this grading whose answers are compared with the tuned model's")
    rows: int = key(100, "test rows that are judged; more take longer", ge=1)
    show_right: bool = key(True, "show the judge the right answer beside the question")


class WinRate(Probe):
    """A win counts 1, a tie half, the mean over both orders; equal answers tie without being judged. Position bias is told."""

    keys_type = WinRateKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})

    def __init__(self, keys: Keys | None = None) -> None:
        super().__init__(keys)
        self._judge: Judge = catalog.build("judges", self.keys.judge, "grade.probes: win_rate.judge")

    def parts(self) -> Sequence[Judge]:
        """The judge."""
        return [self._judge]

    def gated(self) -> Mapping[str, type[Figure]]:
        """win_rate_against_NAME for every contestant that it is compared with."""
        return {f"win_rate_against_{who}": Share for who in self.keys.against}

    def prepare(self, task: Task, contestants: Collection[str]) -> None:
        """Those that it compares with will be there."""
        unknown = [who for who in self.keys.against if who not in contestants]
        if unknown or not self.keys.against:
            raise RecipeError(
                f"there is no contestant '{unknown[0] if unknown else ''}' to compare with", place="grade.probes: win_rate.against", fix=did_you_mean(unknown[0] if unknown else "", contestants)
            )

    def run(self, context: ProbeContext) -> ProbeResult:
        """Share of duels won against all named contestants together; a measure for each of them."""
        self.prepare(context.specialist.task, [who for who in context.answers if who != "tuned"])
        silent = [who for who in self.keys.against if any(answer.output is None for answer in context.answers[who])]
        if silent:
            raise RecipeError(f"'{silent[0]}' writes no answers, so there is nothing to compare", place="grade.probes: win_rate.against", fix="name contestants that write")
        chosen = sorted(randomness.generator(context.seed, "probe.win_rate.rows").permutation(len(context.rows))[: self.keys.rows])
        duels = _Duels(self._judge, context, chosen, self.keys.show_right)
        measures, said, scores = [], [], []
        for who in self.keys.against:
            won = duels.against(who)
            decided = won[~np.isnan(won)]
            scores.append(decided)
            ones = np.ones_like(decided)
            rows = {"tuned": np.stack([decided, ones], 1), who: np.stack([1 - decided, ones], 1)}
            groups = groups_of([context.rows[i] for i, one in zip(chosen, won, strict=True) if not np.isnan(one)])
            measures.append(Measure(f"win_rate_against_{who}", Share(), f"duels that the tuned model's answer won against {who.replace('_', ' ')}; ties count half", rows, groups))
            said.append(f"{int((decided > 0.5).sum())} won, {int((decided == 0.5).sum())} tied, {int((decided < 0.5).sum())} lost against {who.replace('_', ' ')}")
        every = np.concatenate(scores)
        meaning = f"share of duels that the tuned model wins in the eyes of judge '{self._judge.name}' ({'; '.join(said)}; {duels.told()})"
        return ProbeResult(self.name, float(every.mean()) if len(every) else float("nan"), meaning, len(every), tuple(duels.lost[:6]), tuple(measures))


class _Duels:
    """Asks a judge, and remembers what its answers say about itself."""

    def __init__(self, judge: Judge, context: ProbeContext, chosen: Sequence[int], show_right: bool) -> None:
        self.judge, self.context, self.chosen, self.show_right = judge, context, chosen, show_right
        self.first, self.asked, self.silent, self.flips, self.twice = 0.0, 0, 0, 0, 0
        self.lost: list[dict[str, Any]] = []

    def against(self, who: str) -> np.ndarray:
        """float64 [rows]: 1 won, 0.5 tied, 0 lost, the mean of both orders; NaN where the judge did not say in every order it was asked in."""
        context = self.context
        ours, theirs = ([str(context.answers[one][i].output) for i in self.chosen] for one in ("tuned", who))
        found = np.full(len(self.chosen), np.nan)
        duels: list[tuple[int, bool, Duel]] = []
        for place, i in enumerate(self.chosen):
            if ours[place].strip() == theirs[place].strip():
                found[place] = 0.5
                continue
            row = context.rows[i]
            drawn = bool(randomness.generator(context.seed, "probe.win_rate.order", int(i)).integers(2))
            truth = context.specialist.task.truth(row) if self.show_right else None
            for swapped in (False, True) if self.judge.both_orders else (drawn,):
                pair = (theirs[place], ours[place]) if swapped else (ours[place], theirs[place])
                duels.append((place, swapped, _duel(context.specialist.task.text(row), None if truth is None else str(truth), *pair)))
        verdicts: dict[int, list[float | None]] = {}
        for (place, swapped, _), said in zip(duels, self.judge.prefer([duel for *_, duel in duels]), strict=True):
            self.asked += 1
            if said is None:
                self.silent += 1
            else:
                self.first += said
            verdicts.setdefault(place, []).append(None if said is None else 1 - said if swapped else said)
        for place, both in verdicts.items():
            known = [one for one in both if one is not None]
            if len(known) < len(both):
                continue
            found[place] = float(np.mean(known))
            if len(known) == 2:
                self.twice += 1
                self.flips += known[0] != known[1]
            if found[place] < 0.5:
                text = context.specialist.task.text(context.rows[self.chosen[place]])
                self.lost.append({"lost against": who, "question": text, "tuned": ours[place], "the other": theirs[place]})
        return found

    def told(self) -> str:
        """Position bias and silence, in words."""
        decided = self.asked - self.silent
        parts = [f"the answer shown first won {self.first / decided:.0%} of {decided} judgements, without a bias for position 50%"] if decided else ["nothing was judged yet"]
        if self.twice:
            parts.append(f"{self.flips} of {self.twice} changed with the order")
        if self.silent:
            parts.append(f"{self.silent} judgements are missing")
        return ", ".join(parts)


def _duel(question: str, right: str | None, first: str, second: str) -> Duel:
    name = "duel " + hashlib.sha256("\x1f".join((question, first, second)).encode()).hexdigest()[:16]  # never only digits, which a spreadsheet would take for a number
    return Duel(name, question, right, first, second)
