"""How often is too often: requests of a key, connects and failed logins of an address, frames of a client.

The generic cell rate algorithm: one number per name, the time at which its quota would be whole again. It
refills steadily, so nobody gains by waiting for a window's edge, and what an answer says of it is a function
of that name's own requests and the time, nothing else. Twenty lines; the libraries for it bring storages.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ptn_api.access.key_ring import KeyHolder

__all__ = ["WINDOW_MS", "Allowance", "LoginGuard", "RateLimit"]

WINDOW_MS = 60_000
MOST_NAMES = 65_536
"""How many names are remembered; beyond that the one that asked longest ago is forgiven."""


class Allowance(NamedTuple):
    """`remaining` of `limit` may come at once; the quota is whole again in `reset_s`.

    `retry_s` is 0 where the request is allowed, else the seconds until the next one would be.
    """

    limit: int
    remaining: int
    reset_s: int
    retry_s: int

    @property
    def allowed(self) -> bool:
        return self.retry_s == 0


class RateLimit:
    """So many a minute for each name; a minute's worth may come at once. 0 = no limit."""

    def __init__(self, per_minute: int, *, most_names: int = MOST_NAMES) -> None:
        self._per_minute = per_minute
        self._most_names = most_names
        self._whole_at: dict[str, float] = {}

    def take(self, name: str, now_ms: float, *, per_minute: int | None = None) -> Allowance | None:
        """Asks for one; None where there is no limit. `per_minute`: this name's own limit."""
        per_minute = self._per_minute if per_minute is None else per_minute
        if per_minute == 0:
            return None
        before_ms = self._missing_ms(name, now_ms)
        after_ms = before_ms + WINDOW_MS / per_minute
        if after_ms > WINDOW_MS + 1e-6:
            return Allowance(per_minute, 0, _seconds(before_ms), max(1, _seconds(after_ms - WINDOW_MS)))
        self._remember(name, now_ms + after_ms)
        remaining = int((WINDOW_MS - after_ms) * per_minute / WINDOW_MS + 1e-6)
        return Allowance(per_minute, remaining, _seconds(after_ms), 0)

    def retry_s(self, name: str, now_ms: float) -> int:
        """Seconds until one more would be allowed; 0 = it is. Takes nothing."""
        if self._per_minute == 0:
            return 0
        over_ms = self._missing_ms(name, now_ms) + WINDOW_MS / self._per_minute - WINDOW_MS
        return max(1, _seconds(over_ms)) if over_ms > 1e-6 else 0

    def _missing_ms(self, name: str, now_ms: float) -> float:
        """How long until the name's quota is whole. A clock that went back locks nobody out."""
        return min(max(self._whole_at.get(name, 0.0) - now_ms, 0.0), WINDOW_MS)

    def _remember(self, name: str, whole_at: float) -> None:
        self._whole_at.pop(name, None)
        self._whole_at[name] = whole_at
        if len(self._whole_at) > self._most_names:
            del self._whole_at[next(iter(self._whole_at))]


class LoginGuard:
    """Failed logins per address. Who fails too often is told to wait, whatever key comes next.

    But keys that were good from this address before still are: a neighbour behind the same router is not
    locked out, and nobody finds a key by guessing on.
    """

    def __init__(self, failures_per_minute: int) -> None:
        self._failures = RateLimit(failures_per_minute)
        self._known: dict[tuple[str, str], None] = {}

    def retry_s(self, address: str | None, holder: KeyHolder | None, now_ms: float) -> int:
        """To be asked at each login, with what the key turned out to be. 0 = go on; address None = exempt."""
        if address is None:
            return 0
        known = holder is not None and (address, holder.fingerprint) in self._known
        wait_s = 0 if known else self._failures.retry_s(address, now_ms)
        if wait_s:
            return wait_s
        if holder is None:
            self._failures.take(address, now_ms)
        else:
            self._remember(address, holder)
        return 0

    def _remember(self, address: str, holder: KeyHolder) -> None:
        self._known.pop((address, holder.fingerprint), None)
        self._known[address, holder.fingerprint] = None
        if len(self._known) > MOST_NAMES:
            del self._known[next(iter(self._known))]


def _seconds(ms: float) -> int:
    return math.ceil(ms / 1000 - 1e-9)
