"""One client's connection: its session, its socket, and how far its catch-up got."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import structlog

from ptn_api.access.key_ring import KeyHolder
from ptn_api.access.limits import RateLimit
from ptn_api.clock import Clock, Monotonic
from ptn_api.errors import LogError
from ptn_api.fanout.counters import StreamCounters
from ptn_api.fanout.encoding import Framing, join_frames
from ptn_api.fanout.options import StreamOptions
from ptn_api.wire.client_frames import SMALL_FRAME_BYTES, Subscription
from ptn_api.wire.close_codes import (
    AUTH_TIMEOUT,
    BAD_PAYLOAD,
    MESSAGE_TOO_BIG,
    PROTOCOL_ERROR,
    SLOW_CONSUMER,
    TOO_MANY_REQUESTS,
    CloseCode,
)
from ptn_api.wire.frames import Error, Heartbeat
from ptn_api.wire.server_session import (
    BadLogin,
    CatchUp,
    CheckKey,
    Close,
    Effect,
    Resubscribed,
    RetryLater,
    Send,
    ServerSession,
    State,
    Stop,
)

__all__ = ["CatchUpProgress", "Connection", "ConnectionHost", "Socket"]

_REFUSALS = {
    "too_big": MESSAGE_TOO_BIG,
    "not_a_frame": PROTOCOL_ERROR,
    "bad_fragment": PROTOCOL_ERROR,
    "not_deflated": BAD_PAYLOAD,
}
_BEHIND_PAUSE_MS = 50
"""The pause before a log that is behind is looked at again; doubles."""

logger = structlog.get_logger()


class Socket(Protocol):
    """What a connection needs of its transport."""

    @property
    def address(self) -> str: ...

    @property
    def address_group(self) -> str | None:
        """The name under which limits count the address; None exempts it from them."""
        ...

    @property
    def framing(self) -> Framing: ...

    def write(self, data: bytes) -> None:
        """Sends complete frames, or buffers them; never waits."""
        ...

    def unsent_bytes(self) -> int: ...

    def close(self, reason: CloseCode) -> None:
        """Sends the close frame; aborts the connection if the client does not read it in time."""
        ...

    def authenticated(self, *, filters: bool) -> None:
        """Takes the connection out of the limits on connections that have not logged in.

        `filters`: the client may send messages as large as filters need.
        """
        ...

    def logged_in(self) -> None:
        """Takes note that the login was accepted, before anything else is sent."""
        ...

    @property
    def idle_heartbeats(self) -> bool:
        """Whether the client gets heartbeats before it has subscribed."""
        ...

    def abort_if_closing(self) -> None:
        """Aborts, in time, a connection that the library has closed because of a malformed frame."""
        ...


class ConnectionHost(Protocol):
    """What a connection needs of the rest of the fan-out."""

    @property
    def revision(self) -> int:
        """The revision up to which live connections have been sent every change."""
        ...

    def check_login(self, connection: Connection) -> None: ...

    def count_bad_login(self, connection: Connection, reason: str) -> bool:
        """Counts a first frame that is not a login. Returns whether the address must wait."""
        ...

    def catch_up(self, connection: Connection) -> None: ...

    def join(self, connection: Connection) -> None: ...

    def rejoin(self, connection: Connection) -> None:
        """Applies the new subscription to the orders that follow."""
        ...

    def leave(self, connection: Connection) -> None:
        """Stops sending orders."""
        ...

    def retry_later(self, connection: Connection, error: LogError) -> None:
        """Calls `retry` after a while: the log cannot be read, or is behind."""
        ...

    def too_slow(self, connection: Connection) -> None:
        """Takes note of a client that is disconnected because it reads too slowly."""
        ...

    def congested(self, connection: Connection) -> None: ...

    def drained(self, connection: Connection) -> None: ...

    def ended(self, connection: Connection) -> None:
        """Forgets a connection whose close was decided or that was lost."""
        ...


class CatchUpProgress(msgspec.Struct, kw_only=True):
    """How far a catch-up got: first orders up to `cursor`, then position changes up to `revision`.

    `complete` is the revision up to which nothing is missing, removals included. `since_revision` is the
    revision of the client's own state, or that at its subscribe if it has none; None if it did not ask for
    changes.
    """

    cursor: int
    replay_until: int
    since_revision: int | None
    revision: int
    complete: int
    part_events: int = 16
    """The most orders that the next part may hold: a power of two."""
    as_of: int | None = None
    """The log's revision when the first part was sent: no part may lack an earlier change."""
    replaying: bool = False
    """Whether there was anything to replay."""
    failing_since: int | None = None
    """When reading the next part first failed; None after a success."""


