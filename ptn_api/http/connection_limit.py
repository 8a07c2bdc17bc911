"""A cap on open connections."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

__all__ = ["Abortable", "ConnectionLimit"]


class Abortable(Protocol):
    def abort(self) -> None:
        """Closes the connection at once."""
        ...


C = TypeVar("C", bound=Abortable)


class ConnectionLimit(Generic[C]):
    """Open connections, capped; when one more opens, the one that has been idle longest is evicted.

    A flood of idle connections therefore evicts only itself. If none is idle, the oldest busy connection
    marked as evictable is evicted; if none is evictable, the new one is closed.
    """

    def __init__(self, maximum: int, on_limit: Callable[[], None]) -> None:
        """`on_limit` is called whenever the limit closes a connection.

        The limit is at most half of the files that this process may open, which leaves the rest for its work.
        """
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = files == resource.RLIM_INFINITY
        self._maximum = max(1, maximum if unlimited else min(maximum, files // 2))
        self._on_limit = on_limit
        self._idle: dict[C, None] = {}
        self._busy: dict[C, bool] = {}
        """Whether each busy connection may be evicted."""
        self._empty = asyncio.Event()

    def __iter__(self) -> Iterator[C]:
        return iter([*self._idle, *self._busy])

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def add(self, connection: C) -> None:
        """Adds a new connection, which is idle."""
        if len(self) >= self._maximum and not self.evict():
            self._on_limit()
            connection.abort()
            return
        self._idle[connection] = None
        self._empty.clear()

    def evict(self) -> bool:
        """Closes one connection, if any may be evicted; returns whether it did."""
        evicted = next(iter(self._idle), None)
        if evicted is None:
            evicted = next((busy for busy, evictable in self._busy.items() if evictable), None)
        if evicted is None:
            return False
        self._on_limit()
        self.remove(evicted)  # now: connection_lost comes in a later turn of the loop
        evicted.abort()
        return True

    def mark_busy(self, connection: C, *, evictable: bool) -> None:
        """Marks an idle connection as busy: it awaits a response."""
        if connection in self._idle:
            del self._idle[connection]
            self._busy[connection] = evictable

    def mark_idle(self, connection: C) -> None:
        """Marks a connection as idle, and as the one that became so last."""
        if connection in self._idle:
            del self._idle[connection]
            self._idle[connection] = None
        elif self._busy.pop(connection, None) is not None:
            self._idle[connection] = None

    def remove(self, connection: C) -> None:
        """Removes a connection that has closed; one that was evicted is gone already."""
        self._idle.pop(connection, None)
        self._busy.pop(connection, None)
        if not len(self):
            self._empty.set()

    async def wait_until_empty(self) -> None:
        if len(self):
            await self._empty.wait()
