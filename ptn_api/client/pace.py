"""How patient a client is: every period in one place, and the pauses between attempts."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

__all__ = ["Backoff", "Pace"]


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Periods, in seconds."""

    connect: float = 10.0
    """For the connection and for each step of the login."""
    close: float = 1.0
    """For a goodbye that the server may not answer."""
    ping: float = 15.0
    """Between the pings that measure the clock offset; an old server is mute after two of them."""
    tick: float = 0.25
    """How finely silence is measured."""
    backoff: float = 1.0
    """Longest pause before the first new attempt; doubles with every further one."""
    backoff_max: float = 60.0
    eviction: float = 15.0
    """Shortest pause after a newer connection of the key took this one's place; doubles as well."""
    settled: float = 20.0
    """A connection that lasted this long was a good one: the next pause is a short one again."""
    refused: float = 30.0
    """Shortest pause after a refused login; the longest is twice that."""
    retry: float = 0.5
    """Before a handler that failed is called again; doubles, up to `backoff_max`."""


class Backoff:
    """Pauses between attempts: exponential with full jitter, so that clients cut off together spread out."""

    def __init__(self, pace: Pace, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._pace = pace
        self._uniform = uniform
        self._failures = 0
        self._evictions = 0

    def lasted(self, seconds: float) -> None:
        """How long the last connection was up; a good one ends the doubling.

        Six clients of one key take turns, each up for a while: their pauses shrink again only after a time
        that is long against any pause.
        """
        if seconds >= self._pace.settled:
            self._failures = 0
        if seconds >= 10 * self._pace.backoff_max:
            self._evictions = 0

    def lost(self) -> float:
        """The pause after a connection that broke or could not be made: 0 up to a doubling limit."""
        longest = self._doubled(self._pace.backoff, self._failures)
        self._failures += 1
        return self._uniform(0.0, longest)

    def evicted(self) -> float:
        """The pause after an eviction; never short, so that six clients of one key don't chase each other."""
        shortest = self._doubled(self._pace.eviction, self._evictions)
        self._evictions += 1
        return self._uniform(shortest, 2 * shortest)

    def refused(self) -> float:
        """The pause after a refused login: the key may be added later."""
        return self._uniform(self._pace.refused, 2 * self._pace.refused)

    def _doubled(self, first: float, times: int) -> float:
        return min(first * 2.0 ** min(times, 30), max(first, self._pace.backoff_max))
