"""Open connections are capped: the one idle longest is evicted, busy ones are not."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator

import pytest

from ptn_api.http.connection_limit import ConnectionLimit
from tests.rest.serving import Served, serving

MAXIMUM = 4


class FakeConnection:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def limit_over(
    *connections: FakeConnection, maximum: int, evictions: list[None] | None = None
) -> ConnectionLimit[FakeConnection]:
    evictions = [] if evictions is None else evictions
    limit: ConnectionLimit[FakeConnection] = ConnectionLimit(maximum, lambda: evictions.append(None))
    for connection in connections:
        limit.add(connection)
    return limit


def test_the_connection_that_is_idle_longest_is_evicted() -> None:
    """A request starts a connection's idle time again."""
    first, second, third = (FakeConnection() for _ in range(3))
    evictions: list[None] = []
    limit = limit_over(first, second, maximum=2, evictions=evictions)
    limit.mark_busy(first, evictable=True)
    limit.mark_idle(first)
    limit.add(third)
    assert (first.aborted, second.aborted, third.aborted, len(limit)) == (False, True, False, 2)
    assert len(evictions) == 1


def test_if_all_are_busy_an_evictable_one_is_evicted() -> None:
    """And if none is evictable, the new connection."""
    trusted, stranger, third, fourth = (FakeConnection() for _ in range(4))
    evictions: list[None] = []
    limit = limit_over(trusted, stranger, maximum=2, evictions=evictions)
    limit.mark_busy(trusted, evictable=False)
    limit.mark_busy(stranger, evictable=True)
    limit.add(third)
    assert (trusted.aborted, stranger.aborted, third.aborted) == (False, True, False)
    limit.mark_busy(third, evictable=False)
    limit.add(fourth)
    assert (trusted.aborted, third.aborted, fourth.aborted, len(limit)) == (False, False, True, 2)
    assert len(evictions) == 2


def test_a_connection_that_becomes_idle_again_is_the_last_to_be_evicted() -> None:
    """Also if it was idle all the time: it was answered at once."""
    first, second, third = (FakeConnection() for _ in range(3))
    limit = limit_over(first, second, maximum=2)
    limit.mark_idle(first)
    limit.add(third)
    assert (first.aborted, second.aborted) == (False, True)


def test_a_closed_connection_does_not_count() -> None:
    """Whether it was idle, busy or evicted."""
    connections = [FakeConnection() for _ in range(4)]
    limit = limit_over(*connections, maximum=3)
    limit.mark_busy(connections[1], evictable=True)
    for connection in connections:
        limit.remove(connection)
        limit.mark_idle(connection)
        limit.mark_busy(connection, evictable=True)
    assert len(limit) == 0
    assert [connection.aborted for connection in connections] == [True, False, False, False]


async def test_waiting_until_all_are_closed() -> None:
    """At once if none is open; else when the last one closes."""
    connection = FakeConnection()
    limit = limit_over(maximum=2)
    await asyncio.wait_for(limit.wait_until_empty(), 10)
    limit.add(connection)
    waiting = asyncio.create_task(limit.wait_until_empty())
    await asyncio.sleep(0)
    assert not waiting.done()
    limit.remove(connection)
    await asyncio.wait_for(waiting, 10)


def test_half_of_the_files_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    """However high the setting."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 10))
    assert len(limit_over(*(FakeConnection() for _ in range(20)), maximum=1_000)) == 5


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
async def test_a_flood_of_idle_connections_evicts_itself(first: bytes) -> None:
    """Silent, half a request, or idle after a response: the next client is still served."""
    async with (
        serving(max_rest_connections=MAXIMUM) as served,
        connections(served, 3 * MAXIMUM, first) as readers,
    ):
        ended = asyncio.gather(*(reader.read() for reader in readers[: 2 * MAXIMUM]), return_exceptions=True)
        await asyncio.wait_for(ended, 45)
        assert (await served.get("/me")).status_code == 200
