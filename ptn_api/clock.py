"""Time, handed in wherever it is needed, so that tests and replays can say what time it is."""

from __future__ import annotations

import time
from collections.abc import Callable

from ptn_api.options import CLOCK_JUMP_MS, CLOCK_SETTLE_MS

__all__ = ["Clock", "Monotonic", "SteadyClock", "monotonic_ms", "wall_ms"]

Clock = Callable[[], int]
"""Returns the time as integer milliseconds since the Unix epoch, UTC."""
Monotonic = Callable[[], int]
"""Returns milliseconds that only grow, since whenever: for waits and ages."""


def wall_ms() -> int:
    """The system's clock, in epoch milliseconds."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Milliseconds that only grow, whatever is done to the system's clock; one count for all processes."""
    return time.monotonic_ns() // 1_000_000


class SteadyClock:
    """Follows the wall clock, but not its jumps until they have persisted.

    A clock set forwards by mistake would show lower tiers what they may not see yet. A jump of more than
    `jump_ms` is reported once through `on_jump(jump_ms)` and believed only after `settle_ms`; smaller
    steps are followed at once.
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

    def __call__(self) -> int:
        monotonic = self._monotonic()
        offset = self._wall() - monotonic
        jump = offset - self._offset
        if abs(jump) <= self._jump_ms:
            self._offset = offset
            self._jumped_at = None
        elif self._jumped_at is None:
            self._jumped_at = monotonic
            if self._on_jump is not None:
                self._on_jump(jump)
        elif monotonic - self._jumped_at >= self._settle_ms:
            self._offset = offset
            self._jumped_at = None
        return monotonic + self._offset
