"""Connections are bounded: who idles longest gives way, who is being answered does not."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator

import pytest

from ptn_api.http.crowd import Crowd
from ptn_api.rest.counters import RestCounters
from tests.rest.serving import Served, serving

MOST = 4


class Visitor:
    def __init__(self, *, stranger: bool = True) -> None:
        self.stranger = stranger
        self.ended = False

    def give_way(self) -> None:
        self.ended = True


def crowd_of(*visitors: Visitor, most: int) -> Crowd:
    crowd = Crowd(most, RestCounters())
    for visitor in visitors:
        crowd.opened(visitor)
    return crowd


def test_the_one_that_idles_longest_gives_way() -> None:
    """A request makes a connection young again."""
    first, second, third = Visitor(), Visitor(), Visitor()
    crowd = crowd_of(first, second, most=2)
    crowd.begins(first)
    crowd.rests(first)
    crowd.opened(third)
    assert (first.ended, second.ended, third.ended, len(crowd)) == (False, True, False, 2)


def test_when_all_are_being_answered_a_stranger_gives_way() -> None:
    """Then, where all have shown a key, the one that comes."""
    known, stranger, third, fourth = Visitor(stranger=False), Visitor(), Visitor(stranger=False), Visitor()
    crowd = crowd_of(known, stranger, most=2)
    crowd.begins(known)
    crowd.begins(stranger)
    crowd.opened(third)
    assert (known.ended, stranger.ended, third.ended) == (False, True, False)
    crowd.begins(third)
    crowd.opened(fourth)
    assert (known.ended, third.ended, fourth.ended) == (False, False, True)


def test_who_is_gone_is_not_counted() -> None:
    """Whether it was idle or being answered, or had to give way."""
    visitors = [Visitor() for _ in range(4)]
    crowd = crowd_of(*visitors, most=3)
    crowd.begins(visitors[1])
    for visitor in visitors:
        crowd.closed(visitor)
        crowd.rests(visitor)
        crowd.begins(visitor)
    assert len(crowd) == 0
    assert [v.ended for v in visitors] == [True, False, False, False]


def test_half_of_the_files_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is allowed."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 10))
    assert len(crowd_of(*(Visitor() for _ in range(20)), most=1_000)) == 5


@contextlib.asynccontextmanager
async def connections(served: Served, count: int, first: bytes) -> AsyncIterator[list[asyncio.StreamReader]]:
    opened = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(count)]
    for _, writer in opened:
        writer.write(first)
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


@pytest.mark.parametrize(
    "first", [b"", b"GET /health HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"]
)
async def test_idle_connections_drive_out_themselves(first: bytes) -> None:
    """Silent ones, half a request, an answer and then nothing: the next caller gets in."""
    async with serving(max_rest_connections=MOST) as served, connections(served, 3 * MOST, first) as readers:
        ended = asyncio.gather(*(reader.read() for reader in readers[: 2 * MOST]), return_exceptions=True)
        await asyncio.wait_for(ended, 45)
        assert (await served.get("/me")).status_code == 200
