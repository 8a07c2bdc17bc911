"""Clocks. Code takes them as parameters, so that tests and replays control the time."""

from __future__ import annotations

import time
from collections.abc import Callable

from ptn_api.options import CLOCK_JUMP_MS, CLOCK_SETTLE_MS

__all__ = ["Clock", "Monotonic", "SteadyClock", "monotonic_ms", "wall_ms"]

Clock = Callable[[], int]
"""Returns integer milliseconds since the Unix epoch, UTC."""
Monotonic = Callable[[], int]
"""Returns milliseconds that only grow, from an arbitrary origin: for waits and ages."""


def wall_ms() -> int:
    """Returns the system's time in epoch milliseconds."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Returns ms that only grow, even if the system's time is set; the same count in all processes."""
    return time.monotonic_ns() // 1_000_000


class SteadyClock:
    """A wall clock that ignores a jump until it has lasted.

    If the system's time is set forward by mistake, lower tiers would be shown what they may not see yet. A
    jump of more than `jump_ms` is reported once through `on_jump(jump_ms)`, and followed after the system's
    time has gone on without another one for `settle_ms`; smaller steps are followed at once.
    """

    def __init__(
        self,
        *,
        jump_ms: int = CLOCK_JUMP_MS,
        settle_ms: int = CLOCK_SETTLE_MS,
        wall: Clock = wall_ms,
        monotonic: Monotonic = monotonic_ms,
        on_jump: Callable[[int], None] | None = None,
    ) -> None:
        self._jump_ms = jump_ms
        self._settle_ms = settle_ms
        self._wall = wall
        self._monotonic = monotonic
        self._on_jump = on_jump
        self._offset = wall() - monotonic()
        self._jumped_at: int | None = None
        self._jumped_to = self._offset
        """The offset right after the jump that is waited out."""

    def __call__(self) -> int:
        monotonic = self._monotonic()
        offset = self._wall() - monotonic
        jump = offset - self._offset
        if abs(jump) <= self._jump_ms:
            self._offset = offset
            self._jumped_at = None
        elif self._jumped_at is None or abs(offset - self._jumped_to) > self._jump_ms:
            self._jumped_at, self._jumped_to = monotonic, offset
            if self._on_jump is not None:
                self._on_jump(jump)
        elif monotonic - self._jumped_at >= self._settle_ms:
            self._offset = offset
            self._jumped_at = None
        return monotonic + self._offset

    def is_waiting(self) -> bool:
        """Whether the system's time has jumped, and is not followed yet."""
        self()
        return self._jumped_at is not None
