"""JSON: one object per line, or a list of objects; a broken line or element is one problem and costs no other row."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from attune.core.contracts import RawRecord, Source
from attune.core.errors import DataError
from attune.core.files import decode_lines, expand, fingerprint, matching, read_bytes, shown
from attune.core.keys import Keys, key
from attune.core.text import Written

SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".json.gz", ".ndjson.gz")
LONE = re.compile("[\ud800-\udfff]")
NEXT_ELEMENT = re.compile(r"\n\s*,?\s*(?=\{)|\}\s*,\s*(?=\{)")


class JsonKeys(Keys):
    """Keys of the source."""

    field: str | None = key(None, "name of the list inside one big object, for example 'data'; default: the only list of objects there is")


class _Refused(ValueError):
    """JSON that parses but does not say one clear thing."""


class Json(Source):
    """Reads JSON Lines and JSON lists strictly: no NaN, no key twice, every record an object."""

    keys_type = JsonKeys

    def recognises(self, location: str, folder: Path) -> bool:
        """True for paths, globs and folders of .jsonl, .ndjson and .json files, also gzipped."""
        files = expand(location, folder, SUFFIXES)
        return bool(files) and not any(p.name in ("dataset_dict.json", "dataset_info.json", "state.json") for p in files)

    def fingerprint(self, location: str, folder: Path) -> str:
        """sha256 over names and bytes."""
        return fingerprint(matching(location, folder, SUFFIXES))

    def read(self, location: str, folder: Path) -> Iterator[RawRecord]:
        """Every object of every file, in order of name and position."""
        decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=Written)
        for path in matching(location, folder, SUFFIXES):
            lines = decode_lines(read_bytes(path))
            name = shown(path, folder)
            first = next((line.strip() for line, _ in lines if line.strip()), "")
            by_line = not path.name.lower().removesuffix(".gz").endswith(".json")
            if first.startswith("[") and not (by_line and _parses(first, decoder)):
                yield from self._elements("\n".join(line for line, _ in lines), name, decoder)
            elif not by_line and not _parses(first, decoder):
                yield from self._document("\n".join(line for line, _ in lines), name, decoder)
            else:
                yield from self._lines(lines, name, decoder)

    def _lines(self, lines: list[tuple[str, str | None]], name: str, decoder: json.JSONDecoder) -> Iterator[RawRecord]:
        while lines and not lines[-1][0].strip():
            lines.pop()
        for number, (line, repair) in enumerate(lines, start=1):
            place = f"{name}:{number}"
            if not line.strip():
                yield RawRecord(place, None, "the line is blank", "delete the line", raw=line)
                continue
            try:
                yield _record(place, decoder.decode(line), line, (repair,) if repair else ())
            except (ValueError, RecursionError) as error:
                yield _broken(place, error, line)

    def _elements(self, text: str, name: str, decoder: json.JSONDecoder) -> Iterator[RawRecord]:
        """Elements of a list, one by one, placed by their number from 1; after a broken one, reading goes on at the next that starts a line with '{'."""
        at, number = text.index("[") + 1, 0
        while True:
            while at < len(text) and text[at] in " \t\r\n,":
                at += 1
            if at >= len(text) or text[at] == "]":
                return
            number += 1
            try:
                value, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                stop = NEXT_ELEMENT.search(text, at + 1)
                end = stop.end() if stop else len(text)
                yield _broken(f"{name}:{number}", error, text[at:end].strip().rstrip(",]").strip())
            else:
                yield _record(f"{name}:{number}", value, text[at:end], ())
            at = end

    def _document(self, text: str, name: str, decoder: json.JSONDecoder) -> Iterator[RawRecord]:
        """One big object: a list of objects in it, columns as lists, or one row per key."""
        try:
            body = decoder.decode(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}", place=name, fix="write one object per line (JSON Lines), or a list of objects") from error
        if not isinstance(body, dict):
            raise DataError(f"expected objects, got {type(body).__name__}", place=name, fix="write one object per line (JSON Lines), or a list of objects")
        if self.keys.field is not None and not isinstance(body.get(self.keys.field), list):
            raise DataError(f"there is no list '{self.keys.field}'", place=name, fix="the keys are: " + ", ".join(map(str, body)))
        lists = [self.keys.field] if self.keys.field else [k for k, v in body.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if len(lists) == 1:
            for number, value in enumerate(body[lists[0]], start=1):
                yield _record(f"{name}:{number}", value, json.dumps(value, ensure_ascii=False), ())
        elif body and all(isinstance(v, list) for v in body.values()) and not lists and len({len(v) for v in body.values()}) == 1:
            for number, values in enumerate(zip(*body.values(), strict=True), start=1):
                row = dict(zip(body, values, strict=True))
                yield _record(f"{name}:{number}", row, json.dumps(row, ensure_ascii=False), ())
        elif body and all(isinstance(v, dict) for v in body.values()):
            for number, (label, value) in enumerate(body.items(), start=1):
                row = {"key": label, **value}
                yield _record(f"{name}:{number}", row, json.dumps(row, ensure_ascii=False), ())
        else:
            raise DataError(f"an object with {len(body)} key(s) and no single list of objects", place=name, fix="write one object per line, or name the list: `source: {name: json, field: ...}`")


def _parses(line: str, decoder: json.JSONDecoder) -> bool:
    try:
        decoder.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def _record(place: str, value: Any, raw: str, repaired: tuple[str, ...]) -> RawRecord:
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(type(value), "a number")
        return RawRecord(place, None, f"{kind} where an object was expected", 'write {"column": value, ...}', raw=raw)
    if "\\u" in raw and LONE.search(json.dumps(value, ensure_ascii=False)):
        value, repaired = _whole_characters(value), (*repaired, "half characters (lone surrogates) replaced")
    return RawRecord(place, value, repaired=repaired, raw=raw)


def _broken(place: str, error: Exception, raw: str) -> RawRecord:
    if isinstance(error, RecursionError):
        return RawRecord(place, None, "nested too deeply to read", "flatten the object", raw=raw)
    if isinstance(error, _Refused):
        return RawRecord(place, None, str(error), "write every key once and null for a missing number", raw=raw)
    if "integer string conversion" in str(error):
        return RawRecord(place, None, f"a number has more than {sys.get_int_max_str_digits():,} digits", "write it as text, in quotes", raw=raw)
    return RawRecord(place, None, f"not JSON: {error}", "write one whole object; check quotes, commas and brackets", raw=raw)


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_whole_characters(inner) for inner in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(inner) for name, inner in value.items()}
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Refused(f"key '{next(n for n in names if names.count(n) > 1)}' stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a JSON value")
