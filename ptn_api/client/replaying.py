"""Replays: a handler run on past orders, as fast as possible or at the original pace.

    replay("orders.ndjson", handler)                              as fast as possible
    replay("validator_checkpoint.json", handler, speed=10)
    replay(PTNClient("http://localhost:48888"), handler)          the messages that the server still has

The handler is the one for `PTNWebSocketClient.run`. Its input does not depend on when or how fast the replay
runs, because the messages' clock stands at the time of the last message. `ReplayServer` serves a replay to
clients that are other programs.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ptn_api.client.arguments import Choice, as_list, trade_pairs_from
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.recording import is_recording, read_checkpoint, read_recording
from ptn_api.clock import wall_ms
from ptn_api.errors import InvalidInputError, ServerUnreachableError, SettingsError
from ptn_api.loop_thread import SIGNAL_CHECK_S, run_blocking
from ptn_api.wire.client_session import Gap
from ptn_api.wire.server_frames import OrderMessage

if TYPE_CHECKING:
    from typing import TypeAlias

    from ptn_api.client.rest import PTNClient

    Source: TypeAlias = str | os.PathLike[str] | PTNClient | Iterable[OrderMessage | Gap]
    """The path of a recording or checkpoint, a server's client, or messages."""

__all__ = ["Replay", "ReplayClock", "ReplayServer", "replay"]

logger = logging.getLogger("ptn_api.client")

_PAGE = 1_000
_GONE = 410
_POLL_S = 0.01
"""Interval at which a ReplayServer looks for its first subscriber."""


class ReplayClock:
    """A clock that advances only with the messages; epoch ms. Pass it to all code that needs the time."""

    def __init__(self, now_ms: int = 0) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def forward_to(self, moment_ms: int) -> None:
        """Advances the clock; an earlier time is ignored."""
        self.now_ms = max(self.now_ms, moment_ms)


class Replay:
    """The messages of a source, for `for` or `async for`.

    `speed` None is as fast as possible, 1 the original speed, 10 ten times faster. `start_ms` and `end_ms`
    (epoch ms, `end_ms` excluded) select by the time at which the server first saw the order; `miners` and
    `trade_pairs` filter like a subscription. `clock` stands at the time of the last message yielded. `on_gap`
    is called for the recorded gaps and for malformed messages. Raises InvalidInputError for a file that is
    neither recording nor checkpoint, and what the server's client raises.
    """

    def __init__(
        self,
        source: Source,
        *,
        speed: float | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        miners: Choice | None = None,
        trade_pairs: Choice | None = None,
        on_gap: Callable[[Gap], Any] | None = None,
        clock: ReplayClock | None = None,
    ) -> None:
        if speed is not None and not (isinstance(speed, (int, float)) and speed > 0):
            raise SettingsError("the speed of a replay must be a number above 0")
        self.clock = clock or ReplayClock()
        self._source = source
        self._speed = speed
        self._start_ms = start_ms
        self._end_ms = end_ms
        self._miners = as_list(miners)
        self._trade_pairs = trade_pairs_from(trade_pairs)
        self.on_gap = on_gap

    def __iter__(self) -> Iterator[PTNWebSocketMessage]:
        for batch in self.batches():
            yield from batch

    async def __aiter__(self) -> AsyncIterator[PTNWebSocketMessage]:
        """Reads the source in another thread."""
        moments = self.moments()
        while (moment := await asyncio.to_thread(next, moments, None)) is not None:
            await asyncio.sleep(moment.due - time.monotonic())
            for message in moment.begin():
                yield message

    def batches(self) -> Iterator[list[PTNWebSocketMessage]]:
        """Yields lists of the messages with the same timestamp."""
        for moment in self.moments():
            while (delay := moment.due - time.monotonic()) > 0:
                time.sleep(min(delay, SIGNAL_CHECK_S))
            if messages := moment.begin():
                yield messages

    def moments(self) -> Iterator[Moment]:
        """Yields the same without waiting: the caller waits until `due` and then calls `begin`."""

        def timestamp(entry: PTNWebSocketMessage | Gap) -> int | None:
            return None if isinstance(entry, Gap) else entry.timestamp

        started: float | None = None
        first_ms = due = 0.0
        for at_ms, group in itertools.groupby(self._entries(), timestamp):
            if at_ms is not None:
                if started is None:
                    started, first_ms = time.monotonic(), at_ms
                due = started if self._speed is None else started + (at_ms - first_ms) / 1000 / self._speed
            yield Moment(self, due, at_ms, list(group))

    def _entries(self) -> Iterator[PTNWebSocketMessage | Gap]:
        """Yields the selected messages, and all gaps."""
        for entry in _read(self._source):
            if isinstance(entry, Gap):
                yield entry
                continue
            before = self._start_ms is not None and entry.timestamp < self._start_ms
            after = self._end_ms is not None and entry.timestamp >= self._end_ms
            if before or after:
                continue
            try:
                # As if live: whether it was a repeat when it was recorded does not matter.
                message = PTNWebSocketMessage(msgspec.structs.replace(entry, replay=False), clock=self.clock)
            except InvalidInputError as error:
                logger.error("malformed message %d: %s", entry.sequence, error)
                yield Gap(entry.sequence - 1, entry.sequence + 1, "unreadable")
                continue
            if self._miners is not None and message.position.miner_hotkey not in self._miners:
                continue
            if self._trade_pairs is not None and message.new_order.trade_pair not in self._trade_pairs:
                continue
            yield message


