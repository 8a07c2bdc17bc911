"""A reader of the SQLite log; any number of processes may have one, whether or not a writer runs."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ptn_api.clock import monotonic_ms
from ptn_api.errors import LogPrunedError
from ptn_api.event_log.commit_notifier import SocketCommitListener, listener_folder
from ptn_api.event_log.contract import (
    Document,
    Event,
    Head,
    LoggedPosition,
    RemovedPosition,
    SourceStatus,
)
from ptn_api.event_log.database import FileIdentity, connect_reader, log_path, reading
from ptn_api.event_log.documents import KINDS, read_document
from ptn_api.event_log.rows import POSITION_COLUMNS, LogState, events_after, logged_position

__all__ = ["SqliteReader"]

_FIRST_BATCH = 32
_LARGEST_BATCH = 1_024
"""Positions read in one transaction: few at first, because many callers stop early."""

_source = msgspec.json.Decoder(SourceStatus)


class SqliteReader:
    """An `EventLog` (see contract.py) over a SQLite file; threads may share it.

    Any call raises LogReplacedError once the log was deleted or replaced: everything that this process
    derived from it is void, and it should start again.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = log_path(data_dir)
        self._lock = threading.Lock()
        self._identity = FileIdentity(self._path)
        self._db = connect_reader(self._path)
        try:
            with self._snapshot() as db:
                state = LogState.load(db)
        except BaseException:
            self._db.close()
            raise
        self.epoch: str = state.epoch
        self.created_ms: int = state.created_ms

    def ready(self) -> bool:
        return bool(self._state().ready)

    def head(self) -> Head:
        state = self._state()
        return Head(sequence=state.sequence, revision=state.revision)

    def floor(self) -> int:
        with self._snapshot() as db:
            return _floor(db)

    def read(self, after: int, limit: int, *, orders: bool = True) -> list[Event]:
        with self._snapshot() as db:
            floor = _floor(db)
            if after + 1 < floor:
                raise LogPrunedError(f"events after {after} are gone, the oldest is {floor}")
            return events_after(db, after, limit, orders=orders)

    def first_timestamp_after(self, sequence: int) -> int | None:
        with self._snapshot() as db:
            row = db.execute(
                "SELECT timestamp_ms FROM events WHERE sequence > ? ORDER BY sequence LIMIT 1", (sequence,)
            ).fetchone()
        return row[0] if row else None

    def hotkeys(self) -> list[str]:
        with self._snapshot() as db:
            rows = db.execute(
                "SELECT DISTINCT miner FROM positions WHERE removed_ms IS NULL ORDER BY miner"
            ).fetchall()
        return [row[0] for row in rows]

    def positions(self, *, miner: str | None = None, since_revision: int = 0) -> Iterator[LoggedPosition]:
        size = _FIRST_BATCH
        while True:
            with self._snapshot() as db:
                batch = _positions(db, since_revision, miner=miner, limit=size)
            # No transaction is open here, however long the caller takes. A position that changes in the
            # meantime gets a larger revision and appears in a later batch.
            yield from batch
            if len(batch) < size:
                return
            since_revision = batch[-1].revision
            size = min(2 * size, _LARGEST_BATCH)

    def positions_of(self, miner: str, *, open_or_closed_since_ms: int) -> list[LoggedPosition]:
        with self._snapshot() as db:
            rows = db.execute(
                f"SELECT {POSITION_COLUMNS} FROM positions WHERE miner = ? AND removed_ms IS NULL"  # noqa: S608
                " AND (close_ms IS NULL OR close_ms >= ?) ORDER BY revision",
                (miner, open_or_closed_since_ms),
            ).fetchall()
            return [logged_position(db, row) for row in rows]

    def position(self, miner: str, position_uuid: str) -> LoggedPosition | None:
        with self._snapshot() as db:
            row = db.execute(
                f"SELECT {POSITION_COLUMNS} FROM positions"  # noqa: S608 - constant column names
                " WHERE miner = ? AND uuid = ? AND removed_ms IS NULL",
                (miner, position_uuid),
            ).fetchone()
            return logged_position(db, row) if row else None

    def removed(self, since_revision: int) -> list[RemovedPosition]:
        with self._snapshot() as db:
            return _removed(db, since_revision)

    def oldest_revision(self) -> int:
        return self._state().tombstone_floor

    def changes(self, since_revision: int) -> tuple[Head, list[LoggedPosition], list[RemovedPosition]]:
        with self._snapshot() as db:
            state = LogState.load(db)
            removed = _removed(db, since_revision)
            changed = _positions(db, since_revision)
        return Head(sequence=state.sequence, revision=state.revision), changed, removed

    def document(self, document: Document, miner_hotkey: str = "") -> bytes | None:
        with self._snapshot() as db:
            return read_document(db, document.value, miner_hotkey)

    def document_revision(self, document: Document) -> int:
        with self._snapshot() as db:
            row = db.execute(
                "SELECT max(revision) FROM documents WHERE name = ?", (document.value,)
            ).fetchone()
        return row[0] or 0

    def document_revisions(self, document: Document) -> dict[str, int]:
        with self._snapshot() as db:
            rows = db.execute(
                "SELECT miner, revision FROM documents WHERE name = ? AND version IS NOT NULL ORDER BY miner",
                (document.value,),
            )
            return dict(rows.fetchall())

    def documents_changed(self, since_revision: int) -> set[tuple[Document, str]]:
        with self._snapshot() as db:
            rows = db.execute("SELECT name, miner FROM documents WHERE revision > ?", (since_revision,))
            return {(KINDS[name], miner) for name, miner in rows if name in KINDS}

    def source(self) -> SourceStatus:
        with self._snapshot() as db:
            (status,) = db.execute("SELECT source FROM log").fetchone()
        return _source.decode(status)

    def behind_ms(self) -> int | None:
        with self._snapshot() as db:
            row = db.execute("SELECT complete_ms FROM chain").fetchone()
        if row is None:
            return 0
        # After a restart of the machine its clock may be behind the stored time.
        return monotonic_ms() - row[0] if row[0] is not None and row[0] <= monotonic_ms() else None

    def counters(self) -> dict[str, int]:
        state = self._state()
        return {name: getattr(state, name) for name in ("events", "late", "conflicts", "pruned", "skipped")}

    def commit_listener(self) -> SocketCommitListener:
        return SocketCommitListener(listener_folder(self._data_dir))

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _state(self) -> LogState:
        with self._snapshot() as db:
            return LogState.load(db)

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """A consistent state of the log during the block.

        Keep the block short: the write-ahead log is not checkpointed beyond what the oldest reader sees.
        """
        with self._lock, reading():
            # Without this check SQLite would keep reading a file that was deleted.
            self._identity.check()
            # Deferred: the snapshot begins with the first read, and takes no lock that a writer waits for.
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


