"""Delivery of a stream's messages to blocking code: to handlers, or to a plain `for` loop.

for message in follow("wss://host:8765", api_key=...):
    ...
"""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal

from ptn_api.backoff import Backoff
from ptn_api.client.arguments import Timing, with_parameters_of
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.servers.merge import ServerGap
from ptn_api.client.stream import Stream
from ptn_api.errors import ClientError
from ptn_api.loop_thread import Job, LoopThread
from ptn_api.wire.client_session import Gap, State

__all__ = ["Dispatcher", "Following", "Handler", "OnError", "follow"]

logger = logging.getLogger("ptn_api.client")

Handler = Callable[[list[PTNWebSocketMessage]], Any]
"""A plain or async function, called with a list of one or more messages."""

OnError = Literal["retry", "skip", "stop"]


class Dispatcher:
    """Passes lists of messages to each handler in turn, and commits them when all handlers have returned.

    If a handler raises, `on_error` decides:

    - "retry": the handler gets its messages again, now one at a time, so that one bad message delays only
      itself. After `retries` attempts with doubling delays the message is skipped, logged and reported as a
      gap. The failed handler may see messages twice that it had processed before it raised; the other
      handlers do not.
    - "skip": the messages are skipped at once, logged and reported as a gap. No handler sees one twice.
    - "stop": the error is raised and nothing is committed, so the next run begins with these messages.
    """

    def __init__(
        self, stream: Stream, handlers: Sequence[Handler], *, on_error: OnError, retries: int, timing: Timing
    ) -> None:
        self._stream = stream
        self._handlers = handlers
        self._on_error = on_error
        self._retries = retries
        self._timing = timing

    async def dispatch(self, messages: list[PTNWebSocketMessage]) -> bool:
        """Returns True when the messages are finished; False if the stream was stopped first."""
        for handler in self._handlers:
            if await self._succeeds(handler, messages):
                continue
            if self._on_error == "skip":
                await self._skip(messages)
                continue
            for message in messages:
                if not await self._retry(handler, message):
                    return False
                if handler is self._handlers[-1]:  # the handlers before it have finished the whole list
                    self._stream.commit(message)
        self._stream.commit()
        return True

    async def _retry(self, handler: Handler, message: PTNWebSocketMessage) -> bool:
        """Returns False if the stream was stopped before the message was finished."""
        backoff = Backoff(first_ms=1000 * self._timing.retry, max_ms=1000 * self._timing.backoff_max)
        for _ in range(self._retries):
            if await self._stream.pause(backoff.next_ms() / 1000):
                return False
            if self._stream.is_stale(message):
                await self._stream.report_stale(message)
                return True
            if await self._succeeds(handler, [message]):
                return True
        await self._skip([message])
        return True

    async def _skip(self, messages: list[PTNWebSocketMessage]) -> None:
        first, last = messages[0].sequence, messages[-1].sequence
        if not messages[0].server:
            await self._stream.report_gap(Gap(first - 1, last + 1, "handler"))
            return
        # Each server counts in its own way, and between two of its messages may be others' copies.
        for message in messages:
            gap = ServerGap(message.sequence - 1, message.sequence + 1, "handler")
            gap.server = message.server
            await self._stream.report_gap(gap)

    async def _succeeds(self, handler: Handler, messages: list[PTNWebSocketMessage]) -> bool:
        try:
            result = handler(list(messages))  # a copy, because it may empty its list
            if inspect.isawaitable(result):
                await result
        except Exception:  # user code may raise anything
            if self._on_error == "stop":
                raise
            logger.exception("handler failed on messages %s", [m.sequence for m in messages])
            return False
        return True


