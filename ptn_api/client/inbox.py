"""What has come and is not handled yet, in order and bounded: the connection waits when it is full."""

from __future__ import annotations

import asyncio
from collections import deque

from ptn_api.wire.client_session import StreamItem

__all__ = ["Inbox"]


class Inbox:
    """One producer, one consumer, one event loop."""

    def __init__(self, limit: int = 1_000) -> None:
        self._steps: deque[StreamItem] = deque()
        self._limit = limit
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._closed = False
        self._error: BaseException | None = None

    async def put(self, step: StreamItem) -> None:
        """Waits while the inbox is full."""
        while len(self._steps) >= self._limit:
            self._drained.clear()
            await self._drained.wait()
        self._steps.append(step)
        self._filled.set()

    async def first(self) -> StreamItem | None:
        """The next step, left where it is; None at the end. Raises the error that it was closed with."""
        while not self._steps and not self._closed:
            self._filled.clear()
            await self._filled.wait()
        if not self._steps and self._error is not None:
            raise self._error
        return self.peek()

    def peek(self) -> StreamItem | None:
        """The same at once; None if there is none yet."""
        return self._steps[0] if self._steps else None

    def drop(self, step: StreamItem) -> None:
        """That step, the first, is dealt with; it may be gone already if the inbox was closed meanwhile."""
        if self._steps and self._steps[0] is step:
            self._steps.popleft()
            self._drained.set()

    def close(self, error: BaseException | None = None) -> None:
        """The end: what has come is forgotten after a plain one, and still handed out before an error."""
        if self._closed:
            return
        self._closed = True
        self._error = error
        if error is None:
            self._steps.clear()
        self._filled.set()
