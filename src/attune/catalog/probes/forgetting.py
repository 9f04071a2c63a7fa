"""What tuning made the model forget: perplexity and answers on general rows, before and after. Gates: forgetting, general_perplexity, general_METRIC."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from attune.catalog.probes import _general_texts, _rows
from attune.core import catalog
from attune.core.contracts import Figure, Measure, Metric, Prediction, Probe, ProbeContext, ProbeResult, Row, Task, require_fit
from attune.core.errors import IntegrityError
from attune.core.figures import Perplexity, PerplexityRise, nats
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist


class ForgettingKeys(Keys):
    """Keys of the probe."""

    general: str | None = key(None, "file of general rows (prompt and completion, or text), relative to the recipe; default: a few texts that come with Attune", aliases=("path", "rows_path"))
    rows: int = key(200, "general rows to look at; more take longer", ge=1)
    metrics: list[str] = key(["token_f1"], "metrics of the answers to general rows that have a prompt")


class Forgetting(Probe):
    """The budget of a recipe: `gates: [{metric: forgetting, at_most: 0.1}]` lets perplexity on general rows rise by a tenth."""

    keys_type = ForgettingKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-out", "torch"})

    def reads(self) -> Sequence[Path]:
        """The general rows."""
        return (self.located(self.keys.general),) if self.keys.general is not None else ()

    def gated(self) -> Mapping[str, type[Figure]]:
        """The rise of perplexity, perplexity itself, and every metric."""
        named: dict[str, type[Figure]] = {"forgetting": PerplexityRise, "general_perplexity": Perplexity}
        for name in self.keys.metrics:
            metric: Any = catalog.load("metrics", name)
            named[f"general_{name}"] = metric
        return named

    def prepare(self, task: Task, contestants: Collection[str]) -> None:
        """The general rows can be read, and the metrics fit the task."""
        self._general(task)
        for metric in self._metrics().values():
            require_fit(task, metric)

    def _general(self, task: Task) -> list[Row]:
        path = self.keys.general
        return _rows.rows_of(task, self.located(path), "grade.probes: forgetting.general") if path is not None else _general_texts.rows()

    def _metrics(self) -> dict[str, Metric]:
        return {name: catalog.build("metrics", name, "grade.probes: forgetting.metrics") for name in self.keys.metrics}

    def run(self, context: ProbeContext) -> ProbeResult:
        """Share by which perplexity rose."""
        rows: list[Row] = _rows.sample(self._general(context.specialist.task), self.keys.rows, context.seed, "probe.forgetting")
        before, after = _rows.as_it_answers(context.untuned()), _rows.as_it_answers(context.specialist)
        if before.max_length != after.max_length:
            raise IntegrityError("the tuned model and its base read different lengths, so their perplexities are of different tokens", place="grade.probes: forgetting")
        old, new = nats(before.likelihood(rows)), nats(after.likelihood(rows))
        if not np.array_equal(old[:, 1], new[:, 1]):
            raise IntegrityError("the tuned model and its base cut texts into different tokens", place="grade.probes: forgetting", fix="tune with the base's own tokenizer")
        rise = np.stack([new[:, 0], old[:, 0], new[:, 1]], 1)
        measures = [
            Measure("forgetting", PerplexityRise(), "share by which perplexity on general rows rose; 0% is nothing forgotten", {"tuned": rise}),
            Measure("general_perplexity", Perplexity(), "perplexity on general rows", {"tuned": new, "untouched_base": old}),
        ]
        asked = [row for row in rows if row["prompt"]]
        if asked and self.keys.metrics:
            answers = {"tuned": after.examine(asked), "untouched_base": before.examine(asked)}
            measures += [_measured(name, metric, after, asked, answers) for name, metric in self._metrics().items()]
        value = float(PerplexityRise().value(rise.sum(0)))
        then, now = (float(Perplexity().value(one.sum(0))) for one in (old, new))
        whose = "" if self.keys.general is not None else ", a small set that comes with Attune: give general rows of your own for a budget that means something"
        meaning = f"share by which perplexity on {len(rows)} general rows changed, from {then:.2f} to {now:.2f}; above 0% something was forgotten{whose}"
        worst = sorted(range(len(rows)), key=lambda i: (new[i, 0] - old[i, 0]) / max(new[i, 1], 1), reverse=True)[:6]
        examples = [{"nats per token more": f"{(new[i, 0] - old[i, 0]) / max(new[i, 1], 1):+.2f}", "text": _shown(rows[i])} for i in worst if new[i, 0] > old[i, 0]]
        return ProbeResult(self.name, value, meaning, len(rows), tuple(examples), tuple(measures))


def _measured(name: str, metric: Metric, specialist: Specialist, rows: Sequence[Row], answers: Mapping[str, Sequence[Prediction]]) -> Measure:
    truth = [specialist.task.truth(row) for row in rows]
    graded = {who: metric.of_rows(rows, truth, one, specialist.signature) for who, one in answers.items()}
    return Measure(f"general_{name}", metric, f"{name.replace('_', ' ')} of the answers to general rows", graded)


def _shown(row: Row) -> str:
    asked = " ".join(message["content"] for message in row["prompt"])
    return f"{asked} → {row['completion']}" if asked else str(row["completion"])
