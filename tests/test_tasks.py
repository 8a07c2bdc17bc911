"""Waiting for events and tasks, and ending tasks."""

from __future__ import annotations

import asyncio

import pytest

from ptn_api.tasks import cancel_and_wait, run_with, wait_for_event, wait_or_raise
from tests.waiting import PATIENCE_S


async def test_waiting_returns_whether_the_event_was_set_in_time() -> None:
    """Set meanwhile, set before, or not set."""
    event = asyncio.Event()
    assert not await wait_for_event(event, 1)
    asyncio.get_running_loop().call_soon(event.set)
    assert await wait_for_event(event, 60_000)
    assert await wait_for_event(event, 0)


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_takes_effect_however_close_to_the_event(turns: int) -> None:
    """A task that is cancelled just as an order arrives does end."""
    event, rounds = asyncio.Event(), 0

    async def follow() -> None:
        nonlocal rounds
        while True:
            await wait_for_event(event, 60_000)
            event.clear()
            rounds += 1

    task = asyncio.create_task(follow())
    for _ in range(3):
        await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
    assert done, "the cancellation was swallowed"
    assert task.cancelled()
    assert rounds <= 1


async def test_cancel_and_wait_returns_the_outcome_of_each_task() -> None:
    """The result of a task that had ended, the error of one that fails while it ends."""

    async def succeed() -> int:
        return 1

    async def fail_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("gone")

    finished = asyncio.create_task(succeed())
    failing = asyncio.create_task(fail_when_cancelled())
    await finished
    first, second = await cancel_and_wait([finished, failing])
    assert first == 1
    assert isinstance(second, OSError)


async def test_work_ends_the_background_tasks_and_a_failed_one_ends_the_work() -> None:
    """A process that can no longer reload its keys must not go on as if it could."""
    never = asyncio.Event()
    ended: list[str] = []

    async def wait(what: str) -> None:
        try:
            await never.wait()
        finally:
            ended.append(what)

    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError("gone")

    async def work() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    await run_with(work(), [asyncio.create_task(wait("background")), asyncio.create_task(work())])
    assert ended == ["background"]
    with pytest.raises(OSError, match="gone"):
        await run_with(wait("work"), [asyncio.create_task(fail()), asyncio.create_task(wait("background"))])
    assert ended == ["background", "work", "background"]
    with pytest.raises(OSError, match="gone"):
        await run_with(fail(), [asyncio.create_task(wait("background"))])
    assert ended[-1] == "background"


async def test_a_task_is_awaited_unless_another_one_fails_first() -> None:
    """Others that end are no reason to return; what the task itself fails with is raised too."""

    async def pause(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    async def fail() -> None:
        raise OSError("gone")

    slow, quick = asyncio.create_task(pause(9)), asyncio.create_task(pause(1))
    await wait_or_raise(slow, [quick])
    assert slow.done()
    never = asyncio.create_task(asyncio.Event().wait())
    with pytest.raises(OSError, match="gone"):
        await wait_or_raise(never, [asyncio.create_task(fail())])
    with pytest.raises(OSError, match="gone"):
        await wait_or_raise(asyncio.create_task(fail()), [never])
    await cancel_and_wait([never])
