"""Opening the SQLite log, for the one writer and for any number of readers."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import LogMissingError, LogUnwritableError
from ptn_api.event_log.contract import EventLog, EventLogWriter
from ptn_api.event_log.sqlite_reader import SqliteReader
from ptn_api.event_log.sqlite_writer import SqliteWriter, lock_directory

__all__ = ["open_reader", "open_writer"]

_LOOK_AGAIN_S = 0.02


def open_writer(
    data_dir: Path,
    *,
    late_ms: int = 60_000,
    retention_ms: int = 7 * 86_400_000,
    retention_bytes: int = 1 << 30,
    clock: Clock = wall_ms,
) -> EventLogWriter:
    """The log in this directory, for its only writer; made where there is none.

    `clock` says when a new log was created. Raises LogLockedError if another process writes it,
    LogUnwritableError if the directory or the file cannot be written, LogUnusableError for a file that is
    damaged, not a log, or a newer version's.
    """
    data_dir = data_dir.absolute()
    try:
        lock = lock_directory(data_dir)
        try:
            return SqliteWriter(
                data_dir,
                lock,
                late_ms=late_ms,
                retention_ms=retention_ms,
                retention_bytes=retention_bytes,
                clock=clock,
            )
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise LogUnwritableError(f"the log in {data_dir} cannot be written: {error}") from error


def open_reader(data_dir: Path, *, wait_ms: int = 0) -> EventLog:
    """The log in this directory, for reading, also while no writer runs.

    Blocks at most `wait_ms` until a writer has created it. Raises LogMissingError if there is still none,
    other errors as `open_writer` does.
    """
    deadline = time.monotonic() + wait_ms / 1000
    while True:
        try:
            return SqliteReader(data_dir.absolute())
        except LogMissingError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK_AGAIN_S)
