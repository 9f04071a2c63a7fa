"""Strict YAML 1.2: duplicate keys refused, `1e-5` is a number, `no` is text, and every key remembers its line."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from attune.core.errors import RecipeError

Lines = dict[str, int]
"""Dotted path of a key -> line number (from 1)."""


def read_yaml(text: str, name: str) -> tuple[dict[str, Any], Lines]:
    """A mapping as plain Python values, and where each key stands. `name` is the file's name for errors."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError

    try:
        tree = YAML(typ="rt", pure=True).load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        what = str(error.problem).split(" with value")[0]
        raise RecipeError(f"{what}: a key may stand only once", place=f"{name}:{line}", fix="remove one of the two") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 0
        raise RecipeError(f"not YAML: {error.problem or error.context}", place=f"{name}:{line}", fix="check indentation, colons and quotes on this line and the one above") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise RecipeError(f"expected keys and values, got a {type(tree).__name__}", place=name, fix="start from `attune init`")
    lines: Lines = {}
    return _plain(tree, "", lines, name), lines


def read_yaml_file(path: Path) -> tuple[dict[str, Any], Lines]:
    """`read_yaml` of a UTF-8 file."""
    try:
        return read_yaml(path.read_text(encoding="utf-8-sig"), path.name)
    except FileNotFoundError as error:
        raise RecipeError(f"there is no file '{path}'", place=str(path), fix="give the recipe's path, or make one with `attune init NAME --from support_tickets`") from error
    except IsADirectoryError as error:
        raise RecipeError(f"'{path}' is a folder", place=str(path), fix=f"give the recipe file, for example {path / 'recipe.yaml'}") from error
    except UnicodeDecodeError as error:
        raise RecipeError("the file is not UTF-8", place=str(path), fix="save it as UTF-8") from error


def parse_value(text: str) -> Any:
    """One YAML value, as `--set key=value` gives it."""
    return read_yaml(f"value: {text}\n", "--set")[0]["value"]


def dump_yaml(value: Any) -> str:
    """YAML text of plain values, in the order given."""
    import io

    from ruamel.yaml import YAML

    writer = YAML(typ="rt", pure=True)
    writer.default_flow_style = False
    writer.width = 120
    stream = io.StringIO()
    writer.dump(value, stream)
    return stream.getvalue()


def _plain(value: Any, path: str, lines: Lines, name: str) -> Any:
    if isinstance(value, dict):
        found = {}
        for key, inner in value.items():
            where = f"{path}.{key}" if path else str(key)
            if hasattr(value, "lc"):
                lines[where] = value.lc.key(key)[0] + 1
            if not isinstance(key, str):
                raise RecipeError(f"key {key!r} is not text", place=f"{name}:{lines.get(where, 0)}", fix=f"quote it: '{key}'")
            found[str(key)] = _plain(inner, where, lines, name)
        return found
    if isinstance(value, list):
        return [_plain(inner, f"{path}.{i}", lines, name) for i, inner in enumerate(value)]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    return str(value)
