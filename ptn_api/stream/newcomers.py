"""Connections that have not logged in: strangers, of whom there may be any number."""

from __future__ import annotations

from typing import Protocol

from ptn_api.access.limits import most_connections
from ptn_api.stream.counters import StreamCounters

__all__ = ["Abortable", "Newcomers"]


class Abortable(Protocol):
    def abort(self) -> None:
        """Ends the connection at once."""
        ...


class Newcomers:
    """At most `most` of them, and at most half of the open files that this process may have.

    The one that has waited longest gives way to the next: who means to log in does so within moments, so a
    flood of silent connections drives out itself.
    """

    def __init__(self, most: int, counters: StreamCounters) -> None:
        self._most = most_connections(most)
        self._counters = counters
        self._waiting: dict[Abortable, None] = {}

    def arrived(self, connection: Abortable) -> None:
        self._waiting[connection] = None
        if len(self._waiting) > self._most:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self._counters.limited["waiting_connections"] += 1
            oldest.abort()

    def leave(self, connection: Abortable) -> None:
        """It is gone, or a stranger no more."""
        self._waiting.pop(connection, None)

    def __len__(self) -> int:
        return len(self._waiting)
