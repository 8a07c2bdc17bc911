"""The writer of the SQLite log: one process, and within it one thread at a time."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from ptn_api.clock import Clock
from ptn_api.errors import LogDamagedError
from ptn_api.event_log.announcements import AppendTime
from ptn_api.event_log.append import Append
from ptn_api.event_log.commit_notifier import CommitNotifier, listener_folder
from ptn_api.event_log.contract import Change, Document, DocumentWritten, Head, Lost, SourceStatus
from ptn_api.event_log.damage import Damage, row_checksum
from ptn_api.event_log.database import (
    accept_damaged_text,
    adapt_to,
    connect_writer,
    log_path,
    lost_commits,
    make_file,
    wal_commits,
    wal_path,
    without_waiting,
    writing,
)
from ptn_api.event_log.documents import (
    KINDS,
    LARGE_BYTES,
    PackedDocument,
    damaged_documents,
    delete_chunk,
    mark_damaged,
    pack,
    prune_deleted,
    put_chunk,
    stored_digest,
    unused_chunks,
)
from ptn_api.event_log.outage import RETRIED_WRITE_ERRORS
from ptn_api.event_log.rows import (
    LogState,
    indexes,
    mark_positions,
    prune_events,
    prune_removed_orders,
    prune_tombstones,
    reindex,
    restore_names,
    restore_seen,
    seen_orders,
    without_index_of_orders,
)
from ptn_api.event_log.schema import create_or_migrate
from ptn_api.event_log.sqlite_reader import SqliteReader

__all__ = ["SqliteWriter"]

logger = structlog.get_logger()

T = TypeVar("T")

_YIELD_S = 0.001
"""A pause between the chunks of a document: long enough for a waiting thread to take the lock."""
_LARGE_WAL_BYTES = 64 << 20
_BATCH = 256
"""Changes of the baseline that are applied together."""


class SqliteWriter(SqliteReader):
    """An `EventLogWriter` (see contract.py) over one SQLite file.

    Reads use a second connection: they see what is committed and do not wait for writes. Threads that append
    at the same time take turns, also between the chunks of a large document, so a document appended from
    another thread delays no order.
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
        """Takes ownership of `lock`, the descriptor of the locked directory or of a locked file in it."""
        self._lock_descriptor = lock
        self._late_ms = late_ms
        self._retention_ms = retention_ms
        self._retention_bytes = retention_bytes
        self._write_lock = threading.Lock()
        self._staging: set[int] = set()
        path = log_path(data_dir)
        if not make_file(path) and path.stat().st_size == 0:
            logger.warning("log_empty", reason="nothing is left of an earlier log: a new one begins")
        commits = wal_commits(path)
        with writing():
            self._writer: sqlite3.Connection | None = self.connect(path)
        try:
            with writing():
                create_or_migrate(self._writer, path, clock())
                if lost := lost_commits(self._writer, commits):
                    self.commits_lost(self._writer, lost, clock())
            directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)  # makes the new file's name durable
            finally:
                os.close(directory)
            super().__init__(data_dir)
            accept_damaged_text(self._db)  # what intake reads at its start must not depend on it
        except BaseException:
            self._writer.close()
            raise
        self._notifier = CommitNotifier(listener_folder(data_dir))

    def baseline(self, changes: Iterable[Change], now_ms: int) -> Head:
        with self._transaction() as (db, state), without_index_of_orders(db):
            # `changes` may read files: the write lock is held throughout, but readers are not blocked.
            append = Append(db, state, self._append_time(now_ms))
            remaining = iter(changes)
            while batch := [(change, None) for change in islice(remaining, _BATCH)]:
                append.apply(batch)
            append.finish()
            state.ready = True
        self._checkpoint()
        self._notifier.notify()
        return _reported(state, append)

    def append(self, changes: Iterable[Change], now_ms: int) -> Head:
        changes = list(changes)
        ahead: dict[int, PackedDocument] = {}
        try:
            self._write_ahead(changes, ahead)
            with self._transaction() as (db, state):
                before = (state.sequence, state.revision)
                append = Append(db, state, self._append_time(now_ms))
                append.apply([(change, ahead.get(index)) for index, change in enumerate(changes)])
                append.finish()
        finally:
            # Chunks that no document took over are unused from now on, and the next cleanup deletes them.
            self._staging.difference_update(packed.version for packed in ahead.values())
        if before != (state.sequence, state.revision):
            self._notifier.notify()
        if ahead:
            self.delete_unused_chunks()
        return _reported(state, append)

    def fingerprints(self) -> dict[tuple[str, str], str]:
        with self._snapshot() as db:
            rows = db.execute("SELECT miner, uuid, fingerprint FROM positions WHERE removed_ms IS NULL")
            return {(miner, uuid): fingerprint for miner, uuid, fingerprint in rows}

    def document_fingerprints(self) -> dict[tuple[Document, str], str]:
        with self._snapshot() as db:
            rows = db.execute("SELECT name, miner, fingerprint FROM documents WHERE version IS NOT NULL")
            return {(KINDS[name], miner): text for name, miner, text in rows if name in KINDS}

    def seen(self, miner: str, order_uuids: Iterable[str]) -> set[str]:
        with self._snapshot() as db:
            return set(seen_orders(db, miner, order_uuids))

    def report_damage(self) -> list[Damage]:
        """Reads the whole log; returns what is damaged, and reports it."""
        found = self.find_damage()
        for damage in self.damaged_rows.found.keys() - found:
            self.damaged_rows.found.pop(damage, None)
        for damage in found:
            self.damaged_rows.add(damage.table, *damage.key)
        return found

    def repair(self) -> Lost:
        found = self.report_damage()
        if not found:
            return Lost()
        keys: dict[str, list[Any]] = defaultdict(list)
        for damage in found:
            keys[damage.table].append(damage.key[0])
        if keys[""] or keys["positions"]:
            self._mend(partial(restore_names, damaged_ids=keys["positions"]))
            for index in self._mend(indexes) or []:
                self._mend(partial(reindex, index=index))
        if keys["seen"]:
            self._mend(restore_seen)
        positions = self._mend(lambda db: mark_positions(db, [*keys["positions"], *keys["orders"]])) or []
        for version in keys["chunks"]:
            self._mend(partial(mark_damaged, version=version))
        documents = [key for key in self._mend(damaged_documents) or [] if key[0] in KINDS]
        return Lost(
            positions=frozenset(positions),
            documents=frozenset((KINDS[name], miner) for name, miner in documents),
            structure=bool(keys[""]),
        )

    def _mend(self, step: Callable[[sqlite3.Connection], T]) -> T | None:
        """Runs a step of the repair in a transaction, which SQLite ends at a page that cannot be read.

        That page is reported already, and what does not need it is mended all the same.
        """
        with contextlib.suppress(LogDamagedError), self._transaction() as (db, _):
            accept_damaged_text(db)
            return step(db)
        return None

    def set_source(self, status: SourceStatus) -> None:
        with self._transaction() as (db, _):
            source = msgspec.json.encode(status)
            db.execute("UPDATE log SET source = ?, source_crc = ?", (source, row_checksum(source)))
        self._notifier.notify()

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
                prune_removed_orders(db, state, oldest_ms=oldest_ms)
                state.tombstone_floor = max(state.tombstone_floor, prune_deleted(db, oldest_ms=oldest_ms))
        self.delete_unused_chunks()
        self._checkpoint(over_bytes=_LARGE_WAL_BYTES)
        return self.floor()

    def close(self) -> None:
        super().close()
        self._checkpoint()  # readers, which may be there for longer, cannot
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
        """A transaction that is durable after the block; an exception rolls it back."""
        with self._write_lock, writing():
            db = self.connected()
            self.before_begin(db)
            with self.committed(db):
                state = LogState.load(db)
                before = replace(state)
                yield db, state
                if state != before:
                    state.save(db)
                self.before_commit(db)

    def connected(self) -> sqlite3.Connection:
        """The connection for writing, under the write lock."""
        self._identity.check()
        if self._writer is None:
            self._writer = self.connect(self._path)
        return self._writer

    @contextlib.contextmanager
    def committed(self, db: sqlite3.Connection) -> Iterator[None]:
        try:
            # IMMEDIATE takes SQLite's write lock now; upgrading a read transaction later could fail.
            db.execute("BEGIN IMMEDIATE")
            yield
            db.execute("COMMIT")
        except BaseException as error:
            adapt_to(error, db)
            try:
                if db.in_transaction:
                    db.execute("ROLLBACK")
            except sqlite3.Error:
                self._writer = None  # the connection is broken: the next transaction opens a new one
                db.close()
            raise

    # For subclasses, under the write lock: the log of a cluster differs in these (ptn_api/cluster).

    def connect(self, path: Path) -> sqlite3.Connection:
        return connect_writer(path)

    def commits_lost(self, db: sqlite3.Connection, lost: int, now_ms: int) -> None:
        """Called when the log is opened and its write-ahead log has lost commits that were acknowledged."""
        _renew(db, lost, now_ms)

    def before_begin(self, db: sqlite3.Connection) -> None:
        """Called before each transaction, without one."""

    def before_commit(self, db: sqlite3.Connection) -> None:
        """Called at the end of each transaction; an error rolls it back."""

    def _checkpoint(self, *, over_bytes: int = 0) -> None:
        """Checkpoints and truncates a write-ahead log larger than this, as far as readers allow."""
        with self._write_lock, contextlib.suppress(sqlite3.Error, FileNotFoundError):
            if self._writer is not None and wal_path(self._path).stat().st_size > over_bytes:
                with without_waiting(self._writer):  # orders wait for this: do not wait for readers
                    self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _append_time(self, now_ms: int) -> AppendTime:
        return AppendTime(now_ms=now_ms, late_ms=self._late_ms, created_ms=self.created_ms)

    # --- documents ----------------------------------------------------------------------------------------

    def _write_ahead(self, changes: Sequence[Change], ahead: dict[int, PackedDocument]) -> None:
        """Writes the chunks of large documents, each in a separate transaction; nothing refers to them yet.

        Fills `ahead`, by the index of the change, also if it fails halfway.
        """
        for index, change in enumerate(changes):
            if isinstance(change, DocumentWritten) and len(content := change.content or b"") >= LARGE_BYTES:
                with self._snapshot() as db:
                    stored = stored_digest(db, change)
                ahead[index] = packed = pack(content, stored=stored)
                self._staging.add(packed.version)  # first: a cleanup in another thread spares these chunks
                for chunk in range(len(packed.chunks)):
                    with self._transaction() as (db, _):
                        put_chunk(db, packed, chunk)
                    time.sleep(_YIELD_S)

    def delete_unused_chunks(self) -> None:
        """Cleans up after replaced documents and crashes.

        On a full disk, or in a damaged file, that is left to the next call.
        """
        try:
            with self._snapshot() as db:
                unused = unused_chunks(db)
            for version, index in unused:
                # One transaction per chunk, so that orders are written in between. `_staging` is checked
                # under the write lock, because an append may have begun since the snapshot.
                with self._transaction() as (db, _):
                    if version not in self._staging:
                        delete_chunk(db, version, index)
        except RETRIED_WRITE_ERRORS as error:
            logger.warning("document_cleanup_failed", reason=str(error))


def _renew(db: sqlite3.Connection, lost: int, now_ms: int) -> None:
    """Gives the log a new epoch and newer sequences: those of the lost commits would be assigned again."""
    db.execute("BEGIN IMMEDIATE")
    try:
        state = LogState.load(db)
        state.epoch = secrets.token_hex(16)
        state.sequence = max(state.sequence, now_ms)
        state.pruned, state.event_bytes = state.events, 0
        state.save(db)
        db.execute("DELETE FROM events")
        db.execute("COMMIT")
    except BaseException:
        db.rollback()
        raise
    reason = "the write-ahead log is damaged: commits are lost, and clients are told of a new epoch"
    logger.error("log_commits_lost", commits=lost, reason=reason)


def _reported(state: LogState, append: Append) -> Head:
    """Returns the head after a committed append; logs its conflicts and skipped changes."""
    for conflict in append.conflicts:
        logger.warning("order_conflict", **conflict._asdict())
    for skipped in append.skipped:
        logger.error("change_skipped", **skipped.fields, reason=str(skipped.error), exc_info=skipped.error)
    return Head(sequence=state.sequence, revision=state.revision)
