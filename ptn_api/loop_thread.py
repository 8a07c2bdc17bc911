"""An event loop in a thread, for blocking callers of asynchronous code.

An exception from a signal handler, such as KeyboardInterrupt, may interrupt the waiting caller at any call.
Therefore coroutines are created in the loop's thread, where no handler runs; everything submitted to the loop
may be submitted twice; a result stays with its `Job`; and the caller takes no lock that it might not release.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from ptn_api.errors import ClientError
from ptn_api.tasks import cancel_and_wait, let_others_run

__all__ = ["SIGNAL_CHECK_S", "Job", "LoopThread", "forked", "run_blocking"]

T = TypeVar("T")

SIGNAL_CHECK_S = 0.25
"""Interval at which a blocked thread lets signal handlers run.

A signal does not end a blocking call if it arrives just before the call, or in another thread: Python would
run its handler only when the call returns.
"""


class _Flag:
    """An event, set once. An interrupted `threading.Event.wait` may leave its lock locked forever."""

    def __init__(self) -> None:
        self.is_set = False
        self._unset = threading.Lock()
        self._unset.acquire()

    def set(self) -> None:
        self.is_set = True
        self._unset.release()

    def wait_briefly(self) -> bool:
        """Waits until the flag is set or signals have to be checked; returns whether it is set."""
        if not self.is_set:
            self._unset.acquire(timeout=SIGNAL_CHECK_S)
        return self.is_set


class Job(Generic[T]):
    """One asynchronous call in a loop's thread. It runs once; its result can be read any number of times."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self.ended = _Flag()
        self.abandoned = False
        """Whether it is too late to start."""
        self._function = function
        self._started = False
        self._task: asyncio.Task[None] | None = None
        self._result: T
        self._error: BaseException | None = None

    def start(self) -> None:
        """Starts the call, unless it is started or abandoned; for the loop's thread."""
        if not self._started and not self.abandoned:
            self._started = True
            self._task = asyncio.ensure_future(self._run())

    def cancel(self) -> None:
        """Cancels the call, if it is started; for the loop's thread."""
        if self._task is not None:
            self._task.cancel()

    def result(self) -> T:
        """Returns or raises the outcome of a call that has ended."""
        if self._error is not None:
            raise self._error
        return self._result

    async def _run(self) -> None:
        try:
            self._result = await self._function()
        except BaseException as error:  # noqa: BLE001 - `result` raises it, in the caller's thread
            self._error = error
        # Released here, because the caller would run weak reference callbacks of asyncio, and Python discards
        # an exception that a signal handler raises in one of them.
        self._task = None
        self.ended.set()


class _Loop(asyncio.SelectorEventLoop):
    """A loop that a forked child cannot close: closing it changes the epoll object that both share."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    def close(self) -> None:
        if self._pid == os.getpid():
            super().close()


class LoopThread:
    """An event loop in a daemon thread that starts with its first job.

    Callers may themselves have a running event loop, as in a notebook. A forked child has no such thread:
    there `wait`, `run` and `call` raise ClientError, and ending it does nothing.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop() if sys.platform == "win32" else _Loop()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run_loop, name=name, daemon=True)
        self._starting = threading.Lock()
        self._start_requested = False
        self._ended = _Flag()
        self._last: asyncio.Task[None] | None = None
        self._last_error: Exception | None = None

    def wait(self, job: Job[T]) -> T:
        """Runs the job, unless it has run, and returns its result. After an interrupt it can be called again.

        Raises RuntimeError in the loop's own thread, and if the thread ends first.
        """
        self.check_process()
        if threading.current_thread() is self._thread:
            raise RuntimeError("called from a callback, which would wait for itself")
        if not job.ended.is_set:
            self._submit(job.start)
        while not job.ended.wait_briefly():
            if self._ended.is_set and not job.ended.is_set:
                raise RuntimeError("the event loop's thread has ended")
        return job.result()

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Calls an asynchronous function and returns its result. An interrupt such as Ctrl-C cancels it."""
        self.check_process()
        job = Job(function)
        try:
            return self.wait(job)
        except BaseException:
            job.abandoned = True
            if self._start_requested and not job.ended.is_set:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._submit(job.cancel)
            raise

    def call(self, function: Callable[[], T]) -> T:
        """Calls a plain function in the loop's thread; from that thread it calls it directly."""
        if threading.current_thread() is self._thread:
            return function()

        async def work() -> T:
            return function()

        return self.run(work)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Ends the thread once `last` is done, without waiting; see `join`.

        May be called more than once and from any thread, because a garbage collector may run in any.
        """

        async def finish() -> None:
            try:
                if last is not None:
                    await last()
            except Exception as error:  # noqa: BLE001 - `join` raises it
                self._last_error = error
            finally:
                self._loop.stop()

        def start_last() -> None:
            if self._last is None:
                self._last = self._loop.create_task(finish())

        if self._pid != os.getpid():
            return
        if not self._start_requested:
            self._loop.close()
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._submit(start_last)

    def join(self) -> None:
        """Waits for the end of the thread, and raises what `last` raised; returns at once in the thread."""
        if (
            not self._start_requested
            or self._pid != os.getpid()
            or threading.current_thread() is self._thread
        ):
            return
        while not self._ended.wait_briefly():
            pass
        self._thread.join()
        error, self._last_error = self._last_error, None
        if error is not None:
            raise error

    def check_process(self) -> None:
        """Raises ClientError, code `forked`, in a child forked after this was made."""
        if self._pid != os.getpid():
            raise forked()

    def _submit(self, function: Callable[[], object]) -> None:
        """Calls the function in the loop's thread, soon. Raises RuntimeError if the loop is closed."""
        self._loop.call_soon_threadsafe(function)
        if self._thread.ident is None:
            self._start_requested = True
            # An interrupted `Thread.start` may leave the new thread blocked forever, so it is called in a
            # thread where no signal handler runs.
            _thread.start_new_thread(self._start_thread, ())

    def _start_thread(self) -> None:
        with self._starting:
            if self._thread.ident is not None or self._ended.is_set:
                return
            try:
                self._thread.start()
            except RuntimeError:  # too many threads
                self._end()
                raise

    def _run_loop(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            try:
                self._loop.run_until_complete(cancel_and_wait(asyncio.all_tasks(self._loop)))
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
                self._loop.run_until_complete(let_others_run())  # transports close sockets in a later turn
            finally:
                self._end()

    def _end(self) -> None:
        self._loop.close()
        self._ended.set()


def forked() -> ClientError:
    """The error of an object with connections that is used in a forked child."""
    return ClientError("made before this process was forked: make a new one in this process", code="forked")


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_blocking(work: Callable[[], Coroutine[Any, Any, T]], thread_name: str) -> T:
    """`asyncio.run`, in another thread if this one has a running event loop, as in a notebook."""

    async def run_here() -> T:
        loop = asyncio.get_running_loop()

        def wake() -> None:  # for signal handlers, see SIGNAL_CHECK_S
            loop.call_later(SIGNAL_CHECK_S, wake)

        wake()
        return await work()

    if not _loop_runs():
        return asyncio.run(run_here())
    thread = LoopThread(thread_name)
    try:
        return thread.run(work)
    finally:
        thread.close()
        thread.join()
