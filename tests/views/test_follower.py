"""Orders are shown at once, refreshes together, and what an answer states is a lower bound."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ptn_api import tasks
from ptn_api.errors import LogError, LogPrunedError, LogReplacedError, LogUnusableError
from ptn_api.event_log import Change, Document, LoggedPosition, MemoryLog, RemovedPosition
from ptn_api.rest.context import AppContext
from ptn_api.rest.options import RestOptions
from tests.factories import MINER, OTHER_MINER, order, position, written
from tests.rest.serving import DAY, HOUR, NOW, FakeClock, body_of, context_over, document, filled_log


def first() -> list[Change]:
    return [
        written(position(1, [order(1, at=NOW - HOUR)])),
        written(position(2, [order(2, at=NOW - HOUR)], miner=OTHER_MINER)),
    ]


def refreshed(value: float) -> Change:
    return written(position(1, [order(1, at=NOW - HOUR)], current_return=value))


async def shown_return(room: AppContext) -> float:
    value: float = (await body_of(room, 100))[MINER]["positions"][0]["current_return"]
    return value


async def test_a_refresh_waits_and_an_order_does_not() -> None:
    """With a long pause for refreshes, an order of another miner passes them; the bounds say so."""
    log = filled_log(first())
    room = await context_over(log, FakeClock(), refresh_coalesce_ms=3_600_000)
    before = log.head()
    log.append([refreshed(1.5)], NOW)
    await room.follower.catch_up()
    assert await shown_return(room) == 1.01
    orders = [order(2, at=NOW - HOUR), order(3, at=NOW - 1)]
    log.append([written(position(2, orders, miner=OTHER_MINER))], NOW)
    await room.follower.catch_up()
    assert len((await body_of(room, 100))[OTHER_MINER]["positions"][0]["orders"]) == 2
    assert await shown_return(room) == 1.01
    assert room.views.head.sequence == log.head().sequence
    assert room.views.head.revision == before.revision


async def test_an_order_takes_its_miners_waiting_refresh_along() -> None:
    """A miner is built once, with all that is known."""
    log = filled_log(first())
    room = await context_over(log, FakeClock(), refresh_coalesce_ms=3_600_000)
    log.append([refreshed(1.5)], NOW)
    await room.follower.catch_up()
    orders = [order(1, at=NOW - HOUR), order(4, at=NOW - 1)]
    log.append([written(position(1, orders, current_return=1.6))], NOW)
    await room.follower.catch_up()
    assert await shown_return(room) == 1.6
    assert room.views.head == log.head()


async def test_a_correction_does_not_wait() -> None:
    """An order whose price changed is shown at once, though nothing is announced."""
    log = filled_log(first())
    room = await context_over(log, FakeClock(), refresh_coalesce_ms=3_600_000)
    log.append([written(position(1, [order(1, at=NOW - HOUR, price=77.0)]))], NOW)
    await room.follower.catch_up()
    assert (await body_of(room, 100))[MINER]["positions"][0]["orders"][0]["price"] == 77.0


async def test_run_shows_what_comes_without_being_told() -> None:
    """The bell wakes it for orders, its own clock for refreshes that have waited long enough."""
    log = filled_log(first())
    room = AppContext.over(log, FakeClock(), RestOptions(refresh_coalesce_ms=20))
    running = asyncio.create_task(room.follower.run())
    await asyncio.wait_for(room.follower.built.wait(), 5)
    log.append([refreshed(1.7)], NOW)
    for _ in range(500):
        if await shown_return(room) == 1.7 and room.views.head == log.head():
            break
        await asyncio.sleep(0.01)
    assert await shown_return(room) == 1.7
    assert room.views.head == log.head()
    running.cancel()


class Unreadable(MemoryLog):
    """A log that fails when it is told to."""

    broken: LogError | None = None

    def positions_of(self, miner: str, *, open_or_closed_since_ms: int) -> list[LoggedPosition]:
        self._fail()
        return super().positions_of(miner, open_or_closed_since_ms=open_or_closed_since_ms)

    def positions(self, *, miner: str | None = None, since_revision: int = 0) -> Iterator[LoggedPosition]:
        if miner:
            self._fail()
        return super().positions(miner=miner, since_revision=since_revision)

    def _fail(self) -> None:
        if self.broken:
            raise self.broken


async def test_a_log_that_cannot_be_read_is_tried_again() -> None:
    """Nothing that was to be built is forgotten, and the bounds do not claim it meanwhile."""
    log = Unreadable(created_ms=NOW)
    log.baseline(first(), NOW)
    room = AppContext.over(log, FakeClock(), RestOptions(refresh_coalesce_ms=0))
    running = asyncio.create_task(room.follower.run())
    await asyncio.wait_for(room.follower.built.wait(), 5)
    before = log.head()
    log.broken = LogUnusableError("disk trouble", code="corrupt")
    log.append([refreshed(1.8)], NOW)
    while not room.follower.failing:
        await asyncio.sleep(0.01)
    assert room.views.head.revision == before.revision
    log.broken = None
    while room.views.head != log.head():
        await asyncio.sleep(0.01)
    assert await shown_return(room) == 1.8
    assert not room.follower.failing
    running.cancel()


async def test_a_log_that_was_put_in_place_anew_ends_the_follower() -> None:
    """What is known is of another log: the process is to begin again."""
    log = Unreadable(created_ms=NOW)
    log.broken = LogReplacedError("another log")
    log.baseline(first(), NOW)
    room = AppContext.over(log, FakeClock(), RestOptions())
    (ended,) = await asyncio.gather(asyncio.wait_for(room.follower.run(), 5), return_exceptions=True)
    assert isinstance(ended, LogReplacedError)


class BadDocuments(MemoryLog):
    """A log whose documents cannot be read for a while."""

    broken = False

    def document(self, document: Document) -> bytes | None:
        if self.broken:
            raise LogUnusableError("disk trouble", code="corrupt")
        return super().document(document)


async def test_an_elimination_that_could_not_be_read_is_taken_later() -> None:
    """Its revision counts as taken only when its content is."""
    closed = [order(1, at=NOW - 3 * DAY), order(2, -0.1, at=NOW - 2 * DAY)]
    log = BadDocuments(created_ms=NOW)
    log.baseline([written(position(1, closed, closed=True, return_at_close=1.5))], NOW)
    room = await context_over(log, FakeClock())
    log.broken = True
    log.append([document(Document.ELIMINATIONS, {"eliminations": [{"hotkey": MINER}]})], NOW)
    with pytest.raises(LogError):
        await room.follower.catch_up()
    assert (await body_of(room, 0))[MINER]["all_time_returns"] == 1.5
    log.broken = False
    await room.follower.catch_up()
    assert (await body_of(room, 0))[MINER]["all_time_returns"] == 1.0
    assert room.views.head == log.head()


async def test_positions_that_cannot_be_replayed_are_counted() -> None:
    """Tier 100 serves them as they came, the lagging tiers leave them out."""
    odd = position(4, [order(1, 0.0, at=NOW - 2 * DAY)])
    room = await context_over(filled_log([written(odd)]), FakeClock())
    assert room.views.unreplayable() == 1
    assert (await body_of(room, 0))[MINER]["positions"] == []
    assert len((await body_of(room, 100))[MINER]["positions"]) == 1


class Forgetful(MemoryLog):
    """A log whose removals are pruned before anybody saw them."""

    def removed(self, since_revision: int) -> list[RemovedPosition]:
        raise LogPrunedError("gone")


async def test_removals_that_were_pruned_unseen_cost_a_rebuild() -> None:
    """Everything is read again; what is no longer in the log is no longer shown."""
    log = Forgetful(created_ms=NOW)
    log.baseline(first(), NOW)
    room = await context_over(log, FakeClock())
    log.append([document(Document.MINERS, ["5New"]), refreshed(1.9)], NOW)
    await room.follower.catch_up()
    assert room.views.hotkeys() == sorted([MINER, OTHER_MINER, "5New"])
    assert await shown_return(room) == 1.9
    assert room.views.head == log.head()


async def test_a_clock_that_went_back_takes_back_what_was_shown_too_early() -> None:
    """Hours that were wrong for a while leave no order in a lower tier."""
    log = filled_log([written(position(1, [order(1, at=NOW - HOUR)]))])
    clock = FakeClock(NOW + DAY)
    room = await context_over(log, clock)
    assert len((await body_of(room, 0))[MINER]["positions"]) == 1
    clock.now_ms = NOW
    await room.follower.catch_up()
    assert (await body_of(room, 0))[MINER]["positions"] == []


async def test_nothing_is_built_before_the_baseline_is_complete() -> None:
    """A log that is not ready has nothing worth serving."""
    log = MemoryLog(created_ms=NOW)
    room = await context_over(log, FakeClock())
    assert not room.views.built
    log.baseline(first(), NOW)
    await room.follower.catch_up()
    assert room.views.built


async def test_other_tasks_run_while_many_miners_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop is free again after each slice of time, here none, however much there is to do."""
    monkeypatch.setattr(tasks, "SLICE_S", 0)
    changes = [written(position(n, [order(n, at=NOW - HOUR)], miner=f"5Miner{n}")) for n in range(1, 120)]
    room = AppContext.over(filled_log(changes), FakeClock(), RestOptions())
    building = asyncio.create_task(room.follower.catch_up())
    turns = 0
    while not building.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 119
