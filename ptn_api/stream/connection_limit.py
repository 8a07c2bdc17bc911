"""Connections that have not logged in, capped; the oldest is evicted."""

from __future__ import annotations

from typing import Protocol

from ptn_api.access.limits import most_connections
from ptn_api.stream.counters import StreamCounters

__all__ = ["Abortable", "ConnectionLimit"]


class Abortable(Protocol):
    def abort(self) -> None:
        """Ends the connection at once."""
        ...


class ConnectionLimit:
    """At most `most` connections, and at most half of the files that this process may open.

    One more evicts the oldest: a client that means to log in does so within moments, so a flood of silent
    connections evicts only itself.
    """

    def __init__(self, most: int, counters: StreamCounters) -> None:
        self._most = most_connections(most)
        self._counters = counters
        self._connections: dict[Abortable, None] = {}

    def opened(self, connection: Abortable) -> None:
        self._connections[connection] = None
        if len(self._connections) > self._most:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            self._counters.limited["waiting_connections"] += 1
            oldest.abort()

    def remove(self, connection: Abortable) -> None:
        """Stops counting a connection that has closed or logged in."""
        self._connections.pop(connection, None)

    def __len__(self) -> int:
        return len(self._connections)
