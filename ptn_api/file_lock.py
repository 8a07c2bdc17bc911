"""Advisory locks between processes, on file systems with locks and without."""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["FileLock", "is_at", "take_lock"]


def take_lock(descriptor: int, *, wait: bool = False) -> OSError | None:
    """Locks an open file. Returns the error of a file system that has no locks, on which the caller goes on.

    Raises BlockingIOError if another process holds the lock, unless `wait`. The file must be open for
    writing: NFS locks no other. Windows has no such locks; there nothing happens.
    """
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:  # ENOLCK, EBADF, EOPNOTSUPP: says nothing about other processes
        return error
    return None


def is_at(descriptor: int, path: Path) -> bool:
    """Returns whether the open file still has this path: it may have been deleted, or moved with its folder.

    Raises OSError if that is unknown.
    """
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


class FileLock:
    """An open file whose lock ends with `close` or with the process; a forked child does not keep it."""

    def __init__(self, descriptor: int) -> None:
        """Takes over the descriptor. Raises BlockingIOError, after closing it, if another holds the lock."""
        self._descriptor: int | None = descriptor
        try:
            self.unsupported = take_lock(descriptor)
            """The error of a file system without locks."""
        except BlockingIOError:
            self.close()
            raise
        _held.add(self)

    def is_at(self, path: Path) -> bool:
        """Returns whether another process would find the lock at this path. Raises OSError if unknown."""
        return self._descriptor is not None and is_at(self._descriptor, path)

    def close(self) -> None:
        if self._descriptor is not None:
            # Forgotten before it is closed: a signal handler may raise in between.
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    """A lock belongs to the open file, which a child shares: it would outlive the parent."""
    for lock in list(_held):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
