"""Delays between retries."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """Exponential backoff: each delay is twice the one before, from `first_ms` up to `max_ms`.

    With `jitter` (a fraction) every delay is shortened at random by up to that share, so that clients
    that were disconnected together do not come back together; 1 is full jitter.
    """

    def __init__(
        self,
        *,
        first_ms: float,
        max_ms: float,
        jitter: float = 0.0,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._first_ms = first_ms
        self._max_ms = max_ms
        self._jitter = jitter
        self._random = random
        self._next_ms = first_ms

    def next_ms(self) -> float:
        """The delay before the next attempt."""
        delay = min(self._next_ms, self._max_ms)
        self._next_ms = min(delay * 2, self._max_ms)
        return delay * (1 - self._jitter * self._random())

    def reset(self) -> None:
        """An attempt succeeded: start from the first delay again."""
        self._next_ms = self._first_ms
