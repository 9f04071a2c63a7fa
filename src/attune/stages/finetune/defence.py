"""A run defends itself: numbers that are none, losses that jump, memory that runs out, and training that goes wrong slowly."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

WINDOW = 50
"""Steps that a step is compared with."""
LEAST = 10
"""Steps before a jump can be told from a start."""
LOSS_JUMP, NORM_JUMP = 3.0, 6.0
"""A spike has this many times the median loss, and a gradient of this many times the median length."""
EXPLODED = 100.0
"""Where the loss says nothing, a spike is a gradient of this many times the median length: what a batch teaches differs a lot there."""
SKIPS = 3
"""So many skipped steps within the window, and the run goes back to its last checkpoint, once, with a lower rate."""
LOWER = 0.5
RISEN = 1.3
"""Losses that stand so far above those of the start, and still rise, drift away."""


class Watchman:
    """Judges each step by the ones before it. Its memory is a few numbers, kept with every checkpoint.

    Args:
        loss_falls: as the objective's; without it only gradients are compared, and those of no length, which teach nothing, are passed over.
    """

    def __init__(self, loss_falls: bool = True) -> None:
        self.loss_falls = loss_falls
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.skipped: list[int] = []
        self.start = math.inf
        """The median loss of the first steps: what is not above it is no spike."""
        self.banned: dict[str, str] = {}
        """Rows that are left out from now on, and why."""
        self.lowered = False
        self.warned = False

    def judge(self, step: int, loss: float, norm: float) -> str | None:
        """Why the update of a step must not be made, or None; steps that pass are remembered.

        A spike stands above the losses of the run's start too: when a run has learned its rows by heart, a harder batch is no spike. After a
        return with a lower rate spikes are learned from, with their gradient cut: they never end a run.
        """
        why = None
        if not math.isfinite(loss):
            why = f"the loss is {loss}"
        elif not math.isfinite(norm):
            why = f"the gradient's length is {norm}"
        elif not self.lowered and len(self.norms) >= LEAST:
            why = self._spike(loss, norm)
        if why is None and (self.loss_falls or norm > 0):
            if math.isinf(self.start) and len(self.losses) + 1 == LEAST:
                self.start = statistics.median([*self.losses, loss])
            self.losses, self.norms = [*self.losses, loss][-WINDOW:], [*self.norms, norm][-WINDOW:]
        if why is not None:
            self.skipped = [one for one in self.skipped if one > step - WINDOW] + [step]
        return why

    def _spike(self, loss: float, norm: float) -> str | None:
        usual, length = statistics.median(self.losses), statistics.median(self.norms)
        if not self.loss_falls:
            return f"the gradient's length jumped to {norm:.3g} from about {length:.3g}" if norm > EXPLODED * length else None
        if loss > self.start and loss > LOSS_JUMP * usual and norm > NORM_JUMP * length:
            return f"the loss jumped to {loss:.3g} from about {usual:.3g}, the gradient's length to {norm:.3g} from about {length:.3g}"
        return None

    def drifting(self, rate: float) -> str | None:
        """What the losses of the steps say, once, when training makes things worse slowly: their median over ten steps has risen twice in a row and stands clearly
        above the start's. It speaks within a pass, where a learning curve has too few points to (`diverging`)."""
        if self.warned or not self.loss_falls or len(self.losses) < 3 * LEAST or not math.isfinite(self.start):
            return None
        a, b, c = (statistics.median(self.losses[len(self.losses) - k * LEAST :][:LEAST]) for k in (3, 2, 1))
        if not (c > b > a and c > RISEN * self.start):
            return None
        self.warned = True
        return f"diverging: the loss was {self.start:.3f} in the first steps and rose from {a:.3f} to {c:.3f} over the last {3 * LEAST}; lower train.learning_rate (it is {rate:.1e} now)"

    def must_go_back(self) -> bool:
        """True when too many of the last steps were skipped."""
        return len(self.skipped) >= SKIPS

    def went_back(self) -> None:
        """The run stands at its last checkpoint again, with a lower rate."""
        self.lowered, self.skipped = True, []

    def facts(self) -> dict[str, Any]:
        """JSON for a checkpoint."""
        return {
            "losses": self.losses,
            "norms": self.norms,
            "skipped": self.skipped,
            "banned": self.banned,
            "lowered": self.lowered,
            "warned": self.warned,
            "start": self.start if math.isfinite(self.start) else None,
        }

    def load(self, facts: dict[str, Any]) -> None:
        """Back to the moment of `facts`."""
        self.losses, self.norms, self.skipped = list(facts["losses"]), list(facts["norms"]), list(facts["skipped"])
        self.banned, self.lowered, self.warned = dict(facts["banned"]), bool(facts["lowered"]), bool(facts.get("warned"))
        self.start = math.inf if facts["start"] is None else float(facts["start"])


def overfitting(curve: Sequence[dict[str, float]]) -> str | None:
    """What a learning curve says when it has just begun to show overfitting: the training loss falls, the validation loss rises for the
    second time in a row and stands clearly above its best."""
    points = [point for point in curve if "loss" in point]
    if len(points) < 3:
        return None
    a, b, c = points[-3:]
    best = min(point["validation_loss"] for point in curve)
    if c["loss"] < b["loss"] < a["loss"] and c["validation_loss"] > b["validation_loss"] > a["validation_loss"] and c["validation_loss"] > 1.05 * best:
        return (
            f"overfitting: since epoch {a['epoch']:.1f} the training loss fell from {a['loss']:.3f} to {c['loss']:.3f} while the validation loss rose from "
            f"{a['validation_loss']:.3f} to {c['validation_loss']:.3f}; fewer epochs, more rows or more weight decay would help, and the best step is kept"
        )
    return None


def diverging(curve: Sequence[dict[str, float]]) -> str | None:
    """What a learning curve says when training makes things worse: the training loss rises for the second time in a row, above its first value."""
    points = [point for point in curve if "loss" in point]
    if len(points) < 3:
        return None
    a, b, c = points[-3:]
    if c["loss"] > b["loss"] > a["loss"] and c["loss"] > 1.2 * points[0]["loss"]:
        return f"diverging: the training loss rose from {a['loss']:.3f} to {c['loss']:.3f} since epoch {a['epoch']:.1f}; lower train.learning_rate (it is {c['learning_rate']:.1e} now)"
    return None
