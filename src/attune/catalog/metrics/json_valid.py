"""Share of answers that are JSON, and fit a schema where one is given."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means
from attune.core.contracts import Metric, Prediction, Row, Signature
from attune.core.errors import MachineError, RecipeError
from attune.core.keys import Keys, key

_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL)


class JsonValidKeys(Keys):
    """Keys of the metric."""

    json_schema: str | dict[str, Any] | None = key(None, "JSON schema: a file, or the schema itself; default: any JSON will do", aliases=("schema",))
    fenced: bool = key(True, "an answer that is one block between ``` counts as what stands in it")


class JsonValid(Metric):
    """Answers that parse (RFC 8259; NaN and Infinity do not) and validate. The right answers are not looked at."""

    keys_type = JsonValidKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})

    def reads(self) -> Sequence[Path]:
        """The schema's file."""
        return (self.located(self.keys.json_schema),) if isinstance(self.keys.json_schema, str) else ()

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """1 where the answer is valid."""
        fits = self._validator()
        return _means.rows(self._is_valid(str(one.output), fits) for one in predictions)

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Share of rows."""
        return _means.mean(totals)

    def example(self) -> tuple[Row, Any, Any] | None:
        """An object, and one that is not closed."""
        return {}, '{"city": "Oslo"}', '{"city": "Oslo"'

    def _is_valid(self, text: str, fits: Callable[[Any], bool]) -> bool:
        block = _FENCED.fullmatch(text) if self.keys.fenced else None
        try:
            return fits(json.loads(block[1] if block else text, parse_constant=_refuse))
        except (ValueError, RecursionError):
            return False

    def _validator(self) -> Callable[[Any], bool]:
        schema = self.keys.json_schema
        if schema is None:
            return lambda value: True
        if isinstance(schema, str):
            path = self.located(schema)
            try:
                schema = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise RecipeError(f"the schema cannot be read: {error}", place="grade.metrics: json_valid.json_schema", fix=f"give a JSON file instead of {path}, relative to the recipe") from error
        try:
            from jsonschema import SchemaError
            from jsonschema.validators import validator_for
        except ImportError as error:
            raise MachineError("a JSON schema needs the package jsonschema", place="grade.metrics: json_valid", fix="pip install 'attune[text-metrics]', or leave out json_schema") from error
        kind = validator_for(schema)
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            raise RecipeError(f"this is no JSON schema: {error.message}", place="grade.metrics: json_valid.json_schema", fix="mend the schema") from error
        is_valid: Callable[[Any], bool] = kind(schema).is_valid
        return is_valid


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
