"""Limits, threads and documents of the SQLite log's writer."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptn_api.errors import LogUnwritableError
from ptn_api.event_log import (
    Document,
    DocumentWritten,
    EventLogWriter,
    PositionRemoved,
    SourceStatus,
    database,
    open_writer,
    sqlite_writer,
)
from ptn_api.event_log.database import log_path, wal_path
from ptn_api.event_log.sqlite_writer import SqliteWriter
from tests.event_log.writer_process import text_with
from tests.factories import T0, order, position, written


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def log(data_dir: Path) -> Iterator[EventLogWriter]:
    log = open_writer(data_dir, clock=lambda: T0 - 1)
    log.baseline([], T0)
    yield log
    log.close()


def chunks(data_dir: Path) -> int:
    db = sqlite3.connect(log_path(data_dir))
    try:
        return int(db.execute("SELECT count(*) FROM chunks").fetchone()[0])
    finally:
        db.close()


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Limits the size of every file of this process, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def document(size: int) -> DocumentWritten:
    """A document that does not compress below `size`."""
    return DocumentWritten(document=Document.STATISTICS, content=os.urandom(size).hex().encode())


# --- limits -----------------------------------------------------------------------------------------------


def test_a_failed_append_changes_nothing_and_the_next_one_works(log: EventLogWriter, data_dir: Path) -> None:
    """The writer recovers from a failed system call as soon as there is space again."""
    before = log.append([text_with(1)], T0)
    fingerprints = log.fingerprints()
    bulk = [written(position(n, [order(n)], note="x" * 5_000)) for n in range(10, 400)]
    with file_size_limit(wal_path(log_path(data_dir)).stat().st_size + 200_000):
        for _ in range(2):
            with pytest.raises(LogUnwritableError):
                log.append(bulk, T0)
        assert log.head() == before
        assert log.fingerprints() == fingerprints
    after = log.append(bulk, T0)
    assert after.sequence == before.sequence + len(bulk)
    events = log.read(log.floor() - 1, 1_000)
    assert [event.sequence for event in events] == list(range(log.floor(), after.sequence + 1))


def test_a_full_database_changes_nothing(log: EventLogWriter) -> None:
    """SQLITE_FULL is a LogUnwritableError, for orders and documents alike."""
    assert isinstance(log, SqliteWriter)
    assert log._writer is not None
    before = log.append([text_with(1)], T0)
    (count,) = log._writer.execute("PRAGMA page_count").fetchone()
    log._writer.execute(f"PRAGMA max_page_count = {count + 20}")
    with pytest.raises(LogUnwritableError):
        log.append([written(position(7, [order(7)], note="x" * 500_000))], T0)
    with pytest.raises(LogUnwritableError):
        log.append([document(2 << 20)], T0)
    assert log.head() == before
    assert log.document(Document.STATISTICS) is None
    log.append([text_with(2)], T0)
    log._writer.execute("PRAGMA max_page_count = 1000000")
    log.append([document(2 << 20)], T0)
    assert log.document(Document.STATISTICS) is not None


def test_chunks_of_a_failed_document_are_deleted(log: EventLogWriter, data_dir: Path) -> None:
    """A document that failed halfway leaves nothing behind."""
    with (
        file_size_limit(wal_path(log_path(data_dir)).stat().st_size + 1_000_000),
        pytest.raises(LogUnwritableError),
    ):
        log.append([document(2 << 20)], T0)
    log.prune(T0)
    assert chunks(data_dir) == 0


def test_a_failed_baseline_is_repeated(data_dir: Path) -> None:
    """A first scan without enough space leaves the log as new."""
    log = open_writer(data_dir, clock=lambda: T0)
    # More than the page cache holds, so that pages are written before the end.
    bulk = [written(position(n, [order(n, at=T0 - 1)], note="x" * 20_000)) for n in range(100)]
    with file_size_limit(300_000), pytest.raises(LogUnwritableError):
        log.baseline(bulk, T0)
    assert not log.ready()
    log.baseline(bulk, T0)
    assert log.ready()
    assert len(list(log.positions())) == 100
    log.close()


def test_the_write_ahead_log_does_not_stay_large(data_dir: Path) -> None:
    """It is checkpointed and truncated after the baseline."""
    log = open_writer(data_dir, clock=lambda: T0)
    log.baseline([written(position(n, [order(n, at=T0)], note="x" * 9_000)) for n in range(1_000)], T0)
    assert wal_path(log_path(data_dir)).stat().st_size == 0
    log.close()


def test_a_checkpoint_does_not_wait_for_readers(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders wait for it, so the part that a long read blocks is left for another time."""
    monkeypatch.setattr(database, "_BUSY_S", 1_000.0)
    monkeypatch.setattr(sqlite_writer, "_LARGE_WAL_BYTES", 0)
    log = open_writer(data_dir, clock=lambda: T0)
    log.baseline([written(position(1, [order(1, at=T0)]))], T0)
    reader = sqlite3.connect(log_path(data_dir), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM log").fetchone()
    log.append([written(position(1, [order(1, at=T0), order(2)]))], T0)
    pruning = threading.Thread(target=log.prune, args=(T0,), daemon=True)
    pruning.start()
    pruning.join(20)
    assert not pruning.is_alive()
    assert wal_path(log_path(data_dir)).stat().st_size > 0
    reader.close()
    log.prune(T0)
    assert wal_path(log_path(data_dir)).stat().st_size == 0
    log.close()


def test_an_error_from_the_changes_passes_unchanged(data_dir: Path) -> None:
    """And nothing is written."""
    log = open_writer(data_dir, clock=lambda: T0)

    def scan() -> Iterator[DocumentWritten]:
        yield document(10)
        raise FileNotFoundError("the validator's directory vanished")

    with pytest.raises(FileNotFoundError):
        log.baseline(scan(), T0)
    assert log.head().revision == 0
    assert log.document(Document.STATISTICS) is None
    log.close()


# --- threads and documents --------------------------------------------------------------------------------


def test_orders_and_documents_from_two_threads(log: EventLogWriter, data_dir: Path) -> None:
    """A document is written between orders: no order is missing and the document is complete."""
    documents = [document(1 << 20) for _ in range(6)]
    thread = threading.Thread(target=lambda: [log.append([it], T0) for it in documents])
    thread.start()
    for number in range(60):
        log.append([text_with(number)], T0)
        log.prune(T0)
    thread.join()
    assert len(log.read(log.floor() - 1, 1_000)) == 60
    assert log.document(Document.STATISTICS) == documents[-1].content
    assert log.head().revision == 66
    assert 0 < chunks(data_dir) < 10


def test_chunks_left_by_a_crash_are_deleted(log: EventLogWriter, data_dir: Path) -> None:
    """The next writer deletes chunks without a document."""
    log.append([document(100)], T0)
    log.close()
    db = sqlite3.connect(log_path(data_dir))
    db.executemany("INSERT INTO chunks VALUES (?, ?, x'00')", [(1, 0), (1, 1), (2, 0)])
    db.commit()
    db.close()
    open_writer(data_dir).close()
    assert chunks(data_dir) == 1


def test_rows_of_pruned_tombstones_are_deleted(log: EventLogWriter, data_dir: Path) -> None:
    """A removed position's rows remain until neither a tombstone nor an event needs them."""
    text = text_with(4)
    log.append([text], T0)
    removal = PositionRemoved(
        miner_hotkey=text.position.miner_hotkey, position_uuid=text.position.position_uuid
    )
    log.append([removal], T0)
    log.prune(T0 + 30 * 86_400_000)
    log.close()
    db = sqlite3.connect(log_path(data_dir))
    for table, rows in (("positions", 0), ("orders", 0), ("events", 0), ("seen", 5)):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (rows,), table
    db.close()


def test_the_source_status_survives_a_restart(log: EventLogWriter, data_dir: Path) -> None:
    """Readers that start before intake's first sweep see the last known status."""
    log.set_source(SourceStatus(swept_ms=T0, reason="x"))
    log.close()
    again = open_writer(data_dir)
    assert again.source() == SourceStatus(swept_ms=T0, reason="x")
    again.close()
