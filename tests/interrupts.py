"""Exceptions from signal handlers, raised at a chosen point."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from tests.waiting import until

__all__ = [
    "Interrupted",
    "in_thread",
    "interrupt",
    "send_to_process",
    "send_unnoticed",
    "signal_raises",
    "until_main_waits_in",
]

WAITS = {"wait", "wait_briefly", "_wait_for_tstate_lock", "join", "select", "batches"}
"""Functions that block."""


class Interrupted(BaseException):
    """Stands for KeyboardInterrupt."""


def interrupt(step: int, action: Callable[[], object]) -> bool:
    """Calls `action` and interrupts it at the step-th point at which Python could run a signal handler.

    These points are the beginnings and ends of calls, except for the end of an iterator's `__next__` under
    `for`. Returns False if the action ended before; fails if it ended in spite of the interrupt.
    """
    steps = 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal steps
        name = frame.f_code.co_name
        if event == "c_call" or frame.f_code is interrupt.__code__ or (event, name) == ("return", "__next__"):
            return
        steps += 1
        if steps == step:
            raise Interrupted

    gc.disable()  # Python discards an interrupt of a finalizer
    sys.setprofile(count)
    try:
        action()
    except Interrupted:
        return True
    finally:
        sys.setprofile(None)
        gc.enable()
    assert steps < step, "the interrupt was lost"
    return False


@contextmanager
def signal_raises() -> Iterator[None]:
    """SIGUSR1 raises Interrupted."""

    def on_signal(*_: object) -> None:
        raise Interrupted

    previous = signal.signal(signal.SIGUSR1, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, previous)


def send_to_process() -> None:
    """Sends SIGUSR1; it ends the main thread's blocking call."""
    os.kill(os.getpid(), signal.SIGUSR1)


def send_unnoticed() -> None:
    """Sends SIGUSR1 to this thread, so that it does not end the main thread's blocking call.

    A signal that arrives in the moment before a blocking call has the same effect.
    """
    assert threading.current_thread() is not threading.main_thread()
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)


def until_main_waits_in(function: str) -> None:
    """Waits until the main thread is blocked in a call by a function of this name."""

    def names() -> list[str]:
        frame: FrameType | None = sys._current_frames()[threading.main_thread().ident or 0]
        found = []
        while frame is not None:
            found.append(frame.f_code.co_name)
            frame = frame.f_back
        return found

    until(lambda: names()[0] in WAITS and function in names())


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[None]:
    """Runs the work in a thread meanwhile; raises what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if errors:
        pytest.fail(repr(errors[0]))
