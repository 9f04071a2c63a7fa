"""Tables as text: comma, semicolon, tab or bar between the fields, UTF-8, UTF-16 or Windows encoding; one broken record never costs another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attune.core.contracts import RawRecord, Source
from attune.core.errors import DataError
from attune.core.files import decode_lines, expand, fingerprint, matching, read_bytes, require_table_text, shown
from attune.core.keys import Keys, key
from attune.core.text import OPEN, split_fields

SUFFIXES = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz")
LOOKED_AT = 200
"""Lines that decide on the delimiter and on whether there is a header."""


class CsvKeys(Keys):
    """Keys of the source."""

    delimiter: Literal["auto", ",", ";", "\t", "|"] = key("auto", "what stands between the fields; auto takes the one that cuts the lines most evenly")
    header: Literal["auto", "yes", "no"] = key("auto", "whether the first line names the columns; auto looks whether it reads like the lines below")


@dataclass
class _Table:
    delimiter: str
    names: list[str]
    first: int
    """Index of the first line with values."""
    known: dict[int, set[str]]
    """Columns with few distinct values -> those values."""


class Csv(Source):
    """Reads delimited text line by line, with quotes, and recovers the lines that an unclosed quote would swallow."""

    keys_type = CsvKeys

    def recognises(self, location: str, folder: Path) -> bool:
        """True for paths, globs and folders of .csv, .tsv and .tab files, also gzipped."""
        return bool(expand(location, folder, SUFFIXES))

    def fingerprint(self, location: str, folder: Path) -> str:
        """sha256 over names and bytes."""
        return fingerprint(matching(location, folder, SUFFIXES))

    def read(self, location: str, folder: Path) -> Iterator[RawRecord]:
        """Every record of every file, in order of name and line."""
        for path in matching(location, folder, SUFFIXES):
            data = read_bytes(path)
            require_table_text(data, path)
            yield from self._read_file(decode_lines(data), shown(path, folder))

    def _read_file(self, lines: list[tuple[str, str | None]], name: str) -> Iterator[RawRecord]:
        while lines and not lines[-1][0].strip():
            lines.pop()
        table = self._table(lines, name)
        number = table.first
        while number < len(lines):
            line, repair = lines[number]
            place = f"{name}:{number + 1}"
            used, fields, problem = 1, *split_fields(line, table.delimiter)
            if problem == OPEN:
                used, fields, problem = self._longer(lines, number, table)
                repair = repair or next((r for _, r in lines[number : number + used] if r), None)
            text = line if used == 1 else "\n".join(one for one, _ in lines[number : number + used])
            number += used
            yield self._record(place, text, fields, problem, repair, table)

    def _record(self, place: str, text: str, fields: list[str], problem: str | None, repair: str | None, table: _Table) -> RawRecord:
        wanted = len(table.names)
        repaired = (repair,) if repair else ()
        if not text.strip():
            return RawRecord(place, None, "the line is blank", "delete the line", raw=text)
        if "\x00" in text:
            return RawRecord(place, None, "the line holds NUL bytes", "export the row again; the file was damaged or is not text", raw=text)
        if problem and table.delimiter == "\t" and len(text.split("\t")) == wanted:
            fields, problem = text.split("\t"), None  # many tab-separated files do not quote at all
        if problem:
            return RawRecord(place, None, problem, 'put the field in quotes and double the quotes inside it: "she said ""no"""', raw=text)
        if len(fields) > wanted and not any(field.strip() for field in fields[wanted:]):
            fields, repaired = fields[:wanted], (*repaired, f"{len(fields) - wanted} empty field(s) at the end dropped")
        if len(fields) != wanted:
            sign = {"\t": "a tab"}.get(table.delimiter, f"'{table.delimiter}'")
            fix = f"put the field that holds {sign} in quotes" if len(fields) > wanted else "add the missing field(s), or delete the line"
            return RawRecord(place, None, f"{len(fields)} field(s) where the header has {wanted}", fix, raw=text)
        return RawRecord(place, dict(zip(table.names, fields, strict=True)), repaired=repaired, raw=text)

    def _longer(self, lines: list[tuple[str, str | None]], start: int, table: _Table) -> tuple[int, list[str], str | None]:
        """The record whose quote is open at the end of its first line: over several lines when that reads well, else broken alone."""
        text = lines[start][0]
        unclosed = "a quote is opened and not closed on this line"
        last = len(table.names) - 1
        if text.rpartition(table.delimiter)[2].strip() in table.known.get(last, ()):
            return 1, [], unclosed  # the line ends as a whole record does, so the quote swallowed its own end
        for number in range(start + 1, len(lines)):
            text += "\n" + lines[number][0]
            if '"' not in lines[number][0]:
                continue
            fields, problem = split_fields(text, table.delimiter)
            if problem == OPEN:
                continue
            if problem or len(fields) != len(table.names) or any(self._stands_alone(one, table) for one, _ in lines[start + 1 : number]):
                return 1, [], unclosed
            return number - start + 1, fields, None
        return 1, [], unclosed

    def _stands_alone(self, line: str, table: _Table) -> bool:
        """True when a line is a whole record by itself: the right number of fields, and known values where a column has few."""
        fields, problem = split_fields(line, table.delimiter)
        if problem or len(fields) != len(table.names) or len(fields) < 2:
            return False
        return bool(table.known) and all(fields[column].strip() in values for column, values in table.known.items())

    def _table(self, lines: list[tuple[str, str | None]], name: str) -> _Table:
        head = [(i, line) for i, (line, _) in enumerate(lines) if line.strip()][:LOOKED_AT]
        if not head:
            raise DataError("the file holds no lines", place=name, fix="export the rows again, or take the file out of `data.path`")
        delimiter = self.keys.delimiter
        if delimiter == "auto":
            delimiter = max(",;\t|", key=lambda sign: _evenness([line for _, line in head], sign))
        first, line = head[0]
        names, problem = split_fields(line, delimiter)
        if problem:
            raise DataError(f"the header cannot be read: {problem}", place=f"{name}:{first + 1}", fix="close the quotes in the first line")
        below = [fields for _, one in head[1:] for fields, wrong in [split_fields(one, delimiter)] if not wrong and len(fields) == len(names)]
        if self.keys.header == "no" or (self.keys.header == "auto" and _reads_like_values(names, below)):
            return _Table(delimiter, [f"column{i + 1}" for i in range(len(names))], first, self._known(lines, first, delimiter, len(names)))
        return _Table(delimiter, _distinct(names), first + 1, self._known(lines, first + 1, delimiter, len(names)))

    def _known(self, lines: list[tuple[str, str | None]], first: int, delimiter: str, width: int) -> dict[int, set[str]]:
        if not any(line.count('"') % 2 for line, _ in lines):
            return {}  # nothing to recover, so nothing to compare with
        counts: list[Counter[str]] = [Counter() for _ in range(width)]
        for line, _ in lines[first:]:
            fields, problem = split_fields(line, delimiter)
            if not problem and len(fields) == width:
                for counter, value in zip(counts, fields, strict=True):
                    counter[value.strip()] += 1
        return {i: set(c) for i, c in enumerate(counts) if 0 < len(c) <= max(2, 0.2 * c.total()) and sum(1 for n in c.values() if n > 1) >= len(c) / 2}


