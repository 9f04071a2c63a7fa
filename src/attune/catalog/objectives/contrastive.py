"""Pull what belongs together close and push the rest of the batch away (in-batch negatives)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Batch, Example, Objective, Row
from attune.core.keys import Keys, key
from attune.core.randomness import generator
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel


class ContrastiveKeys(Keys):
    """Keys of the objective."""

    temperature: float = key(0.05, "cosines are divided by it; smaller looks harder at the nearest wrong texts", gt=0)
    symmetric: bool = key(True, "also find the anchor of each right text")


class Contrastive(Objective):
    """InfoNCE over the batch, also called multiple-negatives ranking loss (van den Oord et al. 2018, eq. 4; Henderson et al. 2017, section 4.3)."""

    keys_type = ContrastiveKeys
    requires = frozenset({"vector-out", "torch"})
    separable = False

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """Token ids of anchor, positive and (where given) negative, each cut at `max_length`."""
        found: list[Example] = []
        columns = {name: specialist.encode([row.get(name) or "" for row in rows]) for name in ("anchor", "positive", "negative")}
        for number, row in enumerate(rows):
            ids = {name: column[number][0] for name, column in columns.items() if row.get(name)}
            cut = any(columns[name][number][1] for name in ids)
            facts = specialist.cut_facts([row[name] for name in ids], list(ids.values()), cut)
            found.append(
                {"row_id": row["row_id"], "size": max(len(one) for one in ids.values()), "ids": ids, "anchor": row["anchor"], "positive": row["positive"], "negative": row.get("negative"), **facts}
            )
        return found

    def order(self, examples: Sequence[Example], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        """Shuffled batches in which no anchor and no positive stands twice, because a batch of different texts says more; `collate` keeps twins that
        still meet from being pushed away as wrong. Where many rows share a text, batches are smaller than asked."""
        return _apart(examples, batch_size, generator(seed, "contrastive", epoch, 0).permutation(len(examples)))

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """Tokens of n anchors and of n + negatives candidates (positives first); `blocked` [n, candidates] is True
        where another row's candidate would be right for this row too: equal to its positive, or the positive of an equal anchor; `hard`: rows with a negative."""
        import torch

        from attune.core.tokens import Tokens

        hard = [e for e in examples if "negative" in e["ids"]]
        anchors = Tokens.of([e["ids"]["anchor"] for e in examples])
        candidates = Tokens.of([e["ids"]["positive"] for e in examples] + [e["ids"]["negative"] for e in hard])
        texts = [e["positive"] for e in examples] + [e["negative"] for e in hard]
        blocked = torch.tensor(
            [[i != j and (texts[j] == one["positive"] or (j < len(examples) and examples[j]["anchor"] == one["anchor"])) for j in range(len(texts))] for i, one in enumerate(examples)]
        )
        return {"anchors": anchors, "candidates": candidates, "hard": [i for i, e in enumerate(examples) if "negative" in e["ids"]], "blocked": blocked}

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum over rows of the cross-entropy of the right candidate among all of the batch; the count is the rows."""
        return self.together(model, self.each(model, batch), batch)

    def each(self, model: TunableModel, batch: Batch) -> list[torch.Tensor]:
        """Features of the row's anchor, positive and (where given) negative, [2 or 3, hidden]."""
        import torch

        anchors, candidates = model.features(batch["anchors"]), model.features(batch["candidates"])
        negatives = dict(zip(batch["hard"], candidates[len(anchors) :], strict=True))
        return [torch.stack([anchor, candidates[i], *([negatives[i]] if i in negatives else [])]) for i, anchor in enumerate(anchors)]

    def together(self, model: TunableModel, said: Sequence[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, float]:
        """As `loss`."""
        import torch
        from torch.nn import functional

        anchors = functional.normalize(torch.stack([one[0] for one in said]), dim=-1)
        candidates = functional.normalize(torch.stack([one[1] for one in said] + [one[2] for one in said if len(one) > 2]), dim=-1)
        scores = anchors @ candidates.T / self.keys.temperature
        scores = scores.masked_fill(batch["blocked"], -math.inf)
        own = torch.arange(len(anchors))
        total = functional.cross_entropy(scores, own, reduction="sum")
        if self.keys.symmetric:
            total = (total + functional.cross_entropy(scores[:, : len(anchors)].T, own, reduction="sum")) / 2
        return total, float(len(anchors))


def _apart(examples: Sequence[Example], batch_size: int, shuffled: Any) -> list[list[int]]:
    """Batches of about equal size, filled in the shuffled order; a row whose text is in the batch already waits for the next one."""
    target = math.ceil(len(examples) / max(1, math.ceil(len(examples) / batch_size)))
    waiting = deque(int(i) for i in shuffled)
    batches: list[list[int]] = []
    while waiting:
        batch: list[int] = []
        later: list[int] = []
        anchors: set[str] = set()
        positives: set[str] = set()
        while waiting and len(batch) < target:
            i = waiting.popleft()
            if examples[i]["anchor"] in anchors or examples[i]["positive"] in positives:
                later.append(i)
                continue
            batch.append(i)
            anchors.add(examples[i]["anchor"])
            positives.add(examples[i]["positive"])
        batches.append(batch)
        waiting.extendleft(reversed(later))
    return batches
