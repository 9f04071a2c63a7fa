"""Add decision trees one after another, each on what the ones before got wrong (LightGBM), from nothing or from a general model's trees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Example, Method, Signature, Task
from attune.core.errors import DataError
from attune.core.keys import Keys, key
from attune.core.learner import Learner, LearnerContext
from attune.core.models import Base
from attune.core.randomness import key as random_key
from attune.core.trees import TreeModel, booster, library, objective_of, require_library, text_of

if TYPE_CHECKING:
    import torch

    from attune.core.specialist import Specialist

GROWN = "trees"
"""Name of the state's tensor that holds the model text, uint8."""


class BoostedTreesKeys(Keys):
    """Keys of the method; the learning rate is `train.learning_rate`."""

    num_iterations: int = key(500, "most rounds; a round adds one tree, or one per label where there are more than two", aliases=("n_estimators", "num_boost_round", "num_trees", "num_rounds"), ge=1)
    metric_freq: int = key(10, "rounds between two looks at the validation rows; train.patience counts these looks", ge=1)
    num_leaves: int = key(31, "most leaves of a tree", aliases=("max_leaves",), ge=2)
    max_depth: int = key(-1, "most levels of a tree; -1: no limit", ge=-1)
    min_data_in_leaf: int = key(20, "fewest training rows in a leaf", aliases=("min_child_samples", "min_data"), ge=1)
    min_gain_to_split: float = key(0.0, "smallest gain of a split", aliases=("min_split_gain", "gamma"), ge=0)
    lambda_l1: float = key(0.0, "L1 penalty on the leaves", aliases=("reg_alpha",), ge=0)
    lambda_l2: float = key(0.0, "L2 penalty on the leaves", aliases=("reg_lambda",), ge=0)
    feature_fraction: float = key(1.0, "share of the columns that a tree may use, drawn anew for each round", aliases=("colsample_bytree", "sub_feature"), gt=0, le=1)
    max_bin: int = key(255, "most bins that the values of a column are sorted into", ge=2)


class BoostedTrees(Method):
    """Gradient boosting (Friedman 2001) by LightGBM (Ke et al. 2017); the bundle holds all trees, the general model's included."""

    keys_type = BoostedTreesKeys
    requires = frozenset({"table-in", "label-out"})
    learning_rate = 0.05
    rung = 1
    sweeps = False
    needs_base = False
    library = "lightgbm"

    def __init__(self, keys: Keys | None = None) -> None:
        super().__init__(keys)
        require_library()

    def prepare(self, model: TreeModel, seed: int) -> TreeModel:
        """Nothing to mark: trees are added, and those that are there stay."""
        return model

    def save(self, model: TreeModel, folder: Path) -> None:
        """`model.txt` and `features.json`: the folder is a base model of its own."""
        model.save(folder)

    def load(self, task: Task, base: Base, signature: Signature, folder: Path) -> TreeModel:
        """What `save` wrote."""
        return TreeModel.read(folder)

    def learner(self, context: LearnerContext) -> Learner:
        """The learner that adds a round per step."""
        return _Boosting(self.keys, context, context.keys.learning_rate or self.learning_rate)


