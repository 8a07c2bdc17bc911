"""Clocks. Code takes them as parameters, so that tests and replays control the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import NamedTuple

from ptn_api.options import CLOCK_JUMP_MS, CLOCK_SETTLE_MS

__all__ = [
    "Clock",
    "ClockStart",
    "Monotonic",
    "SteadyClock",
    "monotonic_ms",
    "read_time",
    "seems_seconds",
    "wall_ms",
]

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


def read_time(text: str) -> int | None:
    """Returns `1764410400000`, `2026-11-22` or `2026-11-22T18:30+01:00` as epoch ms; None for others.

    UTC unless it has an offset, whose plus may be a blank, as in a URL.
    """
    if text.isascii() and text.isdigit():
        return int(text) if len(text) < 17 else None
    if "T" in text and text[-6:-5] == " ":
        text = f"{text[:-6]}+{text[-5:]}"
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        return None
    return max(0, round(since.total_seconds() * 1000))


def seems_seconds(time: int | str) -> bool:
    """Whether an epoch time, as a number, is in seconds since 2001 rather than in ms until 1973."""
    return str(time).isdecimal() and 10**9 <= int(time) < 10**11


class ClockStart(NamedTuple):
    """How a clock goes on in another process of the machine.

    `offset_ms` is the wall clock's lead over the monotonic clock, `since_ms` the monotonic time since which
    that lead has been used.
    """

    offset_ms: int
    since_ms: int


class SteadyClock:
    """A wall clock that follows a step back at once, and a step forward only after it has lasted.

    If the system's time is set forward by mistake, lower tiers would be shown what they may not see yet.
    Small steps are followed at once, but forward at most `jump_ms` per `settle_ms`. A larger step is followed
    after the system's time has gone on without another one for `settle_ms`. Large steps, forward or back,
    are reported once through `on_jump(ms)`.

    `start` continues the clock of another process.
    """

    def __init__(
        self,
        *,
        jump_ms: int = CLOCK_JUMP_MS,
        settle_ms: int = CLOCK_SETTLE_MS,
        wall: Clock = wall_ms,
        monotonic: Monotonic = monotonic_ms,
        on_jump: Callable[[int], None] = lambda ms: None,
        start: ClockStart | None = None,
    ) -> None:
        self._jump_ms = jump_ms
        self._settle_ms = settle_ms
        self._wall = wall
        self._monotonic = monotonic
        self._on_jump = on_jump
        now = monotonic()
        self._offset, self._since = start or ClockStart(wall() - now, now)
        self._jump: ClockStart | None = None
        """The offset right after the step forward that is waited out, and when it was first seen."""
        self._stepped_back_at: int | None = None
        self._anchor, self._anchored_at = self._offset, now
        """Where small steps forward are measured from, so that many of them do not add up."""

    def compare(self, known_ms: int) -> None:
        """Compares the clock with a time that has passed, from before the start; once, before it is used.

        Unless the clock has run for `settle_ms` already, it counts as having stepped away from there.
        """
        now = self._monotonic()
        if now - self._since >= self._settle_ms:
            return
        lead = self._offset - (known_ms - now)
        if lead > self._jump_ms:
            self._jump = ClockStart(self._offset, self._since)
            self._offset = self._anchor = known_ms - now
            self._on_jump(lead)
        elif lead < -self._jump_ms:
            self._stepped_back_at = self._since
            self._on_jump(lead)

    def confirm(self, known_ms: int) -> None:
        """Compares again, with a later time: follows the system's time at once if it agrees with that."""
        now, offset = self._monotonic(), self._wall() - self._monotonic()
        if self._jump is not None and offset - (known_ms - now) <= self._jump_ms:
            self._follow(offset, now)

    def __call__(self) -> int:
        now = self._monotonic()
        offset = self._wall() - now
        if offset < self._offset - self._jump_ms:
            self._stepped_back_at = now
            self._on_jump(offset - self._offset)
            self._follow(offset, now)
        elif offset <= self._anchor + self._jump_ms:
            self._offset, self._jump = offset, None
            if offset < self._anchor or now - self._anchored_at >= self._settle_ms:
                self._anchor, self._anchored_at = offset, now
        elif self._jump is None or abs(offset - self._jump.offset_ms) > self._jump_ms:
            self._jump = ClockStart(offset, now)
            self._on_jump(offset - self._offset)
        elif now - self._jump.since_ms >= self._settle_ms:
            self._follow(offset, self._jump.since_ms)
        return now + self._offset

    def _follow(self, offset: int, since: int) -> None:
        self._offset, self._since, self._jump = offset, since, None
        self._anchor, self._anchored_at = offset, self._monotonic()

    def is_untrusted(self) -> bool:
        """Whether the system's time has stepped forward and is not followed yet, or stepped back recently."""
        self()
        back_at = self._stepped_back_at
        return self._jump is not None or (
            back_at is not None and self._monotonic() - back_at < self._settle_ms
        )

    def as_start(self) -> ClockStart:
        """Returns what continues this clock in another process."""
        self()
        return ClockStart(self._offset, self._since)
