"""Both sides' state machines, connected by a wire that may break anywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ptn_api.wire import codec
from ptn_api.wire.client_session import ClientSession, Cursor, Disconnected, Event, Gap, StreamItem
from ptn_api.wire.frames import Heartbeat, Subscribe
from ptn_api.wire.server_frames import OrderMessage
from ptn_api.wire.server_session import (
    CatchUp,
    CheckKey,
    Close,
    Effect,
    LoggedOrder,
    Send,
    ServerSession,
    State,
)
from tests.properties import tries

NOW = 1_760_000_000_000


class Head(msgspec.Struct):
    sequence: int
    revision: int = 0


@dataclass
class Log:
    """Orders `first`..`last`; a log made after a deletion starts beyond the old sequences."""

    epoch: str = "e0"
    first: int = 1
    last: int = 0

    def head(self) -> Head:
        return Head(self.last)

    def floor(self) -> int:
        return self.first

    def first_timestamp_after(self, sequence: int) -> int | None:
        return NOW if sequence < self.last else None

    def read(self, after: int, limit: int, *, orders: bool) -> list[LoggedOrder]:
        return []

    def oldest_revision(self) -> int:
        return 0


class Conversations(RuleBasedStateMachine):
    """One client, many connections: messages and reported gaps are exactly the log's orders."""

    @initialize(orders=st.integers(0, 3))
    def begin(self, orders: int) -> None:
        self.log = Log(last=orders)
        self.saved = Cursor()
        """What the client's cursor file says."""
        self.stand: Cursor | None = None
        """Up to where everything was handed over or told to be missing; None: it is yet to begin."""
        self.known_gap: int | None = None
        self.skipped: Counter[int] = Counter()
        self.hang_up()

    # --- the log and the server ---

    @rule(count=st.integers(1, 4))
    def orders_come(self, count: int) -> None:
        self.log.last += count

    @rule(count=st.integers(1, 3))
    def the_log_is_pruned(self, count: int) -> None:
        """A replay that this overtakes is closed."""
        self.log.first = min(self.log.first + count, self.log.last + 1)
        if self.sending and self.sent + 1 < self.log.first:
            self.hang_up()

    @rule()
    def the_log_is_deleted(self) -> None:
        number = int(self.log.epoch[1:]) + 1
        self.log = Log(f"e{number}", number * 1_000 + 1, number * 1_000)
        self.hang_up()

    @precondition(lambda self: self.sending)
    @rule(count=st.integers(1, 4))
    def the_server_sends(self, count: int) -> None:
        for sequence in range(self.sent + 1, min(self.sent + count, self.log.last) + 1):
            replay = sequence <= self.replay_until
            message = {"sequence": sequence, "timestamp": NOW, "data": {"position": {}}, "replay": replay}
            self.wire.append(msgspec.json.encode(message))
            self.sent = sequence
        if self.sent == self.log.last and self.server.state is State.CATCHING_UP:
            self.server.caught_up()

    @precondition(lambda self: self.client is not None and self.server.logged_in)
    @rule()
    def a_heartbeat(self) -> None:
        beat = Heartbeat(head=self.sent, revision=0, timestamp=NOW, source_ms=None, stale=False)
        self.wire.append(codec.encode(beat))

    # --- the wire ---

    @rule()
    def hang_up(self) -> None:
        self.client: ClientSession | None = None
        self.server = ServerSession(self.log, heartbeat_ms=1_000, replay_window_ms=1_000)
        self.wire: list[bytes] = []
        self.sending = False
        self.sent = self.replay_until = 0

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def a_frame_comes_twice(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.wire) - 1))
        if self.wire[place].startswith(b'{"sequence"'):
            self.wire.insert(place, self.wire[place])

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def an_order_is_skipped(self, data: st.DataObject) -> None:
        """As no server should; the client cannot know that none does."""
        place = data.draw(st.integers(0, len(self.wire) - 1))
        if self.wire[place].startswith(b'{"sequence"'):
            skipped = codec.decode(self.wire.pop(place), OrderMessage)
            self.skipped[skipped.sequence] += 1

    # --- the client ---

    @precondition(lambda self: self.client is None)
    @rule()
    def the_client_connects(self) -> None:
        self.client = ClientSession(
            api_key="k", cursor=self.saved, subscription=Subscribe(all=True), known_gap=self.known_gap
        )
        self.client.start()
        self.the_client_speaks()

    @precondition(lambda self: self.client is not None)
    @rule()
    def the_client_speaks(self) -> None:
        assert self.client is not None
        for frame in self.client.to_send():
            self.answer(self.server.receive(frame, NOW))
            if self.client is None:
                return

    @precondition(lambda self: self.client is not None)
    @rule(count=st.integers(1, 4), dies=st.booleans())
    def the_client_reads(self, count: int, dies: bool) -> None:
        """If it dies, then before its cursor was saved: what it handled last comes again."""
        before = self.saved
        for frame in self.wire[:count]:
            assert self.client is not None
            self.wire.pop(0)
            before = self.saved
            self.take(self.client.receive(frame, NOW))
            if self.client is None:
                return
        if dies:
            self.saved = before
            self.stand = before if before.sequence >= 0 else None
            self.known_gap = None
            self.hang_up()

    # --- what both say ---

    def answer(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(frame=frame):
                    self.wire.append(codec.encode(frame))
                case CheckKey():
                    self.answer(self.server.key_checked(100, NOW))
                    assert self.log.first - 1 <= self.server.after <= self.log.last, "all of it is there"
                    self.sent = self.server.after
                case CatchUp(after=after) if after + 1 < self.log.first:
                    self.hang_up()  # pruned since the login: the replay finds it so, and closes
                    return
                case CatchUp(after=after, replay_until=replay_until):
                    self.sent, self.replay_until, self.sending = after, replay_until, True
                    if after == self.log.last:
                        self.server.caught_up()
                case Close():
                    raise AssertionError("neither side has a reason to close")

    def take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, StreamItem):
                self.handle(event)
                self.saved = event.cursor
            if isinstance(event, Disconnected):
                assert event.reason == "gap"
                assert self.client is not None
                self.known_gap = self.client.cursor.sequence
                self.hang_up()
                return

    def handle(self, step: StreamItem) -> None:
        match step.value:
            case OrderMessage(sequence=sequence):
                assert self.stand is not None
                assert sequence == self.stand.sequence + 1, "neither repeated nor out of order"
            case Gap(after=after, next=next_, reason=reason):
                assert self.stand is not None
                assert after == self.stand.sequence
                self.check_gap(after, next_, reason)
            case _:
                assert self.stand in (None, step.cursor), "the cursor moves with what is handed over"
        self.stand = step.cursor

    def check_gap(self, after: int, next_: int, reason: str) -> None:
        """Only what cannot be had is told to be missing."""
        assert self.stand is not None
        match reason:
            case "epoch":
                assert self.stand.epoch != self.log.epoch
            case "too_old":
                assert after + 1 < self.log.first
            case "hole":
                assert all(self.skipped[n] >= 2 for n in range(after + 1, next_))
            case _:
                raise AssertionError(f"no reason for a gap: {reason}")

    def teardown(self) -> None:
        """Left in peace, the client gets to the log's head."""
        if not hasattr(self, "log"):
            return
        for _ in range(100):  # a hole or two, and what is in flight
            if self.client is None:
                self.the_client_connects()
            if not self.wire and self.sending and self.sent == self.log.last:
                break
            self.the_client_speaks()
            if self.sending:
                self.the_server_sends(1_000)
            if self.client is not None:
                self.the_client_reads(1_000, dies=False)
        assert self.client is not None
        assert self.stand == Cursor(self.log.last, self.log.epoch)


TestConversations = Conversations.TestCase
TestConversations.settings = tries(150, stateful_step_count=40)
