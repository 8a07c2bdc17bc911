"""One client: its session, its socket, and where it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import structlog

from ptn_api.access.key_ring import KeyHolder
from ptn_api.access.limits import RateLimit
from ptn_api.clock import Clock, Monotonic
from ptn_api.stream.counters import StreamCounters
from ptn_api.stream.framing import frame, joined
from ptn_api.stream.options import StreamOptions
from ptn_api.wire import codec
from ptn_api.wire.client_frames import Subscription
from ptn_api.wire.close_codes import AUTH_TIMEOUT, SLOW_CONSUMER, TOO_MANY_REQUESTS, CloseCode
from ptn_api.wire.frames import Heartbeat
from ptn_api.wire.server_session import (
    CatchUp,
    CheckKey,
    Close,
    Effect,
    Resubscribed,
    Send,
    ServerSession,
    State,
    Stop,
)

__all__ = ["Connection", "Desk", "Progress", "Socket"]

logger = structlog.get_logger()


class Socket(Protocol):
    """What a connection needs of the WebSocket library."""

    @property
    def address(self) -> str: ...

    @property
    def group(self) -> str | None:
        """The name under which limits count the address; None: they do not."""
        ...

    @property
    def deflate(self) -> bool: ...

    def write(self, data: bytes) -> None:
        """Sends whole frames or keeps them to be sent; never waits."""
        ...

    def unsent(self) -> int:
        """How many bytes are kept."""
        ...

    def close(self, reason: CloseCode) -> None:
        """Sends the close frame; the connection is aborted if it is not read in time."""
        ...

    def settle(self) -> None:
        """The client has shown a good key: it counts as a stranger no more."""
        ...

    def tidy(self) -> None:
        """Aborts what the library closed by itself, after a broken frame, if that is not read."""
        ...


class Desk(Protocol):
    """What a connection asks of its surroundings."""

    def check_login(self, connection: Connection) -> None: ...

    def catch_up(self, connection: Connection) -> None: ...

    def join(self, connection: Connection) -> None: ...

    def rejoin(self, connection: Connection) -> None:
        """From the next order on."""
        ...

    def leave(self, connection: Connection) -> None:
        """No orders any more."""
        ...

    def congested(self, connection: Connection) -> None:
        """Its socket keeps more than it should."""
        ...

    def flowing(self, connection: Connection) -> None: ...

    def ended(self, connection: Connection) -> None:
        """No client any more: its close was decided, or it went."""
        ...


class Progress(msgspec.Struct, kw_only=True):
    """How far a catch-up got: orders up to `cursor`, then changes of positions up to `revision`.

    `since_revision` is where the client's own state stands; None: it did not ask for changes.
    """

    cursor: int
    replay_until: int
    since_revision: int | None
    revision: int
    limit: int = 16
    """How many orders the next piece may hold."""
    replaying: bool = False
    """Whether there was anything to replay."""


class Connection:
    def __init__(
        self,
        socket: Socket,
        session: ServerSession,
        desk: Desk,
        *,
        options: StreamOptions,
        counters: StreamCounters,
        clock: Clock,
        monotonic: Monotonic,
    ) -> None:
        self.session = session
        self.holder: KeyHolder | None = None
        self.api_key = ""
        self.progress: Progress | None = None
        self.congested_since: int | None = None
        """When the socket last began to keep more than it should; None while it flows."""
        self._socket = socket
        self._desk = desk
        self._options = options
        self._counters = counters
        self._clock = clock
        self._monotonic = monotonic
        self._messages = 0
        self._sent_bytes = 0
        self._accounted = (0, 0)
        self._frames = RateLimit(options.frames_per_minute, most_names=1)
        self._reason: CloseCode | None = None
        self._gone = False
        self._auth_timer: asyncio.TimerHandle | None = self.later(
            options.auth_timeout_ms, lambda: self.close(AUTH_TIMEOUT)
        )

    @property
    def subscription(self) -> Subscription:
        return self.session.subscription

    @property
    def deflate(self) -> bool:
        return self._socket.deflate

    @property
    def address(self) -> str:
        return self._socket.address

    @property
    def group(self) -> str | None:
        return self._socket.group

    def later(self, delay_ms: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay_ms / 1000, call)

    # --- what the socket says ---

    def admits_frame(self) -> bool:
        """Asked for every frame that comes; closes the connection when there are too many."""
        allowance = self._frames.take("", self._monotonic())
        if allowance is None or allowance.allowed:
            return True
        self._counters.limited["frames"] += 1
        self.close(TOO_MANY_REQUESTS)
        return False

    def received(self, message: bytes) -> None:
        self._perform(self.session.receive(message, self._clock()))

    def congested(self) -> None:
        self.congested_since = self._monotonic()
        self._desk.congested(self)

    def flowing(self) -> None:
        self.congested_since = None
        self._desk.flowing(self)
        if self.session.state is State.CATCHING_UP:
            self._desk.catch_up(self)

    def lost(self, why: CloseCode) -> None:
        """The socket is gone; `why` if it was not this side that decided so."""
        if self._gone:
            return
        self._gone = True
        self._end(None)
        code, reason = self._reason or why
        self._counters.closed[code] += 1
        say = logger.debug if self.holder is None else logger.info
        say("connection_closed", **self._who(), reason=reason, code=code, messages=self._messages)

    # --- what the desk says ---

    def settle(self) -> None:
        """The key is good, whenever the login's turn comes."""
        self._socket.settle()

    def key_checked(self, holder: KeyHolder | None) -> None:
        """Who the key's holder is; None: nobody."""
        effects = self.session.key_checked(None if holder is None else holder.tier, self._clock())
        if self.session.logged_in:
            self.holder = holder
            logger.info("connection_opened", **self._who(), version=self.session.version)
        self._perform(effects)

    def evict(self) -> None:
        self._perform(self.session.evict())

    def close(self, reason: CloseCode) -> None:
        self._perform(self.session.close(reason))

    def caught_up(self) -> None:
        """The audience may have this connection now: it was sent everything that the audience was."""
        self.progress = None
        self.session.caught_up()
        self._desk.join(self)

    @property
    def send(self) -> Callable[[bytes], None]:
        """The socket's own: what it is given is to be told to `credit`."""
        return self._socket.write

    def credit(self, messages: int, sent_bytes: int) -> None:
        self._messages += messages
        self._sent_bytes += sent_bytes

    def check_buffer(self) -> None:
        """A live client that is too far behind is told to come back, so that it costs the others nothing."""
        if self._reason is None and self._socket.unsent() > self._options.send_buffer_bytes:
            self._counters.slow_closes += 1
            self.close(SLOW_CONSUMER)

    def replay(self, frames: Sequence[bytes], messages: int) -> None:
        """What it missed: the next piece waits until this one has left, however far behind that is."""
        for data in joined(frames):
            self._write(data)
        self._messages += messages

    def account(self) -> tuple[int, int]:
        """(messages, bytes) sent since this was last asked."""
        before, self._accounted = self._accounted, (self._messages, self._sent_bytes)
        return self._messages - before[0], self._sent_bytes - before[1]

    def pong(self, data: bytes) -> None:
        if self.session.state is not State.CLOSED:
            self._say(data)

    def heartbeat(self, beat: Heartbeat) -> None:
        self._say(frame(codec.encode(beat)))

    def _say(self, data: bytes) -> None:
        self._write(data)
        if self.congested_since is not None:
            self.check_buffer()

    def _write(self, data: bytes) -> None:
        self._socket.write(data)
        self._sent_bytes += len(data)

    # --- effects ---

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if self._reason is not None:
                return  # closed while the first of them were carried out
            match effect:
                case Send():
                    self._say(frame(codec.encode(effect.frame)))
                case CheckKey():
                    self._check_key(effect.api_key)
                case CatchUp():
                    self._catch_up(effect)
                case Resubscribed():
                    self._resubscribed()
                case Stop():
                    self.progress = None
                    self._desk.leave(self)
                case Close():
                    self._end(effect.reason)

    def _check_key(self, api_key: str) -> None:
        self._stop_auth_timer()
        self.api_key = api_key
        self._desk.check_login(self)

    def _catch_up(self, what: CatchUp) -> None:
        self.progress = Progress(
            cursor=what.after,
            replay_until=what.replay_until,
            since_revision=what.revision,
            revision=what.revision or 0,
        )
        self._desk.catch_up(self)

    def _resubscribed(self) -> None:
        if self.session.state is State.LIVE:
            self._desk.rejoin(self)

    def _end(self, reason: CloseCode | None) -> None:
        """Ends this side once; `reason` None: the socket went by itself."""
        self._stop_auth_timer()
        self.progress = None
        if self._reason is None and reason is not None:
            self._reason = reason
            self._socket.close(reason)
        self.session.lost()
        self._desk.ended(self)

    def _stop_auth_timer(self) -> None:
        if self._auth_timer is not None:
            self._auth_timer.cancel()
            self._auth_timer = None

    def _who(self) -> dict[str, str]:
        holder = self.holder
        return {
            "alias": holder.alias if holder else "",
            "fingerprint": holder.fingerprint if holder else "",
            "address": self._socket.address,
        }
