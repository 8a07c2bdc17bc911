"""The client's side of one connection: a state machine without socket, clock or file.

    phase        what happened                             what comes while in it
    -----        -------------                             ----------------------
    LOGIN        the login was sent, no answer yet         the answer
    IDLE         logged in, not subscribed (any more)      answers, heartbeats
    SUBSCRIBING  subscribed, not confirmed yet             what an earlier subscription asked for
    RESUMING     subscribed from the cursor, not answered  nothing that may be counted
    FLOWING      orders come, each number after the last   orders, answers, heartbeats
    BROKEN       it was given up                           nothing that counts, ever

`start()` queues the login; frames that come go into `receive()`, passing time into `tick()`; frames to be
sent lie in `to_send()`. What has to be done about it is returned as events, in order:

- `StreamItem`: something to handle, and the cursor that may be committed once it is handled;
- `StateChanged`, `Refused`, `Evicted`, `ProtocolWarning`: something to tell;
- `Disconnected`: nothing more will come of this connection, make a new one.

Rules
- The cursor is the number after which messages are wanted. A message at or below it is a repeat and is
  dropped; the next one unfiltered must be cursor + 1.
- A hole from a server of version 2 is filled by coming back and resuming. Only if it is there again
  (`known_gap`), or on a server of version 1, which fills nothing, does it become a `Gap`.
- A server of version 1 has no epoch. It says after which number it goes on: further than our cursor means
  that something was missed, before it that the server counts anew.
- Signs of life: heartbeats. While a replay runs, and from a server of version 1, any frame.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
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
    SubscriptionStatus,
    Unsubscribe,
)
from ptn_api.wire.server_frames import ChangedPosition, LoginAccepted, OrderBatch, OrderMessage

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
    "Phase",
    "ProtocolWarning",
    "Refused",
    "State",
    "StateChanged",
    "StreamItem",
]

State = Literal["connecting", "replaying", "live", "stale", "resync", "stopped"]
"""What a follower is doing. `stale`: connected, but the server's source has gone quiet or the heartbeats
are missing. `resync`: something was missed for good, a snapshot is wanted."""

GapReason = Literal[
    "epoch", "too_old", "future", "not_replayed", "restarted", "hole", "unreadable", "handler"
]
"""Why messages are missing. `epoch`, `too_old`, `future`: the server cannot resume from our cursor.
`not_replayed`: an old server went on without what was missed; `restarted`: it counts anew.
`hole`: the server's own numbering has one. `unreadable`: a message came that makes no sense.
`handler`: the consumer's handler failed and was given up on."""


class Cursor(NamedTuple):
    """After which message to go on; -1: from now on. A number means nothing without its epoch."""

    sequence: int = -1
    epoch: str | None = None


class Gap(NamedTuple):
    """The messages between `after` and `next`, both exclusive, will not come.

    After `epoch` and `restarted` the two belong to different numberings, so nothing can be counted from
    them. A REST snapshot, or `/messages`, fills it.
    """

    after: int
    next: int
    reason: GapReason


class StreamItem(NamedTuple):
    """Something to handle in its turn, None if only the cursor moved; then `cursor` may be committed."""

    value: OrderMessage | ChangedPosition | PositionsRemoved | Heartbeat | Gap | None
    cursor: Cursor


class StateChanged(NamedTuple):
    state: State


class Refused(NamedTuple):
    """The login was turned down; the close code that follows says whether for good."""

    message: str
    code: str


class Evicted(NamedTuple):
    """A newer connection of the same key took this one's place."""

    message: str


class ProtocolWarning(NamedTuple):
    """Something for the log: the server refused a frame of ours, or sent one that cannot be read."""

    message: str


class Disconnected(NamedTuple):
    reason: Literal["silent", "gap"]
    detail: str


Event = StreamItem | StateChanged | Refused | Evicted | ProtocolWarning | Disconnected

_EVICTED = "MAX_CONNECTIONS_EXCEEDED"


