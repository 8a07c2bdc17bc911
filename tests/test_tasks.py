"""Waiting for a while, and ending what waits."""

from __future__ import annotations

import asyncio

import pytest

from ptn_api.tasks import cancel_and_wait, run_with, wait_for_event


async def test_an_event_that_is_set_in_time_is_told_from_one_that_is_not() -> None:
    """With what passes meanwhile, and at once where it is set already."""
    event = asyncio.Event()
    assert not await wait_for_event(event, 1)
    asyncio.get_running_loop().call_soon(event.set)
    assert await wait_for_event(event, 60_000)
    assert await wait_for_event(event, 0)


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_is_heard_however_close_to_the_event_it_comes(turns: int) -> None:
    """Whoever is stopped just as an order comes in does stop."""
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
    done, _ = await asyncio.wait({task}, timeout=45)
    assert done, "the cancellation was swallowed"
    assert task.cancelled()
    assert rounds <= 1


async def test_ending_tells_what_came_of_each() -> None:
    """A task that had ended keeps its result, one that fails its error."""

    async def succeed() -> int:
        return 1

    async def fail_when_told() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("gone")

    finished = asyncio.create_task(succeed())
    failing = asyncio.create_task(fail_when_told())
    await finished
    first, second = await cancel_and_wait([finished, failing])
    assert first == 1
    assert isinstance(second, OSError)


async def test_work_ends_the_chores_and_a_failed_chore_the_work() -> None:
    """A room that could not look after its keys any more must not go on as if it did."""
    for_ever = asyncio.Event()
    ended: list[str] = []

    async def wait(what: str) -> None:
        try:
            await for_ever.wait()
        finally:
            ended.append(what)

    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError("gone")

    async def work() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    await run_with(work(), [asyncio.create_task(wait("chore")), asyncio.create_task(work())])
    assert ended == ["chore"]
    with pytest.raises(OSError, match="gone"):
        await run_with(wait("work"), [asyncio.create_task(fail()), asyncio.create_task(wait("chore"))])
    assert ended == ["chore", "work", "chore"]
    with pytest.raises(OSError, match="gone"):
        await run_with(fail(), [asyncio.create_task(wait("chore"))])
    assert ended[-1] == "chore"
