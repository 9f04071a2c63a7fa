"""Strict YAML 1.2: duplicate keys refused, `1e-5` is a number, `no` is text, and every key remembers its line.

The text is composed into nodes and never constructed into objects, so a tag cannot make anything but text, numbers, lists and mappings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attune.core.errors import RecipeError

Lines = dict[str, int]
"""Dotted path of a key (list items by number) -> line number (from 1)."""

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000
MAX_DEPTH = 30

_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value"))


def read_yaml(text: str, name: str) -> tuple[dict[str, Any], Lines]:
    """A mapping as plain Python values, and where each key stands. `name` is the file's name for errors."""
    lines: Lines = {}
    value = _compose(text, name, lines)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise RecipeError(f"expected keys and values, got {_kind(value)}", place=name, fix="write `key: value` lines; `attune init` makes a recipe to start from")
    return value, lines


def read_yaml_file(path: Path) -> tuple[dict[str, Any], Lines]:
    """`read_yaml` of a UTF-8 file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"the file has {path.stat().st_size:,} bytes, a recipe at most {MAX_BYTES:,}", place=str(path), fix="give the recipe, not the data")
        return read_yaml(path.read_text(encoding="utf-8-sig"), path.name)
    except FileNotFoundError as error:
        raise RecipeError(f"there is no file '{path}'", place=str(path), fix="give the recipe's path, or make one with `attune init NAME --from support_tickets`") from error
    except IsADirectoryError as error:
        raise RecipeError(f"'{path}' is a folder", place=str(path), fix=f"give the recipe file, for example {path / 'recipe.yaml'}") from error
    except PermissionError as error:
        raise RecipeError(f"'{path}' may not be read by you", place=str(path), fix="mend its permissions") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"byte {error.start} of the file is not UTF-8", place=str(path), fix="save it as UTF-8") from error


def parse_value(text: str, place: str = "--set") -> Any:
    """One YAML value, as `--set key=value` gives it."""
    return _compose(text, place, {})


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


def _compose(text: str, name: str, lines: Lines) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        node = YAML(typ="rt", pure=True).compose(text)
    except MarkedYAMLError as error:
        unclosed = error.context_mark is not None and "end" in str(error.problem) and "stream" in str(error.problem)
        mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
        why = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise RecipeError(f"not YAML: {why}", place=f"{name}:{mark.line + 1 if mark else 1}", fix=_yaml_fix(why, text, mark.line if mark else 0)) from error
    except (YAMLError, RecursionError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RecipeError(f"not YAML: {first}", place=name, fix="remove characters that cannot be printed; keep to `key: value` lines") from error
    return None if node is None else _Reader(name, lines).value(node, "", 0)


def _yaml_fix(why: str, text: str, line: int) -> str:
    rows = text.splitlines()
    if any("\t" in row[: len(row) - len(row.lstrip())] for row in rows[max(0, line - 1) : line + 1]):
        return "indent with spaces, not with tabs"
    if "mapping values are not allowed" in why:
        return 'a text that holds ": " needs quotes; else check the indentation of this line and the one above'
    if "single document" in why:
        return "keep one recipe in a file; remove the line `---` between them"
    return "check indentation, colons and quotes on this line and the one above"


class _Reader:
    """Nodes as plain values; counts them, because aliases can blow up a small text."""

    def __init__(self, name: str, lines: Lines) -> None:
        self.name = name
        self.lines = lines
        self.seen = 0

    def value(self, node: Any, path: str, depth: int) -> Any:
        from ruamel.yaml.nodes import MappingNode, SequenceNode

        self.seen += 1
        if self.seen > MAX_VALUES or depth > MAX_DEPTH:
            raise self._error(node, f"more than {MAX_VALUES:,} values or {MAX_DEPTH} levels", "a recipe is small; write out the aliases (*name) or move the rows into a data file")
        tag = str(node.tag or "")
        if tag and tag not in _TAGS:
            raise self._error(node, f"tag '{tag.replace('tag:yaml.org,2002:', '!!')}' is not allowed", "remove the tag; a recipe holds only texts, numbers, lists and keys")
        if isinstance(node, MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            found = []
            for number, inner in enumerate(node.value):
                where = f"{path}.{number}"
                self.lines[where] = inner.start_mark.line + 1
                found.append(self.value(inner, where, depth + 1))
            return found
        return node.value if node.style or tag.endswith(":str") else _plain(node.value)

    def _mapping(self, node: Any, path: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        here: Lines = {}
        for key_node, inner in node.value:
            key = self.value(key_node, path, depth + 1)
            if not isinstance(key, str):
                raise self._error(key_node, f"key {key!r} is not text", f"quote it: '{key}'" if not isinstance(key, (dict, list)) else "use a plain name as key")
            if key == "<<":
                raise self._error(key_node, "merge keys (<<) are not part of YAML 1.2", "write the keys out")
            line = key_node.start_mark.line + 1
            if key in found:
                raise self._error(key_node, f"key '{key}' stands twice, first on line {here[key]}", "remove one of the two")
            here[key] = line
            where = f"{path}.{key}" if path else key
            self.lines[where] = line
            found[key] = self.value(inner, where, depth + 1)
        return found

    def _error(self, node: Any, what: str, fix: str) -> RecipeError:
        return RecipeError(what, place=f"{self.name}:{node.start_mark.line + 1}", fix=fix)


def _plain(text: str) -> Any:
    """An unquoted scalar by YAML 1.2's core schema: null, true and false, numbers; everything else is text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text) if len(text) < 30 else text
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinite := _INFINITE.fullmatch(text):
        return float(f"{infinite[1]}inf")
    return float("nan") if text in (".nan", ".NaN", ".NAN") else text


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"{value!r}"
