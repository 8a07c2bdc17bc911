"""The stream over the SQLite log: its notifications, pages and snapshots."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ptn_api.event_log import open_reader, open_writer
from tests.factories import T0
from tests.stream.live import LiveStream, running
from tests.stream.test_catch_up import follow
from tests.stream.test_version_2 import Mirror, churn, take_until_summed
from tests.waiting import PATIENCE_S


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveStream]:
    writer = open_writer(tmp_path, clock=lambda: T0)
    writer.baseline([], T0)
    reader = open_reader(tmp_path)
    options = {"max_connections_per_key": 50, "accepts_per_second": 100_000, "heartbeat_ms": 20}
    async with running(LiveStream(log=writer, reader=reader, ready=False), **options) as stream:
        yield stream
    reader.close()
    writer.close()


async def test_reconnecting_clients_see_neither_gap_nor_repeat(live: LiveStream) -> None:
    """Random reconnects, seeded; orders keep arriving while they resume."""
    total, start, dice = 300, live.log.head().sequence, random.Random(5)
    followers = [
        asyncio.create_task(follow(live, random.Random(dice.random()), start, start + total))
        for _ in range(6)
    ]
    while live.log.head().sequence < start + total:
        live.trade(dice.randrange(1, 20))
        await asyncio.sleep(0)
    for follower in followers:
        got = await asyncio.wait_for(follower, PATIENCE_S)
        assert got[:total] == list(range(start + 1, start + total + 1))


async def test_a_mirror_agrees_with_the_checksum(live: LiveStream) -> None:
    """Joined to a snapshot, then live; more positions than one part holds."""
    for seed in range(1, 12):
        churn(live, seed)
    head = live.log.head()
    mirror = Mirror()
    for logged in live.log.positions():
        mirror.load(logged.text)
    churn(live, 20)
    async with live.client() as client:
        await client.login(version=2, last_sequence=head.sequence, epoch=live.log.epoch)
        await client.send(type="subscribe", updates=True, revision=head.revision)
        await client.next("subscription_status")
        await client.next("resumed")
        for seed in (30, 31):
            churn(live, seed)
            await take_until_summed(client, mirror, live)
