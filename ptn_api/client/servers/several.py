"""Several servers of a stream as one: every order once, from the server that has it first."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from ptn_api.client.arguments import Timing
from ptn_api.client.connection import CaughtUp, StreamProblem, StreamState
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.servers.merge import Coverage, Merge, SeenOrders, ServerGap, identity_of
from ptn_api.client.servers.record import OrderRecord
from ptn_api.client.servers.server import Server
from ptn_api.clock import Clock
from ptn_api.errors import AuthenticationError, InvalidInputError, SettingsError
from ptn_api.tasks import wait_for_event
from ptn_api.wire.client_session import Cursor, Gap, State, StreamItem
from ptn_api.wire.frames import Heartbeat, PositionsRemoved
from ptn_api.wire.server_frames import ChangedPosition, OrderMessage

__all__ = ["Difference", "ServerItem", "Several"]

logger = logging.getLogger("ptn_api.client")

_BEST_FIRST: tuple[State, ...] = ("live", "replaying", "stale", "resync", "connecting", "stopped")
_UPDATES = 100_000
"""Changes of positions that are remembered, in memory only."""


class Difference(NamedTuple):
    """An order for which a server states another price or leverage than the one that was delivered.

    A leverage is nan if the validator states none.
    """

    server: str
    miner_hotkey: str
    order_uuid: str
    price: float
    leverage: float
    delivered_price: float
    delivered_leverage: float


class ServerItem(StreamItem):
    """An item with the number of its server; of an order, also the message and what to remember of it."""

    server: int
    message: PTNWebSocketMessage | None
    order: tuple[bytes, bytes] | None
    received: StreamItem | None
    """The item in the server's inbox; None for a gap, which was received earlier."""


