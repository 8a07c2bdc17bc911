"""The log's schema, and the migrations that bring an older log to it: the only way to change the schema."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import structlog

from ptn_api.errors import LogMissingError, LogUnusableError
from ptn_api.event_log.damage import CHECKED_COLUMNS, row_checksum
from ptn_api.model.trade_pair import pair_id

__all__ = [
    "LOCAL_COLUMNS",
    "LOCAL_TABLES",
    "MIGRATIONS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "complete_rows",
    "create_or_migrate",
    "require_schema",
]

logger = structlog.get_logger()
_APPLICATION_ID = 0x50544E31  # "PTN1"

# A new log is created with SCHEMA, an older one goes through MIGRATIONS; a test compares the results.
SCHEMA = """
-- crc: the checksum of the row (damage.py).
CREATE TABLE log (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    ready INTEGER NOT NULL DEFAULT 0,
    sequence INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0,
    tombstone_floor INTEGER NOT NULL DEFAULT 0,
    event_bytes INTEGER NOT NULL DEFAULT 0,
    events INTEGER NOT NULL DEFAULT 0,
    late INTEGER NOT NULL DEFAULT 0,
    conflicts INTEGER NOT NULL DEFAULT 0,
    pruned INTEGER NOT NULL DEFAULT 0,
    source BLOB NOT NULL DEFAULT x'7b7d',
    skipped INTEGER NOT NULL DEFAULT 0,
    crc INTEGER NOT NULL DEFAULT 0,
    source_crc INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE positions (
    id INTEGER PRIMARY KEY,
    miner TEXT NOT NULL,
    uuid TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    revision INTEGER NOT NULL,
    layout_revision INTEGER NOT NULL,
    close_ms INTEGER,
    removed_ms INTEGER,
    last_sequence INTEGER NOT NULL,
    orders_at INTEGER NOT NULL,
    header BLOB NOT NULL,
    n_orders INTEGER NOT NULL DEFAULT 0,
    crc INTEGER NOT NULL DEFAULT 0,
    UNIQUE (miner, uuid)
);
CREATE INDEX positions_by_revision ON positions (revision);
CREATE INDEX tombstones ON positions (removed_ms) WHERE removed_ms IS NOT NULL;
-- id = position << 32 | index: a position's orders are adjacent, in list order.
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL,
    revision INTEGER NOT NULL,
    text BLOB NOT NULL,
    crc INTEGER NOT NULL DEFAULT 0,
    processed_ms INTEGER NOT NULL DEFAULT 0,
    trade_pair TEXT NOT NULL DEFAULT ''
);
CREATE INDEX orders_by_time ON orders (processed_ms, uuid, trade_pair);
CREATE TABLE removed_orders (
    position INTEGER NOT NULL,
    uuid TEXT NOT NULL,
    before TEXT,
    removed_ms INTEGER NOT NULL,
    crc INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (position, uuid)
) WITHOUT ROWID;
CREATE TABLE seen (
    miner TEXT NOT NULL,
    uuid TEXT NOT NULL,
    processed_ms INTEGER NOT NULL,
    leverage REAL,
    crc INTEGER NOT NULL DEFAULT 0,
    sequence INTEGER,
    PRIMARY KEY (miner, uuid)
) WITHOUT ROWID;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    position INTEGER NOT NULL,
    miner TEXT NOT NULL,
    position_uuid TEXT NOT NULL,
    trade_pair TEXT NOT NULL,
    order_uuid TEXT NOT NULL,
    processed_ms INTEGER NOT NULL,
    n_orders INTEGER NOT NULL,
    late INTEGER NOT NULL,
    orders_at INTEGER NOT NULL,
    order_text BLOB NOT NULL,
    header BLOB NOT NULL,
    extra BLOB NOT NULL,
    crc INTEGER NOT NULL DEFAULT 0
);
-- miner '': the document is not one of a miner. version NULL: the validator deleted it, at removed_ms.
CREATE TABLE documents (
    name TEXT NOT NULL,
    miner TEXT NOT NULL,
    revision INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    digest BLOB,
    version INTEGER,
    removed_ms INTEGER,
    crc INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (name, miner)
) WITHOUT ROWID;
CREATE INDEX documents_by_revision ON documents (revision);
CREATE TABLE chunks (
    version INTEGER NOT NULL,
    number INTEGER NOT NULL,
    content BLOB NOT NULL,
    crc INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (version, number)
);
-- Empty on a single machine. In a cluster: the last commit that this copy contains (cluster/chain.py), and
-- when the copy was last known to be complete, by the machine's monotonic clock.
CREATE TABLE chain (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    tip INTEGER NOT NULL,
    commit_id BLOB NOT NULL,
    term INTEGER NOT NULL,
    writer BLOB NOT NULL,
    complete_ms INTEGER
);
-- Empty on a single machine. The id of this machine's writer, as in chain.writer; empty if it only follows.
CREATE TABLE machine (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    writer BLOB NOT NULL
);
"""

LOCAL_TABLES = frozenset({"chain", "machine"})
LOCAL_COLUMNS = frozenset({"fingerprint"})
"""What belongs to one machine's file and is not shared in a cluster. All other tables and columns are.

