"""The inbox between a connection and the stream's iteration."""

from __future__ import annotations

import asyncio

import pytest

from ptn_api.client.connection import Inbox
from ptn_api.wire.client_session import Cursor, StreamItem
from tests.waiting import until_async


def item(n: int) -> StreamItem:
    return StreamItem(None, Cursor(n))


async def take(inbox: Inbox) -> StreamItem | None:
    item = await inbox.first()
    assert item is not None
    inbox.drop(item)
    return item


async def test_an_item_stays_first_until_it_is_dropped() -> None:
    """A consumer that is cancelled before that gets it again. Dropping a removed item does nothing."""
    inbox = Inbox()
    for n in range(2):
        await inbox.put(item(n))
    first = await inbox.first()
    assert first is not None
    assert await inbox.first() is first
    inbox.drop(first)
    inbox.drop(first)
    assert await inbox.first() == item(1)
    inbox.close()
    inbox.drop(item(1))
    assert await inbox.first() is None


async def test_it_is_first_in_first_out() -> None:
    """`peek` does not remove."""
    inbox = Inbox()
    for n in range(3):
        await inbox.put(item(n))
    assert inbox.peek() == item(0)
    assert [await take(inbox) for _ in range(3)] == [item(0), item(1), item(2)]
    assert inbox.peek() is None


async def test_a_full_inbox_makes_the_producer_wait() -> None:
    """A slow handler does not fill the memory."""
    inbox = Inbox(limit=1)
    await inbox.put(item(0))
    waiting = asyncio.create_task(inbox.put(item(1)))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await take(inbox) == item(0)
    await until_async(waiting.done)
    assert await take(inbox) == item(1)


async def test_closing_without_an_error_discards_the_items() -> None:
    """They come again in the next run."""
    inbox = Inbox()
    await inbox.put(item(0))
    inbox.close()
    assert await inbox.first() is None


async def test_an_error_is_raised_after_the_queued_items() -> None:
    """Every time."""
    inbox = Inbox()
    await inbox.put(item(0))
    inbox.close(ValueError("no"))
    assert await take(inbox) == item(0)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await inbox.first()
