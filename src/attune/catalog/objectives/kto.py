"""Learn from answers that are marked good or bad one by one: no pairs are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from attune.core.contracts import Batch, Example, Objective, Row, Task
from attune.core.conversation import stop_ids
from attune.core.keys import Keys, key
from attune.core.long_rows import each_that_fits
from attune.core.replies import Answer, answers_to, cut_of, laid, log_probabilities, reference, whole_sizes
from attune.core.shapes import LABELLED, LABELLED_ROLES, labelled_of
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel


class KtoKeys(Keys):
    """Keys of the objective."""

    loss: Literal["kto", "apo_zero_unpaired"] = key("kto", "kto measures against how far the model has moved on mismatched answers; apo_zero_unpaired against none", aliases=("loss_type",))
    beta: float = key(0.1, "how far the model may move for a row: smaller is farther", aliases=("kto_beta", "pref_beta"), gt=0)
    desirable_weight: float = key(1.0, "weight of good answers", aliases=("kto_chosen_weight", "chosen_weight"), gt=0)
    undesirable_weight: float = key(1.0, "weight of bad answers", aliases=("kto_rejected_weight", "rejected_weight"), gt=0)


class Kto(Objective):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, eq. 7 and 8).

    How far the model has moved from its start is estimated on each row's prompt with another row's answer; the estimate of a step is taken
    over its whole batch.
    """

    keys_type = KtoKeys
    requires = frozenset({"text-out", "torch"})
    learns = LABELLED
    reference = "steps"
    separable = False

    def shaped(self, task: Task) -> Task:
        """Rows with a prompt, an answer, and whether it is a good one."""
        defaults = dataclasses.replace(task.defaults, main_metric="desirable_auc", metrics=("desirable_auc",), rivals=("untouched_base",))
        return task.with_rows(LABELLED_ROLES, labelled_of, defaults)

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """Each row's answer, and the next row's answer to its prompt."""
        stops = stop_ids(specialist)

        def size(row: Row) -> int:
            return whole_sizes(specialist, row, [row["completion"]], max_length, stops)[0]

        alone = each_that_fits(specialist, rows, max_length, lambda row: answers_to(specialist, row, [row["completion"]], max_length, stops), size)
        if self.keys.loss == "kto":
            kept = [row for row, _ in alone]
            following = {one["row_id"]: other["completion"] for one, other in zip(kept, [*kept[1:], *kept[:1]], strict=True)}
            alone = each_that_fits(specialist, kept, max_length, lambda row: answers_to(specialist, row, [row["completion"], following[row["row_id"]]], max_length, stops), size)
        found: list[Example] = []
        for row, answers in alone:
            own, *other = answers
            ids = {"own": own.ids, **({"other": other[0].ids} if other else {})}
            begins = (own.begin, *(one.begin for one in other))
            found.append({"row_id": row["row_id"], "size": sum(map(len, ids.values())), "ids": ids, "begin": begins, "desirable": bool(row["desirable"]), **cut_of(answers)})
        return found

    def precompute(self, specialist: Specialist, examples: Sequence[Example]) -> str | None:
        """Log-probabilities by the model as it begins."""
        known = iter(reference(specialist, [answer for one in examples for answer in _answers(one)]))
        for one in examples:
            one["reference"] = [next(known) for _ in one["begin"]]
        return "the reference's log-probabilities were computed once"

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """tokens of all own answers, then of the mismatched ones; the reference [rows] of each; which are good."""
        import torch

        answers = [_answers(one)[part] for part in range(len(examples[0]["begin"])) for one in examples]
        batch = {"tokens": laid(specialist, answers), "begins": [one.begin for one in answers], "desirable": torch.tensor([one["desirable"] for one in examples])}
        if "reference" not in examples[0]:  # only looked at, before it is computed
            return batch
        return {**batch, "reference": torch.tensor([one["reference"][part] for part in range(len(examples[0]["begin"])) for one in examples])}

    def reference_gap(self, specialist: Specialist, examples: Sequence[Example]) -> float | None:
        """Per token of the answers, of what the loss compares."""
        batch = self.collate(specialist, examples) if examples else {}
        if "reference" not in batch:
            return None
        sums, sizes = log_probabilities(specialist.model, batch["tokens"], batch["begins"])
        return float(((sums - batch["reference"].flatten()) / sizes).abs().mean())

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum of the rows' losses; the count is the rows."""
        return self.together(model, self.each(model, batch), batch)

    def each(self, model: TunableModel, batch: Batch) -> list[torch.Tensor]:
        """How far the model has moved on the row's own answer and on the mismatched one, [1 or 2]."""
        ahead = log_probabilities(model, batch["tokens"], batch["begins"])[0] - batch["reference"]
        return list(ahead.view(-1, len(batch["desirable"])).T)

    def together(self, model: TunableModel, said: Sequence[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, float]:
        """As `loss`."""
        import torch

        ahead = torch.stack(list(said), dim=1)  # [1 or 2, rows]
        moved = ahead[1].mean().clamp(min=0).detach() if self.keys.loss == "kto" else ahead.new_zeros(())
        good = batch["desirable"]
        sign = good.float() * 2 - 1
        weight = good.float() * self.keys.desirable_weight + (~good).float() * self.keys.undesirable_weight
        return (weight * (1 - (self.keys.beta * sign * (ahead[0] - moved)).sigmoid())).sum(), float(len(good))


def _answers(example: Example) -> list[Answer]:
    return [Answer(ids, begin) for ids, begin in zip(example["ids"].values(), example["begin"], strict=True)]