class Following:
    """An iterator over a server's orders, for a plain `for` loop; made by `follow()`.

    A thread keeps receiving while the loop body runs, also under a running event loop (a notebook). Asking
    for the next message commits the last one. `with follow(...) as orders:` ends it however the block is
    left; without `with` it ends when it is garbage-collected. Callbacks (`on_gap`, `on_state`, `on_stale`)
    run in that thread; gaps and stale messages in order with the messages.

    Ctrl-C (KeyboardInterrupt) while it waits ends it. Any other exception from a signal handler loses
    nothing: the iteration can go on, and begins with the message that was next. It is for one thread at a
    time, and for the process that made it.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._thread = LoopThread("ptn-client")
        # Neither the jobs nor the finalizer may refer to self, which could then never be garbage-collected.
        self._batches = _batches(stream)
        self._batch: list[PTNWebSocketMessage] = []
        self._position = 0  # in the batch, of the next message
        self._uncommitted: PTNWebSocketMessage | None = None
        self._stopping = False
        # A job outlives an interrupt of the waiting for it: the next call waits for the same one.
        self._fetching: Job[list[PTNWebSocketMessage]] | None = None
        self._reporting: Job[None] | None = None
        self._owner: dict[str, int] = {}  # the thread that is inside `__next__`
        weakref.finalize(self, self._thread.close, stream.close)
        stream.end_elsewhere = partial(self._thread.close, stream.close)

    @property
    def state(self) -> State:
        """The stream's state; "stopped" before and after."""
        return self._stream.state

    def stop(self) -> None:
        """Ends the iteration instead of yielding the next message. For any thread, or a signal handler."""
        self._stopping = True
        self._stream.stop()

    def close(self) -> None:
        """Ends the iteration and releases the cursor. Uncommitted messages come again in the next run."""
        self.stop()
        self._thread.close(self._stream.close)
        self._thread.join()

    def commit(self) -> None:
        """Commits the last message before the next one is asked for."""
        if self._uncommitted is not None:
            self._stream.commit(self._uncommitted)
            self._uncommitted = None

    def __iter__(self) -> Following:
        return self

    def __next__(self) -> PTNWebSocketMessage:
        """Raises AuthenticationError for a refused key, with `stop_on_auth_error`.

        Raises ClientError in a forked child (code `forked`), while another thread is in here (`threads`), and
        once a newer follower in this process has the same cursor (`replaced`).
        """
        thread = threading.get_ident()
        if self._owner.setdefault("thread", thread) != thread:
            problem = "another thread waits for this follower: give each thread its own, with its own name="
            raise ClientError(problem, code="threads")
        try:
            self._thread.check_process()
            self._stream.check()
            self.commit()
            while not self._stopping and (self._position < len(self._batch) or self._fetch()):
                message = self._batch[self._position]
                # It may have aged since the batch arrived.
                if self._reporting is None and not self._stream.is_stale(message):
                    # Signal handlers run at calls, so none interrupts between here and the loop body: the
                    # message is either still the next one or received.
                    self._position += 1
                    self._uncommitted = message
                    return message
                self._report_stale(message)
            self.close()
            raise StopIteration
        except KeyboardInterrupt:
            # A notebook keeps the traceback, and with it this object.
            self.stop()
            self._thread.close(self._stream.close)
            raise
        finally:
            self._owner = {}  # no call, see above

    def _fetch(self) -> bool:
        """Waits for the next batch; False at the end."""
        if self._fetching is None:
            self._fetching = Job(self._batches.__anext__)
        try:
            batch = self._thread.wait(self._fetching)
        except StopAsyncIteration:
            return False
        except (CancelledError, RuntimeError):
            self._stream.check()
            if not self._stopping:
                raise
            return False  # another thread has closed it
        self._batch, self._position, self._fetching = batch, 0, None
        return not self._stopping

    def _report_stale(self, message: PTNWebSocketMessage) -> None:
        if self._reporting is None:
            self._reporting = Job(partial(self._stream.report_stale, message))
        self._thread.wait(self._reporting)
        self._position += 1
        self._uncommitted, self._reporting = message, None
        self.commit()

    def __enter__(self) -> Following:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _batches(stream: Stream) -> AsyncIterator[list[PTNWebSocketMessage]]:
    await stream.__aenter__()
    async for batch in stream.batches():
        yield batch


@with_parameters_of(Stream)
def follow(*args: Any, **options: Any) -> Following:
    """Returns an iterator over orders as they happen. Parameters as for `Stream`; see `Following`."""
    return Following(Stream(*args, **options))
