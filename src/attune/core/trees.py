"""Boosted trees as a model of the kit: LightGBM's own text beside a JSON file that says what its columns and labels mean.

A folder with both is a base model (`base_model: FOLDER`), and it is what a bundle holds, so a release can be the base of the next specialist.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.core.errors import IntegrityError, MachineError
from attune.core.tables import CATEGORY, Feature, matrix

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
FACTS, TEXT = "features.json", "model.txt"
_SETTINGS = re.compile(r"\nparameters:\n.*?\nend of parameters\n", re.DOTALL)

_GAP = re.compile(r"\n{3,}(?=pandas_categorical:)")
"""A text that was read and written again has fewer empty lines there."""


class TreeModel:
    """Trees with the columns they read and the labels they tell apart.

    Args:
        features: the columns, in the order of the matrix.
        labels: at least two; their places are the classes.
        text: LightGBM's model text; None: no tree yet, every label is equally likely.
    """

    def __init__(self, features: Sequence[Feature], labels: Sequence[str], text: str | None = None) -> None:
        self.features, self.labels, self.text = list(features), list(labels), text
        self.growing: Any = None
        """The booster that a learner is adding trees to; it answers as long as it is here."""

    @cached_property
    def _booster(self) -> Any:
        return booster(self.text) if self.text is not None else None

    @property
    def categorical(self) -> list[int]:
        """Places of the columns that are categories."""
        return [place for place, feature in enumerate(self.features) if feature["kind"] == CATEGORY]

    def table(self, cells: Sequence[dict[str, Any]]) -> np.ndarray:
        """float64 [rows, columns] of rows' cells."""
        return matrix(self.features, cells)

    def probabilities(self, table: np.ndarray) -> np.ndarray:
        """float64 [rows, labels], each row summing to 1."""
        import numpy as np

        trees = self.growing if self.growing is not None else self._booster
        if trees is None or not len(table):
            return np.full((len(table), len(self.labels)), 1 / len(self.labels))
        found: np.ndarray = np.asarray(trees.predict(table, num_iteration=-1), dtype=np.float64)
        return np.stack([1 - found, found], axis=1) if found.ndim == 1 else found

    def save(self, folder: Path) -> None:
        """Write `model.txt` (where there is a tree) and `features.json`, which holds its sha256."""
        if self.text is not None:
            (folder / TEXT).write_text(self.text, encoding="utf-8")
        facts = {"format": FORMAT, "features": self.features, "labels": self.labels, "sha256": _sha256(self.text) if self.text is not None else None}
        (folder / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> TreeModel:
        """The model in a folder that `save` wrote, or that somebody made alike around a LightGBM model of their own.

        Raises:
            IntegrityError: the two files do not belong together, or do not say what they must.
        """
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            features, labels, sha256 = facts["features"], facts["labels"], facts["sha256"]
            known = facts["format"] == FORMAT and len(labels) >= 2 and all(one["kind"] == "number" or list(one["categories"]) == one["categories"] for one in features)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"{FACTS} cannot be read: {type(error).__name__} {error}", place=str(folder), fix="copy or make the folder again; docs/concepts.md says what the file holds"
            ) from error
        if not known:
            raise IntegrityError(f"{FACTS} is not of format {FORMAT} with two labels or more", place=str(folder), fix="write it as docs/concepts.md says")
        if sha256 is None:
            return cls(features, labels)
        try:
            text = (folder / TEXT).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{TEXT} cannot be read: {error}", place=str(folder), fix="copy or make the folder again") from error
        if _sha256(text) != sha256:
            raise IntegrityError(f"{TEXT} is not the file that {FACTS} speaks of: its sha256 is another", place=str(folder), fix="copy or make the folder again")
        _require_shape(text, len(features), len(labels), folder)
        return cls(features, labels, text)


def booster(text: str) -> Any:
    """LightGBM's booster from a model text; raises IntegrityError when it is none, MachineError when LightGBM is not installed."""
    lightgbm = library()
    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise IntegrityError(f"LightGBM cannot read the trees: {error}", place=TEXT, fix="copy or make the model again") from error


def text_of(trees: Any, rounds: int | None = None) -> str:
    """A booster as text, its first `rounds` rounds or all, without the settings it was trained with: equal trees give equal text."""
    found: str = trees.model_to_string(num_iteration=rounds or -1)
    return _GAP.sub("\n\n", _SETTINGS.sub("\n", found)).rstrip("\n") + "\n"


def require_library() -> None:
    """Raise MachineError when LightGBM is not installed; it is not imported, so that a recipe is read quickly."""
    if importlib.util.find_spec("lightgbm") is None:
        raise MachineError("the Python package 'lightgbm' is not installed", place="method", fix="pip install 'attune[tabular]'")


def library() -> Any:
    """The LightGBM package."""
    require_library()
    import lightgbm

    return lightgbm


def objective_of(labels: int) -> str:
    """LightGBM's objective for a number of labels."""
    return "binary" if labels == 2 else "multiclass"


def _require_shape(text: str, columns: int, labels: int, folder: Path) -> None:
    head = dict(line.split("=", 1) for line in text[:100_000].split("\n\n", 1)[0].splitlines() if "=" in line)
    said = (head.get("objective", "").split(" ")[0], head.get("max_feature_idx"), head.get("num_tree_per_iteration"))
    meant = (objective_of(labels), str(columns - 1), "1" if labels == 2 else str(labels))
    if said != meant:
        raise IntegrityError(
            f"{TEXT} says objective, last column and trees a round are {said}; for {columns} columns and {labels} labels they are {meant}",
            place=str(folder),
            fix=f"let {FACTS} list the model's columns and labels in its own order; two labels need objective binary, more need multiclass",
        )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
