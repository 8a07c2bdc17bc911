"""Logins: which keys may connect, how many connections at once, and how fast."""

from __future__ import annotations

from collections import Counter, defaultdict, deque

import structlog

from ptn_api.access.key_ring import KeyHolder, KeyRing, fingerprint
from ptn_api.access.limits import LoginGuard
from ptn_api.clock import Monotonic
from ptn_api.errors import LogBehindError, LogError
from ptn_api.event_log.outage import LogOutage
from ptn_api.fanout.connection import Connection
from ptn_api.fanout.counters import StreamCounters
from ptn_api.fanout.log_tail import RETRY_MS, LogTail
from ptn_api.fanout.options import StreamOptions
from ptn_api.fanout.presence import Presence, UserPresence
from ptn_api.wire.close_codes import INTERNAL_ERROR, KEY_REVOKED, NOT_READY, TOO_MANY_REQUESTS
from ptn_api.wire.server_session import STREAM_TIER, State

__all__ = ["EvictionBackoff", "LoginPacer", "Logins"]

EVICTIONS = 3
EVICTION_WINDOW_MS = 60_000
MAX_DELAY_FACTOR = 12
"""The longest delay, as a multiple of the first."""
MOST_WAITING = 10
"""How many of a user's logins may wait at once, unless the user may have more connections than that."""

logger = structlog.get_logger()


class LoginPacer:
    """A limit on logins per second; the excess waits in order."""

    def __init__(self, per_second: int) -> None:
        self._interval_ms = 1000 / per_second
        self._next_ms = 0.0

    def wait_ms(self, now_ms: int) -> float:
        """Takes the next turn and returns how long the login must wait for it."""
        # A burst of one second's worth is let through: the limit is on the rate, not on the burst's shape.
        start = max(self._next_ms, now_ms - 1000.0)
        self._next_ms = start + self._interval_ms
        return max(0.0, self._next_ms - now_ms)


class EvictionBackoff:
    """Delays for one user's logins while its connections keep evicting each other; none is refused.

    After 3 evictions within a minute the next login waits, each further one twice as long, up to 12 times the
    first delay (docs/protocol.md, 7). A minute without an eviction resets it.
    """

    def __init__(self, first_delay_ms: int) -> None:
        self._first_ms = first_delay_ms
        self._delay_ms = 0
        self._evictions: deque[int] = deque(maxlen=EVICTIONS)

    def evicted(self, now_ms: int) -> None:
        self._evictions.append(now_ms)

    def delay_ms(self, now_ms: int) -> int:
        """Returns how long the login that arrives now must wait."""
        if not self._evictions or now_ms - self._evictions[-1] > EVICTION_WINDOW_MS + self._delay_ms:
            self._delay_ms = 0
        elif self._delay_ms:
            self._delay_ms = min(2 * self._delay_ms, MAX_DELAY_FACTOR * self._first_ms)
        elif len(self._evictions) == EVICTIONS and now_ms - self._evictions[0] <= EVICTION_WINDOW_MS:
            self._delay_ms = self._first_ms
        return self._delay_ms


