"""What has come and is not handled yet."""

from __future__ import annotations

import asyncio

import pytest

from ptn_api.client.inbox import Inbox
from ptn_api.wire.client_session import Cursor, Step
from tests.waiting import until_async


def step(n: int) -> Step:
    return Step(None, Cursor(n))


async def test_it_keeps_the_order() -> None:
    """First in, first out; one may be looked at without taking it."""
    inbox = Inbox()
    for n in range(3):
        await inbox.put(step(n))
    assert inbox.peek() == step(0)
    assert [await inbox.get() for _ in range(3)] == [step(0), step(1), step(2)]
    assert inbox.peek() is None


async def test_a_full_one_makes_the_connection_wait() -> None:
    """A slow handler costs no memory."""
    inbox = Inbox(limit=1)
    await inbox.put(step(0))
    waiting = asyncio.create_task(inbox.put(step(1)))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await inbox.get() == step(0)
    await until_async(waiting.done)
    assert await inbox.get() == step(1)


async def test_a_plain_end_is_at_once() -> None:
    """What has come is left for the next run."""
    inbox = Inbox()
    await inbox.put(step(0))
    inbox.close()
    assert await inbox.get() is None


async def test_an_error_comes_after_what_has_come() -> None:
    """And every time it is asked."""
    inbox = Inbox()
    await inbox.put(step(0))
    inbox.close(ValueError("no"))
    assert await inbox.get() == step(0)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await inbox.get()
