"""A coroutine begins at once; only what waits becomes a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from ptn_api.http.at_once import at_once


async def test_what_does_not_wait_is_done() -> None:
    """No task is made, whatever was awaited that was there already."""
    done: list[int] = []

    async def inner() -> int:
        return 1

    async def outer() -> None:
        done.append(await inner())

    assert at_once(outer()) is None
    assert done == [1]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_what_waits_goes_on_as_a_task(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Through everything that it waits for: futures with results and errors, other tasks' turns."""

    async def test() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        event = asyncio.Event()
        came: list[object] = []

        async def waiting() -> None:
            came.append("begun")
            await asyncio.sleep(0)
            await event.wait()
            try:
                await future
            except ValueError:
                came.append("failed")
            async with asyncio.Lock():
                await asyncio.sleep(0.001)
            came.append("ended")

        task = at_once(waiting())
        assert came == ["begun"]
        assert task is not None
        event.set()
        future.set_exception(ValueError())
        await asyncio.wait_for(task, 10)
        assert came == ["begun", "failed", "ended"]

    run(test())


@pytest.mark.parametrize("steps", [0, 1, 5])
async def test_a_cancellation_reaches_it(steps: int) -> None:
    """Where it waits, so that it cleans up."""
    cleaned = asyncio.Event()

    async def waiting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    task = at_once(waiting())
    assert task is not None
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    assert cleaned.is_set()


async def test_errors_come_out() -> None:
    """At once, or out of the task."""

    async def failing(*, wait: bool) -> None:
        if wait:
            await asyncio.sleep(0)
        raise ValueError

    with pytest.raises(ValueError):
        at_once(failing(wait=False))
    task = at_once(failing(wait=True))
    assert task is not None
    with pytest.raises(ValueError):
        await task
