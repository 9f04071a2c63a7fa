"""What another specialist makes of the answer: a reward model's number, or the probability that a classifier gives to one label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from attune.core.contracts import Row
from attune.core.errors import PlugError, RecipeError
from attune.core.keys import Keys, key
from attune.core.rewards import Reward
from attune.core.specialist import Specialist, open_bundle


class RewardModelKeys(Keys):
    """Keys of the reward."""

    bundle: str | None = key(None, "folder of the specialist's bundle (`attune export NAME --format bundle` writes one)")
    label: str | None = key(None, "of a classifier: the label whose probability counts; default: the specialist answers with a number itself")


class RewardModel(Reward):
    """Asks a bundle; its hashes are checked when it is opened."""

    keys_type = RewardModelKeys
    _judge: Specialist | None = None

    def reads(self) -> Sequence[Path]:
        """The bundle."""
        return () if self.keys.bundle is None else (self.located(self.keys.bundle),)

    def prepare(self) -> None:
        """Open the bundle."""
        if self._judge is not None:
            return
        if self.keys.bundle is None:
            raise RecipeError("no bundle is named", place="rewards.reward_model.bundle", fix="give the folder of a reward model's or a classifier's bundle")
        self._judge = open_bundle(self.located(self.keys.bundle), base_folder=self.folder)
        labels = self._judge.signature.get("labels") or []
        if self.keys.label is not None and self.keys.label not in labels:
            raise RecipeError(f"the bundle has no label '{self.keys.label}'", place="rewards.reward_model.label", fix=f"choose from: {', '.join(map(str, labels)) or 'none; leave it out'}")

    def score(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """Its numbers; raises PlugError where it answers with something else."""
        if not answers:
            return []
        self.prepare()
        assert self._judge is not None
        asked: list[Row] = [{**row, "completion": answer, "text": answer} for row, answer in zip(rows, answers, strict=True)]
        said = self._judge.predict(asked)
        if self.keys.label is not None:
            return [float(one.scores[self.keys.label]) for one in said]
        if not all(isinstance(one.output, (int, float)) and math.isfinite(one.output) for one in said):
            raise PlugError(f"task '{self._judge.task.name}' answers with no number", place="rewards.reward_model", fix="give a reward model, or a classifier and its label")
        return [float(one.output) for one in said]
