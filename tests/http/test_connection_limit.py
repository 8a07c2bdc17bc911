"""Open connections are capped: the one idle longest is evicted, busy ones are not."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from ptn_api.event_log import Document
from ptn_api.http.connection_limit import ConnectionLimit, DownloadLimit
from ptn_api.http.errors import HTTPError
from ptn_api.rest.options import RestOptions
from tests.rest.serving import Served, document, filled_log, serving, some_changes
from tests.waiting import PATIENCE_S, until_async

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
    limit.mark_busy(first, None)
    limit.mark_idle(first)
    limit.add(third)
    assert (first.aborted, second.aborted, third.aborted, len(limit)) == (False, True, False, 2)
    assert len(evictions) == 1


def test_if_all_are_busy_an_evictable_one_is_evicted() -> None:
    """And if none is evictable, the new connection."""
    trusted, stranger, third, fourth = (FakeConnection() for _ in range(4))
    evictions: list[None] = []
    limit = limit_over(trusted, stranger, maximum=2, evictions=evictions)
    limit.mark_busy(trusted, trusted)
    limit.mark_busy(stranger, None)
    limit.add(third)
    assert (trusted.aborted, stranger.aborted, third.aborted) == (False, True, False)
    limit.mark_busy(third, third)
    limit.add(fourth)
    assert (trusted.aborted, third.aborted, fourth.aborted, len(limit)) == (False, False, True, 2)
    assert len(evictions) == 2


def test_if_all_are_busy_with_users_the_greatest_gives_way() -> None:
    """The newest connection of the user with the most, so that one user alone cannot keep out others."""
    alice, *others = (FakeConnection() for _ in range(5))
    limit = limit_over(alice, *others[:3], maximum=4)
    limit.mark_busy(alice, "alice")
    for other in others[:3]:
        limit.mark_busy(other, "mallory")
    limit.add(others[3])
    assert [connection.aborted for connection in (alice, *others)] == [False, False, False, True, False]


def test_a_user_whose_connections_are_all_busy_does_not_evict_another_users_idle_one() -> None:
    """The idle one would be evicted whenever the flood has just been answered and asks again."""
    alice, *others = (FakeConnection() for _ in range(4))
    limit = limit_over(alice, *others[:2], maximum=3)
    limit.mark_idle(alice, "alice")
    for other in others[:2]:
        limit.mark_busy(other, "mallory")
    limit.add(others[2])
    assert [connection.aborted for connection in (alice, *others)] == [False, False, True, False]


def test_a_new_connection_is_not_evicted_before_the_fifth_connection_of_one_user() -> None:
    """Else a user who takes all connections, and reconnects at once, would close each new one unread."""
    mallory, (new, last) = [FakeConnection() for _ in range(5)], [FakeConnection() for _ in range(2)]
    limit = limit_over(*mallory, maximum=6)
    for one in mallory:
        limit.mark_idle(one, "mallory")
    limit.add(new)
    limit.add(last)
    assert [one.aborted for one in (*mallory, new, last)] == [True, *[False] * 6]


class CountedOwner:
    """Counts how often it is looked up or counted."""

    lookups = 0

    def __hash__(self) -> int:
        self.lookups += 1
        return 1


def test_a_flood_of_strangers_is_evicted_without_a_count_of_all_owners() -> None:
    """Else each of its connections would cost as much as there are connections."""
    trusted, owner = [FakeConnection() for _ in range(4)], CountedOwner()
    limit = limit_over(*trusted, *(FakeConnection() for _ in range(4)), maximum=8)
    for one in trusted:
        limit.mark_idle(one, owner)
    owner.lookups = 0
    for _ in range(20):
        limit.add(FakeConnection())
    assert owner.lookups == 0
    assert [one.aborted for one in trusted] == [False] * 4


def test_a_connection_that_becomes_idle_again_is_the_last_to_be_evicted() -> None:
    """Also if it was idle all the time: it was answered at once."""
    first, second, third = (FakeConnection() for _ in range(3))
    limit = limit_over(first, second, maximum=2)
    limit.mark_idle(first)
    limit.add(third)
    assert (first.aborted, second.aborted) == (False, True)


def test_connections_without_an_owner_are_evicted_first() -> None:
    """However long ago the others made their last request; then those of the owner with the most."""
    alice, bob, again, stranger, *new = (FakeConnection() for _ in range(6))
    limit = limit_over(alice, bob, again, stranger, maximum=4)
    limit.mark_idle(alice, "alice")
    limit.mark_idle(bob, "bob")
    limit.mark_idle(again, "bob")
    limit.add(new[0])
    assert [one.aborted for one in (alice, bob, again, stranger)] == [False, False, False, True]
    limit.mark_idle(new[0], "carol")
    limit.add(new[1])
    assert [one.aborted for one in (alice, bob, again, new[0])] == [False, True, False, False]


def test_a_closed_connection_does_not_count() -> None:
    """Whether it was idle, busy or evicted."""
    connections = [FakeConnection() for _ in range(4)]
    limit = limit_over(*connections, maximum=3)
    limit.mark_busy(connections[1], None)
    for connection in connections:
        limit.remove(connection)
        limit.mark_idle(connection)
        limit.mark_busy(connection, None)
    assert len(limit) == 0
    assert [connection.aborted for connection in connections] == [True, False, False, False]


async def test_waiting_until_all_are_closed() -> None:
    """At once if none is open; else when the last one closes."""
    connection = FakeConnection()
    limit = limit_over(maximum=2)
    await asyncio.wait_for(limit.wait_until_empty(), PATIENCE_S)
    limit.add(connection)
    waiting = asyncio.create_task(limit.wait_until_empty())
    await asyncio.sleep(0)
    assert not waiting.done()
    limit.remove(connection)
    await asyncio.wait_for(waiting, PATIENCE_S)


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
        await asyncio.wait_for(ended, PATIENCE_S)
        assert (await served.get("/me")).status_code == 200


class Downloads:
    """Downloads of several owners that tests end."""

    def __init__(self, **options: int) -> None:
        self.limit = DownloadLimit(2, **{"most_waiting": 2, "wait_ms": 60_000, **options})
        self.running: list[str] = []
        self.ending: dict[str, asyncio.Event] = {}

    def start(self, name: str) -> asyncio.Task[None]:
        self.ending[name] = asyncio.Event()
        return asyncio.create_task(self._run(name))

    async def _run(self, name: str) -> None:
        async with self.limit.turn(name[0]):
            self.running.append(name)
            await self.ending[name].wait()
            self.running.remove(name)


async def test_an_owners_downloads_wait_their_turn() -> None:
    """In order; others do not wait for them, and too many waiting ones are rejected."""
    downloads = Downloads()
    tasks = [downloads.start(name) for name in ("a1", "a2", "a3", "a4", "a5", "b1")]
    await until_async(lambda: downloads.running == ["a1", "a2", "b1"])
    with pytest.raises(HTTPError, match="Too many large downloads") as error:
        await tasks[4]
    assert (error.value.status, error.value.headers) == (503, {"retry-after": "5"})
    downloads.ending["a2"].set()
    await until_async(lambda: downloads.running == ["a1", "b1", "a3"])
    for event in downloads.ending.values():
        event.set()
    await asyncio.gather(*tasks[:4], tasks[5])
    assert downloads.running == []


@pytest.mark.parametrize("cancelled", ["a1", "a3"])
async def test_a_cancelled_download_leaves_its_turn_to_the_next(cancelled: str) -> None:
    """Whether it was running or waiting."""
    downloads = Downloads()
    tasks = {name: downloads.start(name) for name in ("a1", "a2", "a3", "a4")}
    await until_async(lambda: downloads.running == ["a1", "a2"])
    tasks[cancelled].cancel()
    await asyncio.wait({tasks[cancelled]})
    downloads.ending["a2"].set()
    left = {"a1", "a3", "a4"} - {cancelled}
    await until_async(lambda: set(downloads.running) >= left)


async def test_a_download_waits_for_a_limited_time() -> None:
    downloads = Downloads(wait_ms=10)
    tasks = [downloads.start(name) for name in ("a1", "a2", "a3")]
    with pytest.raises(HTTPError):
        await asyncio.wait_for(tasks[2], PATIENCE_S)
    for event in downloads.ending.values():
        event.set()
    await asyncio.gather(*tasks[:2])


async def test_one_users_slow_downloads_keep_nobody_out() -> None:
    """It opens as many as there are places: the rest waits or is rejected, and others get in."""
    request = b"GET /statistics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k0\r\n\r\n"
    log = filled_log(some_changes())
    log.append([document(Document.STATISTICS, {"data": [], "filler": "x" * 8_000_000})], 0)
    async with (
        serving(log, max_rest_connections=12, minimum_rate=0, waiting_downloads=2) as served,
        connections(served, 12, request) as readers,
    ):
        starts = [asyncio.create_task(reader.read(15)) for reader in readers]
        await until_async(lambda: sum(start.done() for start in starts) == 10)
        statuses = sorted(start.result() for start in starts if start.done())
        assert statuses == [b"HTTP/1.1 200 OK"] * 8 + [b"HTTP/1.1 503 Se"] * 2
        for _ in range(6):
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{served.port}", timeout=PATIENCE_S
            ) as client:
                headers = {"authorization": "Bearer k100"}
                assert (await client.get("/statistics", headers=headers)).status_code == 200
        for start in starts:
            start.cancel()


async def test_evictions_are_a_problem() -> None:
    """`connections_at_limit` in /health: none at the limit itself, and all since it began."""
    async with serving(max_rest_connections=MAXIMUM) as served:

        async def problems() -> Any:
            health = (await served.get("/health")).json()
            return health["problems"], health["details"].get("connections_at_limit", {}).get("count")

        assert await problems() == ([], None)
        first = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        async with connections(served, MAXIMUM - 1, first) as readers:  # and the client of these tests
            for reader in readers:
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            assert await problems() == ([], None)
            async with connections(served, 2, first) as more:
                for reader in more:
                    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
                assert await problems() == (["connections_at_limit"], 2)
        served.monotonic.now_ms += RestOptions().overload_ms
        assert await problems() == ([], None)
