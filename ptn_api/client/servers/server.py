"""One server of a stream: its connection, its inbox, and the place that was reached in its log."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from ptn_api.client.arguments import Timing
from ptn_api.client.connection import Connection, Inbox, StreamProblem, StreamState
from ptn_api.client.cursor_file import CursorFile, CursorStore, cursor_path
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.clock import Clock
from ptn_api.errors import SettingsError
from ptn_api.wire.client_session import Cursor, Gap, State, StreamItem
from ptn_api.wire.frames import Subscribe

__all__ = ["Server"]

logger = logging.getLogger("ptn_api.client")


class Server:
    """Items of one server, in order, and its cursor."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        name: str,
        state_dir: str | os.PathLike[str] | None,
        cursor_store: CursorStore | None,
        resume: bool,
        subscription: Subscribe,
        subscribe: bool,
        on_state: Callable[[StreamState], Awaitable[None]],
        on_taken: Callable[[], None],
        stop_on_auth_error: bool,
        timing: Timing,
        ssl: Any,
        clock: Clock,
        filled: asyncio.Event | None = None,
    ) -> None:
        try:
            uri = parse_uri(url)
            uri.host.encode("idna")  # as the resolver will
        except (InvalidURI, ValueError) as error:
            raise SettingsError(f"not a WebSocket URL: {error}") from None
        self.url = url
        self.address = f"{uri.host}:{uri.port}"
        self.file: CursorFile | None = None
        if cursor_store is None:
            path = cursor_path(state_dir, self.address, key, name)
            cursor_store = self.file = CursorFile(path, self.address, name=name)
            self.file.on_taken = on_taken
        self._store = cursor_store
        self._resume = resume
        self._subscription = subscription
        self._timing = timing
        self.inbox = Inbox(filled=filled)
        self._uncommitted: Cursor | None = None
        self._task: asyncio.Task[None] | None = None
        self.connection = Connection(
            url,
            key,
            self.inbox,
            cursor=Cursor(),
            subscription=subscription if subscribe else None,
            timing=timing,
            on_state=on_state,
            on_login=self._identify,
            other_problems=self._cursor_problems,
            stop_on_auth_error=stop_on_auth_error,
            ssl=ssl,
            clock=clock,
        )

    @property
    def state(self) -> State:
        return self.connection.state

    @property
    def problems(self) -> tuple[StreamProblem, ...]:
        return self.connection.problems

    @property
    def clock_offset_ms(self) -> int:
        return self.connection.clock_offset.ms

    @property
    def taken(self) -> bool:
        """Whether a newer client in this process has the cursor."""
        return self.file is not None and self.file.taken

    # --- start and end ------------------------------------------------------------------------------------

    async def open(self, *, wait: bool) -> None:
        """Loads the cursor and connects; `wait`: until another process has released the cursor."""
        if self.file is not None and wait:
            await self.file.wait_until_free(self._timing.cursor)
        cursor = self._store.load()
        self.connection.cursor = cursor if self._resume else Cursor()

        async def run() -> None:
            try:
                await self.connection.run()
            except Exception as error:  # a bug of this library: the iteration raises it
                logger.exception("the stream failed")
                self.inbox.close(error)

        self._task = asyncio.create_task(run())

    def end(self) -> None:
        """Ends `first`."""
        self.inbox.close()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Disconnects and releases the cursor."""
        try:
            if self._task is not None:
                self._task.cancel()
                # Awaiting the task itself could not tell its cancellation from the caller's own.
                await asyncio.wait([self._task])
        finally:
            self._store.close()
        await self.connection.report_stopped()

    # --- items --------------------------------------------------------------------------------------------

    async def first(self) -> StreamItem | None:
        """Waits for the next item and leaves it in place; None at the end."""
        return await self.inbox.first()

    def peek(self) -> StreamItem | None:
        """Returns the next item without waiting."""
        return self.inbox.peek()

    def drop(self, item: StreamItem) -> None:
        """Removes the first item: the next commit is about it as well."""
        self.inbox.drop(item)
        self._uncommitted = item.cursor

    def commit(self, message: PTNWebSocketMessage | None = None) -> None:
        """Saves the cursor: everything that was dropped is processed, or everything up to `message`."""
        if self._uncommitted is None:
            return
        if self._uncommitted.epoch is None:
            self._uncommitted = None
            return
        # Items without a message, such as heartbeats, move the cursor too; `message` may lie behind it.
        if message is None:
            self._store.save(self._uncommitted)
            self._uncommitted = None
        else:
            self._store.save(Cursor(message.sequence, self._uncommitted.epoch))

    def save(self, cursor: Cursor) -> None:
        if cursor.epoch is not None:
            self._store.save(cursor)

    def take_lost(self, cursor: Cursor) -> Gap | None:
        """Returns, once, what lies between a saved cursor that could not be used and this run's beginning."""
        if self.file is None or (lost := self.file.lost) is None or cursor.epoch is None:
            return None
        self.file.lost = None
        if self._resume and (lost.epoch != cursor.epoch or lost.sequence < cursor.sequence):
            return Gap(lost.sequence, cursor.sequence + 1, "cursor")
        return None

    # --- the log and its user -----------------------------------------------------------------------------

    def _identify(self, epoch: str | None, user: str) -> Cursor | None:
        """At a login: returns the cursor of another key or address, if this run has none."""
        if self.file is None or not epoch or not user:
            return None
        found = self.file.identify(epoch, user)
        fresh = self._resume and self.connection.subscription is not None
        return found if fresh and found.epoch == epoch and self.connection.cursor.sequence < 0 else None

    def _cursor_problems(self) -> tuple[StreamProblem, ...]:
        if self.file is None or not self.file.trouble:
            return ()
        remedy = "Free space or permit writing there; a second client needs its own name="
        sentence = f"The place in the stream is not saved: {self.file.trouble}"
        return (StreamProblem("cursor_not_saved", sentence, remedy),)

    # --- subscription -------------------------------------------------------------------------------------

    def resume_from(self, revision: int) -> None:
        """Sets the revision after which the next connection requests updates."""
        subscription = self.connection.subscription
        if subscription is not None:
            self.connection.subscription = msgspec.structs.replace(subscription, revision=revision)

    def subscribe(self) -> None:
        self.connection.subscribe(self._subscription)

    def unsubscribe(self) -> None:
        self.connection.unsubscribe()
