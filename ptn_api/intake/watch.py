"""inotify: what changes in which directory, as it happens. The only home of asyncinotify."""

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
# Of files and of folders. No CREATE of files: what was only just created is not written yet.
_MASKS = {
    (True, False): _ANY | Mask.CLOSE_WRITE,
    (False, True): _ANY | Mask.CREATE,
    (True, True): _ANY | Mask.CLOSE_WRITE | Mask.CREATE,
}
# Events taken from the kernel at a time (of the longest name; some 300 of uuids): a few ms of work.
_EVENTS_PER_READ = 64


class FsEvent(NamedTuple):
    """Something happened to `name` in the directory with watch number `wd`; no name: to the directory."""

    wd: int
    name: str


class Watch(Protocol):
    """The seam at which tests make watches run out and events overflow."""

    def add(self, path: str, *, files: bool = False, folders: bool = False) -> int:
        """Watches a directory, for what happens to files or folders in it.

        Returns the watch's number, the same again if already watched.
        Raises OSError: ENOSPC when watches have run out, ENOENT or ENOTDIR when there is no such directory.
        """
        ...

    def remove(self, wd: int) -> None:
        """Forgets a watch; quietly where it is gone already."""
        ...

    def events(self) -> AsyncIterator[FsEvent | None]:
        """What is seen, for ever. None: the kernel's queue overflowed, and something was missed."""
        ...

    def close(self) -> None: ...


class InotifyWatch:
    """Watches may be added from another thread than the one whose loop reads the events.

    An event between the kernel's adding and the library's knowing of it is dropped; whoever adds a watch
    lists the directory afterwards and so misses nothing.
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
                if Mask.IGNORED in event.mask:  # the directory is gone, and the watch with it
                    self._watches.pop(event.watch.wd, None)
                yield FsEvent(event.watch.wd, str(event.name) if event.name else "")

    def close(self) -> None:
        self._inotify.close()


class NullWatch:
    """Sees nothing, where no inotify is to be had; every directory is left to the sweep."""

    def add(self, path: str, *, files: bool = False, folders: bool = False) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def remove(self, wd: int) -> None:
        """Nothing was added."""

    async def events(self) -> AsyncIterator[FsEvent | None]:
        nothing: tuple[FsEvent, ...] = ()
        for event in nothing:
            yield event

    def close(self) -> None:
        """Nothing is open."""


def open_watch() -> Watch:
    """inotify, or blindness where the system grants no more instances of it."""
    try:
        return InotifyWatch()
    except OSError:
        return NullWatch()
