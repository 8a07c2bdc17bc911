"""inotify: which directory entries change, as it happens. The only home of asyncinotify."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

import asyncinotify
from asyncinotify import Mask

__all__ = ["FsEvent", "InotifyWatch", "NullWatch", "Watch", "open_watch"]

_ANY = Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.ONLYDIR
# By (files, folders). No CREATE for files: a file that was just created is not written yet.
_MASKS = {
    (True, False): _ANY | Mask.CLOSE_WRITE,
    (False, True): _ANY | Mask.CREATE,
    (True, True): _ANY | Mask.CLOSE_WRITE | Mask.CREATE,
}
# Events per read from the kernel, counted at the longest name (some 300 with uuids): a few ms of work.
_EVENTS_PER_READ = 64


class FsEvent(NamedTuple):
    """A change of `name` in the directory with watch number `wd`; an empty name: of the directory itself."""

    wd: int
    name: str


class Watch(Protocol):
    """A source of file system events. Tests substitute one whose watches run out or whose queue overflows."""

    def add(self, path: str, *, files: bool = False, folders: bool = False) -> int:
        """Watches a directory for changes of files or folders in it.

        Returns the number of the watch, the same number if the directory is already watched.
        Raises OSError: ENOSPC when watches have run out, ENOENT or ENOTDIR if the directory does not exist.
        """
        ...

    def remove(self, wd: int) -> None:
        """Ends a watch. One that has already ended is ignored."""
        ...

    def events(self) -> AsyncIterator[FsEvent | None]:
        """Yields events forever. None: the kernel's queue overflowed, and events were lost."""
        ...

    def close(self) -> None: ...


class InotifyWatch:
    """inotify through asyncinotify. `add` and `remove` may be called from another thread than the loop's.

    An event that arrives after the kernel has added a watch and before `add` has noted it is dropped: list
    the directory after adding its watch, and nothing is missed.
    """

    def __init__(self) -> None:
        self._inotify = asyncinotify.Inotify(cache_size=_EVENTS_PER_READ)
        self._watches: dict[int, asyncinotify.Watch] = {}

    def add(self, path: str, *, files: bool = False, folders: bool = False) -> int:
        watch = self._inotify.add_watch(path, _MASKS[files, folders])
        self._watches[watch.wd] = watch
        return watch.wd

    def remove(self, wd: int) -> None:
        watch = self._watches.pop(wd, None)
        if watch is not None:
            with contextlib.suppress(OSError):
                self._inotify.rm_watch(watch)

    async def events(self) -> AsyncIterator[FsEvent | None]:
        async for event in self._inotify:
            if Mask.Q_OVERFLOW in event.mask:
                yield None
            elif event.watch is not None:
                if Mask.IGNORED in event.mask:  # the directory is gone, and its watch with it
                    self._watches.pop(event.watch.wd, None)
                yield FsEvent(event.watch.wd, str(event.name) if event.name else "")

    def close(self) -> None:
        self._inotify.close()


class NullWatch:
    """A watch without events, for systems that grant no inotify instance: sweeps find every change."""

    def add(self, path: str, *, files: bool = False, folders: bool = False) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def remove(self, wd: int) -> None:
        pass

    async def events(self) -> AsyncIterator[FsEvent | None]:
        nothing: tuple[FsEvent, ...] = ()
        for event in nothing:
            yield event

    def close(self) -> None:
        pass


def open_watch() -> Watch:
    """Opens inotify, or a NullWatch if the system grants no more instances."""
    try:
        return InotifyWatch()
    except OSError:
        return NullWatch()
