"""The client's side of one connection: a state machine without socket, clock or file.

    phase        entered when                              arrives while in it
    -----        ------------                              -------------------
    LOGIN        the login was sent                        its answer
    IDLE         logged in, or unsubscribed                replies, heartbeats
    SUBSCRIBING  subscribed, not confirmed                 orders of an earlier subscription
    RESUMING     subscribed from the cursor, not answered  nothing that counts
    FLOWING      the subscription was confirmed            orders without gaps, replies, heartbeats
    BROKEN       the connection was given up               nothing that counts, ever

`start()` queues the login. Arriving frames go into `receive()`, passing time into `tick()`; `to_send()`
returns the frames to send. Both return events, to be handled in order:

- `StreamItem`: an item to handle, and the cursor to commit once it is handled;
- `LoggedIn`, `StateChanged`, `Refused`, `Evicted`, `ProtocolWarning`: something to report;
- `Disconnected`: the connection can no longer be used; open a new one.

Rules

- The cursor is the sequence after which messages are wanted. A message at or below it is a repeat and is
  dropped. Without filters, the next one must be cursor + 1.
- If messages are missing, a version 2 server is asked for them by reconnecting and resuming. Only if they are
  missing again (`known_gap`), or from a server of version 1, are they reported as a `Gap`.
- A server that sends no epoch is another implementation. It speaks version 1, sends everything regardless of
  filters, and cannot resume. It may count each connection's messages from 0: sequences are compared only
  within a connection, from its first message on, and every later login is a `Gap`.
- Heartbeats are the sign of life. During a replay, and in version 1, any frame is.
- A subscribe must be answered or refused within the login's timeout, even while other frames arrive.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.wire import server_frames
from ptn_api.wire.clock_offset import ClockOffset
from ptn_api.wire.codec import encode
from ptn_api.wire.frames import (
    Auth,
    AuthFailure,
    Error,
    Heartbeat,
    Ping,
    Pong,
    PositionsRemoved,
    Resumed,
    ResumeFailed,
    Subscribe,
    Unsubscribe,
)
from ptn_api.wire.server_frames import (
    ChangedPosition,
    LoginAccepted,
    OrderBatch,
    OrderMessage,
    SubscriptionAnswer,
)

__all__ = [
    "TRANSITIONS",
    "ClientSession",
    "Cursor",
    "Disconnected",
    "Event",
    "Evicted",
    "Gap",
    "GapReason",
    "Input",
    "LoggedIn",
    "Phase",
    "ProtocolWarning",
    "Refused",
    "State",
    "StateChanged",
    "StreamItem",
]

State = Literal["connecting", "replaying", "live", "stale", "resync", "stopped"]
"""What a follower is doing. `stale`: connected, but the server's source is silent or heartbeats are missing.
`resync`: messages were missed for good, a snapshot is needed."""

GapReason = Literal[
    "epoch", "too_old", "future", "not_replayed", "restarted", "hole", "unreadable", "handler", "cursor"
]
"""Why messages are missing. `epoch`, `too_old`, `future`: the server cannot resume from the cursor.
`not_replayed`: a server without epochs continued without the missed messages; `restarted`: it also counts
from the start again. `hole`: a gap in the server's own numbering. `unreadable`: a message could not be
decoded. `handler`: the consumer's handler failed and was given up on. `cursor`: the saved cursor is
unreadable (then `after` is -1), or another client uses it."""


class Cursor(NamedTuple):
    """The sequence of the last message handled; -1: start with the next one. Valid within its epoch only.

    Without an epoch, as from other servers, it is valid only within the connection.
    """

    sequence: int = -1
    epoch: str | None = None


class Gap(NamedTuple):
    """The messages between `after` and `next`, both exclusive, will not arrive.

    With reason `epoch`, `restarted` or `not_replayed` the two may belong to different numberings, so they
    cannot be subtracted.
    A REST snapshot, or `/messages`, fills the gap.
    """

    after: int
    next: int
    reason: GapReason


class StreamItem(NamedTuple):
    """An item to handle, or None if only the cursor moved, and the cursor to commit afterwards."""

    value: OrderMessage | ChangedPosition | PositionsRemoved | Heartbeat | Gap | None
    cursor: Cursor


class StateChanged(NamedTuple):
    state: State


class LoggedIn(NamedTuple):
    """The login was accepted, by a server that tells the user's name."""

    epoch: str | None
    user: str