class Several:
    """Items of several servers, one server after the other, so that none delays the others' orders.

    Each server has its own connection, backoff and inbox, which is bounded. A copy of a known order, and a
    gap that another server fills, become items without a value: they only move the cursor.
    """

    def __init__(
        self,
        make: Callable[[int, Callable[[StreamState], Awaitable[None]], asyncio.Event], Server],
        count: int,
        record: Callable[[Sequence[str], SeenOrders], OrderRecord],
        *,
        timing: Timing,
        on_state: Callable[[StreamState], Awaitable[None]],
        on_difference: Callable[[Difference], Awaitable[None]],
        stop_on_auth_error: bool,
        clock: Clock,
    ) -> None:
        self._filled = asyncio.Event()
        self.servers = [make(n, self._reporter(n), self._filled) for n in range(count)]
        if len({server.address for server in self.servers}) < count:
            # The cursors and what is known of each server are kept by address.
            raise SettingsError("give several servers: two of the URLs have the same host and port")
        seen = SeenOrders()
        self.record = record([server.address for server in self.servers], seen)
        self._coverages = [Coverage() for _ in self.servers]
        self._merge = Merge(
            self._coverages,
            seen,
            margin_ms=1000 * timing.apart,
            wait_ms=1000 * timing.fill,
            behind_ms=1000 * timing.behind,
        )
        self._cursor_wait_s = timing.cursor
        self._on_state = on_state
        self._on_difference = on_difference
        self._stop_on_auth_error = stop_on_auth_error
        self._clock = clock
        self._states = [StreamState("connecting") for _ in self.servers]
        self._reported: Any = None
        self._others: Any = [False for _ in self.servers], ""
        self._error: BaseException | None = None
        self._opened = self._closed = self._closing = False
        self._current: ServerItem | None = None
        self._turn = 0
        self._dropped: deque[ServerItem] = deque()
        self._held: dict[int, Cursor] = {}
        self._differences: deque[Difference] = deque(maxlen=1_000)
        self._differing: dict[bytes, None] = {}
        self._updates: dict[object, None] = {}

    # --- state --------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The best state of a server."""
        states = [server.state for server in self.servers]
        return next(state for state in _BEST_FIRST if state in states)

    @property
    def problems(self) -> tuple[StreamProblem, ...]:
        found = []
        for server, coverage in zip(self.servers, self._coverages, strict=True):
            found += [
                StreamProblem(code, f"{server.address}: {sentence}", remedy)
                for code, sentence, remedy in server.problems
            ]
            if coverage.behind:
                sentence = f"{server.address}: The server sends orders later than the others"
                found.append(StreamProblem("server_behind", sentence, _BEHIND))
        if self.record.trouble:
            sentence = f"The delivered orders are not saved: {self.record.trouble}"
            remedy = "Free space or permit writing there; a second client needs its own name="
            found.append(StreamProblem("cursor_not_saved", sentence, remedy))
        return tuple(found)

    @property
    def clock_offset_ms(self) -> int:
        """The offset of the first server that is connected."""
        live = [server for server in self.servers if server.state in ("live", "replaying")]
        return (live or self.servers)[0].clock_offset_ms

    @property
    def taken(self) -> bool:
        return any(server.taken for server in self.servers)

    def _reporter(self, number: int) -> Callable[[StreamState], Awaitable[None]]:
        async def report(state: StreamState) -> None:
            self._states[number] = state
            self._coverages[number].replaying = state == "replaying"
            self._follow(number)
            await self._report()

        return report

    def _follow(self, number: int) -> None:
        """Only once the record was read: before, no server would seem to have been followed."""
        if self._opened and self._states[number] in ("live", "stale"):
            self._merge.follow(number, self._clock())

    async def _report(self) -> None:
        problems = self.problems
        refused = [p for p in problems if p.code == "login_refused"]
        if self._stop_on_auth_error and len(refused) == len(self.servers):
            self._error = AuthenticationError("; ".join(problem.sentence for problem in refused))
            self._error.remedy = refused[0].remedy
            self._filled.set()
        state = StreamState(self.state)
        state.problems = problems
        state.servers = {s.url: known for s, known in zip(self.servers, self._states, strict=True)}
        now = state, [p[:2] for p in problems], [str(known) for known in self._states]
        if now != self._reported and (not self._closing or state == "stopped"):
            self._reported = now
            await self._on_state(state)

    # --- start and end ------------------------------------------------------------------------------------

    async def open(self, *, wait: bool) -> None:
        """Loads the record and the cursors, and connects."""
        files = [server.file for server in self.servers if server.file is not None]
        for file in files:
            file.siblings = files
        try:
            resumed = []
            for server in self.servers:
                await server.open(wait=wait)
                # At once: the login gives a new server a cursor as well.
                resumed.append(server.connection.cursor.sequence >= 0)
            # Afterwards: an older client in this process ends when its cursors are taken over.
            known = await self.record.open(self._cursor_wait_s if wait else 0.0)
        except BaseException:  # cancelled as well: connections and locks would stay
            await self.close()
            raise
        for resumes, coverage, found in zip(resumed, self._coverages, known, strict=True):
            if resumes:
                coverage.since, coverage.complete = found or (-math.inf, -math.inf)
        self._merge.clock_went_back(self._clock())  # since the record was written, perhaps
        self._opened = True
        for number in range(len(self.servers)):
            self._follow(number)

    def end(self) -> None:
        self._closed = True
        self._filled.set()

    def cancel(self) -> None:
        for server in self.servers:
            server.cancel()

    async def close(self) -> None:
        self._closing = True
        for server in self.servers:
            server.end()
        try:
            await asyncio.gather(*(server.close() for server in self.servers))
        finally:
            self.record.close(self._coverages, self._uncommitted())

    # --- items --------------------------------------------------------------------------------------------

    async def first(self) -> StreamItem | None:
        """Waits for the next item and leaves it in place; None at the end. Raises a server's error."""
        while not self._closed:
            self._filled.clear()
            item = self.peek()
            others = [c.behind for c in self._coverages], self.record.trouble
            if others != self._others:  # problems that no connection reports
                self._others = others
                await self._report()
            while self._differences:
                await self._on_difference(self._differences.popleft())
            if item is not None:
                return item
            if self._error is not None:
                raise self._error
            due_ms = self._merge.due_ms - self._clock()
            if due_ms < math.inf:
                await wait_for_event(self._filled, max(due_ms, 1.0))
            else:
                await self._filled.wait()
        return None

    def peek(self) -> StreamItem | None:
        """Returns the next item without waiting."""
        if self._current is not None or self._closed:
            return self._current
        if (told := self._merge.next_gap(self._clock())) is not None:
            number, gap = told
            found = ServerGap(*gap)
            found.server = self.servers[number].url
            self._current = self._item(number, found, Cursor())
            return self._current
        for turn in range(len(self.servers)):
            number = (self._turn + turn) % len(self.servers)
            inbox = self.servers[number].inbox
            if (item := inbox.peek()) is not None:
                self._turn = number + 1
                self._current = self._decide(number, item)
                return self._current
            if inbox.error is not None:
                self._error = inbox.error
        return None

    def _item(
        self, number: int, value: Any, cursor: Cursor, received: StreamItem | None = None
    ) -> ServerItem:
        item = ServerItem(value, cursor)
        item.server, item.received, item.message, item.order = number, received, None, None
        return item

    def _decide(self, number: int, received: StreamItem) -> ServerItem:
        server, now = self.servers[number], self._clock()
        if (lost := server.take_lost(received.cursor)) is not None:
            self._merge.gap(number, lost, now)
        value, cursor = received
        item = self._item(number, None, cursor, received)
        match value:
            case OrderMessage():
                return self._decide_order(item, value, now)
            case Gap():
                self._merge.gap(number, value, now)
            case Heartbeat():
                if isinstance(received, CaughtUp) and not value.stale:
                    at = min(now, value.timestamp - server.clock_offset_ms)
                    self._merge.complete(number, at, now)
                return self._item(number, value, cursor, received)
            case ChangedPosition() | PositionsRemoved():
                # Revisions can be compared only within one log, which several servers may serve.
                changed = (
                    value.position if isinstance(value, ChangedPosition) else str(value.positions).encode()
                )
                key = cursor.epoch, value.revision, blake2b(changed, digest_size=16).digest()
                if key not in self._updates:
                    self._updates[key] = None
                    if len(self._updates) > _UPDATES:
                        del self._updates[next(iter(self._updates))]
                    return self._item(number, value, cursor, received)
            case None:
                pass
        return item

    def _decide_order(self, known: ServerItem, value: OrderMessage, now: float) -> ServerItem:
        """Returns `known`, which only moves the cursor, unless the order is new."""
        server = self.servers[known.server]
        try:
            message = PTNWebSocketMessage(value, server.clock_offset_ms, clock=self._clock)
        except InvalidInputError as error:
            logger.error("%s: malformed message %d: %s", server.address, value.sequence, error)
            self._merge.gap(known.server, Gap(value.sequence - 1, value.sequence + 1, "unreadable"), now)
            return known
        message.server = server.url
        order, hotkey = message.new_order, message.position.miner_hotkey
        identity = identity_of(hotkey, order.order_uuid)
        seen_ms = message.timestamp - server.clock_offset_ms
        verdict = self._merge.order(known.server, identity, seen_ms, order.price, order.leverage, now)
        if known.cursor.epoch is None:  # a server without heartbeats
            self._merge.complete(known.server, now, now)
        if verdict.is_new:
            item = self._item(known.server, value, known.cursor, known.received)
            item.message = message
            item.order = identity, SeenOrders.pack(now, order.price, order.leverage)
            return item
        if verdict.first is not None and identity not in self._differing:
            self._differing[identity] = None
            if len(self._differing) > self._differences.maxlen:  # type: ignore[operator]
                del self._differing[next(iter(self._differing))]
            leverage = math.nan if order.leverage is None else order.leverage
            self._differences.append(
                Difference(server.url, hotkey, order.order_uuid, order.price, leverage, *verdict.first)
            )
        return known

    def drop(self, item: StreamItem) -> None:
        """Removes the first item: the next commit is about it as well."""
        if item is not self._current or not isinstance(item, ServerItem):
            return
        self._current = None
        self._dropped.append(item)
        if item.received is not None:
            self.servers[item.server].inbox.drop(item.received)

    # --- places -------------------------------------------------------------------------------------------

    def commit(self, message: PTNWebSocketMessage | None = None) -> None:
        """Saves the orders and cursors of everything that was dropped, or of everything up to `message`."""
        count = len(self._dropped)
        if message is not None:
            place = message.server, message.sequence
            count = next(
                (
                    n
                    for n, item in enumerate(self._dropped, 1)
                    if item.message is not None and (item.message.server, item.message.sequence) == place
                ),
                0,
            )
        done = [self._dropped.popleft() for _ in range(count)]
        if not done:
            return
        for item in done:
            if item.cursor.epoch is not None:
                self._held[item.server] = item.cursor
        # First the orders: a cursor must not be ahead of them.
        orders = [item.order for item in done if item.order is not None]
        self.record.save(orders, self._coverages, self._uncommitted())
        # A gap that was not reported yet, either: after a crash it has to be found again.
        gaps = {item.server for item in self._unprocessed() if isinstance(item.value, ServerGap)}
        for number in [n for n in self._held if n not in gaps and not self._merge.holds(n)]:
            self.servers[number].save(self._held.pop(number))

    def _unprocessed(self) -> Iterator[ServerItem]:
        yield from self._dropped
        if self._current is not None:
            yield self._current

    def _uncommitted(self) -> set[bytes]:
        return {item.order[0] for item in self._unprocessed() if item.order is not None}

    # --- subscription -------------------------------------------------------------------------------------

    def resume_from(self, revision: int) -> None:
        """Does nothing: a revision belongs to one log."""

    def subscribe(self) -> None:
        for server in self.servers:
            server.subscribe()

    def unsubscribe(self) -> None:
        for server in self.servers:
            server.unsubscribe()


_BEHIND = "Nothing, if it passes: the other servers' orders arrive in time; otherwise ask its operator"