A local column has the type TEXT, and is empty in a row that another machine wrote.
"""

_TO_2 = """
ALTER TABLE positions RENAME COLUMN shell TO header;
ALTER TABLE events RENAME COLUMN shell TO header;
ALTER TABLE departed RENAME TO removed_orders;
ALTER TABLE removed_orders RENAME COLUMN departed_ms TO removed_ms;
ALTER TABLE pieces RENAME TO chunks;
ALTER TABLE chunks RENAME COLUMN place TO number;
ALTER TABLE log ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0;
ALTER TABLE seen RENAME TO seen_1;
CREATE TABLE seen (
    miner TEXT NOT NULL,
    uuid TEXT NOT NULL,
    processed_ms INTEGER NOT NULL,
    leverage REAL,
    PRIMARY KEY (miner, uuid)
) WITHOUT ROWID;
INSERT INTO seen SELECT miner, uuid, processed_ms, leverage FROM seen_1;
DROP TABLE seen_1;
ALTER TABLE documents RENAME TO documents_1;
CREATE TABLE documents (
    name TEXT NOT NULL,
    miner TEXT NOT NULL,
    revision INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    digest BLOB,
    version INTEGER,
    removed_ms INTEGER,
    PRIMARY KEY (name, miner)
) WITHOUT ROWID;
CREATE INDEX documents_by_revision ON documents (revision);
INSERT INTO documents (name, miner, revision, fingerprint, digest, version, removed_ms)
    SELECT name, '', documents_1.revision, fingerprint, digest, version,
        CASE WHEN version IS NULL THEN created_ms END
    FROM documents_1, log;
