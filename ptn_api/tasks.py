"""Waiting for tasks, ending them, and sharing the event loop: small additions to asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from time import monotonic
from typing import Any

__all__ = ["TimeSlice", "cancel_and_wait", "let_others_run", "run_with", "wait_for_event", "wait_or_raise"]

SLICE_S = 0.005
_OTHERS_S = 0.02
_IDLE_TURN_S = 0.000_3
"""A turn of the loop that takes no longer had nothing to do."""


async def let_others_run() -> None:
    """Lets the event loop do what is ready, and what follows from it, for a limited time.

    A new connection takes several turns from the accept to the response. With a step of long work in each,
    it would wait for all of them.
    """
    began = ended = monotonic()
    while ended - began < _OTHERS_S:
        before = ended
        await asyncio.sleep(0)
        ended = monotonic()
        if ended - before < _IDLE_TURN_S:
            return


class TimeSlice:
    """Cooperative scheduling for long work: `await time_slice.yield_if_due()` between two steps of it.

    Other tasks run once the work has held the event loop for 5 ms.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Counts from now."""
        self._started = monotonic()

    @property
    def due(self) -> bool:
        """Whether other tasks should run now."""
        return monotonic() - self._started >= SLICE_S

    async def yield_if_due(self) -> None:
        if self.due:
            await asyncio.sleep(0)
            self.restart()


async def wait_for_event(event: asyncio.Event, timeout_ms: float) -> bool:
    """Waits until the event is set or the time is over; returns whether it is set.

    A cancellation always takes effect. `asyncio.wait_for` swallows one that arrives just as the event is set
    (before Python 3.12), and a caller that waits for the cancelled task then waits forever.
    """
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=timeout_ms / 1000)
    finally:
        waiting.cancel()
    return event.is_set()


async def wait_or_raise(task: asyncio.Task[Any], others: Iterable[asyncio.Task[Any]]) -> None:
    """Waits until the task ends; raises what it fails with, or one of the others before it."""
    pending = {task, *others}
    while task in pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for ended in done:
            ended.result()


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> list[Any]:
    """Cancels the tasks and waits until they have ended; returns what they returned or raised."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def run_with(work: Coroutine[Any, Any, None], background: Iterable[asyncio.Task[Any]]) -> None:
    """Runs the work, then ends the background tasks. If one of them fails, ends the work and raises."""
    background = set(background)
    working = asyncio.create_task(work)
    try:
        await wait_or_raise(working, background)
    finally:
        await cancel_and_wait([working])  # first: the background tasks report the process alive meanwhile
        await cancel_and_wait(background)
