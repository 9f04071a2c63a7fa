"""Turn texts into vectors so that what belongs together lies together: search, matching, deduplication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from attune.core.contracts import Defaults, Prediction, Role, Row, Signature, Task
from attune.core.errors import DataError
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist, text_features

if TYPE_CHECKING:
    import numpy as np

    from attune.core.models import Base
    from attune.core.tunable import TunableModel

RANKED = 10
"""How many of the best candidates an examined row keeps."""


class EmbeddingKeys(Keys):
    """Keys of the task."""

    pooling: Literal["auto", "mean", "cls", "last"] = key("auto", "how token vectors become one; auto asks the base model")
    normalise: bool = key(True, "answer with vectors of length 1, so that a dot product is the cosine")


class Embedding(Task):
    """Text in, vector out; graded by finding each row's right text among all right texts of the rows."""

    keys_type = EmbeddingKeys
    traits = frozenset({"text-in", "vector-out", "embeds", "torch"})
    pipeline_tag = "feature-extraction"
    roles = (
        Role("anchor", "text", "what is looked up", ("anchor", "query", "question", "sentence1", "text1", "text", "prompt", "source")),
        Role("positive", "text", "the text that belongs to it", ("positive", "answer", "passage", "document", "sentence2", "text2", "match", "target", "pos"), target=True),
        Role("negative", "text", "a text that looks right and is not", ("negative", "hard_negative", "neg"), required=False, target=True),
    )
    defaults = Defaults(
        objective="contrastive",
        method="full",
        main_metric="mrr",
        metrics=("mrr", "hit_at_1", "recall_at_10", "ndcg_at_10"),
        rivals=("lexical", "untouched_base"),
        checks=("encoding", "types", "pii", "exact_duplicates", "near_duplicates", "leakage"),
        detectors=("embedding_shift",),
        exports=("bundle", "transformers"),
    )

    def signature(self, rows: Sequence[Row]) -> Signature:
        """How many different right texts there are, as a hint of how hard the looking up is."""
        candidates = len({row["positive"] for row in rows})
        if candidates < 2:
            raise DataError(f"{candidates} different right text(s) in {len(rows)} rows", place="positive", fix="give pairs with at least two different texts in this column")
        return {"candidates": candidates}

    def text(self, row: Row) -> str:
        """The text that is looked up."""
        return str(row["anchor"])

    def truth(self, row: Row) -> Any:
        """The text that belongs to it."""
        return row["positive"]

    def build(self, base: Base, signature: Signature) -> TunableModel:
        """The pretrained encoder, pooled."""
        from attune.core.tunable import TunableModel

        return TunableModel(base.body(), None, base.pooling() if self.keys.pooling == "auto" else self.keys.pooling)

    def predict(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """The vector of each row's text, as a list of numbers."""
        return [Prediction([float(x) for x in vector]) for vector in self.embed(specialist, [self.text(row) for row in rows])]

    def examine(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """Each row's ranking of all different right texts by cosine, the best first; equal ones in the order of their text."""
        import numpy as np

        candidates = sorted({str(self.truth(row)) for row in rows})
        found = _unit(self.embed(specialist, candidates + [self.text(row) for row in rows]))
        cosines = found[len(candidates) :] @ found[: len(candidates)].T
        answers = []
        for row in cosines:
            best = np.argsort(-row, kind="stable")[:RANKED]
            answers.append(Prediction([candidates[i] for i in best], extra={"cosines": [float(row[i]) for i in best]}))
        return answers

    def embed(self, specialist: Specialist, texts: Sequence[str]) -> np.ndarray:
        """Pooled vectors, of length 1 when `normalise` holds."""
        found: np.ndarray = text_features(specialist, texts).numpy()
        return _unit(found) if self.keys.normalise else found


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1; a zero vector stays zero."""
    import numpy as np

    scaled: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return scaled
