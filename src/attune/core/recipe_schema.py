"""The JSON Schema of recipes, for editors: keys, their meanings and what may stand in them."""

from __future__ import annotations

import ast
from typing import Any

from attune.core import catalog
from attune.core.keys import Keys, plugs_of, words_of
from attune.core.recipe import RecipeKeys
from attune.core.spelling import holds_list


def json_schema() -> dict[str, Any]:
    """The JSON Schema of recipes for editors; plugs' own keys are described from their source."""
    schema = RecipeKeys.model_json_schema()
    models: list[tuple[type[Keys], dict[str, Any]]] = [(RecipeKeys, schema["properties"]), *((_model(name), body["properties"]) for name, body in schema["$defs"].items())]
    for model, properties in models:
        for name, info in model.model_fields.items():
            if plugs_of(info):
                one = _plug_schema(plugs_of(info))
                extra = [{"enum": list(words_of(info))}] if words_of(info) else []
                nothing = [] if info.is_required() else [{"type": "null"}]
                choices = [{"type": "array", "items": one}, *nothing] if holds_list(info.annotation) else [one, *extra, *nothing]
                properties[name] = {"description": info.description, "anyOf": choices}
    schema["title"] = "Attune recipe"
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema


def _model(name: str) -> type[Keys]:
    return next(model for model in Keys.__subclasses__() if model.__name__ == name and model.__module__.startswith(RecipeKeys.__module__))  # and recipe_data, recipe_train


def _plug_schema(kind: str) -> dict[str, Any]:
    known = catalog.entries(kind)
    forms: list[dict[str, Any]] = [{"enum": [entry.name for entry in known]}]
    for entry in known:
        keys = {one.name: {"description": f"{one.meaning} (default {one.default})", **_json_type(one.type)} for one in entry.keys}
        required = [one.name for one in entry.keys if one.default == "(required)"]
        forms.append({"type": "object", "description": entry.purpose, "properties": {"name": {"const": entry.name}, **keys}, "required": ["name", *required], "additionalProperties": False})
    return {"anyOf": forms}


def _json_type(source: str) -> dict[str, Any]:
    """JSON Schema of a key's type from its source text; nothing said where it is not a plain one."""
    plain = {"int": "integer", "float": "number", "str": "string", "bool": "boolean", "None": "null"}
    if source.startswith("Literal[") and source.count("[") == 1:
        return {"enum": list(ast.literal_eval(f"({source[8:-1]},)"))}
    parts = [part.strip() for part in source.split("|")]
    return {"type": [plain[part] for part in parts]} if all(part in plain for part in parts) else {}
