"""Wrong recipe keys in words: what was expected, where it stands, and the nearest right spelling."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from attune.core.addresses import hidden
from attune.core.errors import AttuneError, RecipeError, did_you_mean, nearest
from attune.core.keys import Keys, aliases_of, plugs_of

_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))


def key_problems(error: ValidationError, model: type[Keys], place: str) -> list[AttuneError]:
    """A pydantic error as one recipe error per wrong key: unknown keys with the nearest name, wrong values with what was expected.

    Args:
        model: what was validated.
        place: dotted path of the validated mapping in the recipe; '' for the whole recipe.
    """
    problems: dict[str, AttuneError] = {}
    for one in error.errors():
        path, owner, field = _follow(model, one["loc"])
        where = ".".join(part for part in (place, path) if part)
        if where in problems:
            continue
        last = path.rsplit(".", 1)[-1]
        if one["type"] == "extra_forbidden" and owner is not None:
            problems[where] = RecipeError(f"unknown key '{last}'", place=where, fix=_spelling(last, owner))
        elif one["type"] == "missing":
            meaning = f": {field.description}" if field is not None and field.description else ""
            problems[where] = RecipeError(f"key '{last}' is missing", place=where, fix=f"add `{last}: ...`{meaning}")
        else:
            value = one["input"]
            wanted = expected(field.annotation, field.metadata, plugs_of(field)).removesuffix(" or nothing") if field is not None else str(one["msg"])
            problems[where] = RecipeError(f"{_shown(value)} does not fit: expected {wanted}", place=where, fix=_meaning(last, value, field))
    return list(problems.values())


def expected(annotation: Any, metadata: list[Any] | None = None, plugs: str = "") -> str:
    """The values that a key takes, as words."""
    text = _expected_type(annotation, plugs)
    bounds = [f"{word} {getattr(one, name)}" for one in metadata or [] for name, word in _BOUNDS if getattr(one, name, None) is not None]
    pattern = next((one.pattern for one in metadata or [] if getattr(one, "pattern", None)), None)
    if bounds:
        text = f"{text.removesuffix(' or nothing')} {' and '.join(bounds)}" + (" or nothing" if text.endswith(" or nothing") else "")
    return f"{text} that matches {pattern}" if pattern else text


def _expected_type(annotation: Any, plugs: str) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _NAMES:
        return _NAMES[annotation]
    if origin is Literal:
        return "one of: " + ", ".join(str(value) for value in inner)
    if origin in (Union, types.UnionType):
        rest = [one for one in inner if one is not type(None)]
        nothing = " or nothing" if len(rest) < len(inner) else ""
        if plugs and str in rest:
            return f"the name of one of the {plugs}, or a mapping with `name` and its keys{nothing}"
        return " or ".join(_expected_type(one, plugs) for one in rest) + nothing
    if origin is list:
        return f"a list, each item {_expected_type(inner[0], plugs)}"
    if origin is dict or annotation is dict or (isinstance(annotation, type) and issubclass(annotation, Keys)):
        return "a mapping (indented `key: value` lines)"
    return "another value"


def _follow(model: type[Keys], location: tuple[int | str, ...]) -> tuple[str, type[Keys] | None, FieldInfo | None]:
    """Dotted path, the group of keys that owns its last key, and that key's field; pydantic's union tags are left out."""
    parts: list[str] = []
    owner: Any = model
    field: FieldInfo | None = None
    for part in location:
        if isinstance(part, int):
            parts.append(str(part))
            continue
        if owner is None:
            break
        parts.append(str(part))
        if part not in owner.model_fields:
            return ".".join(parts), owner, None
        field = owner.model_fields[part]
        nested = _group_in(field.annotation)
        if nested is None:
            rest = [str(one) for one in location[len(parts) :] if isinstance(one, int)]
            return ".".join(parts + rest), owner, field
        owner = nested
    return ".".join(parts), owner, field


def _group_in(annotation: Any) -> type[Keys] | None:
    if isinstance(annotation, type) and issubclass(annotation, Keys):
        return annotation
    for inner in get_args(annotation):
        found = _group_in(inner)
        if found is not None:
            return found
    return None


def _shown(value: Any) -> str:
    text = hidden(repr(value) if not isinstance(value, (dict, list)) else f"a {'mapping' if isinstance(value, dict) else 'list'} {value!r}")
    return text if len(text) <= 80 else text[:77] + "..."


def _meaning(name: str, value: Any, field: FieldInfo | None) -> str:
    if field is None:
        return "change the value"
    options = [str(one) for one in _literals(field.annotation)]
    near = nearest(value, options) if isinstance(value, str) else None
    said = f"did you mean '{near}'? " if near else ""
    default = "" if field.is_required() or field.default is None or isinstance(field.default, Keys) else f" (default {field.default})"
    return f"{said}{name}: {field.description}{default}" if field.description else f"{said}change the value of {name}{default}"


def _literals(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for inner in get_args(annotation) for value in _literals(inner))


def _spelling(name: str, owner: type[Keys]) -> str:
    canonical = {**aliases_of(owner), **{own: own for own in owner.model_fields}}
    near = nearest(name, canonical)
    return f"did you mean '{canonical[near]}'?" if near else did_you_mean(name, owner.model_fields)
