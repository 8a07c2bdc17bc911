"""The inbox between a connection and the stream's iteration."""

from __future__ import annotations

import asyncio

import pytest

from ptn_api.client.connection import Inbox
from ptn_api.wire.client_session import Cursor, StreamItem
from tests.waiting import until_async


def step(n: int) -> StreamItem:
    return StreamItem(None, Cursor(n))


async def taken(inbox: Inbox) -> StreamItem | None:
    step = await inbox.first()
    assert step is not None
    inbox.drop(step)
    return step


async def test_an_item_stays_first_until_it_is_dropped() -> None:
    """A consumer that is cancelled before that gets it again. Dropping a removed item does nothing."""
    inbox = Inbox()
    for n in range(2):
        await inbox.put(step(n))
    first = await inbox.first()
    assert first is not None
    assert await inbox.first() is first
    inbox.drop(first)
    inbox.drop(first)
    assert await inbox.first() == step(1)
    inbox.close()
    inbox.drop(step(1))
    assert await inbox.first() is None


async def test_it_is_first_in_first_out() -> None:
    """`peek` does not remove."""
    inbox = Inbox()
    for n in range(3):
        await inbox.put(step(n))
    assert inbox.peek() == step(0)
    assert [await taken(inbox) for _ in range(3)] == [step(0), step(1), step(2)]
    assert inbox.peek() is None


async def test_a_full_inbox_makes_the_producer_wait() -> None:
    """A slow handler does not fill the memory."""
    inbox = Inbox(limit=1)
    await inbox.put(step(0))
    waiting = asyncio.create_task(inbox.put(step(1)))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await taken(inbox) == step(0)
    await until_async(waiting.done)
    assert await taken(inbox) == step(1)


async def test_closing_without_an_error_discards_the_items() -> None:
    """They come again in the next run."""
    inbox = Inbox()
    await inbox.put(step(0))
    inbox.close()
    assert await inbox.first() is None


async def test_an_error_is_raised_after_the_queued_items() -> None:
    """Every time."""
    inbox = Inbox()
    await inbox.put(step(0))
    inbox.close(ValueError("no"))
    assert await taken(inbox) == step(0)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await inbox.first()
