"""The log's SQLite file: connections, and the errors that SQLite's errors become.

The file is in WAL mode with synchronous=FULL: a commit that returned survives kill -9 and power loss, and
readers never block the writer. Readers connect read-only: after a killed writer, the last connection that may
write removes the write-ahead log when it is closed, and with it what `lost_commits` needs.

Only SQLite may open the file: POSIX locks belong to the process, and closing any other descriptor of the file
would drop them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

from ptn_api.errors import (
    LogDamagedError,
    LogError,
    LogMissingError,
    LogReplacedError,
    LogUnusableError,
    LogUnwritableError,
)
from ptn_api.event_log.schema import require_schema

__all__ = [
    "FileIdentity",
    "accept_damaged_text",
    "adapt_to",
    "connect_reader",
    "connect_writer",
    "log_path",
    "lost_commits",
    "make_file",
    "reading",
    "wal_commits",
    "wal_path",
    "without_waiting",
    "writing",
]

_BUSY_S = 10.0
_PAGE_BYTES = {512 << n for n in range(8)}
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24  # https://www.sqlite.org/fileformat.html, 4
_WRITER_PRAGMAS = (
    "synchronous = FULL",
    "wal_autocheckpoint = 2000",  # pages: a checkpoint every 8 MB, which costs one commit a few ms
    f"journal_size_limit = {32 << 20}",
    f"cache_size = -{64 << 10}",  # KiB
)


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


def make_file(path: Path) -> bool:
    """Creates an empty file, readable by its owner only, unless it exists; returns whether it did.

    Raises OSError.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return False
    return True


def wal_commits(path: Path) -> list[int]:
    """Returns the numbers of the frames in the write-ahead log that end a commit, damaged ones included.

    To be called before SQLite opens the log: it ignores everything from the first damaged frame on.
    """
    try:
        data = wal_path(path).read_bytes()
    except FileNotFoundError:
        return []
    page_bytes = int.from_bytes(data[8:12], "big")
    step = _FRAME_HEADER_BYTES + (page_bytes if page_bytes in _PAGE_BYTES else 4096)
    starts = range(_WAL_HEADER_BYTES, len(data) - step + 1, step)
    headers = [data[at : at + _FRAME_HEADER_BYTES] for at in starts]
    # Frames of an earlier round have other salts. Both places are read, since one of them may be damaged.
    salts = {data[16:24], *(header[8:16] for header in headers[:1])}
    return [
        number
        for number, header in enumerate(headers, 1)
        if header[4:8] != bytes(4) and header[8:16] in salts
    ]


def lost_commits(db: sqlite3.Connection, commits: list[int]) -> int:
    """Returns how many of the `wal_commits` SQLite has ignored, apart from one that was being written."""
    if not commits:
        return 0
    frames: int
    _, frames, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return max(0, sum(number > frames for number in commits) - 1)


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
    except BaseException:  # Ctrl-C as well: the connection would keep its locks
        db.close()
        raise
    return db


def connect_reader(path: Path) -> sqlite3.Connection:
    """Connects for reading. Raises LogMissingError until a writer has created or migrated the log."""
    with reading():
        db = _connect(path, mode="ro")
        try:
            require_schema(db, path)
        except BaseException:  # Ctrl-C as well: the connection would keep its locks
            db.close()
            raise
    return db


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turns SQLite's errors into LogError, those of a damaged file into LogDamagedError."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        _raise_if_damaged(error)
        raise LogError(f"the log cannot be read: {error}") from error


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turns SQLite's errors into LogUnwritableError, those of a damaged file into LogDamagedError."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
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


def _connect(path: Path, *, mode: str = "rw") -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",  # never creates a file: make_file() sets its permissions
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,  # explicit BEGIN and COMMIT
        check_same_thread=False,  # callers hold a lock per connection
    )


def adapt_to(error: BaseException, db: sqlite3.Connection) -> None:
    """Lets the next attempt succeed after text that is not UTF-8; until then, reading text costs less."""
    if isinstance(error, sqlite3.OperationalError) and "decode to UTF-8" in str(error):
        accept_damaged_text(db)


def accept_damaged_text(db: sqlite3.Connection) -> None:
    """Lets text that is not UTF-8 be read: the checksum of its row reveals the damage."""
    db.text_factory = partial(str, encoding="utf-8", errors="replace")


def _raise_if_damaged(error: sqlite3.Error | UnicodeDecodeError) -> None:
    """SQLite raises the base class itself for a damaged file or one that is not a database.

    A damaged text of the schema lacks a table or column, or is not UTF-8 in SQLite's message about it.
    """
    is_schema = isinstance(error, sqlite3.OperationalError) and str(error).startswith("no such ")
    if is_schema or type(error) in (sqlite3.DatabaseError, UnicodeDecodeError):
        raise LogDamagedError(f"the log is damaged: {error}") from error
