"""The stream of a server's orders: the asynchronous core of the client.

async with connect("wss://host:8765", api_key=...) as stream:
    async for message in stream:
        ...
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any

from ptn_api.client.arguments import (
    Choice,
    Timing,
    api_keys_from,
    check_literal,
    miners_from,
    trade_pairs_from,
)
from ptn_api.client.connection import OnState, StreamProblem, StreamState
from ptn_api.client.connection_errors import shown_url
from ptn_api.client.cursor_file import CursorStore, NoCursorFile
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.servers.merge import ServerGap
from ptn_api.client.servers.record import OrderRecord, record_path
from ptn_api.client.servers.server import Server
from ptn_api.client.servers.several import Difference, ServerItem, Several
from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import ClientError, InvalidInputError, SettingsError
from ptn_api.loop_thread import forked
from ptn_api.tasks import wait_for_event
from ptn_api.wire.client_session import Gap, State, StreamItem
from ptn_api.wire.frames import Format, Subscribe
from ptn_api.wire.server_frames import OrderMessage

__all__ = ["Stream", "call_listener", "connect"]

logger = logging.getLogger("ptn_api.client")


class Stream:
    """Orders as they happen, across lost connections and restarts. For one `async with`.

    Iterating yields one message at a time; asking for the next one commits the last one, so a program that is
    killed in between gets that message again. Within a run no message comes twice. The cursor is kept in a
    file in `state_dir`, or in `cursor_store`; `name` tells several clients of one key and server apart.
    With `resume=False` messages missed before this run are not requested.

    `miners` and `trade_pairs` filter, by one name or several (AND-ed if both). `format` "delta" leaves out
    the orders of positions. `subscribe=False` receives nothing before `subscribe()`.

    Callbacks, each a plain or an async function; an exception is logged and ignored: `on_state(state)` at
    once, when the state or its `problems` change (`StreamState`); `on_gap(gap)`, in order with the messages,
    for messages that will not come (take a snapshot); `on_stale(message)` for messages older than
    `max_age_ms` by the server's clock (`PTNWebSocketMessage.age_ms`), which are not yielded. Without
    `on_stale` they are logged.

    With several URLs every order comes once, from the server that has it first, also after a restart.
    `api_key` is one key for all servers, or a list with one for each. `on_gap` is called for a gap that no
    server fills, `on_difference(Difference)` once per order for which a server states another price or
    leverage. The state is the best server's, and that of each is in `state.servers`. `cursor_store` can only
    be a NoCursorFile.

    A refused login is retried slowly; with `stop_on_auth_error=True` iterating raises AuthenticationError.
    `updates` and `revision` request changes other than orders, and since when; they are for a mirror. `ssl`
    is an `ssl.SSLContext` for wss. `pace` is the former name of `timing`. Raises AuthenticationError without
    a key, SettingsError for an invalid URL or `format`.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        api_key: str | Sequence[str] | None = None,
        *,
        name: str = "",
        state_dir: str | os.PathLike[str] | None = None,
        cursor_store: CursorStore | None = None,
        resume: bool = True,
        miners: Choice | None = None,
        trade_pairs: Choice | None = None,
        format: Format = "full",  # noqa: A002 - the protocol's word
        updates: bool = False,
        revision: int | None = None,
        subscribe: bool = True,
        on_gap: Callable[[Gap], Any] | None = None,
        on_state: OnState | None = None,
        on_stale: Callable[[PTNWebSocketMessage], Any] | None = None,
        max_age_ms: int | None = None,
        stop_on_auth_error: bool = False,
        timing: Timing | None = None,
        pace: Timing | None = None,
        ssl: Any = None,
        clock: Clock = wall_ms,
        on_difference: Callable[[Difference], Any] | None = None,
    ) -> None:
        urls = [url] if isinstance(url, str) else list(url)
        if not urls or len(set(urls)) < len(urls):
            raise SettingsError("give the URL of a server, or several different ones")
        keys = api_keys_from(api_key, len(urls))
        check_literal(Format, format, "format")
        timing = timing or pace or Timing()
        self.end_elsewhere: Callable[[], None] | None = None
        """Closes a stream whose cursor was taken over; set by `Following`, which may be abandoned."""
        self._pid: int | None = None
        self._on_gap = on_gap
        self._on_stale = on_stale
        self._max_age_ms = max_age_ms
        self._clock = clock
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        subscription = Subscribe(
            all=True if miners is None and trade_pairs is None else None,
            miners=miners_from(miners),
            trade_pairs=trade_pairs_from(trade_pairs),
            format=format,
            updates=updates,
            revision=revision,
        )

        async def report_state(state: StreamState) -> None:
            await call_listener(on_state, state)

        async def report_difference(difference: Difference) -> None:
            shown = difference._replace(server=shown_url(difference.server))
            logger.info("%s states another price or leverage: %s", shown.server, shown)
            await call_listener(on_difference, difference)

        def server(
            number: int,
            report: Callable[[StreamState], Awaitable[None]],
            filled: asyncio.Event | None = None,
        ) -> Server:
            return Server(
                urls[number],
                keys[number],
                name=name,
                state_dir=state_dir,
                cursor_store=cursor_store if len(urls) == 1 or cursor_store is None else NoCursorFile(),
                resume=resume,
                subscription=subscription,
                subscribe=subscribe,
                on_state=report,
                on_taken=self._on_taken,
                stop_on_auth_error=stop_on_auth_error and len(urls) == 1,
                timing=timing,
                ssl=ssl,
                clock=clock,
                filled=filled,
            )

        self._source: Server | Several
        if len(urls) == 1:
            self._source = server(0, report_state)
            return
        if cursor_store is not None and not isinstance(cursor_store, NoCursorFile):
            raise SettingsError(
                "cursor_store= is for one server: several keep one cursor each, in state_dir="
            )
        path = None if cursor_store is not None else record_path(state_dir, keys, name)
        self._source = Several(
            server,
            len(urls),
            lambda addresses, seen: OrderRecord(path, addresses, seen),
            timing=timing,
            on_state=report_state,
            on_difference=report_difference,
            stop_on_auth_error=stop_on_auth_error,
            clock=clock,
        )

    @property
    def state(self) -> State:
        """The connection's state, which may be ahead of the messages still to be yielded.

        Of several servers, the best one.
        """
        return self._source.state

    @property
    def problems(self) -> tuple[StreamProblem, ...]:
        """The present problems of the connection, the server and the cursor."""
        return self._source.problems

    @property
    def clock_offset_ms(self) -> int:
        """The server's clock minus this one's, in ms; 0 while unknown."""
        return self._source.clock_offset_ms

    # --- start and end ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Stream:
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        await self._source.open(wait=not self._stopping)
        if self._stopping:  # `stop` was called before there was a loop
            self._end()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnects and releases the cursor, as leaving `async with` does."""
        self._end()
        await self._source.close()

    def stop(self) -> None:
        """Ends the iteration soon. For any thread, a signal handler, and also before the iteration begins."""
        self._stopping = True  # at once, because the loop may be busy with a batch
        self._call(self._end)

    def _end(self) -> None:
        self._stopping = True
        self._stopped.set()
        self._source.end()

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls the function soon in the loop's thread; directly before the loop is known."""
        if self._loop is None:
            function(*arguments)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_taken(self) -> None:
        """Ends, because a newer client in this process has the cursor; `check` raises it."""
        self._call(self._end)
        self._call(self._source.cancel)
        if self.end_elsewhere is not None:
            self.end_elsewhere()

    def check(self) -> None:
        """Raises ClientError in a forked child, or if a newer client in this process took the cursor over."""
        if self._pid is not None and self._pid != os.getpid():
            raise forked()
        if self._source.taken:
            problem = "a newer client with the same cursor runs in this process"
            raise ClientError(f"{problem} (pass a different name= to run both)", code="replaced")

    # --- messages -----------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[PTNWebSocketMessage]:
        return self

    async def __anext__(self) -> PTNWebSocketMessage:
        self.commit()
        while (item := await self._first()) is not None:
            # A cancellation in here leaves the item in the inbox, so the next iteration begins with it.
            message = await self._message(item)
            self._source.drop(item)
            if message is not None:
                return message
            self.commit()
        raise StopAsyncIteration

    async def batches(self, limit: int = 500) -> AsyncIterator[list[PTNWebSocketMessage]]:
        """Yields lists of the messages received so far; asking for the next list commits the last."""
        async for message in self:
            batch = [message]
            while len(batch) < limit and (more := self._next_without_waiting()) is not None:
                batch.append(more)
            yield batch

    async def items(self) -> AsyncIterator[StreamItem]:
        """Yields everything received in order, undecoded, heartbeats included; for mirrors and recordings."""
        while (item := await self._first()) is not None:
            self._source.drop(item)
            yield item
            self.commit()

    def commit(self, message: PTNWebSocketMessage | None = None) -> None:
        """Saves the cursor: everything yielded so far is processed, or everything up to `message`.

        A cursor without an epoch, of a server that cannot resume, is not saved.
        """
        self._source.commit(message)

    def is_stale(self, message: PTNWebSocketMessage) -> bool:
        """Whether the message is older than `max_age_ms` by now."""
        return self._max_age_ms is not None and message.age_ms > self._max_age_ms

    async def report_stale(self, message: PTNWebSocketMessage) -> None:
        """Calls `on_stale` with the message."""
        if self._on_stale is None:
            logger.warning("skipped order %d, which is %d ms old", message.sequence, message.age_ms)
        await call_listener(self._on_stale, message)

    async def report_gap(self, gap: Gap) -> None:
        """Logs the gap and calls `on_gap`."""
        server = f" of {shown_url(gap.server)}" if isinstance(gap, ServerGap) else ""
        logger.warning(
            "messages between %d and %d%s are missing: %s", gap.after, gap.next, server, gap.reason
        )
        await call_listener(self._on_gap, gap)

    async def pause(self, seconds: float) -> bool:
        """Sleeps; returns True early if the stream is stopped."""
        await wait_for_event(self._stopped, seconds * 1000)
        return self._stopping

    # Former names.
    steps = items
    hand_over_stale = report_stale
    tell_gap = report_gap

    async def _first(self) -> StreamItem | None:
        self.check()
        item = None if self._stopping else await self._source.first()
        self.check()
        return item

    def _next_without_waiting(self) -> PTNWebSocketMessage | None:
        """Returns the next message if it is here and no callback has to be called before it."""
        item = None if self._stopping else self._source.peek()
        # Gaps, malformed and stale messages need a callback, which may be async: `__anext__` reports them.
        if item is None or not isinstance(item.value, OrderMessage):
            return None
        try:
            message = self._decode(item, item.value)
        except InvalidInputError:
            return None
        if self.is_stale(message):
            return None
        self._source.drop(item)
        return message

    def _decode(self, item: StreamItem, value: OrderMessage) -> PTNWebSocketMessage:
        if isinstance(item, ServerItem) and item.message is not None:
            return item.message
        return PTNWebSocketMessage(value, self.clock_offset_ms, clock=self._clock)

    async def _message(self, item: StreamItem) -> PTNWebSocketMessage | None:
        """Returns the item's message, if any; reports gaps and stale messages."""
        if isinstance(self._source, Server) and (lost := self._source.take_lost(item.cursor)) is not None:
            await self.report_gap(lost)
        if isinstance(item.value, Gap):
            await self.report_gap(item.value)
        if not isinstance(item.value, OrderMessage):
            return None
        try:
            message = self._decode(item, item.value)
        except InvalidInputError as error:
            sequence = item.value.sequence
            logger.error("malformed message %d: %s", sequence, error)
            await self.report_gap(Gap(sequence - 1, sequence + 1, "unreadable"))
            return None
        if self.is_stale(message):
            await self.report_stale(message)
            return None
        return message

    # --- subscription -------------------------------------------------------------------------------------

    def resume_from(self, revision: int) -> None:
        """Sets the revision after which the next connection requests updates; for a mirror."""
        self._source.resume_from(revision)

    def subscribe(self) -> None:
        """Subscribes (again), from the next order on. For any thread."""
        self._call(self._source.subscribe)

    def unsubscribe(self) -> None:
        """Unsubscribes and stays connected. For any thread."""
        self._call(self._source.unsubscribe)


connect = Stream
"""`async with connect(url, api_key) as stream: ...`"""


async def call_listener(listener: Callable[..., Any] | None, *values: Any) -> None:
    """Calls a plain or async callback, if there is one, and logs what it raises."""
    if listener is None:
        return
    try:
        result = listener(*values)
        if inspect.isawaitable(result):
            await result
    except Exception:  # user code may raise anything; the stream goes on
        logger.exception("a listener failed")
