"""What an answer is worth: the contract of the plugs under `catalog/rewards/`, from which objectives learn that try answers of their own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from attune.core.contracts import Plug, Role, Row


class Reward(Plug):
    """Scores answers; it sees the whole row, and the model that answered is none of its business."""

    kind = "rewards"
    roles: ClassVar[tuple[Role, ...]] = ()
    """Columns that it reads beside the prompt."""

    def prepare(self) -> None:
        """Load what scoring needs, once. Raises where it is not there."""

    @abstractmethod
    def score(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """A finite number for each answer to the row at the same place, the higher the better; usually in [0, 1]. No answer's number depends on the others."""
