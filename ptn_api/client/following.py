"""Following a server's orders with a plain `for`: a blocking door to `Stream`.

for message in follow("wss://host:8765", api_key=...):
    ...
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import wraps
from types import TracebackType
from typing import ParamSpec

from ptn_api.client.background import Background
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.stream import Stream
from ptn_api.wire.client_session import State

__all__ = ["Following", "follow"]

P = ParamSpec("P")


class Following:
    """Every order as it happens, for a plain `for`; made by `follow()`.

    Receiving goes on in a thread of its own while a message is dealt with; it works in a notebook. Asking for
    the next message says that the last one is done with. `with follow(...) as orders:` ends in order however
    the block is left; without `with` it ends when nothing refers to it any more.
    What is told (`on_gap`, `on_state`, `on_stale`) is told in that thread; gaps and stale messages in their
    place between the others.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._background = Background()
        self._batches = stream.batches()
        self._here: deque[PTNWebSocketMessage] = deque()
        self._coming: Future[list[PTNWebSocketMessage]] | None = None
        self._given: PTNWebSocketMessage | None = None
        self._begun = False
        self._stopping = False
        self._end = weakref.finalize(self, self._background.end, stream.close)

    @property
    def state(self) -> State:
        """What the follower is doing; "stopped" before and after."""
        return self._stream.state

    def stop(self) -> None:
        """Ends the iteration soon, instead of the next message. From any thread, or a signal handler."""
        self._stopping = True
        self._stream.stop()

    def close(self) -> None:
        """Ends it, and lets another client use the cursor. What was not said to be done with comes again."""
        self.stop()
        self._end()
        self._background.join()

    def commit(self) -> None:
        """Says already now that the last message is done with."""
        if self._given is not None:
            self._stream.commit(self._given)
            self._given = None

    def __iter__(self) -> Following:
        return self

    def __next__(self) -> PTNWebSocketMessage:
        """Raises AuthenticationError where that was asked for (`stop_on_auth_error`)."""
        self.commit()
        while not self._stopping and (self._here or self._fetch()):
            self._given = message = self._here.popleft()
            if not self._stream.is_stale(message):
                return message
            self._background.run(self._stream.hand_over_stale(message))
            self.commit()
        self.close()
        raise StopIteration

    def _fetch(self) -> bool:
        """What came meanwhile; waits if that is nothing. False at the end.

        Whatever interrupts the waiting (a Ctrl-C, an alarm) loses nothing: who asks again waits for the same.
        """
        if self._coming is None:
            self._coming = self._background.start(self._next_batch())
        try:
            self._here, self._coming = deque(self._coming.result()), None
        except StopAsyncIteration:
            return False
        return not self._stopping

    async def _next_batch(self) -> list[PTNWebSocketMessage]:
        if not self._begun:
            self._begun = True
            await self._stream.__aenter__()
        return await anext(self._batches)

    def __enter__(self) -> Following:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _blocking(connect: Callable[P, Stream]) -> Callable[P, Following]:
    """So that what can be asked for is said in one place."""

    @wraps(connect, assigned=(), updated=())
    def follow(*args: P.args, **options: P.kwargs) -> Following:
        """Every order as it happens, for a plain `for`; takes what `Stream` takes, see `Following`."""
        return Following(connect(*args, **options))

    return follow


follow = _blocking(Stream)
