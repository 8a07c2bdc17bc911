"""The connections that are open, of which there are only so many."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol

from ptn_api.access.limits import most_connections
from ptn_api.rest.counters import RestCounters

__all__ = ["Crowd", "Member"]


class Member(Protocol):
    @property
    def stranger(self) -> bool:
        """Whether nobody has shown a key on this connection."""
        ...

    def give_way(self) -> None:
        """Ends the connection at once."""
        ...

    def finish(self) -> None:
        """Ends it when what it asked is answered."""
        ...


class Crowd:
    """At most `most`, and at most half of the open files that this process may have.

    When one more comes, the one that has been idle longest gives way; if all are being answered, the stranger
    whose answer began first; if there is none, the one that comes.
    """

    def __init__(self, most: int, counters: RestCounters) -> None:
        self._most = most_connections(most)
        self._counters = counters
        self._idle: dict[Member, None] = {}
        self._busy: dict[Member, None] = {}
        self._nobody = asyncio.Event()

    def __iter__(self) -> Iterator[Member]:
        return iter([*self._idle, *self._busy])

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def opened(self, member: Member) -> None:
        if len(self) >= self._most:
            self._counters.limited["connections"] += 1
            leaving = self._dispensable()
            if leaving is None:
                member.give_way()
                return
            self.closed(leaving)
            leaving.give_way()
        self._idle[member] = None
        self._nobody.clear()

    def _dispensable(self) -> Member | None:
        return next(iter(self._idle), None) or next((m for m in self._busy if m.stranger), None)

    def begins(self, member: Member) -> None:
        """A request has come."""
        if self._idle.pop(member, member) is None:
            self._busy[member] = None

    def rests(self, member: Member) -> None:
        """All requests are answered, now or again."""
        if self._idle.pop(member, member) is None or self._busy.pop(member, member) is None:
            self._idle[member] = None

    def closed(self, member: Member) -> None:
        self._idle.pop(member, None)
        self._busy.pop(member, None)
        if not len(self):
            self._nobody.set()

    async def gone(self) -> None:
        """Until nobody is left."""
        if len(self):
            await self._nobody.wait()
