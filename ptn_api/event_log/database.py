"""The log's SQLite file: schema, connections, and the errors that SQLite's errors become.

The file is in WAL mode with synchronous=FULL: a commit that returned survives kill -9 and power loss, and
readers never block the writer. Readers connect read-write with query_only: a read-only connection that is the
last one could not recover after a killed writer (checkpoint the WAL and remove it).

Only SQLite may open the file: POSIX locks belong to the process, and closing any other descriptor of the file
would drop them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from ptn_api.errors import (
    LogError,
    LogMissingError,
    LogReplacedError,
    LogUnusableError,
    LogUnwritableError,
)

__all__ = [
    "FileIdentity",
    "connect_reader",
    "connect_writer",
    "create",
    "log_path",
    "make_file",
    "reading",
    "wal_path",
    "without_waiting",
    "writing",
]

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x50544E31  # "PTN1"
_BUSY_S = 10.0
_WRITER_PRAGMAS = (
    "synchronous = FULL",
    "wal_autocheckpoint = 2000",  # pages: a checkpoint every 8 MB, which costs one commit a few ms
    f"journal_size_limit = {32 << 20}",
    f"cache_size = -{64 << 10}",  # KiB
)

# Columns and tables keep the names of schema 1: `shell` is a position's or event's header, `departed` holds
# the orders removed from lists, and `pieces` the chunks of documents.
_SCHEMA = """
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
    source BLOB NOT NULL DEFAULT x'7b7d'
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
    shell BLOB NOT NULL,
    UNIQUE (miner, uuid)
);
CREATE INDEX positions_by_revision ON positions (revision);
CREATE INDEX tombstones ON positions (removed_ms) WHERE removed_ms IS NOT NULL;
-- id = position << 32 | index: a position's orders are adjacent, in list order.
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL,
    revision INTEGER NOT NULL,
    text BLOB NOT NULL
);
CREATE TABLE departed (
    position INTEGER NOT NULL,
    uuid TEXT NOT NULL,
    before TEXT,
    departed_ms INTEGER NOT NULL,
    PRIMARY KEY (position, uuid)
) WITHOUT ROWID;
CREATE TABLE seen (
    miner TEXT NOT NULL,
    uuid TEXT NOT NULL,
    processed_ms INTEGER NOT NULL,
    leverage REAL,
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
    shell BLOB NOT NULL,
    extra BLOB NOT NULL
);
-- miner '': the document is not one of a miner. version NULL: the validator deleted it.
CREATE TABLE documents (
    name TEXT NOT NULL,
    miner TEXT NOT NULL,
    revision INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    digest BLOB,
    version INTEGER,
    PRIMARY KEY (name, miner)
) WITHOUT ROWID;
CREATE TABLE pieces (
    version INTEGER NOT NULL,
    place INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (version, place)
);
"""


def log_path(data_dir: Path) -> Path:
    return data_dir / "log.sqlite3"


def wal_path(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


class FileIdentity:
    """The device and inode of the opened file, to detect that its path leads elsewhere.

    An inode is not reused while a connection holds it open.
    """

    def __init__(self, path: Path) -> None:
        """Raises LogMissingError without a file: one that a writer creates next is not a replacement."""
        self._path = path
        opened = self._now()
        if opened is None:
            raise LogMissingError(f"no event log yet: {path}")
        self._opened = opened

    def check(self) -> None:
        """Raises LogReplacedError if the log was deleted or replaced, LogError if that is unknown."""
        if self._now() != self._opened:
            raise LogReplacedError(f"the log {self._path} was deleted or replaced while in use")

    def _now(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            # No permission, or trouble with the disk: the log may be the same, so a retry can help.
            raise LogError(f"cannot access the log {self._path}: {error.strerror}") from error
        return status.st_dev, status.st_ino


def make_file(path: Path) -> None:
    """Creates an empty file, readable by its owner only, unless it exists. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def connect_writer(path: Path) -> sqlite3.Connection:
    """Connects for writing. Raises LogUnusableError on a file system without write-ahead log support."""
    db = _connect(path)
    try:
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            reason = "the file system does not support it (a network mount?); use a local disk"
            raise LogUnusableError(f"no write-ahead log at {path}: {reason}", code="no_wal")
        for pragma in _WRITER_PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
    except BaseException:
        db.close()
        raise
    return db


def connect_reader(path: Path) -> sqlite3.Connection:
    """Connects for reading. Raises LogMissingError before a writer has created the schema."""
    with reading():
        db = _connect(path)
        try:
            db.execute("PRAGMA query_only = ON")
            if not _has_schema(db, path):
                raise LogMissingError(f"no event log yet: {path}")
        except BaseException:
            db.close()
            raise
    return db


def create(db: sqlite3.Connection, path: Path, created_ms: int) -> None:
    """Creates the schema in a new file, in one transaction. Does nothing for an existing log."""
    if _has_schema(db, path):
        return
    # One transaction, including the two pragmas: a reader sees no schema or all of it.
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA.split(";\n"):
            db.execute(statement)
        db.execute(
            "INSERT INTO log (id, epoch, created_ms, sequence) VALUES (1, ?, ?, ?)",
            (secrets.token_hex(16), created_ms, created_ms // 1000),
        )
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.rollback()
        raise


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turns SQLite's errors into LogError, those of a damaged file into LogUnusableError."""
    try:
        yield
    except sqlite3.Error as error:
        _raise_if_damaged(error)
        raise LogError(f"the log cannot be read: {error}") from error


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turns SQLite's errors into LogUnwritableError, those of a damaged file into LogUnusableError."""
    try:
        yield
    except sqlite3.Error as error:
        _raise_if_damaged(error)
        raise LogUnwritableError(f"the log cannot be written: {error}") from error


@contextlib.contextmanager
def without_waiting(db: sqlite3.Connection) -> Iterator[None]:
    """Statements in the block give up at once if another connection holds a lock."""
    db.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        db.execute(f"PRAGMA busy_timeout = {_BUSY_S * 1000:.0f}")


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",  # never creates a file: make_file() sets its permissions
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,  # explicit BEGIN and COMMIT
        check_same_thread=False,  # callers hold a lock per connection
    )


def _has_schema(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has the schema. Raises LogUnusableError if it is not a log, or a newer version's."""
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        return False  # checked first: a writer may be creating the schema, in one transaction
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION_ID:
        raise LogUnusableError(f"not an event log: {path}", code="not_a_log")
    if version > SCHEMA_VERSION:
        raise LogUnusableError(
            f"{path} was written by a newer version (schema {version}, supported {SCHEMA_VERSION}): upgrade",
            code="newer_schema",
        )
    return True


def _raise_if_damaged(error: sqlite3.Error) -> None:
    """SQLite raises the base class itself for a damaged file or one that is not a database."""
    if type(error) is sqlite3.DatabaseError:
        raise LogUnusableError(f"the log is damaged: {error}", code="corrupt") from error
