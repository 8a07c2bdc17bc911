"""The client's cursor, kept in a file across restarts."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import platformdirs

from ptn_api.wire.client_session import Cursor

if sys.platform != "win32":
    import fcntl

__all__ = ["CursorFile", "CursorStore", "NoCursorFile", "cursor_path"]

logger = logging.getLogger("ptn_api.client")


class CursorStore(Protocol):
    """A place to keep a cursor."""

    def load(self) -> Cursor: ...

    def save(self, cursor: Cursor) -> None: ...

    def close(self) -> None: ...


class NoCursorFile:
    """A cursor kept in memory only, for this run."""

    def __init__(self, cursor: Cursor | None = None) -> None:
        self._cursor = cursor or Cursor()

    def load(self) -> Cursor:
        return self._cursor

    def save(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def close(self) -> None:
        pass


def cursor_path(state_dir: str | os.PathLike[str] | None, server: str, api_key: str, name: str = "") -> Path:
    """Returns the file for this server ("host:port"), key and name; its name is a hash that reveals none."""
    folder = Path(state_dir) if state_dir is not None else platformdirs.user_state_path("ptn-api")
    key = hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).hexdigest()
    identity = "\n".join((server, key, name))
    return folder / f"cursor-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.json"


class _Content(msgspec.Struct, kw_only=True):
    server: str
    epoch: str | None
    sequence: int


_RECORD = 512
"""Size of a cursor file in bytes: one disk sector, so overwriting it is atomic if the process is killed."""

_BINARY = getattr(os, "O_BINARY", 0)  # without it Windows would translate line ends


class CursorFile:
    """A cursor in a small JSON file, mode 0600.

    The first save of a run replaces the file; later ones overwrite its single sector, which takes a few
    microseconds. A saved cursor survives a crash of the process at once. It survives a crash of the machine
    once it is synced: on save, if the last sync was `sync_every` s ago, or else with a later save or `close`.
    A cursor lost in that way is an older one, so messages come again, marked as replayed; none is missed.

    An unreadable file is logged and ignored. An unwritable folder, or a cursor in use by another running
    client, is logged once; the cursor is then kept in memory only. (Without file locks, as on Windows, two
    clients of one name are not noticed.)
    """

    def __init__(
        self,
        path: Path,
        server: str,
        *,
        sync_every: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._server = server
        self._sync_every = sync_every
        self._monotonic = monotonic
        self._saved: Cursor | None = None
        self._writable = True
        self._lock: int | None = None
        self._file: int | None = None
        self._synced_at = 0.0
        self._unsynced = False

    def load(self) -> Cursor:
        """Returns the last saved cursor; `Cursor()` without one, or if it is unreadable."""
        self._lock_file()
        if not self._writable:
            return Cursor()
        try:
            content = msgspec.json.decode(self.path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return Cursor()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            logger.warning("ignoring the unreadable cursor file %s: %s", self.path, error)
            return Cursor()
        if content.server != self._server or content.sequence < -1:
            logger.warning("ignoring the cursor file %s: not a valid cursor of %s", self.path, self._server)
            return Cursor()
        self._saved = Cursor(content.sequence, content.epoch)
        return self._saved

    def save(self, cursor: Cursor) -> None:
        """Writes the cursor to the file, unless keeping it has failed before."""
        if cursor == self._saved or not self._writable:
            return
        fields = _Content(server=self._server, epoch=cursor.epoch, sequence=cursor.sequence)
        content = msgspec.json.encode(fields).ljust(_RECORD)
        try:
            # The first save of a run proves that the folder is writable, and leaves a file of exactly one
            # sector. An epoch too long for a sector is replaced every time.
            if self._file is None or len(content) > _RECORD:
                self._replace(content)
            else:
                os.lseek(self._file, 0, os.SEEK_SET)
                os.write(self._file, content)
                self._unsynced = True
                if self._monotonic() - self._synced_at >= self._sync_every:
                    self._sync(self._file)
        except OSError as error:
            self._give_up(f"cannot write the cursor file {self.path}: {error.strerror}")
        else:
            self._saved = cursor

    def close(self) -> None:
        """Syncs the file and releases the cursor for other clients."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # written already; only a crash of the machine could undo it
                self._sync(self._file)
            file, self._file = self._file, None
            os.close(file)
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.close(lock)

    def _lock_file(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            self._give_up(f"cannot keep a cursor in {self.path}: {error.strerror}")
            return
        self._lock = lock
        if sys.platform == "win32":
            return
        # A separate file, because replacing the cursor file would replace the lock with it.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            self._give_up("another client of this server and key is running (pass a different name=)")

    def _sync(self, file: int) -> None:
        if self._unsynced:
            os.fsync(file)
            self._unsynced = False
            self._synced_at = self._monotonic()

    def _replace(self, content: bytes) -> None:
        new = self.path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()  # left by a crash, perhaps with other permissions
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
        try:
            os.write(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        if self._file is not None:
            # Forgotten before it is closed and its file is deleted: a signal handler may raise in between.
            old, self._file = self._file, None
            os.close(old)
        os.replace(new, self.path)
        self._synced_at = self._monotonic()
        if len(content) == _RECORD:
            self._file = os.open(self.path, os.O_WRONLY | _BINARY)

    def _give_up(self, problem: str) -> None:
        self._writable = False
        logger.warning("%s; the next run cannot resume", problem)