class Moment:
    """The messages with one timestamp, or a run of gaps, with `at_ms` None.

    `due` is the time at which to call `begin`, by `time.monotonic()`.
    """

    def __init__(
        self, past: Replay, due: float, at_ms: int | None, entries: list[PTNWebSocketMessage | Gap]
    ) -> None:
        self.due = due
        self.at_ms = at_ms
        self.entries = entries
        self._replay = past

    def begin(self) -> list[PTNWebSocketMessage]:
        """Advances the replay's clock, reports gaps, and returns the messages."""
        if self.at_ms is not None:
            self._replay.clock.forward_to(self.at_ms)
        for entry in self.entries:
            if isinstance(entry, Gap) and self._replay.on_gap is not None:
                self._replay.on_gap(entry)
        return [entry for entry in self.entries if isinstance(entry, PTNWebSocketMessage)]


def replay(
    source: Source,
    handler: Callable[[list[PTNWebSocketMessage]], Any],
    **options: Any,
) -> int:
    """Passes every message of the source to a plain or async handler; returns their number.

    `options` are those of `Replay`. Blocks until the end, also under a running event loop (a notebook).
    Raises what the handler raises.
    """
    past = Replay(source, **options)

    async def run() -> int:
        handled = 0
        for moment in past.moments():  # blocking reads are fine: nothing else runs in this loop
            await asyncio.sleep(moment.due - time.monotonic())
            messages = moment.begin()
            result = handler(messages) if messages else None
            if inspect.isawaitable(result):
                await result
            handled += len(messages)
        return handled

    return run_blocking(run, "ptn-replay")


# --- sources ----------------------------------------------------------------------------------------------


def _read(source: Source) -> Iterator[OrderMessage | Gap]:
    if isinstance(source, (str, os.PathLike)):
        return read_recording(source) if is_recording(source) else read_checkpoint(source)
    if isinstance(source, Iterable):
        return iter(source)
    return _read_server(source)


class _Page(msgspec.Struct):
    """A page of `/messages`, or its 410 response with the oldest sequence that the server has."""

    messages: list[OrderMessage] = []
    next: int = -1
    head: int = -1
    epoch: str = ""
    oldest_sequence: int | None = None


