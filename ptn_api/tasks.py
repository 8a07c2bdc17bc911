"""What asyncio's own tools for waiting and ending do not quite do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from time import monotonic
from typing import Any

__all__ = ["TimeSlice", "cancel_and_wait", "run_with", "wait_for_event"]

SLICE_S = 0.005


class TimeSlice:
    """Cooperative scheduling for long work: `await time_slice.yield_if_due()` between two steps of it.

    Other tasks run once the work has held the event loop for 5 ms.
    """

    def __init__(self) -> None:
        self._started = monotonic()

    @property
    def due(self) -> bool:
        """Whether other tasks should run now."""
        return monotonic() - self._started >= SLICE_S

    async def yield_if_due(self) -> None:
        if self.due:
            await asyncio.sleep(0)
            self._started = monotonic()


async def wait_for_event(event: asyncio.Event, timeout_ms: float) -> bool:
    """Waits until the event is set, at most so long; whether it is set.

    A cancellation is always heard. `asyncio.wait_for` swallows one that comes just as the event is set
    (before Python 3.12), and who waits for the cancelled task to end then waits forever.
    """
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=timeout_ms / 1000)
    finally:
        waiting.cancel()
    return event.is_set()


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> list[Any]:
    """Cancels the tasks and waits until they have ended; returns what they returned or raised."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def run_with(work: Coroutine[Any, Any, None], chores: Iterable[asyncio.Task[Any]]) -> None:
    """Does the work, then ends the chores. One that fails ends the work as well, and is raised."""
    working, chores = asyncio.create_task(work), set(chores)
    try:
        left = {working, *chores}
        while working in left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        await cancel_and_wait([working])  # while it ends, it is still seen to live
        await cancel_and_wait(chores)