class Phase(enum.Enum):
    LOGIN = "login"
    IDLE = "idle"
    SUBSCRIBING = "subscribing"
    RESUMING = "resuming"
    FLOWING = "flowing"
    BROKEN = "broken"


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
        Input.RESUME: Phase.RESUMING,  # the first subscribe of a login that named a cursor
        Input.UNSUBSCRIBE: Phase.IDLE,
        Input.CONFIRMED: Phase.IDLE,  # of a subscription that was given up meanwhile
        Input.BREAK: Phase.BROKEN,
    },
    Phase.SUBSCRIBING: {
        Input.SUBSCRIBE: Phase.SUBSCRIBING,
        Input.UNSUBSCRIBE: Phase.IDLE,
        Input.CONFIRMED: Phase.FLOWING,
        Input.BREAK: Phase.BROKEN,
    },
    Phase.RESUMING: {  # until it is answered, whatever is subscribed meanwhile
        Input.SUBSCRIBE: Phase.RESUMING,
        Input.UNSUBSCRIBE: Phase.RESUMING,
        Input.CONFIRMED: Phase.RESUMING,
        Input.ANSWERED: Phase.FLOWING,
        Input.BREAK: Phase.BROKEN,
    },
    Phase.FLOWING: {
        Input.SUBSCRIBE: Phase.SUBSCRIBING,
        Input.UNSUBSCRIBE: Phase.IDLE,
        Input.CONFIRMED: Phase.FLOWING,  # of an earlier subscribe, where two were sent
        Input.BREAK: Phase.BROKEN,
    },
    Phase.BROKEN: {},
}
"""What is not in the table is not due: a frame that means it is complained about and changes nothing."""

Answer = LoginAccepted | SubscriptionStatus | Resumed | ResumeFailed
_MEANINGS: dict[type[Answer], Input] = {
    LoginAccepted: Input.ACCEPTED,
    SubscriptionStatus: Input.CONFIRMED,
    Resumed: Input.ANSWERED,
    ResumeFailed: Input.ANSWERED,
}


