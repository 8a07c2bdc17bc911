"""Following a server's orders: the one asynchronous core that everything else in this room is built on.

async with connect("wss://host:8765", api_key=...) as stream:
    async for message in stream:
        ...
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import msgspec
from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from ptn_api.client.api_key import api_key_from
from ptn_api.client.choice import Choice, check_one_of, several, trade_pairs_of
from ptn_api.client.connection import Connection
from ptn_api.client.cursor_file import CursorFile, CursorStore, cursor_path
from ptn_api.client.inbox import Inbox
from ptn_api.client.listener import tell
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.pace import Pace
from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import InvalidInputError, SettingsError
from ptn_api.tasks import wait_for_event
from ptn_api.wire.client_session import Cursor, Gap, State, StreamItem
from ptn_api.wire.frames import Format, Subscribe
from ptn_api.wire.server_frames import OrderMessage

__all__ = ["Stream", "connect"]

logger = logging.getLogger("ptn_api.client")


class Stream:
    """Every order as it happens, over lost connections and restarts. To be used with `async with`, once.

    Iterating gives one message at a time; asking for the next one says that the last one is done with, and
    remembers so (`name` tells several clients of one key and server apart; `cursor_store` replaces the
    file in `state_dir`). A program that is killed in between gets that message again; within a run none
    comes twice. With `resume=False` what was missed before this run is not asked for.

    `miners`, `trade_pairs`: only these, one or several (both: AND-ed). `format` "delta": positions without
    their orders. `subscribe=False`: nothing comes before `subscribe()` is called.

    Told as things happen, each a plain or an async function:
    `on_state(state)`, at once; `on_gap(gap)`, in its place between the messages: what lies in it will not
    come, take a snapshot; `on_stale(message)` instead of handing over a message older than `max_age_ms`
    by the server's clock (`PTNWebSocketMessage.age_ms`; without it they are logged).
    What these raise is logged and goes no further.

    A refused login is tried again slowly; `stop_on_auth_error=True`: iterating raises AuthenticationError.
    `updates`, `revision`: what changes besides orders, and since when; for a mirror. `ssl` is an
    `ssl.SSLContext` for wss. Raises AuthenticationError without a key, SettingsError for a URL or a `format`
    that is none.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
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
        on_state: Callable[[State], Any] | None = None,
        on_stale: Callable[[PTNWebSocketMessage], Any] | None = None,
        max_age_ms: int | None = None,
        stop_on_auth_error: bool = False,
        pace: Pace | None = None,
        ssl: Any = None,
        clock: Clock = wall_ms,
    ) -> None:
        self._key = api_key_from(api_key)
        check_one_of(Format, format, "format")
        server = _server(url)
        self._store = cursor_store or CursorFile(cursor_path(state_dir, server, self._key, name), server)
        self._resume = resume
        self._subscription = Subscribe(
            all=True if miners is None and trade_pairs is None else None,
            miners=several(miners),
            trade_pairs=trade_pairs_of(trade_pairs),
            format=format,
            updates=updates,
            revision=revision,
        )
        self._on_gap = on_gap
        self._on_stale = on_stale
        self._on_state = on_state
        self._max_age_ms = max_age_ms
        self._clock = clock
        self._inbox = Inbox()
        self._stopped = asyncio.Event()
        self._given: Cursor | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._connection = Connection(
            url,
            self._key,
            self._inbox,
            cursor=Cursor(),
            subscription=self._subscription if subscribe else None,
            pace=pace or Pace(),
            on_state=self._tell_state,
            stop_on_auth_error=stop_on_auth_error,
            ssl=ssl,
            clock=clock,
        )

    @property
    def state(self) -> State:
        return self._connection.state

    @property
    def clock_offset_ms(self) -> int:
        """The server's clock minus ours, in ms; 0 while it is not known."""
        return self._connection.clock_offset.ms

    # --- beginning and end --------------------------------------------------------------------------------

    async def __aenter__(self) -> Stream:
        self._loop = asyncio.get_running_loop()
        cursor = self._store.load()
        self._connection.cursor = cursor if self._resume else Cursor()
        self._task = asyncio.create_task(self._follow())
        if self._stopping:
            self._end()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """What leaving `async with` does: nothing more is received, and another client may use the cursor."""
        self._end()
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])  # not awaited itself: who is cancelled here is to hear of it
        finally:
            self._store.close()
        await self._connection.stopped()

    def stop(self) -> None:
        """Ends the iteration soon. From any thread, or a signal handler; also before it has begun."""
        self._stopping = True
        self._call(self._end)

    async def _follow(self) -> None:
        try:
            await self._connection.run()
        except Exception as error:  # a fault of this library: to be raised where the iteration is
            logger.exception("following broke off")
            self._inbox.close(error)

    def _end(self) -> None:
        self._stopping = True
        self._stopped.set()
        self._inbox.close()

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Calls in the loop's thread, soon; at once before there is one, not at all when it has gone."""
        if self._loop is None:
            function(*arguments)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)

    # --- messages -----------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[PTNWebSocketMessage]:
        return self

    async def __anext__(self) -> PTNWebSocketMessage:
        self.commit()
        while (step := await self._first()) is not None:
            message = await self._message(step)  # where this is cancelled the step stays, to be told again
            self._inbox.drop(step)
            self._given = step.cursor
            if message is not None:
                return message
            self.commit()
        raise StopAsyncIteration

    async def batches(self, limit: int = 500) -> AsyncIterator[list[PTNWebSocketMessage]]:
        """The same in lists of whatever has come meanwhile; asking for the next list commits the last."""
        async for message in self:
            batch = [message]
            while len(batch) < limit and (more := self._at_hand()) is not None:
                batch.append(more)
            yield batch

    async def steps(self) -> AsyncIterator[StreamItem]:
        """Everything that came, unread and in order, heartbeats included; for a mirror."""
        while (step := await self._first()) is not None:
            self._inbox.drop(step)
            yield step
            self._given = step.cursor
            self.commit()

    def commit(self, message: PTNWebSocketMessage | None = None) -> None:
        """Remembers that everything handed over so far is done with, or everything up to `message`."""
        if self._given is None:
            return
        if message is None:
            self._store.save(self._given)
            self._given = None
        else:
            self._store.save(Cursor(message.sequence, self._given.epoch))

    def is_stale(self, message: PTNWebSocketMessage) -> bool:
        """Whether the message is older than `max_age_ms` by now."""
        return self._max_age_ms is not None and message.age_ms > self._max_age_ms

    async def hand_over_stale(self, message: PTNWebSocketMessage) -> None:
        """Gives the message to `on_stale` instead of the handler."""
        if self._on_stale is None:
            logger.warning("order %d is %d ms old and passed over", message.sequence, message.age_ms)
        await tell(self._on_stale, message)

    async def tell_gap(self, gap: Gap) -> None:
        logger.warning("messages between %d and %d are missing: %s", *gap)
        await tell(self._on_gap, gap)

    async def pause(self, seconds: float) -> bool:
        """Sleeps; True if the stream was stopped meanwhile."""
        await wait_for_event(self._stopped, seconds * 1000)
        return self._stopping

    async def _first(self) -> StreamItem | None:
        """The next step, which stays where it is; None at the end."""
        return None if self._stopping else await self._inbox.first()

    def _at_hand(self) -> PTNWebSocketMessage | None:
        """The next message, if it is here and nothing has to be told before it is handed over."""
        step = None if self._stopping else self._inbox.peek()
        if step is None or not isinstance(step.value, OrderMessage):
            return None
        try:
            message = self._read(step.value)
        except InvalidInputError:
            return None
        if self.is_stale(message):
            return None
        self._inbox.drop(step)
        self._given = step.cursor
        return message

    def _read(self, what: OrderMessage) -> PTNWebSocketMessage:
        return PTNWebSocketMessage(what, self.clock_offset_ms, clock=self._clock)

    async def _message(self, step: StreamItem) -> PTNWebSocketMessage | None:
        """What a step has for the consumer; gaps and stale messages are told here."""
        if isinstance(step.value, Gap):
            await self.tell_gap(step.value)
        if not isinstance(step.value, OrderMessage):
            return None
        try:
            message = self._read(step.value)
        except InvalidInputError as error:
            logger.error("message %d cannot be read: %s", step.value.sequence, error)
            await self.tell_gap(Gap(step.value.sequence - 1, step.value.sequence + 1, "unreadable"))
            return None
        if self.is_stale(message):
            await self.hand_over_stale(message)
            return None
        return message

    # --- subscription -------------------------------------------------------------------------------------

    def resume_from(self, revision: int) -> None:
        """From which revision on the next connection is to be sent the updates; for a mirror."""
        subscription = self._connection.subscription
        if subscription is not None:
            self._connection.subscription = msgspec.structs.replace(subscription, revision=revision)

    def subscribe(self) -> None:
        """Asks for orders (again), from the next one on. From any thread."""
        self._call(self._connection.subscribe, self._subscription)

    def unsubscribe(self) -> None:
        """Asks for no more orders; the connection stays. From any thread."""
        self._call(self._connection.unsubscribe)

    async def _tell_state(self, state: State) -> None:
        await tell(self._on_state, state)


connect = Stream
"""`async with connect(url, api_key) as stream: ...`"""


def _server(url: str) -> str:
    try:
        uri = parse_uri(url)
    except InvalidURI as error:
        raise SettingsError(f"not a WebSocket address: {error}") from None
    return f"{uri.host}:{uri.port}"
