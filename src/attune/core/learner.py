"""What the one loop drives: anything that learns in steps and can say, at any step, everything it needs to go on from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from attune.core.contracts import Example, Objective

if TYPE_CHECKING:
    import torch

    from attune.core.recipe_train import TrainKeys
    from attune.core.specialist import Specialist


class Unsteady(Exception):
    """Too many steps had to be skipped: the loop goes back to its last checkpoint and `lower`s once, then stops."""

    def __init__(self, step: int, why: str) -> None:
        super().__init__(why)
        self.step, self.why = step, why


@dataclass(frozen=True)
class LearnerContext:
    """What a learner may use; the same at every start of a run, resumes included."""

    specialist: Specialist
    """The base put together for the task and prepared by the method."""
    objective: Objective
    examples: Sequence[Example]
    """Encoded training rows."""
    keys: TrainKeys
    """The recipe's `train` section: a key that the learner does not read is refused where the user set it."""
    seed: int
    threads: int


def words_of_start(chosen: Mapping[str, str]) -> tuple[str, str]:
    """For a run that no step made better: what step 0 is, and what it means that it is kept. A start that was trained is no failure."""
    return (f"the start ({chosen['start']})", "training on brought nothing more") if "start" in chosen else ("the start", "tuning did not help")


class Learner(Protocol):
    """Anything the finetune loop can drive: a torch model by default, gradient-boosted trees or counts by a method of their own."""

    total_steps: int
    steps_per_epoch: int
    """Steps after which the loop looks at the validation rows (`train.evaluations_per_epoch` times)."""
    chosen: dict[str, str]
    """What it chose and why, in plain words, for the record."""

    @property
    def lowered(self) -> bool:
        """True after `lower`, also when that was before a resume."""

    def lower(self) -> None:
        """Go on with smaller steps, after a return to a checkpoint that `Unsteady` caused."""

    def begin(self) -> None:
        """Called before the first step of a fresh run, after the objective's `begin`; never on a resume."""

    def step(self, index: int) -> dict[str, Any]:
        """Do optimizer step (or tree, or pass) `index`; a pure function of (state, seed, index). Returns loss, items, learning_rate, and
        `skipped` (why) with `rows` (their ids) where nothing was learned. Raises Unsteady where that happens too often."""

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Everything needed to continue bit-identically: tensors and JSON."""

    def load_state(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Back to the moment of `state`."""

    def settled(self) -> AbstractContextManager[Specialist]:
        """The specialist as it would be shipped now (averaged weights, all trees so far), for the time of the block."""

    def validation_loss(self, examples: Sequence[Example]) -> float:
        """Mean loss of the settled model over examples."""

    def weights(self) -> dict[str, torch.Tensor]:
        """What the best checkpoint must keep of the settled model."""

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set what `weights` gave, for good: the model is then saved."""