def _evenness(lines: list[str], delimiter: str) -> tuple[float, int]:
    """Share of lines with as many fields as most lines, and that number; a delimiter that cuts nothing comes last."""
    counts = Counter(len(fields) for line in lines for fields, problem in [split_fields(line, delimiter)] if not problem)
    number, lines_with = counts.most_common(1)[0] if counts else (1, 0)
    head = len(split_fields(lines[0], delimiter)[0])
    if number < 2 or head < 2:
        return 0.0, 0
    return round(lines_with / len(lines), 1) + (head == number), number


def _reads_like_values(names: list[str], below: list[list[str]]) -> bool:
    """True when the first line looks like a row: one of its values comes again below it, or it holds a number or a sentence."""
    values = [name.strip() for name in names]
    again = any(value and sum(fields[i].strip() == value for fields in below) >= 2 for i, value in enumerate(values))
    number = any(value and value.replace(".", "", 1).replace("-", "", 1).isdigit() for value in values)
    return again or number or any(len(value.split()) > 7 for value in values)


def _distinct(names: list[str]) -> list[str]:
    found: list[str] = []
    for i, name in enumerate(names):
        plain = name.strip().strip("\ufeff") or f"column{i + 1}"
        while plain in found:
            plain = f"{plain} (again)"
        found.append(plain)
    return found
