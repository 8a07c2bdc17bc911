"""Writing the SQLite log: one process, and within it one thread at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import structlog

from ptn_api.clock import Clock
from ptn_api.errors import LogLockedError, LogUnwritableError
from ptn_api.event_log.announce import Moment
from ptn_api.event_log.append import Append
from ptn_api.event_log.commit_notifier import CommitNotifier, listener_folder
from ptn_api.event_log.contract import Change, Document, DocumentWritten, Head, SourceStatus
from ptn_api.event_log.database import (
    connect_writer,
    create,
    log_path,
    make_file,
    wal_path,
    without_waiting,
    writing,
)
from ptn_api.event_log.documents import (
    LARGE_BYTES,
    PackedDocument,
    drop_piece,
    pack,
    put_piece,
    stored_digest,
    unused_pieces,
)
from ptn_api.event_log.pruning import prune_departed, prune_events, prune_tombstones
from ptn_api.event_log.rows import LogState
from ptn_api.event_log.scan import Conflict
from ptn_api.event_log.sqlite_reader import SqliteReader

__all__ = ["SqliteWriter", "lock_directory"]

logger = structlog.get_logger()
_LET_OTHERS_IN_S = 0.001
_LARGE_WAL_BYTES = 64 << 20


class SqliteWriter(SqliteReader):
    """`contract.EventLogWriter` says what the methods promise.

    Reads go through a connection of their own and see what is committed; they do not wait for writes.
    Threads may append at the same time: they take turns, also between the pieces of a large document, so a
    document appended from another thread holds up no order.
    """

    def __init__(
        self,
        data_dir: Path,
        lock: int,
        *,
        late_ms: int,
        retention_ms: int,
        retention_bytes: int,
        clock: Clock,
    ) -> None:
        """Takes over the descriptor of the locked directory."""
        self._lock_descriptor = lock
        self._late_ms = late_ms
        self._retention_ms = retention_ms
        self._retention_bytes = retention_bytes
        self._write_lock = threading.Lock()
        self._staging: set[int] = set()
        path = log_path(data_dir)
        make_file(path)
        with writing():
            self._writer: sqlite3.Connection | None = connect_writer(path)
        try:
            with writing():
                create(self._writer, path, clock())
            os.fsync(lock)  # the new file's name
            super().__init__(data_dir)
        except BaseException:
            self._writer.close()
            raise
        self._notifier = CommitNotifier(listener_folder(data_dir))
        self._drop_unused_pieces()

    def baseline(self, changes: Iterable[Change], now_ms: int) -> Head:
        with self._transaction() as (db, state):
            append = Append(db, state, self._moment(state, now_ms))
            for change in changes:
                append.apply(change)
            conflicts = append.finish()
            state.ready = True
        self._fold_in()
        return self._committed(state, conflicts)

    def append(self, changes: Iterable[Change], now_ms: int) -> Head:
        changes = list(changes)
        ahead: dict[int, PackedDocument] = {}
        try:
            self._write_ahead(changes, ahead)
            with self._transaction() as (db, state):
                before = (state.sequence, state.revision)
                append = Append(db, state, self._moment(state, now_ms))
                for place, change in enumerate(changes):
                    append.apply(change, ahead.get(place))
                conflicts = append.finish()
        finally:
            self._staging.difference_update(packed.version for packed in ahead.values())
        if any(isinstance(change, DocumentWritten) for change in changes):
            self._drop_unused_pieces()
        if before == (state.sequence, state.revision):
            return Head(sequence=state.sequence, revision=state.revision)
        return self._committed(state, conflicts)

    def fingerprints(self) -> dict[tuple[str, str], str]:
        with self._snapshot() as db:
            positions = db.execute(
                "SELECT miner, uuid, fingerprint FROM positions WHERE removed_ms IS NULL"
            ).fetchall()
            documents = db.execute(
                "SELECT '', name, fingerprint FROM documents WHERE version IS NOT NULL"
            ).fetchall()
        return {(miner, name): fingerprint for miner, name, fingerprint in positions + documents}

    def seen(self, miner: str, order_uuids: Iterable[str]) -> set[str]:
        with self._snapshot() as db:
            return {
                uuid
                for uuid in order_uuids
                if db.execute("SELECT 1 FROM seen WHERE miner = ? AND uuid = ?", (miner, uuid)).fetchone()
            }

    def set_source(self, status: SourceStatus) -> None:
        with self._transaction() as (db, state):
            db.execute("UPDATE log SET source = ?", (msgspec.json.encode(status),))
        self._notifier.notify(state.sequence)

    def prune(self, now_ms: int) -> int:
        oldest_ms = now_ms - self._retention_ms
        more = True
        while more:
            with self._transaction() as (db, state):
                more = prune_events(db, state, oldest_ms=oldest_ms, retention_bytes=self._retention_bytes)
        more = True
        while more:
            with self._transaction() as (db, state):
                more = prune_tombstones(db, state, oldest_ms=oldest_ms)
                prune_departed(db, oldest_ms=oldest_ms)
        self._drop_unused_pieces()
        self._fold_in(over_bytes=_LARGE_WAL_BYTES)
        return self.floor()

    def close(self) -> None:
        super().close()
        with self._write_lock:
            if self._writer is not None:
                self._writer.close()
        self._notifier.close()
        if self._lock_descriptor != -1:
            os.close(self._lock_descriptor)
            self._lock_descriptor = -1

    # --- transactions -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[tuple[sqlite3.Connection, LogState]]:
        """A durable transaction on return, or an exception and nothing changed."""
        with self._write_lock, writing():
            self._identity.check()
            if self._writer is None:
                self._writer = connect_writer(self._path)
            db = self._writer
            try:
                db.execute("BEGIN IMMEDIATE")
                state = LogState.load(db)
                before = replace(state)
                yield db, state
                if state != before:
                    state.save(db)
                db.execute("COMMIT")
            except BaseException:
                self._undo(db)
                raise

    def _undo(self, db: sqlite3.Connection) -> None:
        """Leaves a usable writer behind: a connection that cannot even roll back is given up."""
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except sqlite3.Error:
            self._writer = None
            db.close()

    def _moment(self, state: LogState, now_ms: int) -> Moment:
        return Moment(
            now_ms=now_ms,
            late_ms=self._late_ms,
            silent_until_ms=None if state.ready else state.created_ms,
        )

    def _committed(self, state: LogState, conflicts: Sequence[Conflict]) -> Head:
        self._notifier.notify(state.sequence)
        for conflict in conflicts:
            logger.warning("order_conflict", **conflict._asdict())
        return Head(sequence=state.sequence, revision=state.revision)

    def _fold_in(self, *, over_bytes: int = 0) -> None:
        """Gives back the disk that a write-ahead log larger than this takes, as far as readers let it."""
        with self._write_lock, contextlib.suppress(sqlite3.Error, FileNotFoundError):
            if self._writer is not None and wal_path(self._path).stat().st_size > over_bytes:
                with without_waiting(self._writer):  # for readers, while orders wait for this
                    self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    # --- documents ----------------------------------------------------------------------------------------

    def _write_ahead(self, changes: Sequence[Change], ahead: dict[int, PackedDocument]) -> None:
        """Writes the pieces of large documents, each in a transaction of its own; nobody reads them yet."""
        for place, change in enumerate(changes):
            if isinstance(change, DocumentWritten) and len(change.content or b"") >= LARGE_BYTES:
                ahead[place] = packed = pack(change.content or b"", unless=self._digest(change.document))
                self._staging.add(packed.version)
                for piece in range(len(packed.pieces)):
                    with self._transaction() as (db, _):
                        put_piece(db, packed, piece)
                    time.sleep(_LET_OTHERS_IN_S)

    def _digest(self, document: Document) -> bytes | None:
        with self._snapshot() as db:
            return stored_digest(db, document.value)

    def _drop_unused_pieces(self) -> None:
        """Tidies up after replaced documents and crashes; what it cannot drop now it drops another time."""
        try:
            with self._snapshot() as db:
                unused = unused_pieces(db)
            for version, place in unused:
                with self._transaction() as (db, _):
                    if version not in self._staging:
                        drop_piece(db, version, place)
        except LogUnwritableError as error:
            logger.warning("documents_not_tidied", reason=str(error))


def lock_directory(data_dir: Path) -> int:
    """Makes the directory (0700) where there is none and locks it for one writer, until the descriptor
    is closed or the process ends.

    Raises LogLockedError if another one has it, OSError if the directory cannot be made or opened.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LogLockedError(
            f"another process writes the log in {data_dir}: stop it, or use another data directory"
        ) from None
    return descriptor
