"""Limits, threads and documents of the SQLite log's writer."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs

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
from tests.factories import MINER, T0, order, position, uuid, written
from tests.waiting import PATIENCE_S


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
    pruning.join(PATIENCE_S)
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


def test_the_chunk_of_a_small_document_is_replaced_with_it(log: EventLogWriter, data_dir: Path) -> None:
    """In the same transaction, so that a change of a miner's document leaves nothing to clean up."""
    for n in range(3):
        log.append(
            [
                DocumentWritten(document=Document.LIMIT_ORDERS, miner_hotkey=hotkey, content=b"[%d]" % n)
                for hotkey in "abc"
            ],
            T0,
        )
        assert chunks(data_dir) == 3
    log.append([DocumentWritten(document=Document.LIMIT_ORDERS, miner_hotkey="a", content=None)], T0)
    assert chunks(data_dir) == 2


def test_the_chunks_of_a_large_document_are_deleted_later(log: EventLogWriter, data_dir: Path) -> None:
    """One by one, so that orders are written in between."""
    log.append([document(3 << 20)], T0)
    log.append([document(100)], T0)
    assert chunks(data_dir) > 1
    log.prune(T0)
    assert chunks(data_dir) == 1


def test_chunks_left_by_a_crash_are_deleted(log: EventLogWriter, data_dir: Path) -> None:
    """The next writer deletes chunks without a document."""
    log.append([document(100)], T0)
    log.close()
    db = sqlite3.connect(log_path(data_dir))
    db.executemany("INSERT INTO chunks VALUES (?, ?, x'00', 0)", [(1, 0), (1, 1), (2, 0)])
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


# --- changes that the schema refuses ----------------------------------------------------------------------


def invalid(change: Any, **fields: Any) -> Any:
    """The change with values that a bug might put there."""
    for name, value in fields.items():
        msgspec.structs.force_setattr(change, name, value)
    return change


def entries(logs: list[Any]) -> list[Any]:
    """What was logged about skipped changes."""
    return [entry for entry in logs if entry["event"] == "change_skipped"]


def test_a_change_that_breaks_a_constraint_is_skipped(log: EventLogWriter) -> None:
    """All others are applied, nothing of it remains, and no retry is needed."""
    log.append([written(position(2, [order(2)]))], T0)
    broken = written(position(2, [order(2), order(22)]), fingerprint="new")
    invalid(broken.text, header=None)
    with capture_logs() as logs:
        head = log.append([written(position(1, [order(1)])), broken, written(position(3, [order(3)]))], T0)
    assert [event.order_uuid for event in log.read(log.floor() - 1, 10)] == [
        uuid(1002),
        uuid(1001),
        uuid(1003),
    ]
    assert head.revision == 3
    assert [p.revision for p in log.positions()] == [1, 2, 3]
    assert log.fingerprints()[MINER, uuid(2)] == ""
    assert log.seen(MINER, [uuid(1022)]) == set()
    (entry,) = entries(logs)
    assert (entry["log_level"], entry["miner_hotkey"], entry["position_uuid"]) == ("error", MINER, uuid(2))
    assert entry["reason"] == "NOT NULL constraint failed: positions.header"
    assert log.counters() == {"events": 3, "late": 0, "conflicts": 0, "pruned": 0, "skipped": 1}
    log.append([written(position(2, [order(2), order(22)]))], T0)
    assert log.read(head.sequence, 10)[0].order_uuid == uuid(1022)


def test_a_number_that_sqlite_cannot_store_is_skipped(log: EventLogWriter) -> None:
    """Its error is not one of SQLite's. Nothing of an earlier step remains, and readers are not notified."""
    too_large = written(position(1, [order(1), order(2)]))
    invalid(too_large.position.orders[1], processed_ms=1 << 63)
    with capture_logs() as logs:
        head = log.append([too_large], T0)
    assert len(entries(logs)) == 1
    assert (head.revision, list(log.positions()), log.seen(MINER, [uuid(1001)])) == (0, [], set())
    log.append([written(position(1, [order(1)]))], T0)
    assert log.head().revision == 1


def test_a_baseline_skips_what_the_schema_refuses(data_dir: Path) -> None:
    """Otherwise the server would never start."""
    log = open_writer(data_dir, clock=lambda: T0)
    log.baseline([invalid(document(10), fingerprint=None), written(position(1, [order(1)]))], T0)
    assert log.ready()
    assert log.counters()["skipped"] == 1
    assert len(list(log.positions())) == 1
    log.close()


def test_a_large_document_that_breaks_a_constraint_leaves_nothing(
    log: EventLogWriter, data_dir: Path
) -> None:
    """Neither a document nor its chunks, which are written first."""
    with capture_logs() as logs:
        log.append([invalid(document(2 << 20), fingerprint=None)], T0)
    assert entries(logs)[0]["document"] == "statistics"
    assert log.document(Document.STATISTICS) is None
    assert chunks(data_dir) == 0


def test_an_event_that_breaks_a_constraint_makes_no_gap(log: EventLogWriter) -> None:
    """The other events of the append have consecutive sequences."""
    broken = written(position(1, [order(1)]), extra=cast("bytes", None))
    with capture_logs() as logs:
        head = log.append([broken, written(position(2, [order(2)])), written(position(3, [order(3)]))], T0)
    events = log.read(log.floor() - 1, 10)
    assert [event.order_uuid for event in events] == [uuid(1002), uuid(1003)]
    assert [event.sequence for event in events] == [head.sequence - 1, head.sequence]
    assert entries(logs)[0]["order_uuid"] == uuid(1001)
    assert log.counters()["skipped"] == 1


def test_a_baseline_leaves_the_schema_as_it_is(data_dir: Path) -> None:
    """It makes an index only at its end. Orders are listed by time right after it."""

    def schema() -> set[tuple[str, str]]:
        with contextlib.closing(sqlite3.connect(data_dir / "log.sqlite3")) as db:
            return set(db.execute("SELECT name, sql FROM sqlite_master"))

    log = open_writer(data_dir, clock=lambda: T0)
    before = schema()
    log.baseline([written(position(number, [order(number)])) for number in (2, 1, 3)], T0)
    assert schema() == before
    listed, _ = log.orders_before(None, 10)
    assert len(listed) == 3
    assert log.find_damage() == []
    log.close()
