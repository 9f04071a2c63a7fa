"""Put the rows of a table into one of several classes from their columns: credit risk, machine failure, diagnosis codes, churn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Defaults, Prediction, Role, Row, Signature, Task
from attune.core.errors import DataError, PlugError, did_you_mean
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist
from attune.core.tables import CATEGORY, Feature, described, features_of, not_understood
from attune.core.trees import TreeModel

if TYPE_CHECKING:
    from attune.core.models import Base


class TabularClassificationKeys(Keys):
    """Keys of the task."""

    categories: list[str] = key([], "columns that are names although they look like numbers, such as codes")
    missing: list[str] = key(["", "na", "n/a", "#n/a", "nan", "null", "?"], "cells that mean 'not known', whatever their case")


class TabularClassification(Task):
    """Several columns in (numbers and names, some of them missing), label out."""

    keys_type = TabularClassificationKeys
    traits = frozenset({"table-in", "label-out"})
    bases = frozenset({"trees", "none"})
    default_base = "none"
    roles = (
        Role("features", "features", "the columns that the answer is drawn from", ("features", "columns", "inputs")),
        Role("label", "label", "the right class", ("label", "target", "class", "outcome", "default", "risk", "diagnosis", "failure", "churn", "fraud", "y"), target=True),
    )
    defaults = Defaults(
        objective="table_labels",
        method="boosted_trees",
        main_metric="log_loss",
        metrics=("log_loss", "accuracy", "f1_macro", "precision_macro", "recall_macro", "ece"),
        rivals=("majority", "linear_table", "untouched_base"),
        checks=("types", "label_typos", "leakage"),
        detectors=("label_shift", "performance_drop"),
    )

    def parse(self, values: dict[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
        """The cells by column, missing ones as None, and the label as text."""
        row = super().parse(values, columns)
        if isinstance(row.get("features"), Mapping):
            row["features"] = self._cells(row["features"])
        label = row.get("label")
        if isinstance(label, (int, float)):
            row["label"] = str(label).lower() if isinstance(label, bool) else f"{label:.15g}"
        return row

    def _cells(self, given: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in given.items():
            if isinstance(value, date):
                value = value.isoformat()
            if isinstance(value, str):
                value = value.strip()
            if value is not None and not isinstance(value, (str, int, float, bool)):
                raise DataError(f"a cell holds a {type(value).__name__}, not a number or a text", place=str(name), fix="give one value per cell, or leave the column out of data.columns.features")
            if isinstance(value, float) and value in (float("inf"), float("-inf")):
                raise DataError("a cell is infinite", place=str(name), fix="write a finite number, or leave the cell empty")
            unknown = value is None or value != value or (isinstance(value, str) and value.casefold() in self.keys.missing)
            found[str(name)] = None if unknown else value
        return found

    def signature(self, rows: Sequence[Row]) -> Signature:
        """Sorted label names, and what each column is: a number or a category with its names."""
        labels = sorted({row["label"] for row in rows})
        if len(labels) < 2:
            raise DataError(f"{len(labels)} different label(s) in the rows", place="label", fix="give rows of at least two classes, or check `data.columns.label`")
        features = features_of([row["features"] for row in rows], self.keys.categories)
        lost = [name for name in self.keys.categories if name not in {one["name"] for one in features}]
        if lost:
            raise DataError(f"there is no column '{lost[0]}' among the features", place="task.categories", fix=did_you_mean(lost[0], [one["name"] for one in features]))
        return {"labels": labels, "multi_label": False, "features": features}

    def text(self, row: Row) -> str:
        """The cells for reading, `age: 35; purpose: car`."""
        return described(row["features"])

    def truth(self, row: Row) -> Any:
        """The row's label."""
        return row["label"]

    def build(self, base: Base, signature: Signature) -> TreeModel:
        """The general model with its categories extended by those of these rows, or no tree at all.

        Raises:
            PlugError: the general model reads other columns or tells other labels apart.
        """
        if base.kind == "none":
            return TreeModel(signature["features"], signature["labels"])
        known = TreeModel.read(base.folder)
        if sorted(known.labels) != signature["labels"]:
            raise PlugError(f"the general model tells {_some(known.labels)} apart, the rows hold {_some(signature['labels'])}", place="base_model", fix="name the labels alike, or start from none")
        own = {one["name"]: one for one in signature["features"]}
        if set(own) != {one["name"] for one in known.features}:
            wanted = ", ".join(json.dumps(one["name"], ensure_ascii=False) for one in known.features)
            raise PlugError(
                f"the general model reads {_some([one['name'] for one in known.features])}, the rows hold {_some(list(own))}",
                place="base_model",
                fix=f"write `columns: {{features: [{wanted}]}}` under data, or start from none",
            )
        return TreeModel([_joined(one, own[one["name"]]) for one in known.features], known.labels, known.text)

    def predict(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """Label, probabilities and confidence; `extra` names the columns whose cell had no meaning and was taken as missing."""
        model: TreeModel = specialist.model
        cells = [self._cells(row["features"]) for row in rows]
        answers = []
        for given, row in zip(cells, model.probabilities(model.table(cells)), strict=True):
            best, strange = int(row.argmax()), not_understood(model.features, given)
            scores = {label: float(p) for label, p in zip(model.labels, row, strict=True)}
            answers.append(Prediction(model.labels[best], scores, float(row[best]), {"taken_as_missing": strange} if strange else {}))
        return answers

    def request(self, payload: dict[str, Any]) -> Row:
        """`{"features": {column: cell}}`; a column that is left out is missing."""
        given = payload.get("features")
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except ValueError:
                given = None
        if not isinstance(given, dict) or not given:
            raise DataError("field 'features' must be an object of columns", place="features", fix='send {"features": {"age": 35, "purpose": "car"}}')
        return {"features": self._cells(given)}

    def require_known(self, row: Row, signature: Signature) -> None:
        """Refuse columns that were not there in training: most often a misspelt name."""
        names = [one["name"] for one in signature["features"]]
        for name in row["features"]:
            if name not in names:
                raise DataError(f"there is no column '{name}'", place="features", fix=did_you_mean(name, names))


def _joined(known: Feature, own: Feature) -> Feature:
    """The general model's column; new names of a category stand behind its own, so that codes keep their meaning."""
    if known["kind"] != CATEGORY:
        if own["kind"] == CATEGORY and own["categories"]:
            raise PlugError(f"column '{known['name']}' is a number in the general model and a name in these rows", place="base_model", fix="mend the cells that are no numbers, or start from none")
        return known
    names = own["categories"] if own["kind"] == CATEGORY else []
    return {**known, "categories": [*known["categories"], *(name for name in names if name not in known["categories"])]}


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
