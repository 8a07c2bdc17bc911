"""The server's side of one connection: a state machine without socket, clock or file.

    state      what happened                          what is sent while in it
    -----      -------------                          ------------------------
    NEW        connected, no frame yet                nothing
    CHECKING   the login was read, no verdict yet     nothing; further frames wait
    IDLE       logged in, not subscribed (any more)   answers, heartbeats
    CATCHING   subscribed, sent what came before      orders from the log, answers, heartbeats
    LIVE       subscribed, nothing is missing         orders as they happen, answers, heartbeats
    CLOSED     a close was decided                    nothing, ever

What goes in: frames as they came, the verdict on the key, the end of a catch-up, a reason to close. What
comes out is a list of effects, to be carried out in order: `Send`, `CheckKey`, `CatchUp`, `Resubscribed`,
`Stop`, `Close`. Time is passed in as epoch milliseconds.

Version 1 is what existing clients speak; version 2 is asked for in the login (docs/protocol.md, 3 and 4).
A version 1 client is sent no frame that version 1 does not know.
"""

from __future__ import annotations

import enum
from typing import Any, Protocol

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.wire.client_frames import Subscription, read_login, read_request
from ptn_api.wire.close_codes import (
    BAD_FIRST_FRAME,
    INSUFFICIENT_TIER,
    INVALID_KEY,
    REPLACED,
    TOO_MANY_REQUESTS,
    CloseCode,
)
from ptn_api.wire.frames import (
    Auth,
    AuthFailure,
    AuthSuccess,
    Error,
    Ping,
    Pong,
    Resumed,
    ResumeFailed,
    ResumeFailure,
    Subscribe,
    SubscriptionStatus,
    Unsubscribe,
)

__all__ = [
    "CatchUp",
    "CheckKey",
    "Close",
    "Effect",
    "LogHead",
    "LogView",
    "Resubscribed",
    "Send",
    "ServerSession",
    "State",
    "Stop",
]

STREAM_TIER = 100
"""The only tier with WebSocket access."""
MAX_WAITING_FRAMES = 16
"""How many frames may wait for the verdict on the key."""


class State(enum.Enum):
    NEW = "new"
    CHECKING = "checking"
    IDLE = "idle"
    CATCHING_UP = "catching up"
    LIVE = "live"
    CLOSED = "closed"


class Input(enum.Enum):
    LOGIN = "login"
    ACCEPT = "accept"
    FIRST_SUBSCRIBE = "first subscribe"
    SUBSCRIBE = "subscribe"
    CAUGHT_UP = "caught up"
    UNSUBSCRIBE = "unsubscribe"
    CLOSE = "close"


TRANSITIONS: dict[State, dict[Input, State]] = {
    State.NEW: {Input.LOGIN: State.CHECKING, Input.CLOSE: State.CLOSED},
    State.CHECKING: {Input.ACCEPT: State.IDLE, Input.CLOSE: State.CLOSED},
    State.IDLE: {
        Input.FIRST_SUBSCRIBE: State.CATCHING_UP,  # everything after the success frame's number
        Input.SUBSCRIBE: State.LIVE,  # after an unsubscribe: from the next order on
        Input.UNSUBSCRIBE: State.IDLE,
        Input.CLOSE: State.CLOSED,
    },
    State.CATCHING_UP: {
        Input.SUBSCRIBE: State.CATCHING_UP,  # the new one holds for what is not sent yet
        Input.CAUGHT_UP: State.LIVE,
        Input.UNSUBSCRIBE: State.IDLE,
        Input.CLOSE: State.CLOSED,
    },
    State.LIVE: {
        Input.SUBSCRIBE: State.LIVE,
        Input.UNSUBSCRIBE: State.IDLE,
        Input.CLOSE: State.CLOSED,
    },
    State.CLOSED: {},
}


class Send(msgspec.Struct, frozen=True):
    frame: msgspec.Struct


class CheckKey(msgspec.Struct, frozen=True):
    """Find out who this is, then call `key_checked`."""

    api_key: str


class CatchUp(msgspec.Struct, frozen=True, kw_only=True):
    """Send every order after `after` that matches, those up to `replay_until` marked as replayed.

    Then, unless `revision` is None, one frame per position changed or removed after it. Then `caught_up`.
    """

    after: int
    replay_until: int
    revision: int | None = None


class Resubscribed(msgspec.Struct, frozen=True):
    """The subscription was replaced; it holds from the next order on."""


class Stop(msgspec.Struct, frozen=True):
    """Send no orders any more."""


class Close(msgspec.Struct, frozen=True):
    reason: CloseCode


Effect = Send | CheckKey | CatchUp | Resubscribed | Stop | Close


class LogHead(Protocol):
    @property
    def sequence(self) -> int: ...

    @property
    def revision(self) -> int: ...