def _floor(db: sqlite3.Connection) -> int:
    # `sequence` is the log's: without events the floor is one above the head.
    row = db.execute("SELECT coalesce((SELECT min(sequence) FROM events), sequence + 1) FROM log").fetchone()
    return int(row[0])


def _positions(
    db: sqlite3.Connection, since_revision: int, *, miner: str | None = None, limit: int = -1
) -> list[LoggedPosition]:
    of_miner = " AND miner = ?" if miner is not None else ""
    rows = db.execute(
        f"SELECT {POSITION_COLUMNS} FROM positions WHERE revision > ? AND removed_ms IS NULL"  # noqa: S608
        f"{of_miner} ORDER BY revision LIMIT ?",
        (since_revision, limit) if miner is None else (since_revision, miner, limit),
    ).fetchall()
    return [logged_position(db, row) for row in rows]


def _removed(db: sqlite3.Connection, since_revision: int) -> list[RemovedPosition]:
    if since_revision < LogState.load(db).tombstone_floor:
        raise LogPrunedError(f"removals after revision {since_revision} are gone")
    rows = db.execute(
        "SELECT miner, uuid, revision FROM positions WHERE revision > ? AND removed_ms IS NOT NULL"
        " ORDER BY revision",
        (since_revision,),
    ).fetchall()
    return [RemovedPosition(miner_hotkey=row[0], position_uuid=row[1], revision=row[2]) for row in rows]