class ClientSession:
    """One connection's worth of protocol; see the module's text.

    `cursor` is where to go on and moves as messages come. `subscription` None logs in without subscribing.
    `known_gap` is the number after which an earlier connection already met a hole.
    Times are ms; `login_ms` is the patience before the first sign of life.
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
        self._patience_ms = login_ms
        self._silence_ms = 0
        self._since_ping_ms = 0
        self._resumes = False
        self._jump = False
        self._replay_until = -1
        self._source_stale = False
        self._outbox: list[str] = []

    # --- in and out ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Queues the login."""
        sequence, epoch = self.cursor
        epoch = epoch if sequence >= 0 else None
        self._send(Auth(api_key=self._api_key, last_sequence=sequence, version=2, epoch=epoch))

    def to_send(self) -> list[str]:
        """The frames to send now, in order; they are handed out once."""
        frames, self._outbox = self._outbox, []
        return frames

    def receive(self, data: bytes | str, wall_ms: int) -> list[Event]:
        """One frame from the server, come at `wall_ms` (our clock, epoch ms)."""
        if self.phase is Phase.BROKEN:
            return []
        try:
            frame = server_frames.read_frame(data)
        except InvalidInputError as error:
            return [ProtocolWarning(f"a frame that cannot be read: {error}")]
        if isinstance(frame, Heartbeat) or not self._counts_heartbeats:
            self._silence_ms = 0
        return list(self._react(frame, wall_ms))

    def tick(self, elapsed_ms: int, wall_ms: int) -> list[Event]:
        """Time passed while waiting for frames. Time spent otherwise (a slow handler) must not be counted."""
        if self.phase is Phase.BROKEN:
            return []
        self._silence_ms += elapsed_ms
        self._since_ping_ms += elapsed_ms
        if self._silence_ms > self._patience_ms:
            self._move(Input.BREAK)
            return [
                StateChanged("stale"),
                Disconnected("silent", f"nothing received for {self._silence_ms} ms"),
            ]
        if self.login is not None and self._since_ping_ms >= self._ping_ms:
            self._ping(wall_ms)
        return []

    def subscribe(self, subscription: Subscribe, wall_ms: int) -> None:
        """Subscribes, or changes the subscription, from the next order on."""
        self._subscription = subscription
        if self.login is not None:
            self._jump = True
            self._subscribe(wall_ms)

    def unsubscribe(self, wall_ms: int) -> None:
        self._subscription = None
        self._jump = True
        if self.login is not None:
            self._move(Input.UNSUBSCRIBE)
            self._send(Unsubscribe(all=True, sender_timestamp=wall_ms))

    # --- frames -------------------------------------------------------------------------------------------

    def _react(self, frame: server_frames.Received | None, wall_ms: int) -> Iterator[Event]:
        match frame:
            case OrderMessage():
                yield from self._order(frame)
            case OrderBatch():
                for message in frame.messages:
                    yield from self._order(message)
            case ChangedPosition() | PositionsRemoved():
                yield StreamItem(frame, self.cursor)
            case Heartbeat():
                yield from self._heartbeat(frame)
            case Pong():
                self._learn(frame.client_timestamp, frame.server_timestamp, wall_ms)
            case LoginAccepted() | SubscriptionStatus() | Resumed() | ResumeFailed():
                yield from self._answer(frame, wall_ms)
            case AuthFailure():
                yield self._failure(frame)
            case Error():
                yield ProtocolWarning(f"the server says {frame.code}: {frame.message}")
            case None:
                pass

    def _answer(self, frame: Answer, wall_ms: int) -> Iterator[Event]:
        if isinstance(frame, SubscriptionStatus):
            self._learn(frame.sender_timestamp, frame.received_timestamp, wall_ms)
            if frame.action != "subscribe":
                return
        happened = _MEANINGS[type(frame)]
        if happened not in TRANSITIONS[self.phase]:
            yield ProtocolWarning(f"an answer that is not due: {happened.value}, while {self.phase.value}")
            return
        before = self.phase
        self._move(happened)
        match frame:
            case LoginAccepted():
                yield from self._accepted(frame, wall_ms)
            case SubscriptionStatus():
                if before is Phase.SUBSCRIBING and self.state != "replaying":
                    yield from self._enter("live")
            case Resumed():
                self._replay_until = frame.head
                yield from self._enter("live" if frame.head <= self.cursor.sequence else "replaying")
            case ResumeFailed():
                yield from self._resume_failed(frame)

    def _accepted(self, frame: LoginAccepted, wall_ms: int) -> Iterator[Event]:
        self.login = frame
        self._patience_ms = 2 * (frame.heartbeat_ms if self._version_2 else self._ping_ms)
        self._silence_ms = 0
        yield from self._place(frame)
        if self._subscription is not None:
            self._subscribe(wall_ms)
        self._ping(wall_ms)

    def _place(self, frame: LoginAccepted) -> Iterator[Event]:
        """Where the server will go on, compared with where we stand."""
        here, there = self.cursor, Cursor(frame.current_sequence, frame.epoch)
        self._resumes = here.sequence >= 0 and self._version_2
        if self._resumes or here == there:
            return
        self.cursor = there
        if here.sequence < 0:
            yield StreamItem(None, there)
        else:
            yield StreamItem(Gap(here.sequence, there.sequence + 1, _why(here, there)), there)

    def _resume_failed(self, frame: ResumeFailed) -> Iterator[Event]:
        gap = Gap(self.cursor.sequence, frame.head + 1, frame.reason)
        self.cursor = Cursor(frame.head, frame.epoch)
        yield from self._enter("resync")
        yield StreamItem(gap, self.cursor)
        yield from self._enter("live")

    def _order(self, message: OrderMessage) -> Iterator[Event]:
        if self.phase is Phase.BROKEN:
            return
        last = self.cursor.sequence
        if message.sequence <= last:
            self.repeats += 1
            return
        if message.sequence != last + 1 and self._gapless:
            event = self._hole(message.sequence)
            yield event
            if isinstance(event, Disconnected):
                return
        self._jump = False
        self.cursor = Cursor(message.sequence, self.cursor.epoch)
        yield StreamItem(message, self.cursor)
        if self.state == "replaying" and (message.sequence >= self._replay_until or not message.replay):
            yield from self._enter("live")

    def _hole(self, next_sequence: int) -> StreamItem | Disconnected:
        """Messages are missing after the cursor: come back for them, once."""
        last = self.cursor.sequence
        if self._version_2 and self._known_gap != last:
            self._move(Input.BREAK)
            return Disconnected("gap", f"nothing between {last} and {next_sequence}")
        self.cursor = Cursor(next_sequence - 1, self.cursor.epoch)
        return StreamItem(Gap(last, next_sequence, "hole"), self.cursor)

    def _heartbeat(self, frame: Heartbeat) -> Iterator[Event]:
        self._source_stale = frame.stale
        if frame.head > self.cursor.sequence and self._settled:
            if self._gapless:
                event = self._hole(frame.head + 1)
                yield event
                if isinstance(event, Disconnected):
                    return
            else:
                self.cursor = Cursor(frame.head, self.cursor.epoch)
                self._jump = False
        yield StreamItem(frame, self.cursor)
        caught_up = self.state == "replaying" and frame.head >= self._replay_until
        if self.state in ("live", "stale") or caught_up:
            yield from self._enter("live")

    def _failure(self, frame: AuthFailure) -> Event:
        if frame.code == _EVICTED:
            return Evicted(frame.message)
        if self.login is None:
            return Refused(frame.message, frame.code)
        return ProtocolWarning(f"the server says {frame.code or 'error'}: {frame.message}")

    # --- small parts --------------------------------------------------------------------------------------

    @property
    def _version_2(self) -> bool:
        return self.login is not None and self.login.version >= 2 and self.login.epoch is not None

    @property
    def _counts_heartbeats(self) -> bool:
        return self._version_2 and self._settled and self.state != "replaying"

    @property
    def _settled(self) -> bool:
        """Whether every number up to a heartbeat's head has come, as far as it was asked for."""
        return self.phase in (Phase.IDLE, Phase.FLOWING)

    @property
    def _gapless(self) -> bool:
        """Whether the next number must be cursor + 1."""
        sub = self._subscription
        return sub is not None and sub.miners is None and sub.trade_pairs is None and not self._jump

    def _enter(self, state: State) -> Iterator[Event]:
        if state == "live" and self._source_stale:
            state = "stale"
        if state != self.state:
            self.state = state
            yield StateChanged(state)

    def _subscribe(self, wall_ms: int) -> None:
        assert self._subscription is not None
        self._move(Input.RESUME if self._resumes else Input.SUBSCRIBE)
        self._resumes = False
        self._send(msgspec.structs.replace(self._subscription, sender_timestamp=wall_ms))

    def _ping(self, wall_ms: int) -> None:
        self._since_ping_ms = 0
        self._send(Ping(timestamp=wall_ms))

    def _learn(self, asked_ms: Any, server_ms: int, heard_ms: int) -> None:
        if isinstance(asked_ms, int) and asked_ms > 0:
            self.clock_offset.learn(asked_ms, server_ms, heard_ms)

    def _send(self, frame: msgspec.Struct) -> None:
        self._outbox.append(encode(frame).decode())

    def _move(self, happened: Input) -> None:
        self.phase = TRANSITIONS[self.phase][happened]


def _why(here: Cursor, there: Cursor) -> GapReason:
    if here.epoch != there.epoch:
        return "epoch"
    return "not_replayed" if there.sequence > here.sequence else "restarted"
