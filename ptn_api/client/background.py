"""An event loop in a thread of its own, for blocking doors to the asynchronous core."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["Background"]

T = TypeVar("T")


class Background:
    """Runs coroutines while others block on them; works under a running event loop, as in a notebook.

    The thread begins with the first work and is a daemon: it keeps no program from ending.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="ptn-client", daemon=True)
        self._ending = False

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Its result, to be waited for in another thread; raises RuntimeError in this one."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("called from a listener, which would wait for itself")
        if self._thread.ident is None:
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for its result. Ctrl-C interrupts the waiting and cancels the work."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """Calls a plain function in the loop's thread, where nothing else runs meanwhile; also from there."""
        if threading.current_thread() is self._thread:
            return function()

        async def work() -> T:
            return function()

        return self.run(work())

    def end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs the last work, if there was any before, and ends. Doesn't wait: that is for `join`.

        From any thread, this one included: a garbage collector chooses none. Once is enough.
        """
        if self._ending:
            return
        self._ending = True
        if self._thread.ident is None:
            self._loop.close()
        else:
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._finish(last())))

    def join(self) -> None:
        """Waits until the last work is done; in a listener there is nothing to wait for."""
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    async def _finish(self, last: Coroutine[Any, Any, None]) -> None:
        try:
            await last
        finally:
            self._loop.stop()

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