class Refused(NamedTuple):
    """The login was refused; the close code that follows tells whether for good."""

    message: str
    code: str


class Evicted(NamedTuple):
    """A newer connection of the same user replaced this one."""

    message: str


class ProtocolWarning(NamedTuple):
    """A line for the log: the server refused one of our frames, or sent one that cannot be decoded."""

    message: str


class Disconnected(NamedTuple):
    reason: Literal["silent", "gap"]
    detail: str


Event = StreamItem | StateChanged | LoggedIn | Refused | Evicted | ProtocolWarning | Disconnected

_NAMED_MINERS = 3
"""Unknown miners that a warning names."""
_EVICTED = "MAX_CONNECTIONS_EXCEEDED"


class Phase(enum.Enum):
    LOGIN = "login"
    IDLE = "idle"
    SUBSCRIBING = "subscribing"
    RESUMING = "resuming"
    FLOWING = "flowing"
    BROKEN = "broken"


_BROKEN = Phase.BROKEN
"""For every frame: Python 3.10 and 3.11 look members of an enum up slowly."""


class Input(enum.Enum):
    ACCEPTED = "accepted"
    SUBSCRIBE = "subscribe"
    RESUME = "subscribe from the cursor"
    UNSUBSCRIBE = "unsubscribe"
    CONFIRMED = "subscription confirmed"
    ANSWERED = "resumed, or refused to"
    BREAK = "break"


TRANSITIONS: dict[Phase, dict[Input, Phase]] = {
    Phase.LOGIN: {Input.ACCEPTED: Phase.IDLE, Input.BREAK: Phase.BROKEN},
    Phase.IDLE: {
        Input.SUBSCRIBE: Phase.SUBSCRIBING,
        Input.RESUME: Phase.RESUMING,  # the first subscribe after a login with a cursor
        Input.UNSUBSCRIBE: Phase.IDLE,
        Input.CONFIRMED: Phase.IDLE,  # of a subscription that was ended meanwhile
        Input.BREAK: Phase.BROKEN,
    },
    Phase.SUBSCRIBING: {
        Input.SUBSCRIBE: Phase.SUBSCRIBING,
        Input.UNSUBSCRIBE: Phase.IDLE,
        Input.CONFIRMED: Phase.FLOWING,
        Input.BREAK: Phase.BROKEN,
    },
    Phase.RESUMING: {  # until the answer, regardless of later subscribes
        Input.SUBSCRIBE: Phase.RESUMING,
        Input.UNSUBSCRIBE: Phase.RESUMING,
        Input.CONFIRMED: Phase.RESUMING,
        Input.ANSWERED: Phase.FLOWING,
        Input.BREAK: Phase.BROKEN,
    },
    Phase.FLOWING: {
        Input.SUBSCRIBE: Phase.SUBSCRIBING,
        Input.UNSUBSCRIBE: Phase.IDLE,
        Input.CONFIRMED: Phase.FLOWING,  # of the earlier of two subscribes
        Input.BREAK: Phase.BROKEN,
    },
    Phase.BROKEN: {},
}
"""A frame whose input is not in the table is unexpected: it is reported as a warning and changes nothing."""

Answer = LoginAccepted | SubscriptionAnswer | Resumed | ResumeFailed
_INPUTS: dict[type[Answer], Input] = {
    LoginAccepted: Input.ACCEPTED,
    SubscriptionAnswer: Input.CONFIRMED,
    Resumed: Input.ANSWERED,
    ResumeFailed: Input.ANSWERED,
}


