"""An event loop in a thread, for blocking callers of asynchronous code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["LoopThread", "run_blocking"]

T = TypeVar("T")


class LoopThread:
    """An event loop in a daemon thread that starts with its first coroutine.

    Callers may themselves have a running event loop, as in a notebook.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name=name, daemon=True)
        self._closing = False

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Returns a future for another thread to wait for. Raises RuntimeError in the loop's own thread."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("called from a callback, which would wait for itself")
        if self._thread.ident is None:
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for the coroutine's result. An interruption such as Ctrl-C cancels the coroutine."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """Calls a plain function in the loop's thread; from that thread it calls it directly."""
        if threading.current_thread() is self._thread:
            return function()

        async def work() -> T:
            return function()

        return self.run(work())

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Ends the thread once `last` is done, without waiting; see `join`.

        May be called more than once and from any thread, because a garbage collector may run in any.
        """
        if self._closing:
            return
        self._closing = True
        if self._thread.ident is None:
            self._loop.close()
            return

        async def finish() -> None:
            try:
                if last is not None:
                    await last()
            finally:
                self._loop.stop()

        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(finish()))

    def join(self) -> None:
        """Waits for the end of the thread; returns at once in the thread itself."""
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run_loop(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


def run_blocking(work: Callable[[], Coroutine[Any, Any, T]], thread_name: str) -> T:
    """`asyncio.run`, in another thread if this one has a running event loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(1, thread_name_prefix=thread_name) as threads:
        return threads.submit(asyncio.run, work()).result()