class Connection:
    """Carries out what the session decides; a `Subscriber` while it is live."""

    def __init__(
        self,
        socket: Socket,
        session: ServerSession,
        host: ConnectionHost,
        *,
        options: StreamOptions,
        counters: StreamCounters,
        clock: Clock,
        monotonic: Monotonic,
    ) -> None:
        self.session = session
        self.holder: KeyHolder | None = None
        self.api_key = ""
        self.progress: CatchUpProgress | None = None
        self.congested_since: int | None = None
        """When the socket's buffer passed its high-water mark, or shrank since; None below it."""
        self._unsent_bytes = 0
        self._socket = socket
        self._host = host
        self._options = options
        self._counters = counters
        self._clock = clock
        self._monotonic = monotonic
        self._messages = 0
        self._sent_bytes = 0
        self._reported_usage = (0, 0)
        self._frame_limit = RateLimit(options.frames_per_minute, most_names=1)
        self._reason: CloseCode | None = None
        self._lost = False
        self._behind_since: int | None = None
        """When the client's cursor was first found to be above the head of a log that is behind."""
        self._auth_timer: asyncio.TimerHandle | None = self.later(
            options.auth_timeout_ms, lambda: self.close(AUTH_TIMEOUT)
        )

    @property
    def subscription(self) -> Subscription:
        return self.session.subscription

    @property
    def framing(self) -> Framing:
        return self._socket.framing

    @property
    def address(self) -> str:
        return self._socket.address

    @property
    def address_group(self) -> str | None:
        return self._socket.address_group

    def later(self, delay_ms: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay_ms / 1000, call)

    # --- called by the socket ---

    def admits_frame(self, cost: int = 1) -> bool:
        """Returns whether the client may send another frame; closes the connection if not."""
        allowance = self._frame_limit.take("", self._monotonic(), cost=cost)
        if allowance is None or allowance.allowed:
            return True
        self._counters.limited["frames"] += 1
        self.close(TOO_MANY_REQUESTS)
        return False

    def authenticate(self, api_key: str) -> None:
        """Logs in with the key of the upgrade request."""
        self._perform(self.session.authenticate(api_key))

    def received(self, message: bytes) -> None:
        """Handles a complete message. A large one costs as much of the limit on frames as many small ones."""
        more = len(message) // SMALL_FRAME_BYTES
        if not more or self.admits_frame(more):
            self._perform(self.session.receive(message, self._clock()))

    def refuse_frame(self, code: str) -> None:
        """Closes the connection because of a frame that cannot be read."""
        self.close(TOO_MANY_REQUESTS if self.count_bad_login(code) else _REFUSALS[code])

    def count_bad_login(self, reason: str) -> bool:
        """Counts a bad frame as a failed login if it is the first. Returns whether the address must wait."""
        return self.session.state is State.NEW and self._host.count_bad_login(self, reason)

    def congested(self) -> None:
        self.congested_since = self._monotonic()
        self._host.congested(self)

    def drained(self) -> None:
        self.congested_since = None
        self._host.drained(self)
        if self.session.state is State.CATCHING_UP:
            self._host.catch_up(self)

    def lost(self, why: CloseCode) -> None:
        """Ends the connection after its socket is gone; `why` counts if this side had not closed it."""
        if self._lost:
            return
        self._lost = True
        self._end(None)
        code, reason = self._reason or why
        self._counters.closed[code] += 1
        log = logger.debug if self.holder is None else logger.info
        log("connection_closed", **self._identity(), reason=reason, code=code, messages=self._messages)

    # --- called by the host ---

    def authenticated(self) -> None:
        """Takes note that the key is valid, even if the login itself has to wait."""
        self._socket.authenticated(filters=self.session.version == 2)

    def key_checked(self, holder: KeyHolder | None) -> None:
        """Answers the login; no holder means an unknown key. Raises LogError with nothing changed."""
        if holder is None:
            effects = self.session.key_checked(None, self._clock())
        else:
            effects = self.session.key_checked(
                holder.tier, self._clock(), alias=holder.alias, waited_ms=self._waited_ms
            )
        if self.session.logged_in:
            self.holder = holder
            self._behind_since = None
            self._socket.logged_in()
            logger.info("connection_opened", **self._identity(), version=self.session.version)
        self._perform(effects)

    def retry(self) -> None:
        """Handles the frames that had to wait because the log could not be read or was behind."""
        self._perform(self.session.retry(self._clock(), waited_ms=self._waited_ms))

    def behind_pause_ms(self) -> int:
        """Returns when to look again at a log that is behind; the wait as a whole is limited."""
        if self._behind_since is None:
            self._behind_since = self._monotonic()
        waited_ms = self._monotonic() - self._behind_since
        return min(max(waited_ms, _BEHIND_PAUSE_MS), max(self._options.behind_wait_ms - waited_ms, 0))

    @property
    def _waited_ms(self) -> int | None:
        """How long the client has waited for a log that is behind; None if it waits no longer."""
        waited_ms = 0 if self._behind_since is None else self._monotonic() - self._behind_since
        return waited_ms if waited_ms < self._options.behind_wait_ms else None

    def evict(self) -> None:
        self._perform(self.session.evict())

    def close(self, reason: CloseCode) -> None:
        self._perform(self.session.close(reason))

    def caught_up(self) -> None:
        """Makes the connection live: it has been sent everything that the live ones have."""
        self.progress = None
        self.session.caught_up()
        self._host.join(self)

    @property
    def write(self) -> Callable[[bytes], None]:
        """The socket's own function; the caller reports to `count_sent` what it wrote."""
        return self._socket.write

    def count_sent(self, messages: int, sent_bytes: int) -> None:
        self._messages += messages
        self._sent_bytes += sent_bytes

    def check_buffer(self) -> None:
        """Closes a client that is too far behind, with a code that means "reconnect": memory is shared."""
        if self._reason is None and self._socket.unsent_bytes() > self._options.send_buffer_bytes:
            self.close_slow()

    def stalled_ms(self, now_ms: int) -> int:
        """Returns how long the client has read nothing of what its socket's buffer holds."""
        before, self._unsent_bytes = self._unsent_bytes, self._socket.unsent_bytes()
        if self.congested_since is None:
            return 0
        if self._unsent_bytes < before:
            self.congested_since = now_ms
        return now_ms - self.congested_since

    def close_slow(self) -> None:
        self._counters.slow_closes += 1
        self._host.too_slow(self)
        self.close(SLOW_CONSUMER)

    def send_missed(self, frames: Sequence[bytes], messages: int) -> None:
        """Sends a part of a catch-up, of any size: the next part waits until this one has left."""
        for data in join_frames(frames):
            self._write(data)
        self._messages += messages

    def usage(self) -> tuple[int, int]:
        """Returns the messages and bytes sent since the last call."""
        before, self._reported_usage = self._reported_usage, (self._messages, self._sent_bytes)
        return self._messages - before[0], self._sent_bytes - before[1]

    def pong(self, data: bytes) -> None:
        if self.session.state is not State.CLOSED:
            self._send(data)

    def heartbeat(self, beat: Heartbeat) -> None:
        self._send(self.framing.single(beat, beat.revision))

    def _send(self, data: bytes) -> None:
        """Sends a frame outside the orders' flow; clients that do not read may not pile up any of these."""
        if not data:
            return  # this transport has no such frame
        self._write(data)
        if self.congested_since is not None:
            self.check_buffer()

    def _write(self, data: bytes) -> None:
        self._socket.write(data)
        self._sent_bytes += len(data)

    # --- effects ---

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            # Carrying out an effect can close the connection: a full buffer, an eviction, a refused login.
            if self._reason is not None:
                return
            match effect:
                case BadLogin():
                    must_wait = self._host.count_bad_login(self, effect.reason)
                    self._perform(self.session.refuse_login(effect.reason, must_wait=must_wait))
                case Send():
                    if isinstance(effect.frame, Error):
                        self._counters.errors[effect.frame.code] += 1
                    self._send(self.framing.single(effect.frame, self._host.revision))
                case CheckKey():
                    self._stop_auth_timer()
                    self.api_key = effect.api_key
                    self._host.check_login(self)
                case CatchUp():
                    since = effect.revision
                    if since is None and self.subscription.updates and self._host.revision >= 0:
                        since = self._host.revision  # what changes until it is live is not missed either
                    self.progress = CatchUpProgress(
                        cursor=effect.after,
                        replay_until=effect.replay_until,
                        since_revision=since,
                        revision=since or 0,
                        complete=since or 0,
                    )
                    self._host.catch_up(self)
                case Resubscribed():
                    if self.session.state is State.LIVE:
                        self._host.rejoin(self)
                case RetryLater():
                    self._host.retry_later(self, effect.error)
                case Stop():
                    self.progress = None
                    self._host.leave(self)
                case Close():
                    self._end(effect.reason)

    def _end(self, reason: CloseCode | None) -> None:
        """Ends this side once; without a reason, the socket went by itself."""
        self._stop_auth_timer()
        self.progress = None
        if self._reason is None and reason is not None:
            self._reason = reason
            self._socket.close(reason)
        self.session.lost()
        self._host.ended(self)

    def _stop_auth_timer(self) -> None:
        if self._auth_timer is not None:
            self._auth_timer.cancel()
            self._auth_timer = None

    def _identity(self) -> dict[str, str]:
        """Returns the log fields of the connection; the key is never among them."""
        holder = self.holder
        return {
            "alias": holder.alias if holder else "",
            "fingerprint": holder.fingerprint if holder else "",
            "address": self._socket.address,
        }
