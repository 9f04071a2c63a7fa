"""1 where the answer is JSON that fits a schema, half of that where it is JSON alone, else 0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from attune.core.contracts import Role, Row
from attune.core.errors import DataError, MachineError
from attune.core.keys import Keys, key
from attune.core.rewards import Reward


class JsonSchemaKeys(Keys):
    """Keys of the reward."""

    for_all: dict[str, Any] | None = key(None, "JSON schema of every answer; default: the row's own, in its column `schema`; without any, JSON is enough", aliases=("schema",))
    for_json: float = key(0.5, "reward of JSON that does not fit", ge=0, le=1)


class JsonSchema(Reward):
    """JSON Schema (draft 2020-12) through the jsonschema package."""

    keys_type = JsonSchemaKeys
    roles: ClassVar[tuple[Role, ...]] = (Role("schema", "any", "JSON schema that the answer must fit", ("schema", "json_schema"), required=False),)

    def score(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """1, `for_json` or 0; raises DataError where a schema is none."""
        return [self._one(row, answer) for row, answer in zip(rows, answers, strict=True)]

    def _one(self, row: Row, answer: str) -> float:
        schema = self.keys.for_all if self.keys.for_all is not None else row.get("schema")
        try:
            value = json.loads(answer)
        except (ValueError, RecursionError):
            return 0.0
        if schema is None:
            return 1.0
        try:
            import jsonschema
        except ImportError as error:
            raise MachineError("the package jsonschema is not installed", place="rewards.json_schema", fix="pip install jsonschema") from error
        try:
            wanted = json.loads(schema) if isinstance(schema, str) else schema
            jsonschema.Draft202012Validator.check_schema(wanted)
        except (ValueError, jsonschema.SchemaError) as error:
            raise DataError(f"the schema is none: {error}", place=str(row.get("place") or row.get("row_id")), fix="mend the schema") from error
        return 1.0 if jsonschema.Draft202012Validator(wanted).is_valid(value) else float(self.keys.for_json)
