"""A bot's handler on the past: what it would have done, as fast as it can or at the speed of then.

    replay("orders.ndjson", handler)                              as fast as possible
    replay("validator_checkpoint.json", handler, speed=10)
    replay(PTNClient("http://localhost:48888"), handler)          what the server still has

The handler is the one that `PTNWebSocketClient.run` is given. Nothing in what it is given depends on when
or how fast it is replayed: the messages' clock stands at the moment of the last one.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from ptn_api.client.checkpoint_orders import checkpoint_orders
from ptn_api.client.choice import Choice, several, trade_pairs_of
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.recording import is_recording, read_recording
from ptn_api.errors import InvalidInputError, SettingsError
from ptn_api.wire.client_session import Gap
from ptn_api.wire.server_frames import OrderMessage

if TYPE_CHECKING:
    from typing import TypeAlias

    from ptn_api.client.rest import PTNClient

    Source: TypeAlias = str | os.PathLike[str] | PTNClient | Iterable[OrderMessage | Gap]
    """A recording or a checkpoint, a server that is asked for what it still has, or messages at hand."""

__all__ = ["Moment", "Replay", "ReplayClock", "replay"]

logger = logging.getLogger("ptn_api.client")

_PAGE = 1_000
_GONE = 410


class ReplayClock:
    """A clock that stands still between messages; epoch ms. Give it to whatever else asks for the time."""

    def __init__(self, now_ms: int = 0) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def forward_to(self, moment_ms: int) -> None:
        """Never goes back."""
        self.now_ms = max(self.now_ms, moment_ms)


class Replay:
    """The messages of a source, to be iterated over, plainly or with `async for`.

    `speed`: None is as fast as possible, 1 as it was, 10 ten times faster. `start_ms`, `end_ms` (epoch ms,
    the end excluded) choose by when the server first saw the order, `miners` and `trade_pairs` like a
    subscription. `clock` stands at the moment of the message that was handed out last. `on_gap` is told what
    the recording says is missing, and what cannot be read.
    Raises InvalidInputError for a file that is neither recording nor checkpoint, and what the server's
    client raises.
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
            raise SettingsError("the speed of a replay is a number above 0")
        self.clock = clock or ReplayClock()
        self._source = source
        self._speed = speed
        self._start_ms = start_ms
        self._end_ms = end_ms
        self._miners = several(miners)
        self._trade_pairs = trade_pairs_of(trade_pairs)
        self.on_gap = on_gap

    def __iter__(self) -> Iterator[PTNWebSocketMessage]:
        for batch in self.batches():
            yield from batch

    async def __aiter__(self) -> AsyncIterator[PTNWebSocketMessage]:
        """The source is read in another thread."""
        moments = self.moments()
        while (moment := await asyncio.to_thread(next, moments, None)) is not None:
            await asyncio.sleep(moment.due - time.monotonic())
            for message in moment.begin():
                yield message

    def batches(self) -> Iterator[list[PTNWebSocketMessage]]:
        """Lists of the messages that the server saw at the same moment."""
        for moment in self.moments():
            time.sleep(max(0.0, moment.due - time.monotonic()))
            if messages := moment.begin():
                yield messages

    def moments(self) -> Iterator[Moment]:
        """The same for those who wait themselves: until `due`, then call `begin`."""
        begun: float | None = None
        first_ms = due = 0.0
        for at_ms, group in itertools.groupby(self._everything(), _timestamp):
            if at_ms is not None:
                if begun is None:
                    begun, first_ms = time.monotonic(), at_ms
                due = begun if self._speed is None else begun + (at_ms - first_ms) / 1000 / self._speed
            yield Moment(self, due, at_ms, list(group))

    # --- inside -------------------------------------------------------------------------------------------

    def _everything(self) -> Iterator[PTNWebSocketMessage | Gap]:
        for what in _read(self._source):
            if isinstance(what, Gap):
                yield what
            elif self._is_within(what.timestamp):
                message = self._message(what)
                if isinstance(message, Gap) or self._is_wanted(message):
                    yield message

    def _message(self, what: OrderMessage) -> PTNWebSocketMessage | Gap:
        """As if live: that it was a repeat when it was recorded is no longer of interest."""
        try:
            return PTNWebSocketMessage(msgspec.structs.replace(what, replay=False), clock=self.clock)
        except InvalidInputError as error:
            logger.error("message %d cannot be read: %s", what.sequence, error)
            return Gap(what.sequence - 1, what.sequence + 1, "unreadable")

    def _is_within(self, timestamp_ms: int) -> bool:
        return (self._start_ms is None or self._start_ms <= timestamp_ms) and (
            self._end_ms is None or timestamp_ms < self._end_ms
        )

    def _is_wanted(self, message: PTNWebSocketMessage) -> bool:
        return (self._miners is None or message.position.miner_hotkey in self._miners) and (
            self._trade_pairs is None or message.new_order.trade_pair in self._trade_pairs
        )


