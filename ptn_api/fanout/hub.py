"""The hub behind the sockets: connects log tail, fan-out, catch-ups, logins and heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from ptn_api.access.key_ring import KeyRing
from ptn_api.access.limits import RateLimit
from ptn_api.access.usage import Usage
from ptn_api.clock import Clock, monotonic_ms
from ptn_api.errors import LogBehindError, LogError
from ptn_api.event_log.contract import Document, EventLog
from ptn_api.event_log.outage import LogOutage
from ptn_api.fanout.catch_up import CatchUps
from ptn_api.fanout.connection import Connection, Socket
from ptn_api.fanout.counters import StreamCounters
from ptn_api.fanout.groups import SubscriberGroups
from ptn_api.fanout.log_tail import RETRY_MS, LogTail
from ptn_api.fanout.logins import Logins
from ptn_api.fanout.options import StreamOptions
from ptn_api.fanout.presence import Peers, Presence
from ptn_api.problems import Findings, OtherProcesses, ProblemRegister, Recent, SingleProcess, merged
from ptn_api.wire.close_codes import REPLAY_OVERTAKEN, TOO_MANY_REQUESTS, CloseCode
from ptn_api.wire.frames import Heartbeat
from ptn_api.wire.server_session import ServerSession, State

__all__ = ["Hub"]

TICK_MS = 1_000
"""How often all connections are checked for what no event reports."""


class Hub:
    """The `ConnectionHost` of every connection, from its upgrade to its end.

    To be created inside a running loop. `clock` is the time that clients are told. Heartbeats name the
    problems that `problems` has found here and `others` elsewhere. With `peers`, limits are shared. `outage`
    is that of the process, if it has other readers of the log.
    """

    def __init__(
        self,
        log: EventLog,
        keys: KeyRing,
        *,
        options: StreamOptions,
        counters: StreamCounters,
        clock: Clock,
        problems: ProblemRegister,
        usage: Usage | None = None,
        outage: LogOutage | None = None,
        others: OtherProcesses | None = None,
        peers: Peers | None = None,
    ) -> None:
        self._event_log = log
        self.options = options
        self._counters = counters
        self._clock = clock
        self._usage = usage
        self.closed = False
        self._connections: dict[Connection, Socket] = {}
        self._presence = Presence(peers)
        self._connect_limit = RateLimit(options.connects_per_minute)
        self._presence.on_event("connect", lambda address, _: self._may_connect(address))
        self._outage = LogOutage() if outage is None else outage
        self._problems = problems
        self._slow_users = Recent(options.overload_ms)
        problems.watch(self._find_slow_clients)
        self._others = others or SingleProcess()
        self._told: list[str] = []
        """The problems that the last heartbeats named."""
        self._groups = SubscriberGroups(counters, clock)
        self._tail = LogTail(
            log,
            self._groups,
            self._outage,
            on_overtaken=self._close_live,
            on_checksum=self.send_heartbeats,
            on_stale=self.send_heartbeats,
            stale_after_ms=options.heartbeat_ms,
        )
        self._logins = Logins(
            self._tail,
            self._outage,
            keys,
            options=options,
            counters=counters,
            monotonic=monotonic_ms,
            presence=self._presence,
        )
        self._catch_ups = CatchUps(
            log,
            self._tail,
            self._outage,
            counters,
            key_is_valid=self._logins.key_is_valid,
            clock=clock,
            stall_ms=options.replay_stall_ms,
        )
        self._unsubscribe_from_keys = keys.on_change(self._logins.check_keys)

    def start(self) -> list[asyncio.Task[None]]:
        """Starts the tasks that run as long as the stream; if one ends, the stream must end."""
        tick_ms = min(TICK_MS, self.options.unread_close_ms)
        heartbeats = _every(self.options.heartbeat_ms, self.send_heartbeats)
        tasks = [
            asyncio.create_task(self._tail.run(), name="log_tail"),
            asyncio.create_task(self._catch_ups.run(), name="catch_ups"),
            asyncio.create_task(heartbeats, name="heartbeats"),
            asyncio.create_task(_every(tick_ms, self._tick), name="tick"),
        ]
        if self._presence.is_shared:
            repeating = self._presence.repeat(self.options.presence_ms)
            tasks.append(asyncio.create_task(repeating, name="presence"))
        return tasks

    def _listed_miners(self) -> frozenset[str] | None:
        try:
            content = self._event_log.document(Document.MINERS)
        except LogError:  # the subscribe does not depend on it
            return None
        return None if content is None else msgspec.json.decode(content, type=frozenset[str])

    # --- connections come and go ---

    def connect(self, socket: Socket) -> Connection:
        session = ServerSession(
            self._event_log,
            heartbeat_ms=self.options.heartbeat_ms,
            replay_window_ms=self.options.replay_window_ms,
            listed_miners=self._listed_miners,
        )
        connection = Connection(
            socket,
            session,
            self,
            options=self.options,
            counters=self._counters,
            clock=self._clock,
            monotonic=monotonic_ms,
        )
        self._connections[connection] = socket
        address = connection.address_group
        if address is not None:
            if self._may_connect(address):
                self._presence.tell("connect", address)
            else:
                self._counters.limited["connects"] += 1
                connection.close(TOO_MANY_REQUESTS)
        return connection

    def _may_connect(self, address: str) -> bool:
        allowance = self._connect_limit.take(address, monotonic_ms())
        return allowance is None or allowance.allowed

    def disconnected(self, connection: Connection, why: CloseCode) -> None:
        self._connections.pop(connection, None)
        self._record_usage(connection)
        connection.lost(why)

    def close_all(self, reason: CloseCode) -> None:
        self.closed = True
        self._unsubscribe_from_keys()
        for connection in list(self._connections):
            connection.close(reason)

    def _record_usage(self, connection: Connection) -> None:
        """Adds what was sent since the last call to the user's usage."""
        if self._usage is not None and connection.holder is not None:
            self._groups.update_counts(connection)
            messages, sent_bytes = connection.usage()
            self._usage.add(connection.holder, messages=messages, sent_bytes=sent_bytes)

    def _close_live(self) -> None:
        for connection in list(self._connections):
            if connection.session.state is State.LIVE:
                connection.close(REPLAY_OVERTAKEN)

    # --- ConnectionHost ---

    @property
    def revision(self) -> int:
        return self._tail.revision

    def check_login(self, connection: Connection) -> None:
        self._logins.check(connection)

    def count_bad_login(self, connection: Connection, reason: str) -> bool:
        return self._logins.count_bad_login(connection, reason)

    def catch_up(self, connection: Connection) -> None:
        self._tail.step()  # nearly always up to the log's head: a client that missed nothing joins at once
        self._catch_ups.add(connection)

    def join(self, connection: Connection) -> None:
        self._groups.join(connection)
        self._tail.update_checksum_demand()

    def rejoin(self, connection: Connection) -> None:
        # Orders already in the log still go by the old subscription, up to one step: catching up with more
        # of them at once could fill the buffers of other clients.
        self._tail.step()
        self.join(connection)

    def leave(self, connection: Connection) -> None:
        self._groups.leave(connection)
        self._outage.forget(connection)

    def retry_later(self, connection: Connection, error: LogError) -> None:
        def retry() -> None:
            connection.retry()
            if not connection.session.frames_wait:
                self._outage.succeeded(connection)

        if isinstance(error, LogBehindError):
            self._outage.succeeded(connection)
            connection.later(connection.behind_pause_ms(), connection.retry)
            return
        self._outage.failed(connection, error)
        connection.later(RETRY_MS, retry)

    def too_slow(self, connection: Connection) -> None:
        if connection.holder is not None:
            self._slow_users.note(connection.holder.alias)

    def congested(self, connection: Connection) -> None:
        self._groups.congested(connection)

    def drained(self, connection: Connection) -> None:
        self._groups.drained(connection)

    def ended(self, connection: Connection) -> None:
        self.leave(connection)
        self._groups.drained(connection)
        self._logins.leave(connection)

    # --- periodic work ---

    def send_heartbeats(self) -> None:
        """Sends a heartbeat to every version 2 client that has logged in."""
        if not self._tail.started:
            return
        self._tail.step()
        self._tail.update_checksum_demand()
        self._tail.read_source()
        self._told = self._present_problems()
        for connection, socket in list(self._connections.items()):
            session = connection.session
            subscribed = session.subscribed_before or socket.idle_heartbeats
            if session.version == 2 and session.logged_in and subscribed:
                self.send_heartbeat(connection)

    def send_heartbeat(self, connection: Connection) -> None:
        head, revision = self._sent_up_to(connection)
        use_checksum = connection.session.state is State.LIVE and connection.subscription.wants_checksum
        connection.heartbeat(
            Heartbeat(
                head=head,
                revision=revision,
                timestamp=self._clock(),
                source_ms=self._tail.source.swept_ms,
                stale=self._tail.stale,
                checksum=self._tail.checksum() if use_checksum else None,
                problems=self._told,
            )
        )

    def _sent_up_to(self, connection: Connection) -> tuple[int, int]:
        """Returns the sequence and revision up to which this connection was sent everything that matches."""
        progress = connection.progress
        if progress is not None:
            since = progress.since_revision  # counts until the removals have been sent, which are last
            return progress.cursor, self._tail.revision if since is None else since
        subscribed = connection.session.subscribed_before
        return self._tail.sequence if subscribed else connection.session.after, self._tail.revision

    def log_problems(self) -> Findings:
        """The problems of the log and its source."""
        return {**self._tail.source.findings, "log_unreadable": bool(self._outage.failing)}

    def _find_slow_clients(self) -> Findings:
        slow_users = len(self._slow_users.counts())
        return {"clients_too_slow": slow_users if slow_users > 1 else 0}  # a single one has a slow line

    def _present_problems(self) -> list[str]:
        return [*merged(self._problems.look(), self._others.problems())]

    def _tick(self) -> None:
        now = monotonic_ms()
        if self._tail.started and self._present_problems() != self._told:
            self.send_heartbeats()
        for connection, socket in list(self._connections.items()):
            self._record_usage(connection)
            self._catch_ups.close_stalled(connection, now)
            socket.abort_if_closing()
        if all(connection.progress is None for connection in self._connections):
            self._catch_ups.forget_parts()


async def _every(period_ms: int, call: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(period_ms / 1000)
        call()
