"""Rows that a transaction wrote: recorded by triggers, read at its end, and put into another machine's copy.

The triggers are temporary ones: they exist for one connection and record all that is written through it, and
`event_log` knows nothing of it. Their records are rolled back with the rows, also to a savepoint. (SQLite's
session extension does the same in C, but Python's sqlite3 module does not offer it.)
"""

# ruff: noqa: S608 - the names in the statements are those of the schema

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ptn_api.cluster.commit import TableRows
from ptn_api.errors import LogDamagedError, LogUnusableError
from ptn_api.event_log.damage import CHECKED_COLUMNS, intact
from ptn_api.event_log.schema import LOCAL_COLUMNS, LOCAL_TABLES

__all__ = ["Table", "Tape", "delete_local", "put_rows", "require_intact", "shared_tables"]

_BATCH_BYTES = 256 << 10
"""About as much is read and encoded at a time."""


class Table(NamedTuple):
    """A table that the machines share, without its local columns."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    local: tuple[str, ...]


def shared_tables(db: sqlite3.Connection) -> dict[str, Table]:
    """The tables by name, in an order that is the same everywhere."""
    names = db.execute(
        "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
    ).fetchall()
    tables = {}
    for (name,) in names:
        if name not in LOCAL_TABLES:
            found = db.execute(f"PRAGMA main.table_info({name})").fetchall()  # name, ..., place in the key
            tables[name] = Table(
                name=name,
                key=tuple(row[1] for row in sorted(found, key=lambda row: row[5]) if row[5]),
                columns=tuple(row[1] for row in found if row[1] not in LOCAL_COLUMNS),
                local=tuple(row[1] for row in found if row[1] in LOCAL_COLUMNS),
            )
    return tables


class Tape:
    """The keys of the rows that this connection has written since `clear`, in a temporary table."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Begins to record, outside of a transaction."""
        self.db = db
        self._tables = list(shared_tables(db).values())
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("CREATE TEMP TABLE tape (t, k1, k2, PRIMARY KEY (t, k1, k2)) WITHOUT ROWID")
        for number, table in enumerate(self._tables):
            # A change of local columns alone is not recorded.
            for event, rows in (
                ("INSERT", ("NEW",)),
                ("DELETE", ("OLD",)),
                (f"UPDATE OF {', '.join(table.columns)}", ("OLD", "NEW")),
            ):
                values = ", ".join(
                    f"({number}, {', '.join([*(f'{row}.{column}' for column in table.key), '0'][:2])})"
                    for row in rows
                )
                db.execute(
                    f"CREATE TEMP TRIGGER {_trigger(table, event)} AFTER {event} ON main.{table.name}"
                    f" BEGIN INSERT OR IGNORE INTO tape VALUES {values}; END"
                )

    @property
    def empty(self) -> bool:
        return self.db.execute("SELECT 1 FROM temp.tape LIMIT 1").fetchone() is None

    def clear(self) -> None:
        self.db.execute("DELETE FROM temp.tape")

    def remove(self) -> None:
        """Ends the recording, outside of a transaction."""
        for table in self._tables:
            for event in ("INSERT", "DELETE", "UPDATE"):
                self.db.execute(f"DROP TRIGGER temp.{_trigger(table, event)}")
        self.db.execute("DROP TABLE temp.tape")

    def rows(self) -> Iterator[TableRows]:
        """The rows as they are now, in batches. Deleted rows first, since their unique values are free."""
        touched = [row[0] for row in self.db.execute("SELECT DISTINCT t FROM temp.tape ORDER BY t")]
        for number in touched:
            table = self._tables[number]
            matches = " AND ".join(
                f"main.{table.name}.{column} = {place}"
                for column, place in zip(table.key, ("k1", "k2"), strict=False)
            )
            deleted = self.db.execute(
                f"SELECT {', '.join(('k1', 'k2')[: len(table.key)])} FROM temp.tape WHERE t = ?"
                f" AND NOT EXISTS (SELECT 1 FROM main.{table.name} WHERE {matches})",
                (number,),
            ).fetchall()
            if deleted:
                yield TableRows(table.name, table.columns, [], deleted)
            columns = ", ".join(f"main.{table.name}.{column}" for column in table.columns)
            # CROSS: from the recorded keys to the rows, not the other way round.
            rows = self.db.execute(
                f"SELECT {columns} FROM temp.tape CROSS JOIN main.{table.name} ON {matches} WHERE t = ?",
                (number,),
            )
            batch: list[tuple[Any, ...]] = []
            size = 0
            for row in rows:
                batch.append(row)
                size += sum(len(value) if isinstance(value, (bytes, str)) else 8 for value in row)
                if size >= _BATCH_BYTES:
                    yield TableRows(table.name, table.columns, batch, [])
                    batch, size = [], 0
            if batch:
                yield TableRows(table.name, table.columns, batch, [])


def require_intact(tables: Iterable[TableRows]) -> Iterator[TableRows]:
    """Yields rows to publish. Raises LogDamagedError before a damaged one gets to other machines."""
    for written in tables:
        columns = [*CHECKED_COLUMNS[written.table].split(", "), "crc"]
        places = [written.columns.index(column) for column in columns]
        if not all(intact(tuple(row[place] for place in places)) for row in written.rows):
            raise LogDamagedError(f"a damaged row is not published: of {written.table}")
        yield written


def put_rows(db: sqlite3.Connection, tables: Mapping[str, Table], written: TableRows) -> None:
    """Makes a table's rows those of another machine; their local columns become empty.

    Raises LogUnusableError for tables and columns that this version does not have.
    """
    table = tables.get(written.table)
    if table is None or not set(written.columns) <= set(table.columns):
        raise LogUnusableError(
            f"a commit with an unknown table or column: {written.table}", code="newer_commit"
        )
    if written.deleted:
        key = " AND ".join(f"{column} = ?" for column in table.key)
        db.executemany(f"DELETE FROM main.{table.name} WHERE {key}", written.deleted)
    if written.rows:
        columns = (*written.columns, *table.local)
        places = ", ".join([*("?" * len(written.columns)), *(["''"] * len(table.local))])
        # Not REPLACE, which would silently delete another row with the same unique values.
        updates = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in table.key)
        db.executemany(
            f"INSERT INTO main.{table.name} ({', '.join(columns)}) VALUES ({places})"
            f" ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {updates}",
            written.rows,
        )


def delete_local(db: sqlite3.Connection) -> None:
    """Empties what belongs to one machine, except for the copy's place in the chain."""
    for table in shared_tables(db).values():
        for column in table.local:
            db.execute(f"UPDATE main.{table.name} SET {column} = '' WHERE {column} <> ''")
    db.execute("UPDATE main.chain SET complete_ms = NULL")
    db.execute("DELETE FROM main.machine")


def _trigger(table: Table, event: str) -> str:
    return f"tape_{table.name}_{event.split()[0].lower()}"