class Moment:
    """What the server saw at one moment, or a gap before it, which has no moment; `due` is when it is to be
    shown, by `time.monotonic()`."""

    def __init__(
        self, past: Replay, due: float, at_ms: int | None, what: list[PTNWebSocketMessage | Gap]
    ) -> None:
        self.due = due
        self._past = past
        self.at_ms = at_ms
        self.what = what

    def begin(self) -> list[PTNWebSocketMessage]:
        """Now it is that moment: the messages; gaps are told."""
        if self.at_ms is not None:
            self._past.clock.forward_to(self.at_ms)
        for what in self.what:
            if isinstance(what, Gap) and self._past.on_gap is not None:
                self._past.on_gap(what)
        return [what for what in self.what if isinstance(what, PTNWebSocketMessage)]


def replay(
    source: Source,
    handler: Callable[[list[PTNWebSocketMessage]], Any],
    **options: Any,
) -> int:
    """Gives everything in the source to the handler, plain or async; returns how many messages that were.

    `options` are `Replay`'s. Blocks until the end, also within a running event loop (a notebook). What the
    handler raises is raised here.
    """
    run = _run(Replay(source, **options), handler)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run)
    with ThreadPoolExecutor(1, thread_name_prefix="ptn-replay") as threads:
        return threads.submit(asyncio.run, run).result()


async def _run(past: Replay, handler: Callable[[list[PTNWebSocketMessage]], Any]) -> int:
    given = 0
    for moment in past.moments():  # this loop is ours: reading may block it
        await asyncio.sleep(moment.due - time.monotonic())
        messages = moment.begin()
        result = handler(messages) if messages else None
        if inspect.isawaitable(result):
            await result
        given += len(messages)
    return given


def _timestamp(what: PTNWebSocketMessage | Gap) -> int | None:
    return None if isinstance(what, Gap) else what.timestamp


# --- sources ----------------------------------------------------------------------------------------------


def _read(source: Source) -> Iterator[OrderMessage | Gap]:
    if isinstance(source, (str, os.PathLike)):
        return read_recording(source) if is_recording(source) else checkpoint_orders(source)
    if isinstance(source, Iterable):
        return iter(source)
    return _kept_by(source)


class _Page(msgspec.Struct):
    """A page of `/messages`, or, where the cursor is too old, where it would not be."""

    messages: list[OrderMessage] = []
    next: int = -1
    head: int = -1
    epoch: str = ""
    oldest_sequence: int | None = None


def _kept_by(server: PTNClient) -> Iterator[OrderMessage]:
    """Everything that the server has, up to the head as of now; what it forgets meanwhile is left out."""
    page = _ask(server, 0, "")
    head = page.head
    while page.oldest_sequence is not None or (page.messages and page.next < head):
        yield from page.messages
        after = page.next if page.oldest_sequence is None else page.oldest_sequence - 1
        page = _ask(server, after, page.epoch)
    yield from page.messages


def _ask(server: PTNClient, after: int, epoch: str) -> _Page:
    from ptn_api.client.exchange import Call

    return server.call(Call("/messages", _page, accept=(200, _GONE), after=after, epoch=epoch, limit=_PAGE))


def _page(body: bytes, headers: Mapping[str, str]) -> _Page:
    return msgspec.json.decode(body, type=_Page)
