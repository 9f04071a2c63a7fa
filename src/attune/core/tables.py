"""Rows of several columns as numbers: which columns are numbers and which are names, and one float64 matrix for whatever learns from them.

A missing cell stays missing (NaN) all the way: nothing is filled in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

NUMBER, CATEGORY = "number", "category"
Feature = dict[str, Any]
"""One column as JSON: `name`, `kind` (number or category) and, for a category, `categories`: its names; a name's place is its code."""


def number_of(value: Any) -> float | None:
    """A cell as a finite number; None where it is none. Truth values are names, not numbers."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def name_of(value: Any) -> str:
    """A cell as the name of a category: 3 and 3.0 are one name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def features_of(cells: Sequence[Mapping[str, Any]], categories: Sequence[str] = ()) -> list[Feature]:
    """The columns of rows, sorted by name: a number where every cell that is filled is one, else a category with its names sorted.

    Args:
        cells: column -> cell (None: missing), one mapping per row.
        categories: columns that are names although they look like numbers (codes, postcodes).
    """
    values: dict[str, list[Any]] = {}
    for row in cells:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    found: list[Feature] = []
    for name in sorted(values):
        filled = [value for value in values[name] if value is not None]
        if name not in categories and all(number_of(value) is not None for value in filled):
            found.append({"name": name, "kind": NUMBER})
        else:
            found.append({"name": name, "kind": CATEGORY, "categories": sorted({name_of(value) for value in filled})})
    return found


def matrix(features: Sequence[Feature], cells: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """float64 [rows, columns]: numbers as they are, categories as their codes, NaN where a cell is missing or not understood."""
    import numpy as np

    found = np.full((len(cells), len(features)), np.nan)
    for place, feature in enumerate(features):
        codes = {name: float(code) for code, name in enumerate(feature["categories"])} if feature["kind"] == CATEGORY else None
        for i, row in enumerate(cells):
            value = row.get(feature["name"])
            if value is None:
                continue
            code = number_of(value) if codes is None else codes.get(name_of(value))
            if code is not None:
                found[i, place] = code
    return found


def not_understood(features: Sequence[Feature], cells: Mapping[str, Any]) -> list[str]:
    """Columns whose cell is filled and still has no meaning here: a text where numbers stood, or a name that was never seen."""
    found = []
    for feature in features:
        value = cells.get(feature["name"])
        if value is not None and (number_of(value) is None if feature["kind"] == NUMBER else name_of(value) not in feature["categories"]):
            found.append(str(feature["name"]))
    return found


def described(cells: Mapping[str, Any]) -> str:
    """A row for reading: `age: 35; purpose: car`, columns in the order of their names, missing ones left out."""
    return "; ".join(f"{name}: {name_of(cells[name])}" for name in sorted(cells) if cells[name] is not None) or "(every column is missing)"
