"""The server's side of one connection: a state machine without socket, clock or file.

    state        entered when                           sent while in it
    -----        ------------                           ----------------
    NEW          connected                              nothing
    CHECKING     the key is known, from header or login nothing; further frames wait
    IDLE         logged in, or unsubscribed             replies, heartbeats
    CATCHING_UP  subscribed for the first time          orders from the log, replies, heartbeats
    LIVE         nothing is missing any more            orders as they happen, replies, heartbeats
    CLOSED       a close was decided                    nothing, ever

Inputs: frames as they arrive, the result of the key check, the end of a catch-up, a reason to close. Outputs:
lists of effects, to be carried out in order. Times are epoch milliseconds.

Existing clients speak version 1; version 2 is requested in the login (docs/protocol.md, 3 and 4). A version 1
client is sent no frame that version 1 does not have.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import msgspec

from ptn_api.errors import InvalidInputError, LogBehindError, LogError
from ptn_api.model.trade_pair import resolve_pair, unknown_pair
from ptn_api.wire.client_frames import DatedOrder, Subscription, read_login, read_request
from ptn_api.wire.close_codes import (
    BAD_FIRST_FRAME,
    INSUFFICIENT_TIER,
    INVALID_KEY,
    NOT_READY,
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
    SubaccountRequest,
    SubaccountStatus,
    Subscribe,
    SubscriptionStatus,
    Unsubscribe,
)

__all__ = [
    "ENTITY_TIER",
    "STREAM_TIER",
    "BadLogin",
    "CatchUp",
    "CheckKey",
    "Close",
    "Effect",
    "LogHead",
    "LogView",
    "LoggedOrder",
    "Resubscribed",
    "RetryLater",
    "Send",
    "ServerSession",
    "State",
    "Stop",
    "require_complete",
]

STREAM_TIER = 100
"""The lowest tier with WebSocket access."""
ENTITY_TIER = 200
"""The lowest tier of the keys of entities, which run many subaccounts."""
MAX_WAITING_FRAMES = 16
"""Frames that may wait for the key check, or for a log that cannot be read."""

_FROM_NOW_ON = -1
"""The login's `last_sequence` of a client that does not resume."""


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
        Input.FIRST_SUBSCRIBE: State.CATCHING_UP,  # from the success frame's sequence
        Input.SUBSCRIBE: State.LIVE,  # after an unsubscribe: from the next order
        Input.UNSUBSCRIBE: State.IDLE,
        Input.CLOSE: State.CLOSED,
    },
    State.CATCHING_UP: {
        Input.SUBSCRIBE: State.CATCHING_UP,  # applies to the orders not yet sent
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


# --- effects ----------------------------------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True):
    frame: msgspec.Struct


class CheckKey(msgspec.Struct, frozen=True):
    """Look up the key, then call `key_checked`."""

    api_key: str


class CatchUp(msgspec.Struct, frozen=True, kw_only=True):
    """Send every matching order after `after`; those up to `replay_until` are marked as replayed.

    Then, if there is a `revision`, send a frame for each position changed or removed after it. Then call
    `caught_up`.
    """

    after: int
    replay_until: int
    revision: int | None = None


class Resubscribed(msgspec.Struct, frozen=True):
    """The subscription was replaced, from the next order on."""


class RetryLater(msgspec.Struct, frozen=True):
    """A frame waits because the log cannot be read or is behind: call `retry` after a while."""

    error: LogError


class Stop(msgspec.Struct, frozen=True):
    """Send no more orders."""


class BadLogin(msgspec.Struct, frozen=True):
    """The first frame is not a login: count it, then call `refuse_login`.

    `reason` is `not_json`, `bad_frame` (not an object) or `no_key`.
    """

    reason: str


class Close(msgspec.Struct, frozen=True):
    reason: CloseCode


Effect = Send | CheckKey | BadLogin | CatchUp | Resubscribed | RetryLater | Stop | Close


# --- the session ------------------------------------------------------------------------------------------


class LogHead(Protocol):
    @property
    def sequence(self) -> int: ...

    @property
    def revision(self) -> int: ...


class LoggedOrder(DatedOrder, Protocol):
    @property
    def sequence(self) -> int: ...


class LogView(Protocol):
    """What a session needs of the event log, at a login and at a first subscribe only.

    Any method may raise LogError.
    """

    @property
    def epoch(self) -> str: ...

    def head(self) -> LogHead: ...

    def floor(self) -> int: ...

    def first_timestamp_after(self, sequence: int) -> int | None: ...

    def read(self, after: int, limit: int, *, orders: bool) -> Sequence[LoggedOrder]: ...

    def oldest_revision(self) -> int: ...

    def behind_ms(self) -> int | None: ...


def require_complete(log: LogView, waited_ms: int) -> None:
    """Raises LogBehindError if this machine's log may lack what others had before `waited_ms`."""
    behind_ms = log.behind_ms()
    if behind_ms is None or behind_ms > waited_ms:
        raise LogBehindError("this machine's copy of the log is behind")


class ServerSession:
    """The protocol state of one connection. `heartbeat_ms` is only announced to the client.

    `listed_miners` returns the miners that the validator has, None if that is unknown.

    A version 1 client gets a replay if the first missed order is at most `replay_window_ms` old, and no late
    order that is older than that: it could not tell either from a new order.

    One of several machines may not have everything that a client has seen on another. A number above the head
    is therefore waited for until the copy was complete after the client came. `waited_ms` is how long that
    has been, None once the caller waits no longer.
    """

    def __init__(
        self,
        log: LogView,
        *,
        heartbeat_ms: int,
        replay_window_ms: int,
        listed_miners: Callable[[], Collection[str] | None] = lambda: None,
    ) -> None:
        self.state = State.NEW
        self.subscription = Subscription(late_window_ms=replay_window_ms)
        self._log = log
        self._listed_miners = listed_miners
        self._heartbeat_ms = heartbeat_ms
        self._replay_window_ms = replay_window_ms
        self._auth = Auth()
        self._tier: float = 0
        self._alias = ""
        self._after = 0
        self._resume_failure: ResumeFailure | None = None
        self._subscribed_before = False
        self._waiting: deque[bytes | str] = deque()

    @property
    def version(self) -> int:
        """The protocol version in use: 1 or 2."""
        return min(max(self._auth.version, 1), 2)

    @property
    def after(self) -> int:
        """The sequence after which the first subscribe starts; known once logged in."""
        return self._after

    @property
    def logged_in(self) -> bool:
        return self.state in (State.IDLE, State.CATCHING_UP, State.LIVE)

    @property
    def subscribed_before(self) -> bool:
        """Whether there has been a subscribe, even if an unsubscribe followed."""
        return self._subscribed_before

    @property
    def frames_wait(self) -> bool:
        """Whether frames wait for the key check, or for a log that cannot be read."""
        return bool(self._waiting)

    # --- frames ---

    def authenticate(self, api_key: str) -> list[Effect]:
        """Handles a key in the upgrade request: a login of version 1 without a sequence."""
        if self.state is not State.NEW:
            return []
        self._auth = Auth(api_key=api_key)
        self._move(Input.LOGIN)
        return [CheckKey(api_key)]

    def receive(self, data: bytes | str, now_ms: int) -> list[Effect]:
        """Handles a complete message from the client, text or binary."""
        if self.state is State.CLOSED:
            return []
        if self.state is State.NEW:
            try:
                self._auth = read_login(data)
            except InvalidInputError as error:
                return [BadLogin(error.code)]
            if not self._auth.api_key:
                return [BadLogin("no_key")]
            self._move(Input.LOGIN)
            return [CheckKey(self._auth.api_key)]
        if len(self._waiting) >= MAX_WAITING_FRAMES:
            return self.close(TOO_MANY_REQUESTS)
        self._waiting.append(data)
        # Behind a frame that waits for a retry, later ones wait as well: replies keep the requests' order.
        return self.retry(now_ms) if self.logged_in and len(self._waiting) == 1 else []

    def retry(self, now_ms: int, *, waited_ms: int | None = 0) -> list[Effect]:
        """Handles the waiting frames in order, up to one for which the log cannot be read or is behind."""
        effects: list[Effect] = []
        while self._waiting and self.logged_in:
            try:
                effects += self._handle_request(self._waiting[0], now_ms, waited_ms)
            except LogError as error:
                if isinstance(error, LogBehindError) and waited_ms is None:
                    return effects + self.close(NOT_READY)
                effects.append(RetryLater(error))
                break
            self._waiting.popleft()
        return effects

    def _handle_request(self, data: bytes | str, now_ms: int, waited_ms: int | None) -> list[Effect]:
        """Raises LogError, with the session unchanged."""
        try:
            frame = read_request(data, self.version)
            match frame:
                case Ping():
                    pong = Pong(client_timestamp=frame.timestamp, server_timestamp=now_ms, timestamp=now_ms)
                    return [Send(pong)]
                case Unsubscribe():
                    self._move(Input.UNSUBSCRIBE)
                    return [Stop(), Send(self._status(frame, now_ms))]
                case Subscribe():
                    return self._subscribe(frame, now_ms, waited_ms)
                case SubaccountRequest():
                    return [Send(self._subaccount_status(frame))]
        except InvalidInputError as error:
            if self.version == 1:
                return []  # version 1 has no error frame
            return [Send(Error(code=error.code, message=str(error)))]

    # --- login ---

    def key_checked(
        self, tier: float | None, now_ms: int, *, alias: str = "", waited_ms: int | None = 0
    ) -> list[Effect]:
        """Answers the login, once after `CheckKey`; `tier` is the key's (None: unknown), `alias` its user's.

        Raises LogError with the session unchanged: call it again later.
        """
        if self.state is not State.CHECKING:
            return []
        if tier is None:
            return self._refuse("Invalid API key. Authentication failed.", INVALID_KEY)
        if tier < STREAM_TIER:
            message = "WebSocket connections require tier 100 access. Please upgrade your API key."
            return self._refuse(message, INSUFFICIENT_TIER, code="INSUFFICIENT_TIER")
        head, floor = self._log.head().sequence, self._log.floor()
        try:
            self._after = self._starting_point(head, floor, now_ms, waited_ms)
        except LogBehindError:
            if waited_ms is None:
                return self.close(NOT_READY)
            raise
        self._tier, self._alias = tier, alias
        self._move(Input.ACCEPT)
        success = AuthSuccess(
            current_sequence=self._after,
            tier=tier,
            epoch=self._log.epoch,
            oldest_sequence=floor,
            version=self.version,
            heartbeat_ms=self._heartbeat_ms,
            user=alias if alias and self.version == 2 else msgspec.UNSET,
        )
        return [Send(success), *self.retry(now_ms)]

    def refuse_login(self, reason: str, *, must_wait: bool) -> list[Effect]:
        """Answers a first frame that is not a login; `must_wait`: too many came from the address."""
        if must_wait:
            return self.close(TOO_MANY_REQUESTS)
        if reason == "not_json":
            return self.close(BAD_FIRST_FRAME)
        return self._refuse("Authentication required. Please provide an API key.", BAD_FIRST_FRAME)

    def _refuse(self, message: str, reason: CloseCode, *, code: str = "") -> list[Effect]:
        return [Send(AuthFailure(status="error", message=message, code=code)), *self.close(reason)]

    def _starting_point(self, head: int, floor: int, now_ms: int, waited_ms: int | None) -> int:
        """Returns the sequence after which orders are due: the client's own if it can be resumed from."""
        last = self._auth.last_sequence
        if self.version == 2:
            if last == _FROM_NOW_ON:
                return head
            self._resume_failure = self._why_not_resumable(last, floor - 1, head, waited_ms)
            return head if self._resume_failure else last
        if last > head and waited_ms is not None:  # version 1 is not sent away: the number may be of any log
            require_complete(self._log, waited_ms)
        # Version 1 sends no epoch and cannot tell a replay from live: only recent orders are replayed.
        if last < 0 or not floor - 1 <= last <= head:
            return head
        # Orders that version 1 is never sent do not count as missed: the first one that is due decides. A
        # client that reconnects because of a jump in the sequences does not see the same jump again.
        limit = 1  # nearly always enough
        while orders := self._log.read(last, limit, orders=False):
            due = (o.sequence for o in orders if not self.subscription.is_too_old(o, now_ms))
            if first := next(due, None):
                last = first - 1
                break
            last, limit = orders[-1].sequence, 100
        first_missed = self._log.first_timestamp_after(last)
        recent = first_missed is None or now_ms - first_missed < self._replay_window_ms
        return last if recent else head

    def _why_not_resumable(
        self, wanted: int, oldest: int, newest: int, waited_ms: int | None
    ) -> ResumeFailure | None:
        """Returns why the client cannot resume from a sequence or revision, or None if it can."""
        if self._auth.epoch != self._log.epoch:
            return "epoch"
        if wanted > newest:
            require_complete(self._log, waited_ms or 0)
            return "future"
        return "too_old" if wanted < oldest else None

    # --- subscriptions ---

    def _subscribe(self, frame: Subscribe, now_ms: int, waited_ms: int | None) -> list[Effect]:
        first = not self._subscribed_before
        if frame.revision is not None and not first:
            problem = "revision: only the first subscribe of a connection can resume"
            raise InvalidInputError(problem, code="bad_frame", field="revision")
        # Reads the log: before any change.
        start = self._start(frame.revision, waited_ms) if first else [Resubscribed()]
        self.subscription = Subscription(
            version=self.version,
            miners=None if frame.miners is None else frozenset(frame.miners),
            trade_pairs=None if frame.trade_pairs is None else frozenset(frame.trade_pairs),
            format=frame.format,
            updates=frame.updates,
            late_window_ms=self._replay_window_ms if self.version == 1 else None,
        )
        self._subscribed_before = True
        self._move(Input.FIRST_SUBSCRIBE if first else Input.SUBSCRIBE)
        effects: list[Effect] = [Send(self._status(frame, now_ms))]
        # The network adds pairs, and an unlisted one is served like any other: the filter holds all the same.
        if unknown := next((name for name in frame.trade_pairs or () if resolve_pair(name) is None), None):
            effects.append(Send(Error(code="unknown_trade_pair", message=unknown_pair(unknown))))
        return [*effects, *start]

    def _start(self, revision: int | None, waited_ms: int | None) -> list[Effect]:
        """Returns the effects that start the flow of orders."""
        after, failure = self._after, self._resume_failure
        if self.version == 1 or (self._auth.last_sequence == _FROM_NOW_ON and revision is None):
            return [CatchUp(after=after, replay_until=0)]
        head = self._log.head()
        if failure is None and revision is not None:
            oldest = self._log.oldest_revision()
            failure = self._why_not_resumable(revision, oldest, head.revision, waited_ms)
            after = head.sequence if failure else after
        if failure is None:
            catch_up = CatchUp(after=after, replay_until=head.sequence, revision=revision)
            return [Send(Resumed(after=after, head=head.sequence)), catch_up]
        # `head` is the sequence after which messages follow: the client checks for gaps from there on.
        floor = self._log.floor()
        failed = ResumeFailed(reason=failure, epoch=self._log.epoch, oldest_sequence=floor, head=after)
        self._after = after
        return [Send(failed), CatchUp(after=after, replay_until=0)]

    def _status(self, frame: Subscribe | Unsubscribe, now_ms: int) -> SubscriptionStatus:
        subscribing = isinstance(frame, Subscribe)
        status = SubscriptionStatus(
            status="success",
            all=not (subscribing and self.subscription.filtered),
            action="subscribe" if subscribing else "unsubscribe",
            sender_timestamp=frame.sender_timestamp,
            received_timestamp=now_ms,
        )
        if isinstance(frame, Subscribe) and self.version == 2:
            status.miners, status.trade_pairs = frame.miners, frame.trade_pairs
            if frame.miners and (listed := self._listed_miners()) is not None:
                status.unknown_miners = [miner for miner in frame.miners if miner not in listed]
            status.format, status.updates = frame.format, frame.updates
        return status

    def _subaccount_status(self, frame: SubaccountRequest) -> SubaccountStatus:
        """Refuses the request: a success would be followed by silence."""
        hotkey = frame.synthetic_hotkey or ""
        status = SubaccountStatus(
            status="error",
            action=frame.type,
            synthetic_hotkey=hotkey or None,
            message="Subaccount data comes from the validator's memory and is not served here.",
            code="NOT_SERVED",
        )
        single = frame.type.endswith("subaccount")
        if single and not hotkey:
            status.message, status.code = "Missing synthetic_hotkey parameter", ""
        elif self._tier < ENTITY_TIER and not (single and hotkey.rpartition("_")[0] == self._alias):
            status.message = "Subaccount subscriptions require tier 200 access."
            status.code = "INSUFFICIENT_TIER"
        return status

    def caught_up(self) -> None:
        """Takes note that everything a `CatchUp` asked for has been sent."""
        self._move(Input.CAUGHT_UP)

    # --- the end ---

    def close(self, reason: CloseCode) -> list[Effect]:
        """Ends the session without an error frame (docs/protocol.md, 2); the first reason stands."""
        if self.state is State.CLOSED:
            return []
        self._move(Input.CLOSE)
        return [Close(reason)]

    def lost(self) -> None:
        """Ends the session after the connection was lost."""
        if self.state is not State.CLOSED:
            self._move(Input.CLOSE)

    def evict(self) -> list[Effect]:
        """Ends the session because a newer connection of the same user replaces it."""
        if self.state is State.CLOSED:
            return []
        message = "Disconnected due to too many connections for this API key"
        frame = AuthFailure(status="error", message=message, code="MAX_CONNECTIONS_EXCEEDED")
        return [Send(frame), *self.close(REPLACED)]

    def _move(self, event: Input) -> None:
        self.state = TRANSITIONS[self.state][event]
