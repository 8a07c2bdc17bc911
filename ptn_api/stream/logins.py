"""Who may connect, how many at once, and how fast."""

from __future__ import annotations

from collections import deque

import structlog

from ptn_api.access.key_ring import KeyHolder, KeyRing, fingerprint
from ptn_api.access.limits import LoginGuard
from ptn_api.clock import Monotonic
from ptn_api.errors import LogError
from ptn_api.event_log.contract import EventLog
from ptn_api.stream.connection import Connection
from ptn_api.stream.counters import StreamCounters
from ptn_api.stream.log_tail import Feed
from ptn_api.stream.options import StreamOptions
from ptn_api.wire.close_codes import INTERNAL_ERROR, KEY_REVOKED, NOT_READY, TOO_MANY_REQUESTS
from ptn_api.wire.server_session import STREAM_TIER, State

__all__ = ["Chase", "Logins", "Pace"]

CHASE_EVICTIONS = 3
CHASE_WINDOW_MS = 60_000
LONGEST_DELAY = 12
"""Times the first delay."""

logger = structlog.get_logger()


class Pace:
    """So many logins per second; the excess waits in order."""

    def __init__(self, per_second: int) -> None:
        self._step_ms = 1000 / per_second
        self._next_ms = 0.0

    def wait_ms(self, now_ms: int) -> float:
        """How long the login that asks now has to wait."""
        # One second's worth may come at once: the bound is on the rate, not on the shape of a burst.
        start = max(self._next_ms, now_ms - 1000.0)
        self._next_ms = start + self._step_ms
        return max(0.0, self._next_ms - now_ms)


class Chase:
    """The evictions of one key: connections that keep replacing each other are slowed down, never refused.

    After 3 evictions within a minute the next login waits, each further one twice as long, up to 12 times
    the first delay (docs/protocol.md, 7); a minute without an eviction ends it.
    """

    def __init__(self, first_delay_ms: int) -> None:
        self._first_ms = first_delay_ms
        self._delay_ms = 0
        self._evictions: deque[int] = deque(maxlen=CHASE_EVICTIONS)

    def evicted(self, now_ms: int) -> None:
        self._evictions.append(now_ms)

    def delay_ms(self, now_ms: int) -> int:
        """How long the login that asks now has to wait."""
        if not self._evictions or now_ms - self._evictions[-1] > CHASE_WINDOW_MS + self._delay_ms:
            self._delay_ms = 0
        elif self._delay_ms:
            self._delay_ms = min(2 * self._delay_ms, LONGEST_DELAY * self._first_ms)
        elif self._is_chase(now_ms):
            self._delay_ms = self._first_ms
        return self._delay_ms

    def _is_chase(self, now_ms: int) -> bool:
        return len(self._evictions) == CHASE_EVICTIONS and now_ms - self._evictions[0] <= CHASE_WINDOW_MS


class Logins:
    """Takes logins, gives out a key's seats, and looks at keys again whenever the ring was swapped."""

    def __init__(
        self,
        log: EventLog,
        feed: Feed,
        keys: KeyRing,
        *,
        options: StreamOptions,
        counters: StreamCounters,
        monotonic: Monotonic,
    ) -> None:
        self._events_log = log
        self._feed = feed
        self._keys = keys
        self._options = options
        self._counters = counters
        self._monotonic = monotonic
        self._guard = LoginGuard(options.failed_logins_per_minute)
        self._pace = Pace(options.accepts_per_second)
        self._seats: dict[str, deque[Connection]] = {}
        self._chases: dict[str, Chase] = {}

    def check(self, connection: Connection) -> None:
        """Decides on a login, when it is its turn."""
        if not (self._feed.started and self._events_log.ready()):
            connection.close(NOT_READY)
            return
        if not self.key_holds(connection):
            self._decide(connection)  # costs next to nothing; strangers take no turn of a customer's
            return
        connection.settle()
        now = self._monotonic()
        delay = self._pace.wait_ms(now) + self._chase_ms(connection, now)
        if delay:
            connection.later(delay, lambda: self._decide(connection))
        else:
            self._decide(connection)

    def _chase_ms(self, connection: Connection, now_ms: int) -> int:
        holder = self._keys.who(connection.api_key)
        chase = None if holder is None else self._chases.get(holder.alias)
        return chase.delay_ms(now_ms) if chase else 0

    def _decide(self, connection: Connection) -> None:
        if connection.session.state is not State.CHECKING:
            return
        holder = self._keys.who(connection.api_key)
        if self._guard.retry_s(connection.group, holder, self._monotonic()):
            self._counters.limited["failed_logins"] += 1
            connection.close(TOO_MANY_REQUESTS)
            return
        try:
            connection.key_checked(holder)
        except LogError as error:
            logger.warning("login_failed", code=error.code, reason=str(error))
            connection.close(INTERNAL_ERROR)
            return
        if connection.holder is None:
            self._counters.auth_failures += 1
            logger.info(
                "login_refused", fingerprint=fingerprint(connection.api_key), address=connection.address
            )
        elif connection.session.logged_in:
            self._counters.logins += 1
            self._counters.clients += 1
            self._sit(connection, connection.holder)

    def _sit(self, connection: Connection, holder: KeyHolder) -> None:
        """All keys of a user share the user's seats."""
        seats = self._seats.setdefault(holder.alias, deque())
        seats.append(connection)
        while len(seats) > self._most(holder):
            chase = self._chases.setdefault(holder.alias, Chase(self._options.eviction_delay_ms))
            chase.evicted(self._monotonic())
            self._evict(seats)

    def _evict(self, seats: deque[Connection]) -> None:
        self._counters.evictions += 1
        seats[0].evict()  # leaves its seat

    def _most(self, holder: KeyHolder) -> int:
        return holder.max_connections or self._options.max_connections_per_key

    def leave(self, connection: Connection) -> None:
        """Frees the connection's seat, if it has one."""
        alias = connection.holder.alias if connection.holder else ""
        seats = self._seats.get(alias)
        if seats is None or connection not in seats:
            return
        seats.remove(connection)
        self._counters.clients -= 1
        if not seats:
            del self._seats[alias]

    def key_holds(self, connection: Connection) -> bool:
        """Whether the key that this connection logged in with is still good for the stream."""
        holder = self._keys.who(connection.api_key)
        return holder is not None and holder.tier >= STREAM_TIER

    def check_keys(self) -> None:
        """Closes the connections whose key was revoked, downgraded or expired, or may have fewer now."""
        for alias, seats in list(self._seats.items()):
            for connection in list(seats):
                if not self.key_holds(connection):
                    connection.close(KEY_REVOKED)
            holder = self._keys.who(seats[-1].api_key) if seats else None
            while holder is not None and holder.alias == alias and len(seats) > self._most(holder):
                self._evict(seats)
