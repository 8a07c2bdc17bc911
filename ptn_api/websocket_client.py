"""The door for bots: follow a validator's orders as they happen, with a plain function.

    client = PTNWebSocketClient(api_key="...", host="localhost", port=8765)
    client.run(lambda messages: ...)

Asynchronous programs may prefer `ptn_api.client.connect`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from ptn_api.client.choice import Choice
from ptn_api.client.cursor_file import CursorStore
from ptn_api.client.handling import Handler, Handling, OnError
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.pace import Pace
from ptn_api.client.stream import Stream
from ptn_api.wire.client_session import Gap, State
from ptn_api.wire.frames import Format

__all__ = ["PTNWebSocketClient", "PTNWebSocketMessage"]


H = TypeVar("H", bound=Handler)


class PTNWebSocketClient:
    """Follows the orders of one server; comes back by itself, and goes on where it left off.

    `api_key` None: the environment's PTN_API_KEY. Where it left off is kept in `state_dir` (the user's
    state folder unless given), per server, key and `name`: a message whose handler did not return comes
    again after a crash, and within a run none comes twice.

    `on_error` says what happens when the handler raises: "retry" (with doubling pauses, message by
    message, `retries` times, then it is given up on and told to `on_gap`), "skip" (given up on and told at
    once) or "stop" (`run` raises it). `max_age_ms`: older orders go to `on_stale` instead of the handler.
    The rest, and what the listeners are told: see `ptn_api.client.Stream`.
    """

    def __init__(
        self,
        api_key: str | None = None,
        host: str = "localhost",
        port: int = 8765,
        secure: bool = False,
        *,
        name: str = "",
        state_dir: str | os.PathLike[str] | None = None,
        cursor_store: CursorStore | None = None,
        resume: bool = True,
        miners: Choice | None = None,
        trade_pairs: Choice | None = None,
        format: Format = "full",  # noqa: A002 - the protocol's word
        on_gap: Callable[[Gap], Any] | None = None,
        on_state: Callable[[State], Any] | None = None,
        on_stale: Callable[[PTNWebSocketMessage], Any] | None = None,
        max_age_ms: int | None = None,
        on_error: OnError = "retry",
        retries: int = 5,
        stop_on_auth_error: bool = False,
        pace: Pace | None = None,
        ssl: Any = None,
    ) -> None:
        address = f"[{host}]" if ":" in host else host
        self.uri = f"{'wss' if secure else 'ws'}://{address}:{port}"
        self._api_key = api_key
        self._pace = pace or Pace()
        self._on_error = on_error
        self._retries = retries
        self._options: dict[str, Any] = {
            "name": name,
            "state_dir": state_dir,
            "cursor_store": cursor_store,
            "resume": resume,
            "miners": miners,
            "trade_pairs": trade_pairs,
            "format": format,
            "on_gap": on_gap,
            "on_state": on_state,
            "on_stale": on_stale,
            "max_age_ms": max_age_ms,
            "stop_on_auth_error": stop_on_auth_error,
            "pace": self._pace,
            "ssl": ssl,
        }
        self._handlers: list[Handler] = []
        self._stream: Stream | None = None
        self._stopping = False

    @property
    def state(self) -> State:
        """What the client is doing; "stopped" before and after `run`."""
        return "stopped" if self._stream is None else self._stream.state

    def subscribe(self) -> None:
        """Asks for orders again after `unsubscribe()`. `run` subscribes by itself."""
        if self._stream is not None:
            self._stream.subscribe()

    def unsubscribe(self) -> None:
        """Asks for no more orders; the client stays connected."""
        if self._stream is not None:
            self._stream.unsubscribe()

    def add_handler(self, handler: H) -> H:
        """A further handler for `run`; can be used as a decorator.

        Handlers are called one after the other, in the order in which they were added, `run`'s own last; each
        gets every message, and one that fails is called again without the others.
        """
        self._handlers.append(handler)
        return handler

    def run(self, handler: Handler | None = None) -> None:
        """Calls `handler` (plain or async) with lists of messages until `stop()`, SIGINT or SIGTERM.

        A plain handler runs in the calling thread, and while it does nothing is received; nothing is lost
        by that. Within a running event loop (a notebook) everything is done in a thread of its own, and
        this call blocks all the same. Signals are only listened to where nobody else does.
        Raises AuthenticationError without a key, or if `stop_on_auth_error`; with `on_error="stop"`
        whatever the handler raised.
        """
        with self._signals():
            if _in_event_loop():
                _in_thread(lambda: asyncio.run(self._follow(handler)))
            else:
                asyncio.run(self._follow(handler))

    def stop(self) -> None:
        """Makes `run` return soon, or at once if it comes next. From any thread, the handler, a signal."""
        self._stopping = True
        if self._stream is not None:
            self._stream.stop()

    async def _follow(self, handler: Handler | None) -> None:
        stream = Stream(self.uri, self._api_key, **self._options)
        handling = Handling(
            stream,
            [*self._handlers, *([] if handler is None else [handler])],
            on_error=self._on_error,
            retries=self._retries,
            pace=self._pace,
        )
        self._stream = stream
        if self._stopping:
            stream.stop()
        try:
            async with stream:
                async for messages in stream.batches():
                    if not await handling.handle(messages):
                        break
        finally:
            self._stream = None
            self._stopping = False

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop the client in order, where the program has left them alone."""
        ours: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in map(int, (signal.SIGINT, signal.SIGTERM)):
                before = signal.getsignal(number)
                if before in (signal.SIG_DFL, signal.default_int_handler):
                    ours[number] = before
                    signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, before in ours.items():
                signal.signal(number, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:  # asked twice: the handler does not return
            raise KeyboardInterrupt
        self.stop()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(work: Callable[[], None]) -> None:
    """Runs `work` in another thread and waits for it; raises what it raised."""
    with ThreadPoolExecutor(1, thread_name_prefix="ptn-client") as threads:
        threads.submit(work).result()
