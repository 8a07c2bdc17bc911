"""Everything behind the sockets: feed, audience, replays, logins, heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ptn_api.access.key_ring import KeyRing
from ptn_api.access.limits import RateLimit
from ptn_api.access.usage import Usage
from ptn_api.clock import Clock, monotonic_ms
from ptn_api.event_log.contract import EventLog
from ptn_api.stream.catch_up import Replayer
from ptn_api.stream.connection import Connection, Socket
from ptn_api.stream.counters import StreamCounters
from ptn_api.stream.fanout import Audience
from ptn_api.stream.log_tail import Feed
from ptn_api.stream.logins import Logins
from ptn_api.stream.options import StreamOptions
from ptn_api.wire.close_codes import REPLAY_OVERTAKEN, TOO_MANY_REQUESTS, CloseCode
from ptn_api.wire.frames import Heartbeat
from ptn_api.wire.server_session import ServerSession, State

__all__ = ["Hub"]

TICK_MS = 1_000
"""How often connections are looked at that nothing else would wake."""


class Hub:
    """Wires the room; knows every connection from its first byte to its last.

    To be made inside a running loop. `clock` is the time that clients are told.
    """

    def __init__(
        self,
        log: EventLog,
        keys: KeyRing,
        *,
        options: StreamOptions,
        counters: StreamCounters,
        clock: Clock,
        usage: Usage | None = None,
    ) -> None:
        self._events_log = log
        self._options = options
        self._counters = counters
        self._clock = clock
        self._stale = False
        self._connections: dict[Connection, Socket] = {}
        self._usage = usage
        self._connects = RateLimit(options.connects_per_minute)
        self._audience = Audience(counters, clock)
        self._feed = Feed(log, self._audience, on_overtaken=self._overtaken, on_summed=self.beat)
        self._logins = Logins(
            log, self._feed, keys, options=options, counters=counters, monotonic=monotonic_ms
        )
        self._replayer = Replayer(
            log,
            self._feed,
            counters,
            key_holds=self._logins.key_holds,
            stall_ms=options.replay_stall_ms,
        )
        self._forget_keys = keys.on_swap(self._logins.check_keys)

    def tasks(self) -> list[asyncio.Task[None]]:
        """What runs as long as the stream does; the end of one is the end of all."""
        return [
            asyncio.create_task(self._feed.run(self._watch_source), name="feed"),
            asyncio.create_task(self._replayer.run(), name="replays"),
            asyncio.create_task(_every(self._options.heartbeat_ms, self.beat), name="heartbeats"),
            asyncio.create_task(_every(min(TICK_MS, self._options.unread_close_ms), self._tick), name="tick"),
        ]

    # --- connections come and go ---

    def connect(self, socket: Socket) -> Connection:
        session = ServerSession(
            self._events_log,
            heartbeat_ms=self._options.heartbeat_ms,
            replay_window_ms=self._options.replay_window_ms,
        )
        connection = Connection(
            socket,
            session,
            self,
            options=self._options,
            counters=self._counters,
            clock=self._clock,
            monotonic=monotonic_ms,
        )
        self._connections[connection] = socket
        self._check_connects(connection)
        return connection

    def _check_connects(self, connection: Connection) -> None:
        if connection.group is None:
            return
        allowance = self._connects.take(connection.group, monotonic_ms())
        if allowance is not None and not allowance.allowed:
            self._counters.limited["connects"] += 1
            connection.close(TOO_MANY_REQUESTS)

    def disconnected(self, connection: Connection, why: CloseCode) -> None:
        self._connections.pop(connection, None)
        self._account(connection)
        connection.lost(why)

    def _account(self, connection: Connection) -> None:
        """Puts what was sent since the last time on the user's account."""
        if self._usage is not None and connection.holder is not None:
            self._audience.credit(connection)
            messages, sent_bytes = connection.account()
            self._usage.add(connection.holder, messages=messages, sent_bytes=sent_bytes)

    def close_all(self, reason: CloseCode) -> None:
        self._forget_keys()
        for connection in list(self._connections):
            connection.close(reason)

    # --- what a connection asks (`Desk`) ---

    def check_login(self, connection: Connection) -> None:
        self._logins.check(connection)

    def catch_up(self, connection: Connection) -> None:
        self._feed.step()  # what is in the log by now is part of a replay, and marked so
        self._replayer.add(connection)

    def join(self, connection: Connection) -> None:
        self._audience.join(connection)
        self._feed.look_after_sum()

    def rejoin(self, connection: Connection) -> None:
        self._feed.step()  # what is in the log by now is not the next order any more
        self.join(connection)

    def leave(self, connection: Connection) -> None:
        self._audience.leave(connection)

    def congested(self, connection: Connection) -> None:
        self._audience.congested(connection)

    def flowing(self, connection: Connection) -> None:
        self._audience.flowing(connection)

    def ended(self, connection: Connection) -> None:
        self._audience.leave(connection)
        self._audience.flowing(connection)
        self._logins.leave(connection)

    # --- what time brings ---

    def beat(self) -> None:
        """A heartbeat to everybody who speaks version 2, whatever else was sent."""
        if not self._feed.started:
            return
        self._feed.step()
        self._feed.look_after_sum()
        now, source = self._clock(), self._events_log.source()
        checksum = self._feed.checksum()
        for connection in list(self._connections):
            if connection.session.version == 2 and connection.session.logged_in:
                head, revision = self._standing(connection)
                summed = connection.session.state is State.LIVE and _wants_checksum(connection)
                connection.heartbeat(
                    Heartbeat(
                        head=head,
                        revision=revision,
                        timestamp=now,
                        source_ms=source.swept_ms,
                        stale=source.stale,
                        checksum=checksum if summed else None,
                    )
                )

    def _standing(self, connection: Connection) -> tuple[int, int]:
        """Up to where everything that matches has been sent to this connection."""
        progress = connection.progress
        if progress is not None:
            revision = self._feed.revision if progress.since_revision is None else progress.revision
            return progress.cursor, revision
        subscribed = connection.session.subscribed_before
        return self._feed.last if subscribed else connection.session.after, self._feed.revision

    def _watch_source(self) -> None:
        """The log rang: if the source became stale, or fresh again, everybody hears at once."""
        stale = self._events_log.source().stale
        if stale != self._stale:
            self._stale = stale
            self.beat()

    def _tick(self) -> None:
        now = monotonic_ms()
        for connection, socket in list(self._connections.items()):
            self._account(connection)
            self._replayer.close_stalled(connection, now)
            socket.tidy()

    def _overtaken(self) -> None:
        for connection in list(self._connections):
            if connection.session.state is State.LIVE:
                connection.close(REPLAY_OVERTAKEN)


def _wants_checksum(connection: Connection) -> bool:
    return connection.subscription.updates and not connection.subscription.filtered


async def _every(period_ms: int, call: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(period_ms / 1000)
        call()
