"""Learn from pairs which of two answers is better: the chosen one becomes likelier than the rejected one, measured against the model at its start."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from attune.core.contracts import Batch, Example, Objective, Row, Task
from attune.core.conversation import stop_ids
from attune.core.keys import Keys, key
from attune.core.long_rows import each_that_fits
from attune.core.replies import Answer, answers_to, cut_of, laid, log_probabilities, reference, whole_sizes
from attune.core.shapes import PAIRED, PREFERENCE_ROLES, preference_of
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel

FREE = ("orpo", "simpo")
"""Losses that need no reference."""


class DpoKeys(Keys):
    """Keys of the objective."""

    loss: Literal["sigmoid", "ipo", "hinge", "robust", "orpo", "simpo"] = key("sigmoid", "how a pair is scored; orpo and simpo need no reference", aliases=("loss_type", "pref_loss", "rl"))
    beta: float = key(0.1, "how far the model may move for a pair: smaller is farther; of orpo the weight of the odds ratio", aliases=("pref_beta", "dpo_beta", "orpo_alpha"), gt=0)
    flipped: float = key(0.0, "share of pairs that are believed to be the wrong way round, for robust", aliases=("label_smoothing",), ge=0, lt=0.5)
    gamma: float = key(0.5, "margin by which the chosen answer must be ahead, for simpo", aliases=("simpo_gamma",), ge=0)
    sft: float = key(0.0, "weight of the chosen answer's own loss (mean over its tokens) beside the pair's", aliases=("rpo_alpha", "pref_ftx"), ge=0)


class Dpo(Objective):
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7) and its usual variants.

    The reference is the model as the run began; its log-probabilities are computed once, before the first step. Chosen and rejected answer
    share their prompt, which is computed once for both.
    """

    keys_type = DpoKeys
    requires = frozenset({"text-out", "torch"})
    learns = PAIRED
    reference = "steps"

    def __init__(self, keys: Keys | None = None) -> None:
        super().__init__(keys)
        self.loss_falls = self.keys.loss != "robust"  # its correction for flipped pairs has no lower bound

    def shaped(self, task: Task) -> Task:
        """Rows with a prompt, the chosen answer (as `completion`) and the rejected one."""
        defaults = dataclasses.replace(task.defaults, main_metric="preference_accuracy", metrics=("preference_accuracy", "token_f1"), rivals=("longer_answer", "untouched_base"))
        return task.with_rows(PREFERENCE_ROLES, preference_of, defaults)

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """Both answers of each row; `ids` has them by name."""
        stops = stop_ids(specialist)
        found: list[Example] = []

        def encode(row: Row) -> list[Answer]:
            return answers_to(specialist, row, [row["completion"], row["rejected"]], max_length, stops)

        def size(row: Row) -> int:
            return max(whole_sizes(specialist, row, [row["completion"], row["rejected"]], max_length, stops))

        for row, (chosen, rejected) in each_that_fits(specialist, rows, max_length, encode, size):
            own = {"ids": {"chosen": chosen.ids, "rejected": rejected.ids}, "begin": (chosen.begin, rejected.begin), **cut_of([chosen, rejected])}
            found.append({"row_id": row["row_id"], "size": len(chosen.ids) + len(rejected.ids) - min(chosen.begin, rejected.begin), **own})
        return found

    def precompute(self, specialist: Specialist, examples: Sequence[Example]) -> str | None:
        """Log-probabilities by the model as it begins, for the losses that look back at it."""
        if self.keys.loss in FREE:
            return None
        known = reference(specialist, [answer for one in examples for answer in _answers(one)])
        for number, one in enumerate(examples):
            one["reference"] = known[2 * number : 2 * number + 2]
        return "the reference's log-probabilities of both answers were computed once"

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """tokens of chosen and rejected rows in turn, where their answers begin, and the reference [rows, 2] where it was computed."""
        import torch

        answers = [answer for one in examples for answer in _answers(one)]
        batch: Batch = {"tokens": laid(specialist, answers), "begins": [one.begin for one in answers]}
        return batch if "reference" not in examples[0] else {**batch, "reference": torch.tensor([one["reference"] for one in examples])}

    def reference_gap(self, specialist: Specialist, examples: Sequence[Example]) -> float | None:
        """Per token of the answers, of what the loss compares."""
        batch = self.collate(specialist, examples) if examples else {}
        if "reference" not in batch:
            return None
        sums, sizes = log_probabilities(specialist.model, batch["tokens"], batch["begins"])
        return float(((sums - batch["reference"].flatten()) / sizes).abs().mean())

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum of the pairs' losses; the count is the pairs."""
        sums, sizes = (part.view(-1, 2) for part in log_probabilities(model, batch["tokens"], batch["begins"]))
        pairs = self.scored(sums, sizes, batch.get("reference"))
        if self.keys.sft:
            pairs = pairs - self.keys.sft * sums[:, 0] / sizes[:, 0]
        return pairs.sum(), float(len(pairs))

    def scored(self, sums: torch.Tensor, sizes: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
        """Loss of each pair [pairs] from log-probabilities and token counts [pairs, 2] (chosen, rejected), and the reference's.

        sigmoid: Rafailov et al. 2023, eq. 7. ipo: Azar et al. 2024, eq. 17, on means over tokens. hinge: Zhao et al. 2023 (SLiC). robust:
        Chowdhury et al. 2024, eq. 6. orpo: Hong et al. 2024, eq. 6, on means. simpo: Meng et al. 2024, eq. 6.
        """
        from torch.nn import functional

        beta, kind, means = self.keys.beta, self.keys.loss, sums / sizes
        found: torch.Tensor
        if kind == "simpo":
            found = -functional.logsigmoid(beta * (means[:, 0] - means[:, 1]) - self.keys.gamma)
        elif kind == "orpo":
            odds = means - (-means.exp()).log1p()
            found = -means[:, 0] - beta * functional.logsigmoid(odds[:, 0] - odds[:, 1])
        else:
            assert start is not None
            ahead = sums - start
            margin = beta * (ahead[:, 0] - ahead[:, 1])
            if kind == "ipo":
                found = ((ahead / sizes)[:, 0] - (ahead / sizes)[:, 1] - 1 / (2 * beta)) ** 2
            elif kind == "hinge":
                found = functional.relu(1 - margin)
            elif kind == "robust":
                share = self.keys.flipped
                found = (share * functional.logsigmoid(-margin) - (1 - share) * functional.logsigmoid(margin)) / (1 - 2 * share)
            else:
                found = -functional.logsigmoid(margin)
        return found


def _answers(example: Example) -> list[Answer]:
    return [Answer(example["ids"][name], begin) for name, begin in zip(("chosen", "rejected"), example["begin"], strict=True)]