class _Boosting:
    """One step is one round. LightGBM's generator of columns is set anew before every round, so a round follows from the trees so far, the seed and its number."""

    def __init__(self, keys: BoostedTreesKeys, context: LearnerContext, rate: float) -> None:
        self.context, self.rate = context, rate
        self.model: TreeModel = context.specialist.model
        self.total_steps, self.steps_per_epoch = keys.num_iterations, keys.metric_freq
        labels = len(self.model.labels)
        self.trees_a_round = 1 if labels == 2 else labels
        self.settings: dict[str, Any] = {
            "objective": objective_of(labels),
            "learning_rate": rate,
            "num_leaves": keys.num_leaves,
            "max_depth": keys.max_depth,
            "min_data_in_leaf": keys.min_data_in_leaf,
            "min_gain_to_split": keys.min_gain_to_split,
            "lambda_l1": keys.lambda_l1,
            "lambda_l2": keys.lambda_l2,
            "feature_fraction": keys.feature_fraction,
            "max_bin": keys.max_bin,
            "seed": 0,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": context.threads,
            "verbosity": -1,
        } | ({"num_class": labels} if labels > 2 else {})
        self.earlier = self.model.text
        """Trees to go on from: the general model's or, after a resume, all so far."""
        self.growing: Any = None
        self.raw: Any = None
        """LightGBM's raw scores of the training rows from the first `counted` rounds, for the training loss."""
        self.counted = 0
        of_base = booster(self.earlier).current_iteration() if self.earlier is not None else 0
        self.chosen = {"trees": f"LightGBM {library().__version__}, " + (f"continued from {of_base} rounds of the general model" if of_base else "from nothing"), "learning rate": f"{rate:g}"}

    @property
    def lowered(self) -> bool:
        """True after `lower`."""
        return bool(self.settings["learning_rate"] < self.rate)

    def lower(self) -> None:
        """Half the learning rate for the rounds to come."""
        self.settings["learning_rate"] = self.rate / 2

    def begin(self) -> None:
        """A fresh run starts from what the task built."""

    def _seeds(self, index: int) -> dict[str, int]:
        return {"feature_fraction_seed": random_key(self.context.seed, "columns", index) % 2**31}

    def step(self, index: int) -> dict[str, Any]:
        """Round `index`; the loss is that of all trees so far on the training rows."""
        if self.growing is None:
            self._start(index)
        else:
            self.growing.reset_parameter(self._seeds(index))
            self.growing.update()
        self.model.growing = self.growing
        loss = self._training_loss()
        if not math.isfinite(loss):
            raise DataError(f"the loss is {loss} after round {index + 1}", place="train", fix="lower train.learning_rate")
        return {"loss": loss, "items": float(len(self.context.examples)), "learning_rate": self.settings["learning_rate"]}

    def _training_loss(self) -> float:
        """Mean negative log probability of the right labels; what earlier rounds said is kept, summed in the order in which LightGBM sums it."""
        import numpy as np

        rounds = self._rounds()
        if rounds > self.counted:
            raw = self.growing.predict(self.table, raw_score=True, start_iteration=self.counted, num_iteration=rounds - self.counted)
            self.raw = raw if self.counted == 0 else self.raw + raw
            self.counted = rounds
        margins = np.stack([np.zeros(len(self.raw)), self.raw], axis=1) if self.raw.ndim == 1 else self.raw
        total = np.logaddexp.reduce(margins, axis=1)
        return float((total - margins[np.arange(len(total)), self.target]).mean())

    def _start(self, index: int) -> None:
        import numpy as np

        lightgbm, rows = library(), self.context.examples
        batch = self.context.objective.collate(self.context.specialist, rows)
        self.table, self.target = batch["table"], np.array(batch["target"])
        known = booster(self.earlier) if self.earlier is not None else None
        table = lightgbm.Dataset(
            self.table,
            self.target.astype(np.float64),
            weight=np.array([one["weight"] for one in rows]) if any(one["weight"] != 1 for one in rows) else None,
            categorical_feature=self.model.categorical,
            free_raw_data=False,
            params=dict(self.settings),
        )

        def seeded(environment: Any) -> None:
            environment.model.reset_parameter(self._seeds(index))

        seeded.before_iteration = True  # type: ignore[attr-defined]
        self.growing = lightgbm.train(dict(self.settings), table, 1, init_model=known, keep_training_booster=True, callbacks=[seeded])

    @contextmanager
    def settled(self) -> Iterator[Specialist]:
        """The specialist with all trees so far."""
        yield self.context.specialist

    def validation_loss(self, examples: Sequence[Example]) -> float:
        """Mean of the objective's loss over examples."""
        total, items = self.context.objective.loss(self.model, self.context.objective.collate(self.context.specialist, examples))
        return float(total) / items if items else math.nan

    def _text(self, rounds: int | None = None) -> str | None:
        if rounds == 0:
            return None
        if self.growing is not None:
            return text_of(self.growing, rounds)
        return text_of(booster(self.earlier), rounds) if self.earlier is not None else None

    def _rounds(self) -> int:
        trees = self.growing.num_trees() if self.growing is not None else booster(self.earlier).num_trees() if self.earlier is not None else 0
        return int(trees) // self.trees_a_round

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """All trees as LightGBM's text."""
        import numpy as np
        import torch

        text = self._text() or ""
        return {GROWN: torch.from_numpy(np.frombuffer(text.encode("utf-8"), dtype=np.uint8).copy())}, {"total_steps": self.total_steps, "lowered": self.lowered}

    def load_state(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Back to the moment of `state`; refuses the state of another plan."""
        if facts["total_steps"] != self.total_steps:
            raise DataError(f"the checkpoint was written with {facts['total_steps']} rounds to go to, this run has {self.total_steps}", place="resume", fix="run with --fresh")
        if facts["lowered"]:
            self.lower()
        self.earlier = tensors[GROWN].numpy().tobytes().decode("utf-8") or None
        self.growing, self.model.growing = None, booster(self.earlier) if self.earlier is not None else None

    def weights(self) -> dict[str, torch.Tensor]:
        """How many rounds were best: the trees themselves are in every later state."""
        import torch

        return {"rounds": torch.tensor([self._rounds()])}

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep the first so many rounds, for good."""
        self.model.text = self._text(int(tensors["rounds"]))
        self.model.growing = booster(self.model.text) if self.model.text is not None else None
