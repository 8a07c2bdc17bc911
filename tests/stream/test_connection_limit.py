"""Connections that have not logged in are capped; those that have are left alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.stream.live import KEY, LiveStream, running, until
from tests.stream.test_hostile import UPGRADE
from tests.waiting import PATIENCE_S

MOST = 6


@contextlib.asynccontextmanager
async def silent(
    live: LiveStream, count: int, first: bytes = b""
) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Opens `count` connections, one after the other, that send nothing but `first`."""
    opened = [await asyncio.open_connection("127.0.0.1", live.port) for _ in range(count)]
    for _, writer in opened:
        writer.write(first)
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


async def test_silent_connections_evict_each_other() -> None:
    """Before the handshake and after it; clients that have logged in stay, and new ones get in."""
    async with running(max_waiting_connections=MOST) as live, live.client() as client:
        await client.login()
        await client.subscribe()
        for first in (b"", b"GET / HTTP/1.1\r\n", UPGRADE + b"\r\n"):
            async with silent(live, 3 * MOST, first) as readers:
                ended = asyncio.gather(
                    *(reader.read() for reader in readers[: 2 * MOST]), return_exceptions=True
                )
                await asyncio.wait_for(ended, PATIENCE_S)
                async with live.client() as another:
                    assert (await another.login())["status"] == "success"
        assert live.counters.limited["waiting_connections"] >= 6 * MOST
        live.trade(1)
        assert len(await client.messages(1)) == 1


async def test_the_limit_itself_evicts_nobody_and_one_more_the_oldest() -> None:
    """Which is a problem, `connections_at_limit`, that heartbeats name."""
    async with running(max_waiting_connections=MOST) as live, live.client() as client:
        await client.login(version=2)
        async with silent(live, MOST, UPGRADE + b"\r\n") as readers:
            for reader in readers:
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            assert live.counters.limited == {}
            async with silent(live, 1):
                while (await client.next("heartbeat")).get("problems") != ["connections_at_limit"]:
                    pass  # one from before
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(readers[0].read(), PATIENCE_S) == b""
            assert live.counters.limited == {"waiting_connections": 1}
            assert not any(reader.at_eof() for reader in readers[1:])


async def test_a_valid_login_that_waits_its_turn_is_not_evicted() -> None:
    """A login that the pacer delays no longer counts."""
    async with (
        running(max_waiting_connections=2, accepts_per_second=8, max_connections_per_key=20) as live,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(12):
            client = await stack.enter_async_context(live.client())
            await client.send(api_key=KEY)
        await until(lambda: live.counters.logins == 12)
        assert live.counters.limited["waiting_connections"] == 0
