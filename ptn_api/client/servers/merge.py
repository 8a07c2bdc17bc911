"""What several servers' orders are together: a state machine without sockets, files or a clock.

An order is identified by its miner's hotkey and its uuid. The first server that has it delivers it, and the
others' copies are dropped, as long as the order is among those remembered (`SeenOrders`).

A server's gap is filled if another server is complete over the same time. What a server covers:

- from `since` on, it was followed without a gap: the start of the first run, or the end of its last gap;
- up to `complete`, nothing of it is outstanding: the time of its last heartbeat while it was live.

Servers see the same order at different times, so a server fills a gap only if it covers a margin before it as
well. Sequences of different servers are never compared. All times are ms by the client's clock.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from ptn_api.wire.client_session import Gap

__all__ = ["Coverage", "Merge", "SeenOrders", "ServerGap", "Verdict", "identity_of"]

REMEMBERED = 100_000
"""Orders that are remembered, for a day at most."""
REMEMBERED_MS = 24 * 3_600_000
_HOLES = 50
_WAITED = 10_000
"""Orders per server that others delivered and it has not sent yet."""

_values = struct.Struct("<qdd")


def identity_of(miner_hotkey: str, order_uuid: str) -> bytes:
    """Returns 16 bytes that stand for an order."""
    return blake2b(f"{miner_hotkey}\n{order_uuid}".encode(errors="surrogatepass"), digest_size=16).digest()


class ServerGap(Gap):
    """A gap in the numbering of the server whose address is `server`, which no other server fills."""

    server: str = ""


class Verdict(NamedTuple):
    """What to do with a server's order; `first` has the price and leverage first delivered, if others."""

    is_new: bool
    first: tuple[float, float] | None = None


class SeenOrders:
    """Delivered orders by identity, with time, price and leverage; the oldest are forgotten."""

    def __init__(self, limit: int = REMEMBERED, age_ms: float = REMEMBERED_MS) -> None:
        self._orders: dict[bytes, bytes] = {}
        self._limit = limit
        self._age_ms = age_ms
        self._forgotten_ms = -math.inf

    def __len__(self) -> int:
        return len(self._orders)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Yields (identity, values), the oldest first."""
        return iter(self._orders.items())

    def get(self, identity: bytes) -> tuple[float, float] | None:
        """Returns the price and leverage of a known order; nan where the validator stated none."""
        values = self._orders.get(identity)
        return None if values is None else _values.unpack(values)[1:]

    def add(self, identity: bytes, values: bytes) -> None:
        """`values` are packed by `pack`."""
        self._orders.setdefault(identity, values)
        if len(self._orders) > self._limit:
            self._forget(next(iter(self._orders)))

    def forget_old(self, now: float) -> None:
        """Removes orders that are older than a day."""
        oldest = now - self._age_ms
        while self._orders and _values.unpack(self._orders[first := next(iter(self._orders))])[0] < oldest:
            self._forget(first)
        self._forgotten_ms = max(self._forgotten_ms, oldest)

    def clock_went_back(self, now: float) -> None:
        """The clock was ahead, and may have aged orders too early: only later ones are certainly known."""
        self._forgotten_ms = min(self._forgotten_ms, now)

    def _forget(self, identity: bytes) -> None:
        self._forgotten_ms = max(self._forgotten_ms, _values.unpack(self._orders.pop(identity))[0])

    @property
    def since_ms(self) -> float:
        """Every order delivered after this time is remembered."""
        if len(self._orders) < self._limit:
            return self._forgotten_ms
        first: int = _values.unpack(next(iter(self._orders.values())))[0]
        return max(self._forgotten_ms, first)

    @staticmethod
    def pack(now: float, price: float, leverage: float | None) -> bytes:
        return _values.pack(int(now), price, math.nan if leverage is None else leverage)


class Coverage:
    """The time over which a server's orders are known; `since` None: not followed yet."""

    def __init__(self, since: float | None = None, complete: float = -math.inf) -> None:
        self.since = since
        self.complete = complete
        self.holes: list[tuple[float, float]] = []
        self.replaying = False
        self.waiting: dict[bytes, float] = {}
        """Orders that others delivered, with the time, until this server sends them."""
        self.behind = False

    def reaches_back_to(self, start: float, end: float) -> bool:
        """Whether nothing is missing from `start` on, as far as it is complete, up to `end`."""
        return (
            self.since is not None
            and self.since <= start
            and not any(first <= end and start <= last for first, last in self.holes)
        )

    def covers(self, start: float, end: float) -> bool:
        return self.reaches_back_to(start, end) and self.complete >= end

    @property
    def unbroken_since(self) -> float | None:
        """The time since which there was no gap; for the record, which keeps no gaps."""
        return self.holes[-1][1] if self.holes else self.since

    def add_hole(self, start: float, end: float) -> None:
        self.holes.append((start, end))
        if len(self.holes) > _HOLES:
            self.since = self.holes.pop(0)[1]

    def clock_went_back(self, now: float) -> None:
        """Nothing is known of the time after `now`, which the clock had reached too early."""
        if self.since is not None:
            self.since = min(self.since, now)
        self.complete = min(self.complete, now)
        self.holes = [(min(start, now), min(end, now)) for start, end in self.holes]
        self.waiting = {identity: min(at, now) for identity, at in self.waiting.items()}


class _Pending(NamedTuple):
    server: int
    gap: Gap
    start: float
    end: float


