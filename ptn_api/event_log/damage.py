"""Damage of the log's file: a checksum in every row, and the rows and pages that contradict theirs.

SQLite has no checksums, so a bit that the disk has flipped would be served. A damaged row is left out and
reported; intake rewrites it from the validator's files where they have it (docs/reliability.md).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
import structlog
from isal.isal_zlib import crc32

__all__ = [
    "CHECKED_COLUMNS",
    "UNREPAIRED",
    "Damage",
    "DamagedRows",
    "check_file",
    "intact",
    "row_checksum",
]

logger = structlog.get_logger()

UNREPAIRED = -1
"""The checksum of a row that is known to be damaged and is to be written again; no row has it by itself."""
_ROWS_WITHOUT_PAUSE = 200
_PAUSE_S = 0.001
_MOST_FAULTS = 100
"""Lines that SQLite's own check of the file returns at most."""

CHECKED_COLUMNS = {
    "log": "id, epoch, created_ms, ready, sequence, revision, tombstone_floor, event_bytes, events, late,"
    " conflicts, pruned, skipped",
    "positions": "id, miner, uuid, revision, layout_revision, close_ms, removed_ms, orders_at, header,"
    " n_orders",
    "orders": "id, uuid, revision, text, processed_ms, trade_pair",
    "removed_orders": "position, uuid, before, removed_ms",
    "seen": "miner, uuid, processed_ms, leverage, sequence",
    "events": "sequence, revision, timestamp_ms, position, miner, position_uuid, trade_pair, order_uuid,"
    " processed_ms, n_orders, late, orders_at, order_text, header, extra",
    "documents": "name, miner, revision, digest, version, removed_ms",
    "chunks": "version, number, content",
}
"""The columns that a table's `crc` covers, in order; the key first.

Not covered are the fingerprints of positions and documents and a position's `last_sequence`, which change
alone: a wrong one makes intake read a file again, or keeps the orders of a removed position longer.
"""
_UNCHECKED = {"positions": ("fingerprint", "last_sequence"), "documents": ("fingerprint",)}
_KEYS = {"removed_orders": 2, "seen": 2, "documents": 2, "chunks": 2}
"""Columns of a table's key, if more than one."""

_encode = msgspec.msgpack.Encoder().encode


def row_checksum(*values: int | float | str | bytes | None) -> int:
    """The checksum of a row's columns, by value and type. Raises OverflowError, UnicodeEncodeError."""
    return crc32(_encode(values))


def intact(row: tuple[Any, ...], *, first: int = 0) -> bool:
    """Returns whether a row's last column is the checksum of the others, from the `first` on."""
    return bool(crc32(_encode(row[first:-1])) == row[-1])


class Damage(NamedTuple):
    """A damaged part of the log.

    The key of a position, and of its orders as a whole, is (id, miner, uuid); of other rows the table's. An
    empty table means the file's structure, and the key what SQLite's check says.
    """

    table: str
    key: tuple[Any, ...]

    @property
    def label(self) -> str:
        """The key as a word for a log line."""
        return " ".join(ascii(part)[1:-1] if isinstance(part, str) else str(part) for part in self.key)


class DamagedRows:
    """The damaged rows that a reader has met, each logged once unless `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.found: dict[Damage, None] = {}
        self._quiet = quiet

    def __bool__(self) -> bool:
        return bool(self.found)

    def add(self, table: str, *key: Any) -> None:
        damage = Damage(table, key)
        if damage not in self.found:
            self.found[damage] = None
            if not self._quiet:
                logger.error("log_damaged", table=table, key=damage.label)


# --- the check of the whole file --------------------------------------------------------------------------


def check_file(db: sqlite3.Connection) -> list[Damage]:
    """Returns every damaged part: rows, what is missing between rows, and the structure of the file."""
    found: list[Damage] = []
    db.execute("BEGIN")  # one snapshot for all of it
    for table in CHECKED_COLUMNS:
        try:
            found += _check_table(db, table)
        except sqlite3.DatabaseError as error:
            found.append(Damage("", (f"{table}: {error}",)))
    try:
        lines = db.execute(f"PRAGMA integrity_check({_MOST_FAULTS})").fetchall()
    except sqlite3.DatabaseError as error:
        lines = [(str(error),)]
    found += [Damage("", (line,)) for (text,) in lines for line in text.splitlines() if line != "ok"]
    return list(dict.fromkeys(found))


def _check_table(db: sqlite3.Connection, table: str) -> Iterator[Damage]:
    columns = CHECKED_COLUMNS[table]
    for unchecked in _UNCHECKED.get(table, ()):  # read for an error of the schema
        db.execute(f"SELECT {unchecked} FROM {table} LIMIT 1").fetchone()  # noqa: S608 - constants
    rows = _unhurried(db.execute(f"SELECT {columns}, crc FROM {table}"))  # noqa: S608 - constants
    if table == "orders":
        yield from _check_orders(db, rows)
        return
    keys: list[tuple[Any, ...]] = []
    for row in rows:
        key = row[: 3 if table == "positions" else _KEYS.get(table, 1)]
        if not intact(row):
            yield Damage(table, key)
        elif table == "events":
            keys.append(key)
    if table == "log":
        source = db.execute("SELECT source, source_crc FROM log").fetchone()
        if source is None:
            yield Damage("log", (1,))
        elif not intact(source):
            yield Damage("log", ("source",))
    elif table == "chunks":
        unread = db.execute(
            "SELECT name, miner FROM documents WHERE version IS NOT NULL AND version NOT IN"
            " (SELECT version FROM chunks)"
        )
        yield from (Damage("documents", key) for key in unread.fetchall())
    elif table == "events":
        query = f"SELECT sequence, events - pruned, {CHECKED_COLUMNS['log']}, crc FROM log"  # noqa: S608
        row = db.execute(query).fetchone()
        if row is not None and intact(row[2:]):  # else the range may be of any size
            head, kept = row[:2]
            missing = set(range(head - kept + 1, head + 1)).difference(key[0] for key in keys)
            yield from (Damage("events", (sequence,)) for sequence in sorted(missing))


def _unhurried(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yields the rows with pauses, in which other threads of the process can run: orders go first."""
    for number, row in enumerate(rows):
        if number % _ROWS_WITHOUT_PAUSE == 0:
            time.sleep(_PAUSE_S)
        yield row


def _check_orders(db: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> Iterator[Damage]:
    """Yields the positions whose orders are damaged, or not as many as they should be."""
    positions = {row[0]: row for row in db.execute("SELECT id, miner, uuid, n_orders FROM positions")}
    counts: dict[int, int] = {}
    for row in rows:
        # A damaged schema may not have the column as the key any more.
        position, index = divmod(row[0], 1 << 32) if isinstance(row[0], int) else (0, -1)
        expected = counts.get(position, 0)
        # A damaged order ends the count, so that it is reported once.
        counts[position] = expected + 1 if index == expected and intact(row) else -1
    for position in positions.keys() | counts.keys():
        key = positions.get(position, (position, "", "", 0))
        if counts.get(position, 0) != key[3]:
            yield Damage("orders", key[:3])
