"""Learn from labelled rows: cross-entropy over classes, or a yes/no loss per label where several may hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from attune.core.contracts import Batch, Example, Objective, Row
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist, text_features

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel


class SupervisedKeys(Keys):
    """Keys of the objective."""

    label_smoothing: float = key(0.1, "share of each target spread over the other labels", aliases=("label_smoothing_factor",), ge=0, lt=1)
    head_dropout: float = key(0.1, "dropout on the features before the head", ge=0, lt=1)
    head_start: Literal["probe", "zero"] = key("probe", "start the head from a logistic regression on the base's features, or from zero")
    probe_penalty: float = key(1.0, "strength of that regression's ridge penalty", ge=0)


class Supervised(Objective):
    """Rows with labels. The head starts from a linear probe, so that early steps do not wreck the body's features
    (Kumar et al. 2022, 'Fine-Tuning can Distort Pretrained Features', section 5)."""

    keys_type = SupervisedKeys
    requires = frozenset({"label-out", "torch"})

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """Token ids cut at `max_length` (`cut` tells), and the target: a class index or a 0/1 vector."""
        from attune.core.tokens import row_key

        labels = {label: i for i, label in enumerate(specialist.signature["labels"])}
        texts = [specialist.task.text(row) for row in rows]
        found: list[Example] = []
        for row, text, (ids, cut) in zip(rows, texts, specialist.encode(texts), strict=True):
            truth = row["label"]
            target = [1.0 if label in truth else 0.0 for label in labels] if specialist.signature["multi_label"] else labels[truth]
            found.append({"row_id": row["row_id"], "size": len(ids), "ids": ids, "key": row_key(ids), "text": text, "target": target, **specialist.cut_facts([text], [ids], cut)})
        return found

    def precompute(self, specialist: Specialist, examples: Sequence[Example]) -> str | None:
        """Features of a frozen body, once."""
        if not specialist.model.body_is_frozen():
            return None
        self._features(specialist, examples)
        return "features computed once, because the body is frozen"

    def _features(self, specialist: Specialist, examples: Sequence[Example]) -> torch.Tensor:
        """float32 [n, hidden] in evaluation mode; kept on the specialist when the body is frozen."""
        import torch

        if specialist.model.body_is_frozen() and specialist.known_features is None:
            specialist.known_features = {}
        specialist.model.eval()
        with torch.no_grad():
            found: torch.Tensor = text_features(specialist, [e["text"] for e in examples])
        return found

    def begin(self, specialist: Specialist, examples: Sequence[Example]) -> str | None:
        """Fit the head on the untouched features by L-BFGS (convex, so the start does not matter)."""
        import torch

        if self.keys.head_start != "probe":
            return None
        features = self._features(specialist, examples)
        target = self._targets(specialist.signature["multi_label"], examples)
        head, penalty = specialist.model.head, 0.5 * self.keys.probe_penalty
        optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss: torch.Tensor = (self._losses(head(features), target, 0.0) + penalty * (head.weight**2).sum()) / len(features)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        optimizer.zero_grad(set_to_none=True)
        return "a logistic regression on the features of the base"

    def _targets(self, multi_label: bool, examples: Sequence[Example]) -> torch.Tensor:
        import torch

        return torch.tensor([e["target"] for e in examples], dtype=torch.float32 if multi_label else torch.long)

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """tokens or, for a frozen body, features [batch, hidden]; keys, int32 [batch], that dropout is drawn from; target."""
        import torch

        from attune.core.tokens import Tokens

        target = self._targets(specialist.signature["multi_label"], examples)
        if specialist.known_features is not None:
            keys = torch.tensor([e["key"] for e in examples], dtype=torch.int32)
            return {"features": torch.stack([specialist.known_features[e["text"]] for e in examples]), "keys": keys, "target": target}
        tokens = Tokens.of([e["ids"] for e in examples])
        return {"tokens": tokens, "keys": tokens.keys, "target": target}

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum over rows; the count is the rows."""
        from attune.core.flat import drop

        features = batch["features"] if "features" in batch else model.features(batch["tokens"])
        features = drop(features, batch["keys"], self.keys.head_dropout if model.training else 0.0)
        assert model.head is not None
        return self._losses(model.head(features), batch["target"], self.keys.label_smoothing if model.training else 0.0), float(len(batch["target"]))

    def _losses(self, logits: torch.Tensor, target: torch.Tensor, smoothing: float) -> torch.Tensor:
        from torch.nn import functional

        if target.dtype.is_floating_point:
            smooth = target * (1 - smoothing) + 0.5 * smoothing
            return functional.binary_cross_entropy_with_logits(logits.float(), smooth, reduction="sum")
        return functional.cross_entropy(logits.float(), target, reduction="sum", label_smoothing=smoothing)
