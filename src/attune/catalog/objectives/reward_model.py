"""Learn a score from pairs: the better answer's score gets ahead of the worse one's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attune.core.contracts import Batch, Example, Objective, Row
from attune.core.keys import Keys, key
from attune.core.long_rows import each_that_fits
from attune.core.replies import Answer, cut_of, heard, laid, whole_sizes
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel


class RewardModelKeys(Keys):
    """Keys of the objective."""

    centre: float = key(0.01, "how strongly the two scores of a pair are drawn to a mean of zero, which the pair alone leaves open", aliases=("center_rewards_coefficient",), ge=0)


class RewardModel(Objective):
    """Bradley-Terry loss on pairs of scores (Ouyang et al. 2022, eq. 1), with a margin per row where rows have one (Touvron et al. 2023, Llama 2,
    eq. 2) and a centring term (Eisenstein et al. 2023, section 2). A decoder computes the prompt once for both answers."""

    keys_type = RewardModelKeys
    requires = frozenset({"score-out", "torch"})

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """Both answers of each row; `ids` has them by name."""
        found: list[Example] = []

        def encode(row: Row) -> list[Answer]:
            return heard(specialist, row, [row["completion"], row["rejected"]], max_length)

        def size(row: Row) -> int:
            return max(whole_sizes(specialist, row, [row["completion"], row["rejected"]], max_length, paired=specialist.model.pooling != "last"))

        for row, (chosen, rejected) in each_that_fits(specialist, rows, max_length, encode, size):
            own = {"ids": {"chosen": chosen.ids, "rejected": rejected.ids}, "begin": (chosen.begin, rejected.begin), "margin": row.get("margin") or 0.0, **cut_of([chosen, rejected])}
            found.append({"row_id": row["row_id"], "size": len(chosen.ids) + len(rejected.ids) - min(chosen.begin, rejected.begin), **own})
        return found

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """tokens of chosen and rejected rows in turn, and margins [pairs]."""
        import torch

        answers = [Answer(ids, begin) for one in examples for ids, begin in zip(one["ids"].values(), one["begin"], strict=True)]
        return {"tokens": laid(specialist, answers), "margin": torch.tensor([one["margin"] for one in examples], dtype=torch.float32)}

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum of the pairs' losses; the count is the pairs."""
        from torch.nn import functional

        assert model.head is not None
        scores = model.head(model.features(batch["tokens"])).view(-1, 2).float()
        pairs = -functional.logsigmoid(scores[:, 0] - scores[:, 1] - batch["margin"])
        if self.keys.centre:
            pairs = pairs + self.keys.centre * scores.sum(1) ** 2
        return pairs.sum(), float(len(pairs))