class Logins:
    """Decides on logins, keeps each user's connection slots, and checks keys again when the ring changes.

    Slots, waiting logins, eviction backoff and failed logins are shared with the other processes of the
    stream, if there are any; the pace of logins is each process's own.
    """

    def __init__(
        self,
        tail: LogTail,
        outage: LogOutage,
        keys: KeyRing,
        *,
        options: StreamOptions,
        counters: StreamCounters,
        monotonic: Monotonic,
        presence: Presence,
    ) -> None:
        self._tail = tail
        self._outage = outage
        self._keys = keys
        self._options = options
        self._counters = counters
        self._monotonic = monotonic
        self._guard = LoginGuard(options.failed_logins_per_minute)
        self._pacer = LoginPacer(options.accepts_per_second)
        self._slots: dict[str, dict[Connection, int]] = {}
        """Alias -> the user's connections here and when each logged in, oldest first."""
        self._newest_ms = 0
        self._backoffs: defaultdict[str, EvictionBackoff] = defaultdict(
            lambda: EvictionBackoff(options.eviction_delay_ms)
        )
        self._waiting: dict[Connection, str] = {}
        """Each connection whose login waits although its key is valid -> its user's alias."""
        self._n_waiting: Counter[str] = Counter()
        self._presence = presence
        presence.on_user(lambda alias: self._evict_excess(alias) if alias in self._slots else None)
        presence.on_event("evicted", lambda alias, _: self._backoffs[alias].evicted(monotonic()))
        presence.on_event("delayed", lambda alias, _: self._delay_ms(alias))
        presence.on_event(
            "attempt",
            lambda address, key: self._guard.record_attempt(address, key or None, monotonic()),
        )

    def check(self, connection: Connection) -> None:
        """Decides on a login, now or when its turn comes."""
        now = self._monotonic()
        deadline = now + self._options.auth_timeout_ms
        if not self._tail.started:
            connection.close(NOT_READY)
            return
        if not self.key_is_valid(connection):
            self._decide(connection, deadline)  # refusals are cheap, and take no valid login's turn
            return
        holder = self._keys.lookup(connection.api_key)
        assert holder is not None
        if self._too_many_wait(holder):
            self._counters.limited["waiting_logins"] += 1
            connection.close(TOO_MANY_REQUESTS)
            return
        connection.authenticated()
        delay = self._pacer.wait_ms(now)
        if holder.alias in self._backoffs:
            delay += self._delay_ms(holder.alias)
            self._presence.tell("delayed", holder.alias)
        if delay:
            self._wait(connection, holder, delay, deadline + delay)
        else:
            self._decide(connection, deadline)

    def count_bad_login(self, connection: Connection, reason: str) -> bool:
        """Counts a first frame that is not a login as a failed one. Returns whether the address must wait."""
        self._counters.bad_logins[reason] += 1
        return self._must_wait(connection, None)

    def _must_wait(self, connection: Connection, holder: KeyHolder | None) -> bool:
        """Records an attempt to log in, failed without a holder. Returns whether the address must wait."""
        address, key = connection.address_group, None if holder is None else holder.fingerprint
        if self._guard.record_attempt(address, key, self._monotonic()):
            self._counters.limited["failed_logins"] += 1
            return True
        if address is not None:
            self._presence.tell("attempt", address, key or "")
        return False

    def _delay_ms(self, alias: str) -> int:
        """Returns how long a login of the user that arrives now, here or elsewhere, must wait."""
        return self._backoffs[alias].delay_ms(self._monotonic())

    def _wait(
        self,
        connection: Connection,
        holder: KeyHolder,
        delay_ms: float,
        deadline_ms: float,
        *,
        retries: bool = False,
    ) -> None:
        if connection not in self._waiting:
            self._waiting[connection] = holder.alias
            self._n_waiting[holder.alias] += 1
            self._tell(holder.alias)
        connection.later(delay_ms, lambda: self._decide(connection, deadline_ms, retries=retries))

    def _stop_waiting(self, connection: Connection) -> None:
        alias = self._waiting.pop(connection, None)
        if alias is not None:
            self._n_waiting[alias] -= 1
            self._tell(alias)

    def _too_many_wait(self, holder: KeyHolder) -> bool:
        """Returns whether as many of the user's logins wait as may; with more connections, more may wait."""
        limit = self._limit(holder)
        waiting = self._n_waiting[holder.alias] + self._presence.waiting(holder.alias)
        return limit is not None and waiting >= max(limit, MOST_WAITING)

    def _decide(self, connection: Connection, deadline_ms: float, *, retries: bool = False) -> None:
        if connection.session.state is not State.CHECKING:
            return
        holder = self._keys.lookup(connection.api_key)
        if not retries and self._must_wait(connection, holder):
            connection.close(TOO_MANY_REQUESTS)
            return
        try:
            connection.key_checked(holder)
        except LogBehindError:
            assert holder is not None  # without a holder, the log is not read
            self._outage.succeeded(connection)
            self._wait(connection, holder, connection.behind_pause_ms(), deadline_ms, retries=True)
            return
        except LogError as error:
            assert holder is not None
            self._outage.failed(connection, error)
            if self._monotonic() < deadline_ms:
                self._wait(connection, holder, RETRY_MS, deadline_ms, retries=True)
            else:
                connection.close(INTERNAL_ERROR)
            return
        self._stop_waiting(connection)
        self._outage.succeeded(connection)
        if holder is None or holder.tier < STREAM_TIER:
            self._counters.auth_failures += 1
            logger.info(
                "login_refused", fingerprint=fingerprint(connection.api_key), address=connection.address
            )
        elif connection.session.logged_in:
            self._counters.logins += 1
            self._counters.clients += 1
            # Distinct times, so that all processes put the connections into the same order.
            self._newest_ms = max(self._presence.now_ms(), self._newest_ms + 1)
            alias = holder.alias  # all keys of a user share the user's slots
            self._slots.setdefault(alias, {})[connection] = self._newest_ms
            self._evict_excess(alias)

    def _evict_excess(self, alias: str) -> None:
        """Evicts the user's oldest connections beyond the limit, as far as they are in this process.

        All processes order the connections alike, so each evicts its own.
        """
        slots = self._slots.get(alias, {})
        limit = self._limit_of(alias)
        elsewhere = self._presence.logins(alias)
        if limit is not None and (n_excess := len(slots) + len(elsewhere) - limit) > 0:
            here = {(time, self._presence.name) for time in slots.values()}
            excess = sorted([*here, *elsewhere])[:n_excess]
            for connection in list(slots)[: len(here.intersection(excess))]:
                self._counters.evictions += 1
                self._backoffs[alias].evicted(self._monotonic())
                self._presence.tell("evicted", alias)
                connection.evict()  # which frees its slot through `leave`
        self._tell(alias)

    def _limit(self, holder: KeyHolder) -> int | None:
        return holder.connection_limit(self._options.max_connections_per_key)

    def _limit_of(self, alias: str) -> int | None:
        """Returns the limit of a user that is connected here, by the key of the newest connection."""
        newest = next(reversed(self._slots.get(alias, {})), None)
        holder = None if newest is None else self._keys.lookup(newest.api_key)
        return None if holder is None or holder.alias != alias else self._limit(holder)

    def _tell(self, alias: str) -> None:
        """Tells the other processes how the user's limit is used here. Without a limit nothing is counted."""
        if self._presence.is_shared:
            counts = self._limit_of(alias) is not None
            logins = list(self._slots[alias].values()) if counts else []
            self._presence.set_user(alias, UserPresence(logins, self._n_waiting[alias]))

    def leave(self, connection: Connection) -> None:
        """Frees the connection's slot, if it has one, or its place among the waiting logins."""
        self._stop_waiting(connection)
        alias = connection.holder.alias if connection.holder else ""
        slots = self._slots.get(alias)
        if slots is None or connection not in slots:
            return
        del slots[connection]
        self._counters.clients -= 1
        if not slots:
            del self._slots[alias]
        self._tell(alias)

    def key_is_valid(self, connection: Connection) -> bool:
        """Returns whether the connection's key still gives access to the stream."""
        holder = self._keys.lookup(connection.api_key)
        return holder is not None and holder.tier >= STREAM_TIER

    def check_keys(self) -> None:
        """Closes connections whose key is no longer valid, and the oldest where a user has fewer slots."""
        for alias, slots in list(self._slots.items()):
            for connection in list(slots):
                if not self.key_is_valid(connection):
                    connection.close(KEY_REVOKED)
            self._evict_excess(alias)
