"""Rate limits: requests of a user, connections and failed logins of an address, frames of a client.

The generic cell rate algorithm: one number per name, the time at which its quota is full again. The quota
refills steadily, so waiting for the edge of a window gains nothing, and the numbers in a response depend on
this name's own requests and the time only. Libraries for it bring storage backends; this is twenty lines.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

__all__ = ["WINDOW_MS", "Allowance", "LoginGuard", "RateLimit"]

WINDOW_MS = 60_000
MOST_NAMES = 65_536
"""How many names are remembered. Beyond that, the one whose last request is oldest is forgotten."""
_ROUNDING_MS = 1e-6


class Allowance(NamedTuple):
    """`remaining` of `limit` requests may come at once; the quota is full again in `reset_s`.

    `retry_s` is 0 for an allowed request, else the seconds until the next one is allowed.
    """

    limit: int
    remaining: int
    reset_s: int
    retry_s: int

    @property
    def allowed(self) -> bool:
        return self.retry_s == 0


class RateLimit:
    """A limit per name and minute. A minute's quota may be used at once. 0 = no limit."""

    def __init__(self, per_minute: int, *, most_names: int = MOST_NAMES) -> None:
        self._per_minute = per_minute
        self._most_names = most_names
        self._full_at: dict[str, float] = {}

    def take(
        self, name: str, now_ms: float, *, per_minute: int | None = None, cost: int = 1
    ) -> Allowance | None:
        """Takes `cost` from the quota if possible; None without a limit.

        `per_minute`: this name's own limit.
        """
        per_minute = self._per_minute if per_minute is None else per_minute
        if per_minute == 0:
            return None
        before_ms = self._refill_ms(name, now_ms)
        after_ms = before_ms + cost * WINDOW_MS / per_minute
        if after_ms > WINDOW_MS + _ROUNDING_MS:
            return Allowance(per_minute, 0, _seconds(before_ms), max(1, _seconds(after_ms - WINDOW_MS)))
        _remember(self._full_at, name, now_ms + after_ms, self._most_names)
        remaining = int((WINDOW_MS - after_ms) * per_minute / WINDOW_MS + _ROUNDING_MS)
        return Allowance(per_minute, remaining, _seconds(after_ms), 0)

    def retry_s(self, name: str, now_ms: float) -> int:
        """Seconds until the next one is allowed; 0 = now. Takes nothing."""
        if self._per_minute == 0:
            return 0
        over_ms = self._refill_ms(name, now_ms) + WINDOW_MS / self._per_minute - WINDOW_MS
        return max(1, _seconds(over_ms)) if over_ms > _ROUNDING_MS else 0

    def _refill_ms(self, name: str, now_ms: float) -> float:
        """The time until the quota is full: a window at most, even if `now_ms` steps back."""
        return min(max(self._full_at.get(name, 0.0) - now_ms, 0.0), WINDOW_MS)


class LoginGuard:
    """Failed logins per address. After too many, the address must wait, even with a valid key.

    Otherwise an attacker could go on guessing and learn which key is right. Keys that logged in from the
    address before are exempt: other users behind the same router are not locked out.
    """

    def __init__(self, failures_per_minute: int) -> None:
        self._failures = RateLimit(failures_per_minute)
        self._known: dict[tuple[str, str], None] = {}

    def record_attempt(self, address: str | None, fingerprint: str | None, now_ms: float) -> int:
        """Records a login attempt. Returns the seconds to wait before the next; 0 = proceed with the result.

        `fingerprint` is that of a valid key, None for an invalid one. An address of None is exempt.
        """
        if address is None:
            return 0
        known = fingerprint is not None and (address, fingerprint) in self._known
        wait_s = 0 if known else self._failures.retry_s(address, now_ms)
        if wait_s:
            return wait_s
        if fingerprint is None:
            self._failures.take(address, now_ms)
        else:
            _remember(self._known, (address, fingerprint), None, MOST_NAMES)
        return 0


def _remember(memory: dict[Any, Any], name: Any, value: Any, most: int) -> None:
    """Stores the value as the newest and drops the oldest beyond `most`."""
    memory.pop(name, None)
    memory[name] = value
    if len(memory) > most:
        del memory[next(iter(memory))]


def _seconds(ms: float) -> int:
    return math.ceil(ms / 1000 - 1e-9)
