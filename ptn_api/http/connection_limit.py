"""Caps on open connections, and on the large downloads of each user."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from ptn_api.http.errors import HTTPError

__all__ = ["Abortable", "ConnectionLimit", "DownloadLimit", "newest_of_greatest"]

_STRANGERS_SHARE = 0.25
"""Of the connections: that many may be idle without an owner before they evict only each other."""


class Abortable(Protocol):
    def abort(self) -> None:
        """Closes the connection at once."""
        ...


C = TypeVar("C", bound=Abortable)
T = TypeVar("T")


def newest_of_greatest(owners: dict[T, Any]) -> T | None:
    """Returns what gives way where all room is taken: the newest of the owner with the most.

    Returns None if nobody has more than one. `owners` maps each item to its owner, the oldest first.
    """
    [(most, count)] = Counter(owners.values()).most_common(1) or [(None, 0)]
    return next(each for each, owner in reversed(owners.items()) if owner == most) if count > 1 else None


class ConnectionLimit(Generic[C]):
    """Open connections, capped; when one more opens, another one is evicted.

    If a quarter or more is idle and without an owner, that is the one of those that has been idle longest.
    Otherwise it is the one that has been idle longest of the owner with the most, busy ones included. A flood
    of strangers, or of one owner, therefore evicts only itself, and a new connection has time to send a key.
    If none of these is idle, the oldest busy connection without an owner is evicted; then the newest one of
    the owner with the most, if that is more than one. Otherwise the new one is closed.
    """

    def __init__(self, maximum: int, on_limit: Callable[[], None]) -> None:
        """`on_limit` is called whenever the limit closes a connection.

        The limit is at most half of the files that this process may open, which leaves the rest for its work.
        """
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = files == resource.RLIM_INFINITY
        self._maximum = max(1, maximum if unlimited else min(maximum, files // 2))
        self._on_limit = on_limit
        self._strangers: dict[C, None] = {}
        """Idle, without an owner."""
        self._idle: dict[C, Hashable] = {}
        """The owner of each idle connection that has one."""
        self._busy: dict[C, Hashable] = {}
        """The owner of each busy connection; None = no owner."""
        self._empty = asyncio.Event()

    def __iter__(self) -> Iterator[C]:
        return iter([*self._strangers, *self._idle, *self._busy])

    def __len__(self) -> int:
        return len(self._strangers) + len(self._idle) + len(self._busy)

    def add(self, connection: C) -> None:
        """Adds a new connection, which is idle."""
        if len(self) >= self._maximum and not self.evict():
            self._on_limit()
            connection.abort()
            return
        self._strangers[connection] = None
        self._empty.clear()

    def evict(self) -> bool:
        """Closes one connection, if any may be evicted; returns whether it did."""
        evicted = self._most_evictable()
        if evicted is None:
            return False
        self._on_limit()
        self.remove(evicted)  # now: connection_lost comes in a later turn of the loop
        evicted.abort()
        return True

    def _most_evictable(self) -> C | None:
        stranger = next(iter(self._strangers), None)
        if stranger is not None and len(self._strangers) >= len(self) * _STRANGERS_SHARE:
            return stranger  # first: a flood of strangers must not count all owners for each of them
        counts = Counter(
            [*self._idle.values(), *(owner for owner in self._busy.values() if owner is not None)]
        )
        most = max(counts.values(), default=0)
        if stranger is not None and most <= 1:
            return stranger
        for idle, owner in self._idle.items():
            if counts[owner] == most:
                return idle
        for busy, owner in self._busy.items():
            if owner is None:
                return busy
        return newest_of_greatest(self._busy)

    def mark_busy(self, connection: C, owner: Hashable) -> None:
        """Marks an idle connection as busy: it awaits a response."""
        if self._forget(connection):
            self._busy[connection] = owner

    def mark_idle(self, connection: C, owner: Hashable = None) -> None:
        """Marks a connection as idle, and as the one that became so last."""
        if self._forget(connection):
            if owner is None:
                self._strangers[connection] = None
            else:
                self._idle[connection] = owner

    def remove(self, connection: C) -> None:
        """Removes a connection that has closed; one that was evicted is gone already."""
        self._forget(connection)
        if not len(self):
            self._empty.set()

    def _forget(self, connection: C) -> bool:
        for connections in (self._strangers, self._idle, self._busy):
            if connection in connections:
                del connections[connection]
                return True
        return False

    async def wait_until_empty(self) -> None:
        if len(self):
            await self._empty.wait()


class DownloadLimit:
    """Large responses in progress, capped per owner; further ones wait their turn, in order."""

    def __init__(self, maximum: int, *, most_waiting: int, wait_ms: int) -> None:
        """`most_waiting` requests of an owner wait, each for at most `wait_ms`."""
        self._maximum = maximum
        self._most_waiting = most_waiting
        self._wait_s = wait_ms / 1000
        self._running: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, owner: Hashable) -> AsyncIterator[None]:
        """Waits until it is this download's turn. Raises HTTPError `too_many_downloads`."""
        if self._running[owner] >= self._maximum:
            await self._wait(owner)
        else:
            self._running[owner] += 1
        try:
            yield
        finally:
            self._end(owner)

    async def _wait(self, owner: Hashable) -> None:
        queue = self._waiting.setdefault(owner, deque())
        if len(queue) >= self._most_waiting:
            raise _too_many_downloads()
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await asyncio.wait({turn}, timeout=self._wait_s)
        except asyncio.CancelledError:
            if turn.done():  # the turn came at the same time
                self._end(owner)
            raise
        finally:
            if not turn.done():
                queue.remove(turn)
            if not queue:
                self._waiting.pop(owner, None)
        if not turn.done():
            raise _too_many_downloads()

    def _end(self, owner: Hashable) -> None:
        """Passes the turn on, or ends it."""
        queue = self._waiting.get(owner)
        if queue:
            queue.popleft().set_result(None)
            return
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]


def _too_many_downloads() -> HTTPError:
    return HTTPError(
        "too_many_downloads",
        "Too many large downloads with this key at the same time",
        headers={"retry-after": "5"},
    )
