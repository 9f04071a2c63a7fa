"""A query on any database that SQLAlchemy reaches: SQLite, PostgreSQL and others by URL."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attune.core.addresses import VARIABLE, opened
from attune.core.contracts import RawRecord, Source
from attune.core.errors import DataError, MachineError
from attune.core.keys import Keys, key
from attune.core.records import canonical_json


class SqlKeys(Keys):
    """Keys of the source."""

    query: str | None = key(None, "the SELECT whose rows are read; give it an ORDER BY so that places stay the same")


class Sql(Source):
    """Reads the rows of one query; the place of a record is its number in the result, from 1. ${NAME} in the URL is taken from the environment."""

    keys_type = SqlKeys

    def recognises(self, location: str, folder: Path) -> bool:
        """True for URLs such as sqlite:///tickets.db or postgresql://user:${DATABASE_PASSWORD}@host/base."""
        scheme = location.partition("://")[0].split("+")[0]
        return "://" in location and scheme in ("sqlite", "postgresql", "mysql", "mariadb", "mssql", "oracle")

    def fingerprint(self, location: str, folder: Path) -> str:
        """sha256 over the rows that the query gives now."""
        total = hashlib.sha256()
        for record in self.read(location, folder):
            total.update(canonical_json(record.values).encode("utf-8", "replace"))
        return total.hexdigest()

    def read(self, location: str, folder: Path) -> Iterator[RawRecord]:
        """Every row of the result. The password of the URL is never shown."""
        from sqlalchemy import create_engine, text
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

        if not self.keys.query:
            raise DataError("a database needs a query", place="data.source", fix="write `source: {name: sql, query: SELECT text, label FROM tickets ORDER BY id}`")
        try:
            url = make_url(opened(location))
            if url.get_backend_name() == "sqlite" and url.database:
                file = folder / url.database
                if not file.is_file():
                    raise DataError(
                        f"there is no database file '{url.database}'", place="data.path", fix=f"SQLite paths are taken from {folder}; an absolute one needs four slashes: sqlite:////data/tickets.db"
                    )
                url = url.set(database=str(file))
            engine = create_engine(url)
        except (ArgumentError, NoSuchModuleError) as error:
            raise DataError("not a database URL", place="data.path", fix=f"for example sqlite:///tickets.db or postgresql+psycopg://user:${{{VARIABLE}}}@host/base") from error
        except ImportError as error:
            raise MachineError(f"the driver of '{location.partition('://')[0]}' is not installed: {error.name}", place="data.path", fix="install it, for PostgreSQL: attune[postgres]") from error
        name = url.database.rpartition("/")[2] if url.database else url.get_backend_name()
        try:
            with engine.connect() as connection:
                result = connection.execution_options(stream_results=True).execute(text(self.keys.query))
                for number, row in enumerate(result.mappings(), start=1):
                    values: dict[str, Any] = {str(column): value for column, value in row.items()}
                    yield RawRecord(f"{name}:{number}", values)
        except SQLAlchemyError as error:
            said = str(getattr(error, "orig", None) or error)
            raise DataError(
                f"the database refused: {said.replace(str(url.password), '***') if url.password else said}",
                place=f"data.source of {url.render_as_string(hide_password=True)}",
                fix="try the query in the database's own shell",
            ) from error
        finally:
            engine.dispose()