DROP TABLE documents_1;
"""

_TO_3 = """
ALTER TABLE positions ADD COLUMN n_orders INTEGER NOT NULL DEFAULT 0;
UPDATE positions SET n_orders = (
    SELECT count(*) FROM orders WHERE orders.id BETWEEN positions.id << 32 AND (positions.id + 1 << 32) - 1
);
-- The floor follows from the two counters.
UPDATE log SET pruned = events - (SELECT count(*) FROM events);
ALTER TABLE log ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE log SET crc = row_checksum(
    id, epoch, created_ms, ready, sequence, revision, tombstone_floor, event_bytes, events, late,
    conflicts, pruned, skipped
);
ALTER TABLE positions ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE positions SET crc = row_checksum(
    id, miner, uuid, revision, layout_revision, close_ms, removed_ms, orders_at, header, n_orders
);
ALTER TABLE orders ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE orders SET crc = row_checksum(id, uuid, revision, text);
ALTER TABLE removed_orders ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE removed_orders SET crc = row_checksum(position, uuid, before, removed_ms);
ALTER TABLE seen ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE seen SET crc = row_checksum(miner, uuid, processed_ms, leverage);
ALTER TABLE events ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE events SET crc = row_checksum(
    sequence, revision, timestamp_ms, position, miner, position_uuid, trade_pair, order_uuid,
    processed_ms, n_orders, late, orders_at, order_text, header, extra
);
ALTER TABLE documents ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE documents SET crc = row_checksum(name, miner, revision, digest, version, removed_ms);
ALTER TABLE chunks ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE chunks SET crc = row_checksum(version, number, content);
ALTER TABLE log ADD COLUMN source_crc INTEGER NOT NULL DEFAULT 0;
UPDATE log SET source_crc = row_checksum(source);
"""

_TO_4 = """
CREATE TABLE chain (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    tip INTEGER NOT NULL,
    commit_id BLOB NOT NULL,
    term INTEGER NOT NULL,
    writer BLOB NOT NULL,
    complete_ms INTEGER
);
CREATE TABLE machine (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    writer BLOB NOT NULL
);
"""

# A damaged row keeps the checksum that it contradicts.
_FILL_ORDERS = """
UPDATE orders SET processed_ms = order_time(text), trade_pair = position_pair(
    (SELECT header FROM positions WHERE positions.id = orders.id >> 32)
), crc = row_checksum(id, uuid, revision, text, order_time(text), position_pair(
    (SELECT header FROM positions WHERE positions.id = orders.id >> 32)
)) WHERE crc = row_checksum(id, uuid, revision, text)"""
_FILL_SEEN = """
UPDATE seen SET crc = row_checksum(miner, uuid, processed_ms, leverage, sequence)
    WHERE crc = row_checksum(miner, uuid, processed_ms, leverage)"""
_FILL_SEQUENCES = """
INSERT OR REPLACE INTO seen (miner, uuid, processed_ms, leverage, sequence, crc)
    SELECT seen.miner, uuid, seen.processed_ms, leverage, events.sequence,
        row_checksum(seen.miner, uuid, seen.processed_ms, leverage, events.sequence)
    FROM events CROSS JOIN seen ON seen.miner = events.miner AND uuid = order_uuid
    WHERE seen.crc = row_checksum(seen.miner, uuid, seen.processed_ms, leverage, seen.sequence)"""

_TO_5 = f"""
ALTER TABLE orders ADD COLUMN processed_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE orders ADD COLUMN trade_pair TEXT NOT NULL DEFAULT '';
{_FILL_ORDERS};
CREATE INDEX orders_by_time ON orders (processed_ms, uuid, trade_pair);
ALTER TABLE seen ADD COLUMN sequence INTEGER;
{_FILL_SEEN};
{_FILL_SEQUENCES};
"""

MIGRATIONS = (_TO_2, _TO_3, _TO_4, _TO_5)
"""Scripts: the first one leads from schema 1 to 2, the next one from 2 to 3, and so on."""
SCHEMA_VERSION = 1 + len(MIGRATIONS)


def create_or_migrate(db: sqlite3.Connection, path: Path, created_ms: int) -> None:
    """Creates the schema in a new file, or migrates that of an older version.

    Both happen in one transaction, the pragmas included: readers see either nothing or the result, and a
    failure leaves the file unchanged. Raises LogUnusableError for a file that is not a log, for a newer
    version's, and for a damaged one of an older version.
    """
    found = _version(db, path)
    if found == SCHEMA_VERSION:
        return
    _add_functions(db, reported=bool(found))
    db.execute("BEGIN IMMEDIATE")
    try:
        for script in MIGRATIONS[found - 1 :] if found else (SCHEMA,):
            for statement in script.split(";\n"):
                db.execute(statement)
        if not found:
            db.execute(
                "INSERT INTO log (id, epoch, created_ms, sequence) VALUES (1, ?, ?, ?)",
                (secrets.token_hex(16), created_ms, created_ms),
            )
            db.execute(f"UPDATE log SET crc = row_checksum({CHECKED_COLUMNS['log']})")  # noqa: S608
            db.execute("UPDATE log SET source_crc = row_checksum(source)")
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException as error:  # Ctrl-C as well: the transaction would stay open
        db.rollback()
        if found and isinstance(error, sqlite3.OperationalError) and "user-defined function" in str(error):
            # `row_checksum` is not called with text that is not UTF-8.
            raise LogUnusableError(
                f"{path} is damaged and cannot be migrated: it has text that is not UTF-8."
                " Restore a backup of it, or move log.sqlite3* away to begin a new log",
                code="not_migrated",
            ) from error
        raise
    if found:
        logger.info("log_migrated", from_schema=found, to_schema=SCHEMA_VERSION)


def complete_rows(
    db: sqlite3.Connection,
    schema: int,
    *,
    orders: Iterable[int],
    seen: Iterable[tuple[str, str]],
    sequences: tuple[int, int],
) -> None:
    """Adds what a writer of an older schema has left out of rows with these keys, as a migration does.

    `sequences` are the first and the last one of the events among the rows.
    """
    if schema < 5:
        _add_functions(db)
        db.executemany(f"{_FILL_ORDERS} AND id = ?", [(key,) for key in orders])
        db.executemany(f"{_FILL_SEEN} AND miner = ? AND uuid = ?", seen)
        db.execute(f"{_FILL_SEQUENCES} AND events.sequence BETWEEN ? AND ?", sequences)


class _Migrated(msgspec.Struct):
    """What a migration reads of a header or an order."""

    processed_ms: int = 0
    trade_pair: Any = None


_migrated = msgspec.json.Decoder(_Migrated)
_REPORT_S = 5.0


def _add_functions(db: sqlite3.Connection, *, reported: bool = False) -> None:
    """Adds the functions of the migrations; if `reported`, they log how far a long one is."""
    rows, report_at = 0, monotonic() + _REPORT_S

    def checksum(*values: Any) -> int:
        nonlocal rows, report_at
        rows += 1
        if reported and rows % 1_000 == 0 and monotonic() > report_at:
            logger.info("log_migrating", checksums=rows)
            report_at = monotonic() + _REPORT_S
        return row_checksum(*values)

    def order_time(text: bytes) -> int:
        return _migrated.decode(text).processed_ms

    def position_pair(header: bytes | None) -> str:
        try:
            return pair_id(_migrated.decode(header or b"{}").trade_pair)
        except (msgspec.MsgspecError, UnicodeDecodeError):  # damaged: all of the position is written again
            return ""

    for name, arguments, function in (
        ("row_checksum", -1, checksum),
        ("order_time", 1, order_time),
        ("position_pair", 1, position_pair),
    ):
        db.create_function(name, arguments, function, deterministic=True)


def require_schema(db: sqlite3.Connection, path: Path) -> None:
    """Raises LogMissingError until a writer has created or migrated the log.

    Raises LogUnusableError as `create_or_migrate` does.
    """
    found = _version(db, path)
    if not found:
        raise LogMissingError(f"no event log yet: {path}")
    if found < SCHEMA_VERSION:
        raise LogMissingError(
            f"{path} was written by an older version (schema {found}, now {SCHEMA_VERSION}):"
            " intake migrates it at its start",
            code="older_schema",
        )


def _version(db: sqlite3.Connection, path: Path) -> int:
    """Returns the version of the file's schema, 0 without one."""
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        return 0  # checked first: a writer may be creating the schema, in one transaction
    (application,) = db.execute("PRAGMA application_id").fetchone()
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if application != _APPLICATION_ID or version < 1:
        raise LogUnusableError(f"not an event log: {path}", code="not_a_log")
    if version > SCHEMA_VERSION:
        raise LogUnusableError(
            f"{path} was written by a newer version (schema {version}, supported {SCHEMA_VERSION}): upgrade",
            code="newer_schema",
        )
    return version
