"""The step from catch-up to live when the tail lags behind the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ptn_api.event_log.contract import Event, LoggedPosition, RemovedPosition
from ptn_api.fanout.catch_up import PART_POSITIONS
from tests.factories import MINER, T0, order, position, uuid, written
from tests.memory_log import MemoryLog
from tests.stream.live import Client, LiveStream, running
from tests.waiting import PATIENCE_S


class SilentLog(MemoryLog):
    """A log that notifies of commits only when the test calls `notify`: until then the tail lags."""

    def _notify(self) -> None:
        pass

    def notify(self) -> None:
        super()._notify()


def _silent() -> tuple[SilentLog, LiveStream]:
    log = SilentLog(created_ms=T0, epoch="epoch-1")
    return log, LiveStream(log=log)


@pytest.mark.parametrize("missed", [0, 1, 2])
async def test_missed_orders_arrive_once(missed: int) -> None:
    """Nothing, one order, two orders."""
    async with running() as live, live.client() as client:
        head = live.trade(5).sequence
        await client.login(last_sequence=head - missed)
        await client.subscribe()
        live.trade()
        got = [m["sequence"] for m in await client.messages(missed + 1)]
        assert got == list(range(head - missed + 1, head + 2))


async def test_a_client_ahead_of_the_tail_waits_for_it_and_gets_nothing_twice() -> None:
    """At the login, the log's head may be far ahead of the tail."""
    log, stream = _silent()
    async with running(stream) as live, live.client() as early, live.client() as late:
        start = log.head().sequence
        await early.login()
        await early.subscribe()
        live.trade(350)
        assert (await late.login())["current_sequence"] == start + 350
        await late.subscribe()
        live.trade()
        log.notify()
        assert [m["sequence"] for m in await late.messages(1)] == [start + 351]
        assert [m["sequence"] - start for m in await early.messages(351)] == list(range(1, 352))


async def test_every_order_up_to_the_head_of_a_resume_is_marked_as_replayed() -> None:
    """Even if the tail is several steps behind that head, so that the client could go live before it."""
    log, stream = _silent()
    async with running(stream) as live, live.client() as early, live.client() as late:
        start = log.head().sequence
        await early.login()
        await early.subscribe()
        live.trade(350)
        await late.login(version=2, last_sequence=start, epoch="epoch-1")
        await late.subscribe()
        assert (await late.receive()) == {"type": "resumed", "after": start, "head": start + 350}
        live.trade()
        log.notify()
        got = await late.messages(351)
        assert [m["sequence"] - start for m in got] == list(range(1, 352))
        assert [m["sequence"] - start for m in got if not m.get("replay")] == [351]


async def test_a_change_newer_than_the_tail_includes_the_older_one() -> None:
    """A correction before the join and a refresh after it: the frame has the corrected order."""
    log, stream = _silent()
    async with running(stream) as live, live.client() as client:
        live.append(written(position(1, [order(1), order(2)])))
        snapshot = log.head()
        live.append(written(position(1, [order(1, price=7.0), order(2)])))
        log.notify()
        live.append(written(position(1, [order(1, price=7.0), order(2)], current_return=3.0)))
        await client.login(version=2, last_sequence=snapshot.sequence, epoch="epoch-1")
        await client.subscribe(updates=True, revision=snapshot.revision)
        assert (await client.receive())["type"] == "resumed"
        frame = await client.receive()
        assert frame["position"]["current_return"] == 3.0
        assert [o["price"] for o in frame["orders"]] == [7.0]
        assert frame["revision"] == log.head().revision


async def test_orders_precede_changes_during_a_catch_up() -> None:
    """An order that the tail has not sent is announced before a position frame contains it."""
    log, stream = _silent()
    async with running(stream) as live, live.client() as client:
        live.append(written(position(1, [order(1)])))
        snapshot = log.head()
        log.notify()
        await client.login(version=2, last_sequence=snapshot.sequence, epoch="epoch-1")
        live.append(written(position(1, [order(1, price=7.0), order(2)])))
        await client.subscribe(updates=True, revision=snapshot.revision)
        assert (await client.receive())["type"] == "resumed"
        (message,) = await client.messages(1)
        assert message["replay"] is True
        assert message["data"]["position"]["orders"][-1]["order_uuid"] == order(2)["order_uuid"]
        frame = await client.receive()
        assert (frame["type"], frame["after"]) == ("position", message["sequence"])


