"""The client's cursor, kept in a file across restarts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import re
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from ptn_api.file_lock import FileLock, is_at
from ptn_api.wire.client_session import Cursor

__all__ = ["CursorFile", "CursorStore", "NoCursorFile", "cursor_path", "state_folder"]

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


def state_folder(state_dir: str | os.PathLike[str] | None) -> Path:
    """Returns the folder of what a client remembers: by default the user's own."""
    if state_dir is not None:
        return Path(state_dir)
    import platformdirs

    return platformdirs.user_state_path("ptn-api")


def cursor_path(state_dir: str | os.PathLike[str] | None, server: str, api_key: str, name: str = "") -> Path:
    """Returns the file for this server ("host:port"), key and name; its name is a hash that reveals none."""
    key = hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).hexdigest()
    return state_folder(state_dir) / _file_name(server, key, name)


def _file_name(*identity: str) -> str:
    return f"cursor-{hashlib.sha256(chr(10).join(identity).encode()).hexdigest()[:24]}.json"


class _Content(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A cursor and the program that saved it, or the name of the file that has it (`moved_to`)."""

    server: str
    epoch: str | msgspec.UnsetType | None = msgspec.UNSET
    sequence: int | msgspec.UnsetType = msgspec.UNSET
    moved_to: str = ""
    program: str = ""

    @property
    def cursor(self) -> Cursor | None:
        if self.sequence is msgspec.UNSET or self.epoch is msgspec.UNSET or self.sequence < -1:
            return None
        return Cursor(self.sequence, self.epoch)


_RECORD = 512
"""Size of a cursor file in bytes: one disk sector, so overwriting it is atomic if the process is killed."""

_BINARY = getattr(os, "O_BINARY", 0)  # without it Windows would translate line ends
_MOVED_TO = re.compile(r"cursor-[0-9a-f]{24}\.json")
_POLL_S = 0.05


class CursorFile:
    """A cursor in a small JSON file, mode 0600.

    A cursor belongs to a user of a log, and to a name: once a server has told both (`identify`), it is kept
    in a file of theirs, and the file at `path`, of this address and key, only names it. So a client with a
    new key, or at another address of the server, continues. Without that, the file at `path` has the cursor.

    The first save of a run replaces the file; later ones overwrite its single sector, which takes a few
    microseconds. A saved cursor survives a crash of the process at once. It survives a crash of the machine
    once it is synced: on save, if the last sync was `sync_every` s ago, or else with a later save or `close`.
    A cursor lost in that way is an older one, so messages come again, marked as replayed; none is missed.

    Trouble (a full disk, another process with the same cursor) is logged once, and `trouble` says what it is
    while it lasts: every save tries again. A newer client of the same cursor in this process takes it over
    and calls `on_taken`. (Without file locks, as on Windows, other processes are not noticed.)
    """

    def __init__(
        self,
        path: Path,
        server: str,
        *,
        name: str = "",
        sync_every: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.trouble = ""
        """Why the cursor is not kept at present; empty if it is."""
        self.lost: Cursor | None = None
        """A saved cursor from which this run does not continue; `Cursor()` for an unreadable one."""
        self.on_taken: Callable[[], None] = lambda: None
        self.taken = False
        """Whether a newer client in this process has the cursor."""
        self.siblings: Sequence[CursorFile] = ()
        """The cursors of all servers of a client; those of one log and user share a file."""
        self._server = server
        self._name = name
        self._program = _program()
        self._sync_every = sync_every
        self._monotonic = monotonic
        self._users: dict[str, str] = {}
        """The user by epoch, as servers told them."""
        self._target = path
        self._saved: Cursor | None = None
        self._unsaved: Cursor | None = None
        self._locks: dict[Path, FileLock | None] = {}
        """The cursor files that are ours; None where locking is impossible."""
        self._file: int | None = None
        self._synced_at = 0.0
        self._unsynced = False
        self._pid = os.getpid()
        self._closed = False

    async def wait_until_free(self, seconds: float) -> None:
        """Waits that long for another process to release the cursor, as one that is being replaced does."""
        self._pid = os.getpid()
        deadline = self._monotonic() + seconds
        try:
            while not self._take(self._find()) and self._monotonic() < deadline:  # noqa: ASYNC110 - others set no event
                await asyncio.sleep(_POLL_S)
        except BaseException:  # cancelled as well: the lock would stay
            self.close()
            raise

    def load(self) -> Cursor:
        """Returns the last saved cursor; `Cursor()` without one, or if it cannot be used (`lost`)."""
        self._pid, self._closed = os.getpid(), False
        self._target = self._find()
        return self._load()

    def identify(self, epoch: str, user: str) -> Cursor:
        """Notes whose log the server has. Returns a cursor of that user, if this run has none yet."""
        self._users[epoch] = user
        target = self._path_of(epoch)
        if self._saved is not None or target == self._target:
            return Cursor()
        self._target = target
        found = self._load()
        if found != Cursor():
            self.lost = None  # nothing is: the unreadable file only named this one
        return found

    def save(self, cursor: Cursor) -> None:
        """Writes the cursor to the file; if that fails, the next save tries again."""
        if cursor == self._saved or self.taken or self._pid != os.getpid():
            return
        self._unsaved = cursor
        try:
            target = self._path_of(cursor.epoch)
            if target != self._target:
                self._close_file()
                self._target = target
            due = self._monotonic() - self._synced_at >= self._sync_every
            if self._file is not None and due and not is_at(self._file, target):
                self._close_file()  # deleted, or moved with its folder: create it again, with its locks
                for path, lock in list(self._locks.items()):
                    if lock is not None and not lock.is_at(_lock_path(path)):
                        self._unlock(path)
            if any(other is not self and other.has_passed(cursor, target) for other in self.siblings):
                self._saved, self._unsaved = cursor, None
            elif self._take(target):
                self._write(cursor, due)
                self._saved, self._unsaved = cursor, None
                if self.trouble:
                    logger.warning("the cursor is saved again")
                    self.trouble = ""
            else:
                self._report(_IN_USE)
        except OSError as error:
            self._report(f"cannot write the cursor file {self._target}: {error.strerror}")
        if self._closed:
            self._release()

    def has_passed(self, cursor: Cursor, target: Path) -> bool:
        """Whether it has saved a later cursor of the same log in this file."""
        saved = self._saved
        return (
            saved is not None
            and self._target == target
            and saved.epoch == cursor.epoch
            and saved.sequence > cursor.sequence
        )

    def close(self) -> None:
        """Syncs the file and releases the cursor for other clients."""
        self._closed = True
        if self._unsaved is not None:
            self.save(self._unsaved)
        self._release()

    def _release(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # written already; only a crash of the machine could undo it
                self._sync(self._file)
            self._close_file()
        for path in list(self._locks):
            self._unlock(path)

    # --- whose cursor -------------------------------------------------------------------------------------

    def _path_of(self, epoch: str | None) -> Path:
        user = self._users.get(epoch or "")
        if not user:
            return self._target
        return self.path.with_name(_file_name("log", epoch or "", user, self._name))

    def _find(self) -> Path:
        """The file that has the cursor of this address and key."""
        with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            moved_to = msgspec.json.decode(self.path.read_bytes(), type=_Content).moved_to
            if _MOVED_TO.fullmatch(moved_to):
                return self.path.with_name(moved_to)
        return self.path

    def _take(self, target: Path) -> bool:
        """Makes the file at `path` and the target ours; returns whether no other process has one of them."""
        ours = self._lock(self.path)
        return self._lock(target) and ours

    def _lock(self, path: Path) -> bool:
        if path in self._locks:
            return True
        older = _in_use.get(path)
        if older is not None and older._pid == os.getpid():
            if older in self.siblings:
                return True
            # Its lock goes over to this one, so that no other process is faster.
            self._locks[path] = older._locks.pop(path, None)
            _in_use[path] = self
            if not older.taken:
                older.taken = True
                older.on_taken()
            return True
        lock: FileLock | None = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = FileLock(os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o600))
        except BlockingIOError:
            return False
        except OSError:
            return True  # the cursor can perhaps be read; saving it will tell
        if lock.unsupported is not None and path == self.path:
            reason = os.strerror(lock.unsupported.errno or 0)
            logger.warning("no file locks at %s (%s): run no second client there", path.parent, reason)
        self._locks[path] = lock
        _in_use[path] = self
        return True

    def _unlock(self, path: Path) -> None:
        if _in_use.get(path) is self:
            del _in_use[path]
        lock = self._locks.pop(path, None)
        if lock is not None:
            lock.close()

    # --- the file -----------------------------------------------------------------------------------------

    def _load(self) -> Cursor:
        ours = self._take(self._target)
        cursor = self._read()
        if ours:
            self._saved = cursor if cursor != Cursor() else None
            return cursor
        self._report(_IN_USE)
        self.lost = cursor if cursor != Cursor() else self.lost
        return Cursor()

    def _read(self) -> Cursor:
        """Returns the file's cursor; `Cursor()` without a file, or, with `lost` set, if it is unreadable."""
        try:
            content = msgspec.json.decode(self._target.read_bytes(), type=_Content)
        except (FileNotFoundError, NotADirectoryError):
            return Cursor()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            logger.warning("ignoring the unreadable cursor file %s: %s", self._target, error)
            self.lost = Cursor()
            return Cursor()
        if content.cursor is None or (self._target == self.path and content.server != self._server):
            logger.warning(
                "ignoring the cursor file %s: not a valid cursor of %s", self._target, self._server
            )
            self.lost = Cursor()
            return Cursor()
        if not self._name and self._program and content.program not in ("", self._program):
            logger.warning(
                "continuing after message %d, where %s stopped: give every program its own name=, "
                "so that each gets all messages",
                content.cursor.sequence,
                content.program,
            )
        return content.cursor

    def _write(self, cursor: Cursor, due: bool) -> None:
        fields = _Content(
            server=self._server, epoch=cursor.epoch, sequence=cursor.sequence, program=self._program
        )
        content = msgspec.json.encode(fields).ljust(_RECORD)
        # The first save of a run proves that the folder is writable, and leaves a file of exactly one
        # sector. An epoch too long for a sector is replaced every time.
        if self._file is None or len(content) > _RECORD:
            self._close_file()
            self._replace(self._target, content)
            self._synced_at = self._monotonic()
            if len(content) == _RECORD:
                self._file = os.open(self._target, os.O_WRONLY | _BINARY)
            if self._target != self.path and self._find() != self._target:
                moved = _Content(server=self._server, moved_to=self._target.name)
                self._replace(self.path, msgspec.json.encode(moved))
            return
        if hasattr(os, "pwrite"):  # in one step, because another thread may save too
            os.pwrite(self._file, content, 0)
        else:
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, content)
        self._unsynced = True
        if due:
            self._sync(self._file)

    def _sync(self, file: int) -> None:
        if self._unsynced:
            os.fsync(file)
            self._unsynced = False
            self._synced_at = self._monotonic()

    def _replace(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()  # left by a crash, perhaps with other permissions
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
        try:
            if os.write(file, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(new, path)

    def _close_file(self) -> None:
        if self._file is not None:
            # Forgotten before it is closed and its file is deleted: a signal handler may raise in between.
            file, self._file = self._file, None
            os.close(file)

    def _report(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            logger.warning("%s; trying again with each message, but a restart now would not resume", trouble)


def _program() -> str:
    """Returns the end of the running script's path, short enough for a record; empty in a notebook."""
    path = getattr(sys.modules["__main__"], "__file__", None) or ""
    return os.path.abspath(path)[-60:].encode("utf-8", "replace").decode() if path else ""


def _lock_path(path: Path) -> Path:
    """A separate file, because replacing the cursor file would replace the lock with it."""
    return path.with_suffix(".lock")


_IN_USE = "another client of this server, user and name is running (pass a different name=)"

_in_use: weakref.WeakValueDictionary[Path, CursorFile] = weakref.WeakValueDictionary()
"""The clients of this process by cursor file."""