class ClientSession:
    """The protocol state of one connection; see the module's docstring.

    `cursor` is where to continue, and moves as messages arrive. With `subscription` None it logs in without
    subscribing. `known_gap` is the sequence after which an earlier connection found a gap already. Times are
    ms; `login_ms` is the timeout for the answers to the login and to a subscribe.
    """

    def __init__(
        self,
        *,
        api_key: str,
        cursor: Cursor,
        subscription: Subscribe | None,
        known_gap: int | None = None,
        ping_ms: int = 15_000,
        login_ms: int = 10_000,
        clock_offset: ClockOffset | None = None,
    ) -> None:
        self.cursor = cursor if subscription is not None else Cursor(-1, cursor.epoch)
        self.clock_offset = clock_offset or ClockOffset()
        self.phase = Phase.LOGIN
        self.state: State = "connecting"
        self.login: LoginAccepted | None = None
        self.repeats = 0
        self._api_key = api_key
        self._subscription = subscription
        self._known_gap = known_gap
        self._ping_ms = ping_ms
        self._login_ms = login_ms
        self._timeout_ms = login_ms
        self._silence_ms = 0
        self._unanswered_ms: int | None = None
        """How long a subscribe has been waiting for its answer, if one is."""
        self._since_ping_ms = 0
        self._resumes = False
        self._counts = False
        """Whether the next message's sequence can be compared with the cursor's."""
        self._may_skip = False
        """Whether the next message may skip sequences: the subscription has just changed."""
        self._replay_until = -1
        self._source_stale = False
        self._version_2 = False
        self._settled = False
        """Whether every message up to a heartbeat's head has arrived, as far as it was subscribed to."""
        self._outbox: list[str] = []
        self._events: list[Event] = []

    # --- in and out ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Queues the login."""
        sequence, epoch = self.cursor if self._can_resume else Cursor()
        self._send(Auth(api_key=self._api_key, last_sequence=sequence, version=2, epoch=epoch))

    def to_send(self) -> list[str]:
        """Returns the queued frames, in order, and empties the queue."""
        frames, self._outbox = self._outbox, []
        return frames

    def receive(self, data: bytes | str, wall_ms: int) -> list[Event]:
        """Handles a frame from the server; `wall_ms` is the time of its arrival by our clock, epoch ms."""
        if self.phase is _BROKEN:
            return []
        try:
            frame = server_frames.read_frame(data)
        except InvalidInputError as error:
            return [ProtocolWarning(f"malformed frame from the server: {error}")]
        # Once heartbeats are due, nothing else counts: they alone prove that no order is missing.
        heartbeats_due = self._version_2 and self._settled and self.state != "replaying"
        if not heartbeats_due or isinstance(frame, Heartbeat):
            self._silence_ms = 0
        match frame:
            case OrderMessage():
                self._orders((frame,))
            case OrderBatch():
                self._orders(frame.messages)
            case ChangedPosition() | PositionsRemoved():
                self._events.append(StreamItem(frame, self.cursor))
            case Heartbeat():
                self._heartbeat(frame)
            case Pong():
                self._learn_offset(frame.client_timestamp, frame.server_timestamp, wall_ms)
            case LoginAccepted() | SubscriptionAnswer() | Resumed() | ResumeFailed():
                self._answer(frame, wall_ms)
            case AuthFailure() if frame.code == _EVICTED:
                self._events.append(Evicted(frame.message))
            case AuthFailure() if self.login is None:
                self._events.append(Refused(frame.message, frame.code))
            case AuthFailure() | Error():
                self._unanswered_ms = None  # it may be about the subscribe
                self._warn(f"error from the server: {frame.code or 'error'}: {frame.message}")
            case None:
                pass
        events, self._events = self._events, []
        return events

    def tick(self, elapsed_ms: int, wall_ms: int) -> list[Event]:
        """Counts time spent waiting for frames; other time, as in a slow handler, must not be counted."""
        if self.phase is Phase.BROKEN:
            return []
        self._silence_ms += elapsed_ms
        self._since_ping_ms += elapsed_ms
        if self._unanswered_ms is not None:
            self._unanswered_ms += elapsed_ms
        detail = None
        if self._silence_ms > self._timeout_ms:
            detail = f"nothing received for {self._silence_ms} ms"
        elif self._unanswered_ms is not None and self._unanswered_ms > self._login_ms:
            detail = f"no answer to the subscribe for {self._unanswered_ms} ms"
        if detail is not None:
            self._move(Input.BREAK)
            return [StateChanged("stale"), Disconnected("silent", detail)]
        if self.login is not None and self._since_ping_ms >= self._ping_ms:
            self._ping(wall_ms)
        return []

    def subscribe(self, subscription: Subscribe, wall_ms: int) -> None:
        """Subscribes, or changes the subscription, from the next order on."""
        self._subscription = subscription
        if self.login is not None and self.phase is not Phase.BROKEN:
            self._may_skip = True
            self._subscribe(wall_ms)

    def unsubscribe(self, wall_ms: int) -> None:
        self._subscription = None
        self._may_skip = True
        if self.login is not None and self.phase is not Phase.BROKEN:
            self._move(Input.UNSUBSCRIBE)
            self._send(Unsubscribe(all=True, sender_timestamp=wall_ms))

    # --- frames -------------------------------------------------------------------------------------------

    def _answer(self, frame: Answer, wall_ms: int) -> None:
        if isinstance(frame, SubscriptionAnswer):
            if frame.status != "success":
                self._unanswered_ms = None
                self._warn(f"error from the server: {frame.action}: {frame.message}")
                return
            if frame.received_timestamp is not None:
                self._learn_offset(frame.sender_timestamp, frame.received_timestamp, wall_ms)
            if frame.action != "subscribe":
                return
            if frame.unknown_miners:
                names = ", ".join(frame.unknown_miners[:_NAMED_MINERS])
                self._warn(f"the validator has no such miner at present: {names}")
        event = _INPUTS[type(frame)]
        if event not in TRANSITIONS[self.phase]:
            self._warn(f"unexpected frame from the server: {event.value}, while {self.phase.value}")
            return
        before = self.phase
        self._move(event)
        match frame:
            case LoginAccepted():
                self._accepted(frame, wall_ms)
            case SubscriptionAnswer():
                if before is Phase.SUBSCRIBING and self.state != "replaying":
                    self._enter("live")
            case Resumed():
                self._replay_until = frame.head
                self._enter("live" if frame.head <= self.cursor.sequence else "replaying")
            case ResumeFailed():
                gap = Gap(self.cursor.sequence, frame.head + 1, frame.reason)
                self.cursor = Cursor(frame.head, frame.epoch)
                self._enter("resync")
                self._events.append(StreamItem(gap, self.cursor))
                self._enter("live")

    def _accepted(self, frame: LoginAccepted, wall_ms: int) -> None:
        self.login = frame
        self._version_2 = frame.version >= 2 and frame.epoch is not None
        if frame.user:
            self._events.append(LoggedIn(frame.epoch, frame.user))
        self._timeout_ms = 2 * (frame.heartbeat_ms if self._version_2 else self._ping_ms)
        self._silence_ms = 0
        ours, theirs = self.cursor, Cursor(frame.current_sequence, frame.epoch)
        self._resumes = self._can_resume and self._version_2
        self._counts = theirs.epoch is not None
        # When resuming, the server's answer to the subscribe tells what is missing; otherwise compare now.
        if not self._resumes and (ours != theirs or not self._counts):
            reason: GapReason = "restarted" if theirs.sequence < ours.sequence else "not_replayed"
            if ours.epoch != theirs.epoch:
                reason = "epoch"
            elif not self._counts and ours.sequence < 0:
                self._warn("this server cannot resume: orders missed later are reported as gaps")
            gap = Gap(ours.sequence, theirs.sequence + 1, reason) if ours.sequence >= 0 else None
            self.cursor = theirs
            self._events.append(StreamItem(gap, theirs))
        if self._subscription is not None:
            self._subscribe(wall_ms)
        self._ping(wall_ms)

    def _orders(self, messages: Sequence[OrderMessage]) -> None:
        for message in messages:
            last, epoch = self.cursor
            sequence = message.sequence
            if self._counts and sequence != last + 1:
                if sequence <= last:
                    self.repeats += 1
                    continue
                if self._gapless and not self._gap_before(sequence):
                    return
            self._counts = True
            self._may_skip = False
            self.cursor = cursor = Cursor(sequence, epoch)
            wanted = self._version_2 or server_frames.matches(message, self._subscription)
            self._events.append(StreamItem(message if wanted else None, cursor))
            if self.state == "replaying" and (sequence >= self._replay_until or not message.replay):
                self._enter("live")

    def _gap_before(self, next_sequence: int) -> bool:
        """Messages after the cursor are missing: reconnects for them, once, then reports the gap.

        Returns whether the connection goes on.
        """
        last = self.cursor.sequence
        if self._version_2 and self._known_gap != last:
            self._move(Input.BREAK)
            detail = f"messages between {last} and {next_sequence} are missing"
            self._events.append(Disconnected("gap", detail))
            return False
        self.cursor = Cursor(next_sequence - 1, self.cursor.epoch)
        self._events.append(StreamItem(Gap(last, next_sequence, "hole"), self.cursor))
        return True

    def _heartbeat(self, frame: Heartbeat) -> None:
        self._source_stale = frame.stale
        if frame.head > self.cursor.sequence and self._settled:
            if not self._gapless:
                self.cursor = Cursor(frame.head, self.cursor.epoch)
                self._may_skip = False
            elif not self._gap_before(frame.head + 1):
                return
        self._events.append(StreamItem(frame, self.cursor))
        caught_up = self.state == "replaying" and frame.head >= self._replay_until
        if self.state in ("live", "stale") or caught_up:
            self._enter("live")

    # --- helpers ------------------------------------------------------------------------------------------

    @property
    def _can_resume(self) -> bool:
        return self.cursor.sequence >= 0 and self.cursor.epoch is not None

    @property
    def _gapless(self) -> bool:
        """Whether the next sequence must be cursor + 1."""
        sub = self._subscription
        return sub is not None and sub.miners is None and sub.trade_pairs is None and not self._may_skip

    def _enter(self, state: State) -> None:
        if state == "live" and self._source_stale:
            state = "stale"
        if state != self.state:
            self.state = state
            self._events.append(StateChanged(state))

    def _warn(self, message: str) -> None:
        self._events.append(ProtocolWarning(message))

    def _subscribe(self, wall_ms: int) -> None:
        assert self._subscription is not None
        self._move(Input.RESUME if self._resumes else Input.SUBSCRIBE)
        self._resumes = False
        self._unanswered_ms = 0
        # Version 1 has no filters: `_order` applies them.
        subscription = self._subscription if self._version_2 else Subscribe(all=True)
        self._send(msgspec.structs.replace(subscription, sender_timestamp=wall_ms))

    def _ping(self, wall_ms: int) -> None:
        self._since_ping_ms = 0
        self._send(Ping(timestamp=wall_ms))

    def _learn_offset(self, sent_ms: Any, server_ms: int, received_ms: int) -> None:
        if isinstance(sent_ms, int) and sent_ms > 0:
            self.clock_offset.learn(sent_ms, server_ms, received_ms)

    def _send(self, frame: msgspec.Struct) -> None:
        self._outbox.append(encode(frame).decode())

    def _move(self, event: Input) -> None:
        self.phase = TRANSITIONS[self.phase][event]
        self._settled = self.phase in (Phase.IDLE, Phase.FLOWING)
        if self._settled:
            self._unanswered_ms = None
