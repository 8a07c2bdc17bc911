"""An event loop in a thread, and blocking calls of coroutines."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import Callable

import pytest

from ptn_api.loop_thread import Job, LoopThread, run_blocking
from tests.interrupts import (
    Interrupted,
    in_thread,
    interrupt,
    send_to_process,
    send_unnoticed,
    signal_raises,
    until_main_waits_in,
)
from tests.waiting import PATIENCE_S, until


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


async def thread_name() -> str:
    return threading.current_thread().name


async def test_coroutines_run_in_the_thread_under_a_running_loop() -> None:
    """The thread starts with the first one and ends with `close`."""
    thread = LoopThread("loop-under-test")
    assert "loop-under-test" not in threads()
    assert thread.run(thread_name) == "loop-under-test"
    assert thread.call(lambda: threading.current_thread().name) == "loop-under-test"
    thread.close()
    thread.close()
    thread.join()
    assert "loop-under-test" not in threads()


def test_a_call_from_its_own_thread_does_not_wait_for_itself() -> None:
    """A plain function is called directly; a coroutine is refused."""
    thread = LoopThread("loop-under-test")

    async def nested() -> int:
        with pytest.raises(RuntimeError, match="callback"):
            thread.run(thread_name)
        return thread.call(lambda: 7)

    assert thread.run(nested) == 7
    thread.close()
    thread.join()


def test_the_last_coroutine_runs_before_the_end() -> None:
    """It may fail; the thread ends nevertheless."""
    ran = []

    async def last() -> None:
        ran.append(await thread_name())

    thread = LoopThread("loop-under-test")
    thread.run(thread_name)
    thread.close(last)
    thread.join()
    assert ran == ["loop-under-test"]


def test_a_thread_without_work_is_never_started() -> None:
    """Closing it runs nothing, not even `last`."""
    thread = LoopThread("loop-under-test")
    thread.close()
    thread.join()
    assert "loop-under-test" not in threads()


def test_an_exception_is_raised_in_the_caller() -> None:
    """By `run` and `call` alike."""

    async def fail() -> None:
        raise ValueError("no")

    thread = LoopThread("loop-under-test")
    with pytest.raises(ValueError, match="no"):
        thread.run(fail)
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 / 0)
    thread.close()
    thread.join()


async def test_run_blocking_uses_another_thread_under_a_running_loop() -> None:
    """As in a notebook; exceptions come back."""
    assert run_blocking(thread_name, "other-thread").startswith("other-thread")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_blocking(fail, "other-thread")
    until(lambda: not any(name.startswith("other-thread") for name in threads()))


def test_run_blocking_uses_this_thread_without_a_loop() -> None:
    """So that objects bound to a thread can be used."""
    assert run_blocking(thread_name, "other-thread") == threading.current_thread().name


def test_an_exception_of_run_blocking_has_no_other_cause() -> None:
    """Its traceback would begin with "no running event loop"."""

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as raised:
        run_blocking(fail, "other-thread")
    assert raised.value.__context__ is None


# --- interrupts -------------------------------------------------------------------------------------------


def test_an_interrupt_at_any_point_of_a_wait_or_of_the_end() -> None:
    """The job runs once, and the second call returns its result; the second `close` ends the thread."""

    def wait_and_end(thread: LoopThread, job: Job[str]) -> None:
        assert thread.wait(job) == "loop-under-test"
        thread.close()
        thread.join()

    for step in itertools.count(1):
        runs = []

        async def work(runs: list[int] = runs) -> str:
            runs.append(1)
            return await thread_name()

        thread, job = LoopThread("loop-under-test"), Job(work)
        interrupted = interrupt(step, lambda thread=thread, job=job: wait_and_end(thread, job))  # type: ignore[misc]
        if not runs:
            assert thread.wait(job) == "loop-under-test", step
        assert job.result() == "loop-under-test"
        thread.close()
        thread.join()
        assert (runs, "loop-under-test" in threads()) == ([1], False), step
        if not interrupted:
            break
    gc.collect()  # finds coroutines that were never awaited


def test_an_interrupt_at_any_point_of_a_run_cancels_it() -> None:
    """Even if it has not begun."""
    for step in itertools.count(1):
        events = []

        async def work(events: list[str] = events) -> None:
            events.append("begun")
            try:
                await asyncio.sleep(0.001)
            finally:
                events.append("ended")

        thread = LoopThread("loop-under-test")
        interrupted = interrupt(step, lambda thread=thread, work=work: thread.run(work))  # type: ignore[misc]
        thread.close()
        thread.join()
        assert events in ([], ["begun", "ended"]), step
        if not interrupted:
            break
    gc.collect()


SENDERS = pytest.mark.parametrize("send", [send_unnoticed, send_to_process])


class Cancelled:
    """A coroutine that waits until it is cancelled, or the test has failed, and notes its end."""

    def __init__(self) -> None:
        self.begun = False
        self.ended = False

    async def __call__(self) -> None:
        self.begun = True
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            self.ended = True


@SENDERS
def test_a_signal_interrupts_every_wait(send: Callable[[], None]) -> None:
    """Even if it arrives in the moment before the wait."""
    thread = LoopThread("loop-under-test")
    work = Cancelled()

    def interrupt_the_wait() -> None:
        until(lambda: work.begun)
        until_main_waits_in("run")
        send()

    def interrupt_the_end() -> None:
        until_main_waits_in("join")
        send()

    with signal_raises():
        with in_thread(interrupt_the_wait), pytest.raises(Interrupted):
            thread.run(work)
        release = threading.Event()

        async def last() -> None:
            while not release.is_set():
                await asyncio.sleep(0.005)

        thread.close(last)
        with in_thread(interrupt_the_end), pytest.raises(Interrupted):
            thread.join()
        release.set()
        thread.join()
    assert work.ended
    assert "loop-under-test" not in threads()


@SENDERS
def test_a_signal_interrupts_blocking_code_with_a_loop_of_its_own(send: Callable[[], None]) -> None:
    """The loop wakes to let the handler run."""
    work = Cancelled()

    def interrupt_the_loop() -> None:
        until(lambda: work.begun)
        until_main_waits_in("run_forever")
        send()

    with signal_raises(), in_thread(interrupt_the_loop), pytest.raises(Interrupted):
        run_blocking(work, "other-thread")
    assert work.ended


@SENDERS
async def test_a_signal_interrupts_blocking_code_under_a_running_loop(send: Callable[[], None]) -> None:
    """The coroutine in the other thread is cancelled, and nothing of it remains."""
    work = Cancelled()

    def interrupt_the_wait() -> None:
        until(lambda: work.begun)
        until_main_waits_in("run_blocking")
        send()

    with signal_raises(), in_thread(interrupt_the_wait), pytest.raises(Interrupted):
        run_blocking(work, "other-thread")
    assert work.ended
    assert "other-thread" not in threads()


def test_a_wait_for_a_thread_that_has_ended_fails() -> None:
    """The wait that it leaves behind, and every later one."""
    thread = LoopThread("loop-under-test")
    assert thread.run(thread_name) == "loop-under-test"

    async def close_and_wait() -> None:
        thread.close()
        await asyncio.Event().wait()

    with pytest.raises((RuntimeError, asyncio.CancelledError)):
        thread.run(close_and_wait)
    thread.join()
    with pytest.raises(RuntimeError, match="closed"):
        thread.run(thread_name)


def test_an_exit_in_the_loop_is_raised_in_the_caller() -> None:
    """The thread goes on and can be closed."""

    async def leave() -> None:
        raise SystemExit(3)

    thread = LoopThread("loop-under-test")
    with pytest.raises(SystemExit):
        thread.run(leave)
    assert thread.run(thread_name) == "loop-under-test"
    thread.close()
    thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_thread_that_cannot_start_fails_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with too many threads."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    thread = LoopThread("loop-under-test")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match=r"ended|closed"):
            thread.run(thread_name)
    gc.collect()
    thread.close()
