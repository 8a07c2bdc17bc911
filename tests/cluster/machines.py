"""Machines of a cluster in tests: writers and copies that share a broker in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ptn_api.cluster.broker import Broker
from ptn_api.cluster.copy import Copy, found, open_copy
from ptn_api.cluster.writer import ClusterWriter, open_cluster_writer
from ptn_api.errors import BrokerError, LogUnwritableError
from ptn_api.event_log import Change, EventLogWriter, Head, SourceStatus
from ptn_api.event_log.database import log_path
from ptn_api.event_log.schema import LOCAL_COLUMNS, LOCAL_TABLES
from tests.cluster.memory_broker import MemoryBroker
from tests.factories import T0
from tests.waiting import until

__all__ = ["WriterAndCopy", "begin", "content", "done", "machine", "writer_and_copy"]


def begin(broker: Broker, created_ms: int = T0) -> None:
    """Makes the first commit of a new stream, whose servers may have no leader for a moment."""

    def begun() -> bool:
        try:
            found(broker, created_ms)
        except BrokerError:
            return False
        return True

    until(begun)


def done(work: Callable[[], object]) -> bool:
    """Whether the log could be written, as intake tries again and again."""
    try:
        work()
    except LogUnwritableError:
        return False
    return True


def machine(folder: Path, broker: MemoryBroker, **options: Any) -> ClusterWriter:
    """A machine that stands by; its directory may have been used before."""
    return open_cluster_writer(folder, broker, pause_ms=0, **options)


def content(data_dir: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that the machines share, by table."""
    db = sqlite3.connect(log_path(data_dir))
    try:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found: dict[str, list[tuple[Any, ...]]] = {}
        for table in set(tables) - LOCAL_TABLES:
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            shared = ", ".join(column for column in columns if column not in LOCAL_COLUMNS)
            found[table] = sorted(db.execute(f"SELECT {shared} FROM {table}").fetchall(), key=repr)
        return found
    finally:
        db.close()


class WriterAndCopy:
    """An `EventLogWriter`: one machine writes, and another one's copy is read."""

    def __init__(self, writer: ClusterWriter, copy: Copy) -> None:
        self._writer = writer
        self._copy = copy

    def __getattr__(self, name: str) -> Any:
        own = name in ("fingerprints", "document_fingerprints", "seen")
        return getattr(self._writer if own else self._copy, name)

    def baseline(self, changes: Iterable[Change], now_ms: int) -> Head:
        head = self._writer.baseline(changes, now_ms)
        self._copy.confirm()
        return head

    def append(self, changes: Iterable[Change], now_ms: int) -> Head:
        head = self._writer.append(changes, now_ms)
        self._copy.confirm()
        return head

    def set_source(self, status: SourceStatus) -> None:
        self._writer.set_source(status)
        self._copy.confirm()

    def prune(self, now_ms: int) -> int:
        floor = self._writer.prune(now_ms)
        self._copy.confirm()
        return floor

    def close(self) -> None:
        self._writer.close()
        self._copy.close()


def writer_and_copy(folder: Path, **options: Any) -> EventLogWriter:
    """A new cluster of two machines."""
    broker = MemoryBroker()
    found(broker, T0)
    writer = machine(folder / "writer", broker, **options)
    writer.take_over()
    copy = open_copy(folder / "copy", broker, Copy, **options)
    copy.confirm()
    log: Any = WriterAndCopy(writer, copy)
    return log