class MeddledLog(MemoryLog):
    """A log with one write during a catch-up: before it returns orders, changes or removals."""

    before_read: Callable[[], object] | None = None
    before_positions: Callable[[], object] | None = None
    before_removed: Callable[[], object] | None = None

    def read(self, after: int, limit: int, *, orders: bool = True) -> list[Event]:
        meddle, self.before_read = self.before_read, None
        if meddle is not None:
            meddle()
        return super().read(after, limit, orders=orders)

    def positions(self, *, miner: str | None = None, since_revision: int = 0) -> Iterator[LoggedPosition]:
        meddle, self.before_positions = self.before_positions, None
        if meddle is not None:
            meddle()
        return super().positions(miner=miner, since_revision=since_revision)

    def removed(self, since_revision: int) -> list[RemovedPosition]:
        meddle, self.before_removed = self.before_removed, None
        if meddle is not None:
            meddle()
        return super().removed(since_revision)


@asynccontextmanager
async def _meddled() -> AsyncIterator[tuple[MeddledLog, LiveStream, Client]]:
    """A client about to subscribe with a revision after which order 1 was corrected."""
    log = MeddledLog(created_ms=T0, epoch="epoch-1")
    async with running(LiveStream(log=log)) as live, live.client() as client:
        snapshot = live.append(written(position(1, [order(1), order(2)])))
        live.append(written(position(1, [order(1, price=7.0), order(2)])))
        await client.login(version=2, last_sequence=snapshot.sequence, epoch="epoch-1")
        yield log, live, client


async def test_a_refresh_in_the_middle_of_a_catch_up_does_not_hide_the_correction_before_it() -> None:
    """Changes are computed from the client's revision until it is live."""
    async with _meddled() as (log, live, client):
        refreshed = position(1, [order(1, price=7.0), order(2)], current_return=3.0)
        log.before_positions = lambda: live.append(written(refreshed))
        await client.subscribe(updates=True, revision=1)
        assert (await client.receive())["type"] == "resumed"
        frame = await client.receive()
        assert frame["position"]["current_return"] == 3.0
        assert [o["price"] for o in frame["orders"]] == [7.0]


async def test_a_removal_in_the_middle_of_a_catch_up_is_sent_once() -> None:
    """Not in the catch-up and again live."""
    async with _meddled() as (log, live, client):
        log.before_removed = lambda: live.remove(MINER, uuid(1))
        await client.subscribe(updates=True, revision=1)
        assert [(await client.receive())["type"] for _ in range(3)] == ["resumed", "position", "removed"]
        live.append(written(position(9, [order(9)])))
        assert len(await client.messages(1)) == 1


@pytest.mark.parametrize("cursor", [{}, {"last_sequence": 7, "epoch": "another"}])
async def test_a_client_without_a_revision_gets_changes_that_happen_while_it_catches_up(
    cursor: dict[str, Any],
) -> None:
    """From the state on that the first frames stand for: it takes its snapshot after them."""
    log = MeddledLog(created_ms=T0, epoch="epoch-1")
    async with running(LiveStream(log=log)) as live, live.client() as early, live.client() as client:
        await early.login(version=2)
        await early.subscribe(updates=True)
        live.append(written(position(1_000, [order(1_000)])))
        await early.messages(1)
        await client.login(version=2, **cursor)
        live.trade(400)
        await early.messages(400)
        log.before_read = lambda: live.append(written(position(1_000, [order(1_000, price=7.0)])))
        await client.subscribe(updates=True)
        if cursor:
            assert (await client.receive())["type"] == "resume_failed"
        assert len(await client.messages(400)) == 400
        frame = await asyncio.wait_for(client.next("position"), PATIENCE_S)
        assert [o["price"] for o in frame["orders"]] == [7.0]


@pytest.mark.parametrize("refreshed", [PART_POSITIONS - 1, PART_POSITIONS, 2 * PART_POSITIONS])
async def test_removals_are_sent_however_many_positions_changed(refreshed: int) -> None:
    """Also after a full part, which does not tell whether there are more."""
    async with running() as live:
        live.trade(refreshed + 1)
        known = live.log.head()
        live.remove(MINER, uuid(refreshed + 1))
        for number in range(1, refreshed + 1):
            live.append(written(position(number, [order(number, 0.3)])))
        async with live.client() as client:
            await client.login(version=2, last_sequence=known.sequence, epoch="epoch-1")
            await client.subscribe(updates=True, revision=known.revision)
            await client.next("resumed")
            for _ in range(refreshed):
                await client.next("position")
            assert (await client.next("removed"))["positions"] == [[MINER, uuid(refreshed + 1)]]
