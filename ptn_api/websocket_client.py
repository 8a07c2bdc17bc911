"""A validator's orders for a plain function.

    client = PTNWebSocketClient(api_key="...", host="localhost", port=8765)
    client.run(lambda messages: ...)

Asynchronous programs use `ptn_api.client.connect`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from ptn_api.client.arguments import Choice, Timing, check_literal
from ptn_api.client.connection import OnState
from ptn_api.client.cursor_file import CursorStore
from ptn_api.client.delivery import Dispatcher, Handler, OnError
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.servers.several import Difference
from ptn_api.client.stream import Stream
from ptn_api.loop_thread import run_blocking
from ptn_api.wire.client_session import Gap, State
from ptn_api.wire.frames import Format

__all__ = ["PTNWebSocketClient", "PTNWebSocketMessage"]


H = TypeVar("H", bound=Handler)


class PTNWebSocketClient:
    """A client that passes a server's orders to handlers, reconnects, and resumes after a restart.

    `host` may also be a URL, such as "wss://host:8765", or a list of hosts or URLs: every order then comes
    once, from the server that has it first, and `api_key` is one key for all or a list with one for each.

    `api_key` None means PTN_API_KEY from the environment. The cursor is kept in `state_dir` (default: the
    user's state folder), per server, key and `name`. Messages whose handlers did not return come again after
    a crash; within a run no message comes twice.

    `on_error` decides what happens when a handler raises: "retry" (message by message, with doubling delays;
    after `retries` attempts the message is skipped and reported to `on_gap`), "skip" (skipped and reported at
    once) or "stop" (`run` raises the error). Messages older than `max_age_ms` go to `on_stale` instead of the
    handlers. For the other options and the callbacks see `ptn_api.client.Stream`.
    """

    def __init__(
        self,
        api_key: str | Sequence[str] | None = None,
        host: str | Sequence[str] = "localhost",
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
        on_state: OnState | None = None,
        on_stale: Callable[[PTNWebSocketMessage], Any] | None = None,
        max_age_ms: int | None = None,
        on_error: OnError = "retry",
        retries: int = 5,
        stop_on_auth_error: bool = False,
        timing: Timing | None = None,
        pace: Timing | None = None,
        ssl: Any = None,
        on_difference: Callable[[Difference], Any] | None = None,
    ) -> None:
        def url(host: str) -> str:
            address = f"[{host}]" if ":" in host else host
            return host if "://" in host else f"{'wss' if secure else 'ws'}://{address}:{port}"

        check_literal(OnError, on_error, "on_error")
        self._urls = url(host) if isinstance(host, str) else [url(one) for one in host]
        self.uri = self._urls if isinstance(self._urls, str) else ", ".join(self._urls)
        self._api_key = api_key
        self._timing = timing or pace or Timing()
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
            "timing": self._timing,
            "ssl": ssl,
            "on_difference": on_difference,
        }
        self._handlers: list[Handler] = []
        self._stream: Stream | None = None
        self._stopping = False

    @property
    def state(self) -> State:
        """The stream's state; "stopped" before and after `run`."""
        return "stopped" if self._stream is None else self._stream.state

    def subscribe(self) -> None:
        """Subscribes again after `unsubscribe()`. `run` subscribes by itself."""
        if self._stream is not None:
            self._stream.subscribe()

    def unsubscribe(self) -> None:
        """Unsubscribes and stays connected."""
        if self._stream is not None:
            self._stream.unsubscribe()

    def add_handler(self, handler: H) -> H:
        """Adds a handler for `run`; can be used as a decorator.

        Handlers are called one after the other in the order in which they were added, `run`'s own last. Each
        gets every message; if one fails, it alone is retried.
        """
        self._handlers.append(handler)
        return handler

    def run(self, handler: Handler | None = None) -> None:
        """Calls `handler` (plain or async) with lists of messages until `stop()`, SIGINT or SIGTERM.

        A plain handler runs in the calling thread; nothing is received meanwhile, and nothing is lost. Under
        a running event loop (a notebook) everything runs in another thread, and this call still blocks.
        Signals are handled only if the program has left them at their defaults. Raises AuthenticationError
        without a key, or for a refused key with `stop_on_auth_error`; with `on_error="stop"` the
        exception of the handler.
        """
        with self._signals_handled():
            run_blocking(lambda: self._follow(handler), "ptn-client")

    def stop(self) -> None:
        """Makes `run` return soon, or at once if it is called later. For any thread, handler, or signal."""
        self._stopping = True
        if self._stream is not None:
            self._stream.stop()

    async def _follow(self, handler: Handler | None) -> None:
        stream = Stream(self._urls, self._api_key, **self._options)
        dispatcher = Dispatcher(
            stream,
            [*self._handlers, *([] if handler is None else [handler])],
            on_error=self._on_error,
            retries=self._retries,
            timing=self._timing,
        )
        self._stream = stream
        if self._stopping:
            stream.stop()
        try:
            async with stream:
                async for messages in stream.batches():
                    if not await dispatcher.dispatch(messages):
                        break
        finally:
            self._stream = None
            self._stopping = False

    @contextmanager
    def _signals_handled(self) -> Iterator[None]:
        """Lets SIGINT and SIGTERM stop the client, unless the program handles them itself."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._stopping:  # the second signal: the handler does not return
                raise KeyboardInterrupt
            self.stop()

        previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in map(int, (signal.SIGINT, signal.SIGTERM)):
                handler = signal.getsignal(number)
                if handler in (signal.SIG_DFL, signal.default_int_handler):
                    previous[number] = handler
                    signal.signal(number, on_signal)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
