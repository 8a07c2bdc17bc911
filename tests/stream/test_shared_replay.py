"""Replays of the same orders to several clients: read and encoded once, as long as nothing has changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from ptn_api.event_log.contract import Event
from ptn_api.fanout.catch_up import KEPT_BYTES, KeptParts, Part
from tests.factories import MINER, T0, order, position, written
from tests.memory_log import MemoryLog
from tests.stream.live import LiveStream, running, until
from tests.stream.test_catch_up import stuck_client
from tests.waiting import PATIENCE_S

ORDERS = 120
NOTE = "x" * 50_000


class CountingLog(MemoryLog):
    """Counts how often events are read, and leaves some out like a log that is damaged."""

    reads = 0
    left_out: frozenset[int] = frozenset()

    def read(self, after: int, limit: int, *, orders: bool = True) -> list[Event]:
        self.reads += 1
        events = super().read(after, limit, orders=orders)
        return [event for event in events if event.sequence not in self.left_out]


async def replayed(live: LiveStream, **subscribe: Any) -> tuple[list[dict[str, Any]], int]:
    """Returns what a client that has missed everything is sent, and how often the log was read for it."""
    assert isinstance(live.log, CountingLog)
    before = live.log.reads
    async with live.client(max_size=None) as client:
        await client.login(version=2, last_sequence=live.log.head().sequence - ORDERS, epoch="epoch-1")
        await client.subscribe(**subscribe)
        await client.next("resumed")
        return await client.messages(ORDERS - len(live.log.left_out)), live.log.reads - before


@contextlib.asynccontextmanager
async def busy_stream() -> AsyncIterator[LiveStream]:
    """A stream that keeps parts: a replay is in progress, whose client does not read."""
    live = LiveStream(log=CountingLog(created_ms=T0, epoch="epoch-1"))
    async with running(live) as stream:
        start = live.log.head().sequence
        live.trade(ORDERS, note=NOTE)
        login = b'{"api_key":"key-of-bob","version":2,"epoch":"epoch-1","last_sequence":%d}' % start
        with contextlib.closing(stuck_client(live, login)):
            await until(lambda: live.counters.replays == 1)
            yield stream


async def test_what_one_client_was_sent_is_not_read_again_for_the_next() -> None:
    """Each subscription has parts of its own."""
    async with busy_stream() as live:
        first, reads = await replayed(live)
        assert reads > 10
        second, reads = await replayed(live)
        assert (second, reads) == (first, 0)
        delta, reads = await replayed(live, format="delta")
        assert reads > 0
        assert [message["sequence"] for message in delta] == [message["sequence"] for message in first]
        assert "n_orders" in delta[0]["data"]


async def test_a_client_is_sent_every_change_from_before_its_subscribe() -> None:
    """An order that was corrected is replayed as it is now, although the part as it was is still kept."""
    async with busy_stream() as live:
        first, _ = await replayed(live)
        number = 3
        live.append(written(position(number, [order(number, 0.7)], note=NOTE)))
        second, reads = await replayed(live)
        assert reads > 0
        assert second[number - 1]["data"]["position"]["orders"][0]["leverage"] == 0.7
        assert first[number - 1]["data"]["position"]["orders"][0]["leverage"] != 0.7
        assert await replayed(live) == (second, 0)


async def test_an_order_that_was_damaged_is_sent_once_it_is_repaired() -> None:
    """Although the repair is not a change of the log's state."""
    async with busy_stream() as live:
        assert isinstance(live.log, CountingLog)
        live.log.left_out = frozenset({live.log.head().sequence - 50})
        first, _ = await replayed(live)
        repaired, live.log.left_out = live.log.left_out, frozenset()
        second, _ = await replayed(live)
        assert {message["sequence"] for message in second} - {
            message["sequence"] for message in first
        } == repaired


async def test_a_late_order_is_left_out_for_version_1_once_it_is_too_old() -> None:
    """Even if another client has been sent it a moment before."""
    async with busy_stream() as live:
        live.now_ms += 250_000
        first, late, last = (
            live.append(written(position(n, [order(n, at=live.now_ms - ago_ms)]))).sequence
            for n, ago_ms in ((900, 0), (901, 200_000), (902, 0))
        )

        async def sequences() -> list[int]:
            async with live.client() as client:
                await client.login(last_sequence=first - 1)
                await client.subscribe()
                found: list[int] = []
                while last not in found:
                    found += [message["sequence"] for message in await client.messages(1)]
                return found

        assert await sequences() == [first, late, last]
        live.now_ms += 99_000
        assert await sequences() == [first, late, last]
        live.now_ms += 2_000
        assert await sequences() == [first, last]


async def test_parts_are_forgotten_once_nobody_catches_up() -> None:
    """Their memory is free again after the next tick."""
    live = LiveStream(log=CountingLog(created_ms=T0, epoch="epoch-1"))
    async with running(live, unread_close_ms=50):
        live.trade(ORDERS)
        _, reads = await replayed(live)
        assert reads > 0

        async def replayed_until_read() -> None:
            while (await replayed(live))[1] == 0:
                pass

        await asyncio.wait_for(replayed_until_read(), PATIENCE_S)


async def test_what_is_kept_counts_the_filters_it_was_made_for() -> None:
    """They stay in memory with the parts: 2,048 names take more than most parts."""
    async with busy_stream() as live:
        few, many = [MINER], [MINER, *(str(number) for number in range(2_047))]
        first, _ = await replayed(live, miners=few)
        assert await replayed(live, miners=few) == (first, 0)
        assert (await replayed(live, miners=many))[0] == first
        again, reads = await replayed(live, miners=many)
        assert again == first
        assert reads > 0


def test_kept_parts_are_bounded_in_bytes_and_in_number() -> None:
    """The least recently used go first; a part without a byte counts as well."""
    kept = KeptParts()
    megabyte = b"x" * 1_000_000
    for number in range(100):
        kept.keep(number, Part((megabyte,), 1, 1, 7))
        assert kept.find(0, 7)
    held = [number for number in range(100) if kept.find(number, 0)]
    assert held[0] == 0
    assert held[1:] == [*range(100 - len(held) + 1, 100)]
    assert 10 < len(held) <= KEPT_BYTES / 1_000_000
    for number in range(100_000):
        kept.keep(("empty", number), Part((), 0, 0, 7))
    assert sum(1 for number in range(100_000) if kept.find(("empty", number), 0)) < 5_000
    assert kept.find(("empty", 99_999), 7)
    assert kept.find(("empty", 99_999), 8) is None
    kept.clear()
    assert kept.find(("empty", 99_999), 0) is None