class Merge:
    """Decides which orders are new, and which gaps no server fills.

    `margin_ms`: how far apart servers may see the same order. `wait_ms`: how long a gap waits for a server
    that could fill it and does not answer. `behind_ms`: how much later than others a server may send an
    order before it counts as behind.
    """

    def __init__(
        self,
        servers: Sequence[Coverage],
        seen: SeenOrders,
        *,
        margin_ms: float,
        wait_ms: float,
        behind_ms: float,
    ) -> None:
        self.servers = servers
        self.seen = seen
        self._margin_ms = margin_ms
        self._wait_ms = wait_ms
        self._behind_ms = behind_ms
        self._begin: float | None = None
        """No order of before this time is wanted: the start of the first run. None while it is unknown."""
        self._latest = -math.inf
        self._pending: list[_Pending] = []
        self._untold: deque[tuple[int, Gap]] = deque()

    def check_clock(self, now: float) -> None:
        """Corrects what was noted by a clock that was ahead, before this run or in it.

        Else a server would cover a time to come, and orders and gaps of that time would count as known.
        """
        if now < self._latest:
            self.clock_went_back(now)
        self._latest = now

    def clock_went_back(self, now: float) -> None:
        self.seen.clock_went_back(now)
        for coverage in self.servers:
            coverage.clock_went_back(now)
        if self._begin is not None:
            self._begin = min(self._begin, now)
        self._pending = [p._replace(start=min(p.start, now), end=min(p.end, now)) for p in self._pending]

    def follow(self, server: int, now: float) -> None:
        """Notes that a server without a cursor is followed from now on."""
        coverage = self.servers[server]
        self._begin = begin = self._known_begin(now)
        if coverage.since is None:
            # The servers are not connected at the same moment; no order of before the start is wanted.
            coverage.since = begin if now - begin <= self._margin_ms else now

    def _known_begin(self, default: float) -> float:
        if self._begin is not None:
            return self._begin
        return min((c.since for c in self.servers if c.since is not None), default=default)

    def order(
        self, server: int, identity: bytes, seen_ms: float, price: float, leverage: float | None, now: float
    ) -> Verdict:
        """Takes an order that a server saw at `seen_ms`, and which it did not send before."""
        self.check_clock(now)
        self.servers[server].waiting.pop(identity, None)
        self.seen.forget_old(now)
        first = self.seen.get(identity)
        if first is not None:
            ours = price, math.nan if leverage is None else leverage
            same = all(a == b or a != a or b != b for a, b in zip(first, ours, strict=True))
            return Verdict(is_new=False, first=None if same else first)
        if seen_ms < self.seen.since_ms and self._delivered_by_another(server, seen_ms):
            return Verdict(is_new=False)
        self.seen.add(identity, SeenOrders.pack(now, price, leverage))
        for number, other in enumerate(self.servers):
            if number != server and other.since is not None and len(other.waiting) < _WAITED:
                other.waiting[identity] = now
        return Verdict(is_new=True)

    def _delivered_by_another(self, server: int, seen_ms: float) -> bool:
        """Whether an order of this time, no longer remembered, came from another server long ago."""
        start, end = seen_ms - self._margin_ms, seen_ms + self._margin_ms
        return any(c.covers(start, end) for n, c in enumerate(self.servers) if n != server)

    def complete(self, server: int, at: float, now: float) -> None:
        """A live server has sent everything up to this time."""
        self.check_clock(now)
        coverage = self.servers[server]
        self.follow(server, at)
        coverage.complete = max(coverage.complete, at)
        # Another validator may never get an order: after a while that says nothing about the server.
        oldest = now - 10 * self._behind_ms
        while coverage.waiting and coverage.waiting[first := next(iter(coverage.waiting))] < oldest:
            del coverage.waiting[first]
        late = next(iter(coverage.waiting.values()), math.inf)
        coverage.behind = now - late > self._behind_ms
        self._settle(now)

    def gap(self, server: int, gap: Gap, now: float) -> None:
        """A server continues without the messages of the gap."""
        self.check_clock(now)
        coverage = self.servers[server]
        self._begin = self._known_begin(-math.inf)
        start = -math.inf if coverage.since is None else max(coverage.since, coverage.complete)
        coverage.since = -math.inf if coverage.since is None else coverage.since
        coverage.add_hole(start, now)
        self._pending.append(_Pending(server, gap, start, now))
        self._settle(now)

    def holds(self, server: int) -> bool:
        """Whether a gap of the server is undecided: its cursor must not be saved behind the gap."""
        return any(pending.server == server for pending in self._pending) or any(
            number == server for number, _ in self._untold
        )

    def next_gap(self, now: float) -> tuple[int, Gap] | None:
        """Returns (server, gap) of the next gap that no server fills."""
        self.check_clock(now)
        if not self._untold:
            self._settle(now)
        return self._untold.popleft() if self._untold else None

    @property
    def due_ms(self) -> float:
        """When the next undecided gap is told at the latest; infinity without one."""
        return min((pending.end + self._wait_ms for pending in self._pending), default=math.inf)

    def _settle(self, now: float) -> None:
        undecided = []
        for pending in self._pending:
            start = pending.start - self._margin_ms
            if self._begin is not None:
                start = max(start, self._begin)
            others = [c for number, c in enumerate(self.servers) if number != pending.server]
            able = [c for c in others if c.reaches_back_to(start, pending.end)]
            if any(c.complete > pending.end for c in able):  # an order may come in the same ms
                continue
            if any(c.replaying or now < pending.end + self._wait_ms for c in able):
                undecided.append(pending)
            else:
                self._untold.append((pending.server, pending.gap))
        self._pending = undecided
