"""An event loop in a thread, and blocking calls of coroutines."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ptn_api.loop_thread import LoopThread, run_blocking
from tests.waiting import until


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


async def thread_name() -> str:
    return threading.current_thread().name


async def test_coroutines_run_in_the_thread_under_a_running_loop() -> None:
    """The thread starts with the first one and ends with `close`."""
    thread = LoopThread("loop-under-test")
    assert "loop-under-test" not in threads()
    assert thread.run(thread_name()) == "loop-under-test"
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
            thread.start(thread_name())
        return thread.call(lambda: 7)

    assert thread.run(nested()) == 7
    thread.close()
    thread.join()


def test_the_last_coroutine_runs_before_the_end() -> None:
    """It may fail; the thread ends nevertheless."""
    ran = []

    async def last() -> None:
        ran.append(await thread_name())

    thread = LoopThread("loop-under-test")
    thread.run(thread_name())
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
        thread.run(fail())
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