def _read_server(server: PTNClient) -> Iterator[OrderMessage]:
    """Yields all messages up to the present head, except those pruned in the meantime."""
    page = _get_page(server, 0, "")  # answered with 410 and the oldest sequence, unless nothing was pruned
    head = page.head  # orders that arrive during the replay are not part of it
    while page.oldest_sequence is not None or (page.messages and page.next < head):
        yield from page.messages
        after = page.next if page.oldest_sequence is None else page.oldest_sequence - 1
        page = _get_page(server, after, page.epoch)
    yield from page.messages


def _get_page(server: PTNClient, after: int, epoch: str) -> _Page:
    from ptn_api.client.calls import Call  # imports httpx, which replaying a file does not need

    def read(body: bytes, headers: Mapping[str, str]) -> _Page:
        return msgspec.json.decode(body, type=_Page)

    call = Call("/messages", read, accept=(200, _GONE), cached=False, after=after, epoch=epoch, limit=_PAGE)
    return server.call(call)


# --- the server -------------------------------------------------------------------------------------------


class ReplayServer:
    """A replay served over the real protocol, on localhost (`port` 0: any free one). For one `with`.

        with ReplayServer(Replay("orders.ndjson", speed=10)) as server:
            print(server.url)       # any client may connect, with any key
            server.play()

    Sequences are renumbered without gaps, starting at the first message's. Timestamps are the original ones,
    and the server's clock, as clients measure it, is that of the replay. Messages stay in memory, so clients
    can resume.
    """

    def __init__(self, past: Replay, *, port: int = 0, heartbeat_ms: int = 15_000) -> None:
        from ptn_api.client.testing import FakeServer  # imports websockets' server

        self._moments = (moment for moment in past.moments() if moment.at_ms is not None)
        self._first = next(self._moments, None)
        first = self._first.entries[0] if self._first is not None else None
        first_sequence = first.sequence if isinstance(first, PTNWebSocketMessage) else 1
        self._server = FakeServer(port=port, heartbeat_ms=heartbeat_ms, first_sequence=first_sequence)
        self._server.keys = _EveryKey()
        self._set_clock(self._first)

    def __enter__(self) -> ReplayServer:
        try:
            self._server.__enter__()
        except OSError as error:
            raise ServerUnreachableError(
                f"cannot listen on port {self._server.port}: {error.strerror}"
            ) from None
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.__exit__(*exception)

    @property
    def url(self) -> str:
        """The address for clients."""
        return self._server.url

    def play(self, stop: threading.Event | None = None) -> int:
        """Waits for a subscriber, then sends everything at the replay's speed; returns the message count.

        Blocks until the end or `stop`. Raises InvalidInputError for messages without their positions' orders
        (recorded in format "delta").
        """
        stop = stop or threading.Event()
        moment, sent = self._first, 0
        while self._server.live_clients == 0:
            self._set_clock(moment)  # clients measure the clock offset at their login
            if stop.wait(_POLL_S):
                break
        # Every due time shifts by the time spent waiting for the subscriber.
        waited = time.monotonic() - (moment.due if moment else 0.0)
        while moment is not None and not stop.wait(max(0.0, moment.due + waited - time.monotonic())):
            messages = moment.begin()
            self._set_clock(moment)
            for message in messages:
                extra = message.data
                position = extra.pop("position")
                if not position.get("orders"):
                    problem = "recorded in format delta: the positions have no orders to serve"
                    raise InvalidInputError(problem, code="not_a_recording")
                self._server.publish(position, timestamp_ms=message.timestamp, late=message.late, extra=extra)
            sent += len(messages)
            moment = next(self._moments, None)
        return sent

    def _set_clock(self, moment: Moment | None) -> None:
        if moment is not None and moment.at_ms is not None:
            self._server.clock_ahead_ms = moment.at_ms - wall_ms()


class _EveryKey(set[str]):
    """Contains every key."""

    def __contains__(self, key: object) -> bool:
        return True