class LogView(Protocol):
    """What a session asks of the event log, and only at a login and at a first subscribe."""

    @property
    def epoch(self) -> str: ...

    def head(self) -> LogHead: ...

    def floor(self) -> int: ...

    def first_timestamp_after(self, sequence: int) -> int | None: ...

    def oldest_revision(self) -> int: ...


class ServerSession:
    """One connection. `heartbeat_ms` is only announced here.

    `replay_window_ms`: a version 1 client is replayed what it missed if that began within this time.
    """

    def __init__(self, log: LogView, *, heartbeat_ms: int, replay_window_ms: int) -> None:
        self.state = State.NEW
        self.subscription = Subscription()
        self._log = log
        self._heartbeat_ms = heartbeat_ms
        self._replay_window_ms = replay_window_ms
        self._auth = Auth()
        self._after = 0
        self._resume_failure: ResumeFailure | None = None
        self._subscribed_before = False
        self._waiting: list[bytes | str] = []

    @property
    def version(self) -> int:
        """The protocol version spoken: 1 or 2."""
        return min(max(self._auth.version, 1), 2)

    @property
    def after(self) -> int:
        """The number after which orders follow the first subscribe; known from the login on."""
        return self._after

    @property
    def logged_in(self) -> bool:
        return self.state in (State.IDLE, State.CATCHING_UP, State.LIVE)

    @property
    def subscribed_before(self) -> bool:
        """Whether there was a subscribe, be it over."""
        return self._subscribed_before

    # --- frames ---

    def receive(self, data: bytes | str, now_ms: int) -> list[Effect]:
        """A message of the client, whole, text or binary alike."""
        match self.state:
            case State.NEW:
                return self._first_frame(data)
            case State.CHECKING:
                return self._wait(data)
            case State.CLOSED:
                return []
            case _:
                return self._request(data, now_ms)

    def _first_frame(self, data: bytes | str) -> list[Effect]:
        try:
            self._auth = read_login(data)
        except InvalidInputError:
            return self.close(BAD_FIRST_FRAME)
        if not self._auth.api_key:
            return self._refuse("Authentication required. Please provide an API key.", BAD_FIRST_FRAME)
        self._move(Input.LOGIN)
        return [CheckKey(self._auth.api_key)]

    def _wait(self, data: bytes | str) -> list[Effect]:
        if len(self._waiting) >= MAX_WAITING_FRAMES:
            return self.close(TOO_MANY_REQUESTS)
        self._waiting.append(data)
        return []

    def _request(self, data: bytes | str, now_ms: int) -> list[Effect]:
        try:
            frame = read_request(data, self.version)
            match frame:
                case Ping():
                    return [Send(_pong(frame, now_ms))]
                case Unsubscribe():
                    return self._unsubscribe(frame, now_ms)
                case Subscribe():
                    return self._subscribe(frame, now_ms)
        except InvalidInputError as error:
            if self.version == 1:
                return []
            return [Send(Error(code=error.code, message=str(error)))]

    # --- login ---

    def key_checked(self, tier: int | None, now_ms: int) -> list[Effect]:
        """What the key is good for; None: it is unknown. To be called once, after `CheckKey`."""
        if self.state is not State.CHECKING:
            return []
        if tier is None:
            return self._refuse("Invalid API key. Authentication failed.", INVALID_KEY)
        if tier < STREAM_TIER:
            message = "WebSocket connections require tier 100 access. Please upgrade your API key."
            return self._refuse(message, INSUFFICIENT_TIER, code="INSUFFICIENT_TIER")
        head, floor = self._log.head().sequence, self._log.floor()
        self._after = self._starting_point(head, floor, now_ms)
        self._move(Input.ACCEPT)
        success = AuthSuccess(
            current_sequence=self._after,
            tier=tier,
            epoch=self._log.epoch,
            oldest_sequence=floor,
            version=self.version,
            heartbeat_ms=self._heartbeat_ms,
        )
        effects: list[Effect] = [Send(success)]
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            effects += self.receive(data, now_ms)
        return effects

    def _refuse(self, message: str, reason: CloseCode, *, code: str = "") -> list[Effect]:
        return [Send(AuthFailure(status="error", message=message, code=code)), *self.close(reason)]

    def _starting_point(self, head: int, floor: int, now_ms: int) -> int:
        if self.version == 1:
            return self._auth.last_sequence if self._replayable(head, floor, now_ms) else head
        if not self._wants_resume():
            return head
        self._resume_failure = self._why_not(head, floor)
        return head if self._resume_failure else self._auth.last_sequence

    def _replayable(self, head: int, floor: int, now_ms: int) -> bool:
        """Version 1 sends no epoch and cannot tell a replay from live: only what is recent is replayed."""
        last = self._auth.last_sequence
        if last < 0 or not floor - 1 <= last <= head:
            return False
        first_missed = self._log.first_timestamp_after(last)
        return first_missed is None or now_ms - first_missed < self._replay_window_ms

    def _wants_resume(self) -> bool:
        return self._auth.last_sequence != -1

    def _why_not(self, head: int, floor: int) -> ResumeFailure | None:
        if self._auth.epoch != self._log.epoch:
            return "epoch"
        if self._auth.last_sequence > head:
            return "future"
        return "too_old" if self._auth.last_sequence < floor - 1 else None

    # --- subscriptions ---

    def _subscribe(self, frame: Subscribe, now_ms: int) -> list[Effect]:
        first = not self._subscribed_before
        if frame.revision is not None and not first:
            problem = "revision: only the first subscribe of a connection can resume"
            raise InvalidInputError(problem, code="bad_frame", field="revision")
        self.subscription = Subscription(
            version=self.version,
            miners=None if frame.miners is None else frozenset(frame.miners),
            trade_pairs=None if frame.trade_pairs is None else frozenset(frame.trade_pairs),
            format=frame.format,
            updates=frame.updates,
        )
        status = Send(self._status(frame, now_ms))
        if not first:
            self._move(Input.SUBSCRIBE)
            return [status, Resubscribed()]
        self._subscribed_before = True
        self._move(Input.FIRST_SUBSCRIBE)
        return [status, *self._start(frame.revision)]

    def _start(self, revision: int | None) -> list[Effect]:
        resuming = self.version == 2 and (self._wants_resume() or revision is not None)
        if not resuming:
            return [CatchUp(after=self._after, replay_until=0)]
        head = self._log.head()
        if self._resume_failure:
            return self._fail_resume(self._resume_failure)
        if failure := self._revision_failure(revision, head.revision):
            self._after = head.sequence
            return self._fail_resume(failure)
        catch_up = CatchUp(after=self._after, replay_until=head.sequence, revision=revision)
        return [Send(Resumed(after=self._after, head=head.sequence)), catch_up]

    def _fail_resume(self, reason: ResumeFailure) -> list[Effect]:
        """`head` is the number after which messages follow: the client checks for gaps from there."""
        epoch, floor = self._log.epoch, self._log.floor()
        frame = ResumeFailed(reason=reason, epoch=epoch, oldest_sequence=floor, head=self._after)
        return [Send(frame), CatchUp(after=self._after, replay_until=0)]

    def _revision_failure(self, revision: int | None, newest: int) -> ResumeFailure | None:
        if revision is None:
            return None
        if self._auth.epoch != self._log.epoch:
            return "epoch"
        if revision > newest:
            return "future"
        return "too_old" if revision < self._log.oldest_revision() else None

    def _unsubscribe(self, frame: Unsubscribe, now_ms: int) -> list[Effect]:
        self._move(Input.UNSUBSCRIBE)
        return [Stop(), Send(self._status(frame, now_ms))]

    def _status(self, frame: Subscribe | Unsubscribe, now_ms: int) -> SubscriptionStatus:
        subscribing = isinstance(frame, Subscribe)
        status = SubscriptionStatus(
            status="success",
            all=not (subscribing and self.subscription.filtered),
            action="subscribe" if subscribing else "unsubscribe",
            sender_timestamp=_echo(frame.sender_timestamp),
            received_timestamp=now_ms,
        )
        if isinstance(frame, Subscribe) and self.version == 2:
            status.miners, status.trade_pairs = frame.miners, frame.trade_pairs
            status.format, status.updates = frame.format, frame.updates
        return status

    def caught_up(self) -> None:
        """Everything that `CatchUp` asked for has been sent."""
        self._move(Input.CAUGHT_UP)

    # --- the end ---

    def close(self, reason: CloseCode) -> list[Effect]:
        """Ends the session without an error frame (docs/protocol.md, 2); the first reason stands."""
        if self.state is State.CLOSED:
            return []
        self._move(Input.CLOSE)
        return [Close(reason)]

    def lost(self) -> None:
        """The connection is gone; nothing can be sent any more."""
        if self.state is not State.CLOSED:
            self._move(Input.CLOSE)

    def evict(self) -> list[Effect]:
        """A newer connection of the same key takes this one's place."""
        if self.state is State.CLOSED:
            return []
        message = "Disconnected due to too many connections for this API key"
        frame = AuthFailure(status="error", message=message, code="MAX_CONNECTIONS_EXCEEDED")
        return [Send(frame), *self.close(REPLACED)]

    def _move(self, happened: Input) -> None:
        self.state = TRANSITIONS[self.state][happened]


def _pong(ping: Ping, now_ms: int) -> Pong:
    return Pong(client_timestamp=_echo(ping.timestamp) or 0, server_timestamp=now_ms, timestamp=now_ms)


def _echo(value: Any) -> int | float | str | None:
    """What a client sent as a time, back as it came; anything but a number or a short text is dropped."""
    if isinstance(value, str):
        return value if len(value) <= 64 else None
    return value if isinstance(value, (int, float)) else None
