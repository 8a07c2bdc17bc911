"""Opening the SQLite log: one writer, which locks the directory, and any number of readers."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any

from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import LogLockedError, LogMissingError, LogUnusableError, LogUnwritableError
from ptn_api.event_log.commit_notifier import SocketCommitListener, listener_folder
from ptn_api.event_log.contract import CommitListener, EventLog, EventLogWriter
from ptn_api.event_log.sqlite_reader import SqliteReader
from ptn_api.event_log.sqlite_writer import SqliteWriter
from ptn_api.file_lock import take_lock
from ptn_api.options import LATE_MS, RETENTION_BYTES, RETENTION_MS

__all__ = ["WaitingReader", "lock_directory", "open_reader", "open_writer"]

_RETRY_S = 0.02


def open_writer(
    data_dir: Path,
    *,
    late_ms: int = LATE_MS,
    retention_ms: int = RETENTION_MS,
    retention_bytes: int = RETENTION_BYTES,
    clock: Clock = wall_ms,
) -> EventLogWriter:
    """Opens the log in this directory for writing; creates it if it is missing.

    Migrates a log of an older version. `clock` supplies a new log's creation time. Raises LogLockedError if
    another process writes the log, LogUnwritableError if the directory or the file cannot be written,
    LogUnusableError for a file that is damaged, not a log, or a newer version's.
    """
    data_dir = data_dir.absolute()
    try:
        # The directory is locked, not the file: the lock also covers the creation of the file.
        lock = lock_directory(data_dir)
        try:
            writer = SqliteWriter(
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
        try:
            writer.delete_unused_chunks()
        except BaseException:
            writer.close()
            raise
        return writer
    except OSError as error:
        raise LogUnwritableError(f"the log in {data_dir} cannot be written: {error}") from error


def open_reader(data_dir: Path, *, wait_ms: int = 0) -> EventLog:
    """Opens the log in this directory for reading, whether or not a writer runs.

    Blocks for at most `wait_ms` until a writer has created or migrated the log. Raises LogMissingError if it
    has not by then, other errors as `open_writer` does.
    """
    deadline = time.monotonic() + wait_ms / 1000
    while True:
        try:
            return SqliteReader(data_dir.absolute())
        except LogMissingError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_S)


class WaitingReader:
    """An `EventLog` that opens itself at the first use for which there is a log; until then it is not ready.

    Any other call raises LogMissingError, or the error for which the log cannot be opened.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._reader: EventLog | None = None

    def ready(self) -> bool:
        try:
            return self._opened().ready()
        except LogMissingError:
            return False

    def damaged(self) -> int:
        return 0 if self._reader is None else self._reader.damaged()

    def commit_listener(self) -> CommitListener:
        return SocketCommitListener(listener_folder(self._data_dir))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened(), name)

    def _opened(self) -> EventLog:
        if self._reader is None:
            self._reader = open_reader(self._data_dir)
        return self._reader


def lock_directory(data_dir: Path) -> int:
    """Creates the directory (0700) if needed and locks it until the descriptor is closed or the process ends.

    On NFS only a file open for writing can be locked, so there it is a file in the directory. Raises
    LogLockedError if another process holds the lock, LogUnusableError without any locks, OSError if the
    directory cannot be opened.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if take_lock(descriptor) is not None:
            os.close(descriptor)
            descriptor = os.open(data_dir / "log.sqlite3.lock", os.O_RDWR | os.O_CREAT, 0o600)
            if take_lock(descriptor) is not None:
                _take_posix_lock(descriptor, data_dir)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            problem = f"another process writes the log in {data_dir}: stop it, or use another data directory"
            raise LogLockedError(problem) from None
        raise
    return descriptor


def _take_posix_lock(descriptor: int, data_dir: Path) -> None:
    """Takes a lock as SQLite does, where `flock` fails. Raises BlockingIOError, LogUnusableError."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # both mean that another process holds it
        raise BlockingIOError from None
    except OSError as error:
        reason = f"its file system has no file locks ({error.strerror}); use a local disk"
        raise LogUnusableError(f"no log in {data_dir}: {reason}", code="no_locks") from None
