"""Parquet files: columns with types, read row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attune.core.contracts import RawRecord, Source
from attune.core.errors import DataError
from attune.core.files import expand, fingerprint, matching, shown
from attune.core.keys import Keys, key

SUFFIXES = (".parquet", ".pq")


class ParquetKeys(Keys):
    """Keys of the source."""

    columns: list[str] | None = key(None, "read only these columns; default: all")


class Parquet(Source):
    """Reads Parquet in batches; the place of a record is its row number, from 1."""

    keys_type = ParquetKeys

    def recognises(self, location: str, folder: Path) -> bool:
        """True for paths, globs and folders of .parquet files."""
        return bool(expand(location, folder, SUFFIXES))

    def fingerprint(self, location: str, folder: Path) -> str:
        """sha256 over names and bytes."""
        return fingerprint(matching(location, folder, SUFFIXES))

    def read(self, location: str, folder: Path) -> Iterator[RawRecord]:
        """Every row of every file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in matching(location, folder, SUFFIXES):
            name, number = shown(path, folder), 0
            try:
                file = pq.ParquetFile(path)
                wanted = self.keys.columns
                missing = sorted(set(wanted or []) - set(file.schema_arrow.names))
                if missing:
                    raise DataError(f"there is no column '{missing[0]}'", place=name, fix="the columns are: " + ", ".join(file.schema_arrow.names))
                for batch in file.iter_batches(batch_size=4096, columns=wanted):
                    rows: list[dict[str, Any]] = batch.to_pylist()
                    for values in rows:
                        number += 1
                        yield RawRecord(f"{name}:{number}", values)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"not a whole Parquet file: {error}", place=name, fix="copy or write the file again") from error
