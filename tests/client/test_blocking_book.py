"""The live mirror for programs that block."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest

from ptn_api.client.blocking_book import open_book
from ptn_api.client.book import Book
from ptn_api.client.exchange import Retries
from ptn_api.client.testing import quick_pace
from ptn_api.errors import AuthenticationError, SettingsError
from tests.client.test_real_server import REST_KEY, some, url
from tests.factories import MINER, T0, uuid
from tests.rest.serving import FakeClock, filled_log, serving
from tests.stream.live import LiveStream, running
from tests.waiting import until, until_async


def test_it_takes_what_a_book_takes() -> None:
    """Said in one place."""
    assert inspect.signature(open_book) == inspect.signature(Book)


async def test_it_follows_in_a_thread_of_its_own() -> None:
    """Read by a program that knows no event loop; it is loaded when `with` is entered."""
    clock = FakeClock(T0)
    log = filled_log([some(1, 1, 2)], now_ms=T0)
    live = LiveStream(log=log, ready=False)
    live.keys.swap([("alice", REST_KEY, 100)])
    opened, closed = threading.Event(), threading.Event()
    changed: list[tuple[str, str]] = []

    def program(rest_url: str) -> list[int]:
        options: Any = {
            "pace": quick_pace(),
            "mend_within": 0.0,
            "on_change": lambda *key: changed.append(key),
        }
        with open_book(url(live), rest_url, REST_KEY, **options) as book:
            lengths = [len(book)]
            book.until_verified()
            opened.set()
            until(lambda: len(book) == 2)
            found = book.position(MINER, uuid(2))
            assert found is not None
            assert found.position_uuid == uuid(2)
            assert [p.position_uuid for p in book.positions(MINER, status="open")] == [uuid(1), uuid(2)]
            assert book.cursor.epoch == log.epoch
            assert book.verified in (True, False)
            lengths.append(len(book))
        closed.set()
        return lengths

    async with running(live, heartbeat_ms=100, clock=clock), serving(log, clock=clock) as served:
        working = asyncio.create_task(asyncio.to_thread(program, served.url))
        await until_async(lambda: opened.is_set() or working.done())
        log.append([some(2, 3)], clock.now_ms)
        assert await working == [1, 2]
    assert closed.is_set()
    assert (MINER, uuid(2)) in changed


def test_an_address_that_is_none_is_raised_where_the_book_is_made() -> None:
    """And no thread is left behind."""
    with pytest.raises(SettingsError):
        open_book("ws://localhost:1", "localhost", "k")
    until(lambda: not any(thread.name == "ptn-client" for thread in threading.enumerate()))


def test_a_book_that_is_never_entered_can_be_closed() -> None:
    """Its thread ends."""
    book = open_book("ws://localhost:1", "http://localhost:1", "k", retries=Retries(times=0))
    book.close()
    until(lambda: not any(thread.name == "ptn-client" for thread in threading.enumerate()))


async def test_listeners_may_read() -> None:
    """They are called in the book's own thread, which would else wait for itself."""
    log = filled_log([some(1, 1, 2)], now_ms=T0)
    seen: list[float] = []

    def program(rest_url: str) -> None:
        def on_change(hotkey: str, position_uuid: str) -> None:
            position = book.position(hotkey, position_uuid)
            assert position is not None
            seen.append(position.net_leverage)
            with pytest.raises(RuntimeError, match="listener"):
                book.until_verified()

        book = open_book("ws://127.0.0.1:1", rest_url, REST_KEY, pace=quick_pace(), on_change=on_change)
        with book:
            until(lambda: seen)
            book.close()
            book.close()

    async with serving(log, clock=FakeClock(T0)) as served:
        await asyncio.to_thread(program, served.url)
    assert len(seen) == 1


async def test_a_refused_key_can_end_it() -> None:
    """Instead of being tried again for ever."""
    log = filled_log([some(1, 1)], now_ms=T0)

    def program(rest_url: str) -> None:
        book = open_book("ws://127.0.0.1:1", rest_url, "wrong", stop_on_auth_error=True, pace=quick_pace())
        with pytest.raises(AuthenticationError), book:
            pass

    async with serving(log, clock=FakeClock(T0)) as served:
        await asyncio.to_thread(program, served.url)
