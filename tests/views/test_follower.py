"""Orders are shown at once and refreshes coalesced; the stated head is a lower bound."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from ptn_api import tasks
from ptn_api.clock import SteadyClock
from ptn_api.errors import LogError, LogPrunedError, LogReplacedError, LogUnusableError
from ptn_api.event_log import Change, Document, Head, LoggedPosition, RemovedPosition, SourceStatus
from ptn_api.model.position import Position
from ptn_api.rest.context import AppContext
from ptn_api.rest.options import RestOptions
from ptn_api.views import miner_view
from ptn_api.views.follower import RebuildQueue
from ptn_api.views.positions import ViewMetrics
from tests.factories import MINER, OTHER_MINER, order, position, written
from tests.memory_log import MemoryLog
from tests.rest.serving import (
    DAY,
    HOUR,
    NOW,
    FakeClock,
    body_of,
    context_over,
    document,
    filled_log,
    limit_order,
)
from tests.waiting import PATIENCE_S


def first() -> list[Change]:
    return [
        written(position(1, [order(1, at=NOW - HOUR)])),
        written(position(2, [order(2, at=NOW - HOUR)], miner=OTHER_MINER)),
    ]


def refreshed(value: float) -> Change:
    return written(position(1, [order(1, at=NOW - HOUR)], current_return=value))


async def shown_return(context: AppContext) -> float:
    value: float = (await body_of(context, 100))[MINER]["positions"][0]["current_return"]
    return value


async def test_an_order_overtakes_refreshes() -> None:
    """Another miner's order is shown while refreshes are coalesced; the head states the lower bounds."""
    log = filled_log(first())
    context = await context_over(log, FakeClock(), refresh_coalesce_ms=3_600_000)
    before = log.head()
    log.append([refreshed(1.5)], NOW)
    await context.follower.catch_up()
    assert await shown_return(context) == 1.01
    orders = [order(2, at=NOW - HOUR), order(3, at=NOW - 1)]
    log.append([written(position(2, orders, miner=OTHER_MINER))], NOW)
    await context.follower.catch_up()
    assert len((await body_of(context, 100))[OTHER_MINER]["positions"][0]["orders"]) == 2
    assert await shown_return(context) == 1.01
    assert context.views.head.sequence == log.head().sequence
    assert context.views.head.revision == before.revision


async def test_an_order_includes_its_miners_pending_refresh() -> None:
    """A miner is built once, with all its changes."""
    log = filled_log(first())
    context = await context_over(log, FakeClock(), refresh_coalesce_ms=3_600_000)
    log.append([refreshed(1.5)], NOW)
    await context.follower.catch_up()
    orders = [order(1, at=NOW - HOUR), order(4, at=NOW - 1)]
    log.append([written(position(1, orders, current_return=1.6))], NOW)
    await context.follower.catch_up()
    assert await shown_return(context) == 1.6
    assert context.views.head == log.head()


async def test_a_correction_is_not_coalesced() -> None:
    """A changed price of an order is shown at once, although no event announces it."""
    log = filled_log(first())
    context = await context_over(log, FakeClock(), refresh_coalesce_ms=3_600_000)
    log.append([written(position(1, [order(1, at=NOW - HOUR, price=77.0)]))], NOW)
    await context.follower.catch_up()
    assert (await body_of(context, 100))[MINER]["positions"][0]["orders"][0]["price"] == 77.0


async def test_run_wakes_by_itself() -> None:
    """A commit wakes it for orders, its own clock for refreshes that are due."""
    log = filled_log(first())
    context = AppContext.over(log, FakeClock(), RestOptions(refresh_coalesce_ms=20))
    running = asyncio.create_task(context.follower.run())
    await asyncio.wait_for(context.follower.built.wait(), PATIENCE_S)
    log.append([refreshed(1.7)], NOW)
    for _ in range(500):
        if await shown_return(context) == 1.7 and context.views.head == log.head():
            break
        await asyncio.sleep(0.01)
    assert await shown_return(context) == 1.7
    assert context.views.head == log.head()
    running.cancel()


class Unreadable(MemoryLog):
    """A log whose reads of positions fail while `broken` is set."""

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


async def test_an_unreadable_log_is_retried() -> None:
    """No rebuild is forgotten, the head does not claim it meanwhile, and the log states the outage once."""
    log = Unreadable(created_ms=NOW)
    log.baseline(first(), NOW)
    context = AppContext.over(log, FakeClock(), RestOptions(refresh_coalesce_ms=0))
    running = asyncio.create_task(context.follower.run())
    await asyncio.wait_for(context.follower.built.wait(), PATIENCE_S)
    before = log.head()
    with capture_logs() as lines:
        log.broken = LogUnusableError("disk trouble", code="corrupt")
        log.append([refreshed(1.8)], NOW)
        while not context.follower.outage.failing:
            await asyncio.sleep(0.01)
        log.append([refreshed(1.9)], NOW)
        assert context.views.head.revision == before.revision
        log.broken = None
        while context.views.head != log.head():
            await asyncio.sleep(0.01)
    assert await shown_return(context) == 1.9
    assert not context.follower.outage.failing
    assert [line["event"] for line in lines] == ["log_unreadable", "log_readable_again"]
    running.cancel()


async def test_a_replaced_log_ends_the_follower() -> None:
    """Its views are of another log: the process must start again."""
    log = Unreadable(created_ms=NOW)
    log.broken = LogReplacedError("another log")
    log.baseline(first(), NOW)
    context = AppContext.over(log, FakeClock(), RestOptions())
    (ended,) = await asyncio.gather(
        asyncio.wait_for(context.follower.run(), PATIENCE_S), return_exceptions=True
    )
    assert isinstance(ended, LogReplacedError)


class BadDocuments(MemoryLog):
    """A log whose documents are unreadable while `broken` is set."""

    broken = False

    def document(self, document: Document, miner_hotkey: str = "") -> bytes | None:
        if self.broken:
            raise LogUnusableError("disk trouble", code="corrupt")
        return super().document(document, miner_hotkey)


async def test_an_unreadable_lookback_is_taken_later() -> None:
    """Its revision counts as taken only together with its content."""
    closed = [order(1, at=NOW - 3 * DAY), order(2, -0.1, at=NOW - 2 * DAY)]
    log = BadDocuments(created_ms=NOW)
    log.baseline([written(position(1, closed, closed=True, return_at_close=1.5))], NOW)
    context = await context_over(log, FakeClock())
    log.broken = True
    constants = {"SET_WEIGHT_LOOKBACK_RANGE_DAYS": 2}
    log.append([document(Document.STATISTICS, {"constants": constants})], NOW)
    with pytest.raises(LogError):
        await context.follower.catch_up()
    assert (await body_of(context, 0))[MINER]["thirty_day_returns"] == 1.5
    log.broken = False
    await context.follower.catch_up()
    assert (await body_of(context, 0))[MINER]["thirty_day_returns"] == 1.0
    assert context.views.head == log.head()


async def test_positions_that_cannot_be_rebuilt_are_counted() -> None:
    """Tier 100 serves them as written, lagging tiers omit them."""
    odd = position(4, [order(1, 0.0, at=NOW - 2 * DAY)])
    context = await context_over(filled_log([written(odd)]), FakeClock())
    assert context.views.omitted() == 1
    assert await body_of(context, 0) == {}
    assert len((await body_of(context, 100))[MINER]["positions"]) == 1


class Forgetful(MemoryLog):
    """A log whose removals are already pruned."""

    def removed(self, since_revision: int) -> list[RemovedPosition]:
        raise LogPrunedError("gone")


async def test_removals_pruned_unseen_cause_a_rebuild_of_everything() -> None:
    """Positions that are no longer in the log are no longer shown."""
    log = Forgetful(created_ms=NOW)
    log.baseline(first(), NOW)
    context = await context_over(log, FakeClock())
    log.append([document(Document.MINERS, ["5New"]), refreshed(1.9)], NOW)
    await context.follower.catch_up()
    assert context.views.hotkeys() == sorted([MINER, OTHER_MINER, "5New"])
    assert await shown_return(context) == 1.9
    assert context.views.head == log.head()


async def test_a_clock_that_jumps_back_hides_what_was_shown_too_early() -> None:
    """Hours of a wrong clock leave no order in a lower tier."""
    log = filled_log([written(position(1, [order(1, at=NOW - HOUR)]))])
    clock = FakeClock(NOW + DAY)
    context = await context_over(log, clock)
    assert len((await body_of(context, 0))[MINER]["positions"]) == 1
    clock.now_ms = NOW
    await context.follower.catch_up()
    assert await body_of(context, 0) == {}


async def test_a_copy_that_catches_up_shows_that_the_clock_is_right() -> None:
    """What a cluster's copy lacks at the start says nothing about the clock."""
    log = filled_log([written(position(1, [order(1, at=NOW - DAY - HOUR)]))])
    log.set_source(SourceStatus(steady_ms=NOW - 2 * HOUR))
    wall = FakeClock(NOW)
    clock = SteadyClock(wall=wall, monotonic=wall)
    context = AppContext.over(log, clock, RestOptions(refresh_coalesce_ms=0))
    await context.follower.catch_up()
    assert clock.is_untrusted()
    assert await body_of(context, 0) == {}
    log.set_source(SourceStatus(steady_ms=NOW - 5_000))
    await context.follower.catch_up()
    assert not clock.is_untrusted()
    assert clock() == NOW
    assert len((await body_of(context, 0))[MINER]["positions"]) == 1


async def test_nothing_is_built_before_the_baseline_is_complete() -> None:
    """Until then the log must not be served."""
    log = MemoryLog(created_ms=NOW)
    context = await context_over(log, FakeClock())
    assert not context.views.built
    log.baseline(first(), NOW)
    await context.follower.catch_up()
    assert context.views.built


class Busy(MemoryLog):
    """A log in which another order of the first miner appears before each of many reads."""

    orders = 1

    def head(self) -> Head:
        if self.ready() and self.orders < 200:
            self.orders += 1
            orders = [order(n, at=NOW - HOUR) for n in range(1, self.orders + 1)]
            self.append([written(position(1, orders))], NOW)
        return super().head()


async def test_views_are_built_although_orders_keep_arriving(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is enough that the miners of the start are built: there may always be something left to do."""
    monkeypatch.setattr(tasks, "SLICE_S", 0)
    log = Busy(created_ms=NOW)
    log.baseline(first(), NOW)
    context = AppContext.over(log, FakeClock(), RestOptions())
    building = asyncio.create_task(context.follower.catch_up())
    await asyncio.wait_for(context.follower.built.wait(), PATIENCE_S)
    assert log.orders < 10
    assert context.views.built
    assert context.views.hotkeys() == sorted([MINER, OTHER_MINER])
    assert 0 < context.views.head.revision < log.head().revision
    await building
    assert context.views.head == log.head()
    assert len((await body_of(context, 100))[MINER]["positions"][0]["orders"]) == 200


async def test_lower_tiers_go_on_although_orders_keep_arriving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their cutoff is that of the last views that have aged, whatever else is to be rebuilt."""
    monkeypatch.setattr(tasks, "SLICE_S", 0)
    log, clock = Busy(created_ms=NOW), FakeClock()
    log.baseline([*first(), written(position(3, [order(9, at=NOW - DAY + 5)], miner="5Ageing"))], NOW)
    log.orders = 200  # none arrive yet
    context = AppContext.over(log, clock, RestOptions())
    await context.follower.catch_up()
    assert await body_of(context, 0) == {}
    log.orders = 1
    clock.now_ms += HOUR
    following = asyncio.create_task(context.follower.catch_up())
    while not following.done() and context.views.as_of_ms() < clock() - DAY:
        await asyncio.sleep(0)
    assert log.orders < 20
    assert [*await body_of(context, 0)] == ["5Ageing"]
    await following


class BusyUnreadable(Busy, Unreadable):
    """A log that fails while `broken` is set, and then has many orders."""


async def test_an_outage_ends_although_orders_keep_arriving(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first read that works, not when nothing is left to do."""
    monkeypatch.setattr(tasks, "SLICE_S", 0)
    log = BusyUnreadable(created_ms=NOW)
    log.baseline(first(), NOW)
    log.orders = 200  # none arrive yet
    context = AppContext.over(log, FakeClock(), RestOptions(refresh_coalesce_ms=0))
    running = asyncio.create_task(context.follower.run())
    await asyncio.wait_for(context.follower.built.wait(), PATIENCE_S)
    log.broken = LogUnusableError("disk trouble", code="corrupt")
    log.append([refreshed(1.8)], NOW)
    while not context.follower.outage.failing:
        await asyncio.sleep(0)
    log.broken, log.orders = None, 1
    while context.follower.outage.failing and log.orders < 200:
        await asyncio.sleep(0)
    assert log.orders < 100
    running.cancel()


async def test_a_log_that_fails_while_views_are_built_delays_them() -> None:
    """The rest is built later; only then are the views complete."""
    log = Unreadable(created_ms=NOW)
    log.baseline(first(), NOW)
    context = AppContext.over(log, FakeClock(), RestOptions())
    log.broken = LogUnusableError("disk trouble", code="corrupt")
    with pytest.raises(LogError):
        await context.follower.catch_up()
    assert not context.follower.built.is_set()
    log.broken = None
    await context.follower.catch_up()
    assert context.views.built
    assert context.views.hotkeys() == sorted([MINER, OTHER_MINER])


async def test_other_tasks_run_while_many_miners_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop is free after each time slice, here none, however many miners there are."""
    monkeypatch.setattr(tasks, "SLICE_S", 0)
    changes = [written(position(n, [order(n, at=NOW - HOUR)], miner=f"5Miner{n}")) for n in range(1, 120)]
    context = AppContext.over(filled_log(changes), FakeClock(), RestOptions())
    building = asyncio.create_task(context.follower.catch_up())
    turns = 0
    while not building.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 119


def head(number: int) -> Head:
    return Head(sequence=number, revision=number)


def test_the_queue_orders_miners_and_bounds_the_head() -> None:
    """Urgent miners come first; an urgent one keeps the older head of its refresh."""
    queue = RebuildQueue()
    queue.add_refresh("refreshed", head(1), due=0.0)
    queue.add_refresh("later", head(2), due=float("inf"))
    queue.add_urgent("urgent", head(3))
    assert queue.head_within(head(9)) == Head(sequence=3, revision=1)
    queue.add_urgent("later", head(8), full=True)
    assert queue.head_within(head(9)) == Head(sequence=2, revision=1)
    rebuilt = []
    while due := queue.next_due():
        rebuilt.append((due[0], due[1].full))
        queue.remove(due[0])
    assert rebuilt == [("urgent", False), ("later", True), ("refreshed", False)]
    assert queue.head_within(head(9)) == head(9)


def test_a_refresh_waits_until_it_is_due() -> None:
    """It stays in the queue, and its miner's urgent change takes its place."""
    queue = RebuildQueue()
    queue.add_refresh("miner", head(1), due=float("inf"))
    assert queue.next_due() is None
    assert queue.seconds_to_refresh() == float("inf")
    queue.add_urgent("miner", head(2))
    queue.add_refresh("miner", head(3), due=0.0)
    assert queue.seconds_to_refresh() is None
    due = queue.next_due()
    assert due is not None
    assert due[1].before == head(1)


# --- what is not done -------------------------------------------------------------------------------------


async def test_a_replay_is_checked_once_per_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a refresh nor the passage of time repeats it; a contradiction is counted once."""
    checked: list[int] = []

    def differs(position: Position) -> bool:
        checked.append(len(position.orders))
        return True

    monkeypatch.setattr(miner_view, "replay_differs", differs)
    log, clock, metrics = filled_log(first()[:1]), FakeClock(), ViewMetrics()
    context = AppContext.over(log, clock, RestOptions(refresh_coalesce_ms=0), metrics)
    await context.follower.catch_up()
    for passed in (0, HOUR, DAY):
        clock.now_ms += passed
        log.append([refreshed(1.0 + passed)], clock())
        await context.follower.catch_up()
    assert checked == [1]
    orders = [order(1, at=NOW - HOUR), order(2, at=NOW)]
    log.append([written(position(1, orders))], clock())
    await context.follower.catch_up()
    assert (checked, metrics.replay_mismatches) == ([1, 2], 2)


async def test_documents_of_miners_rebuild_no_view() -> None:
    """They are read when asked for; only the checkpoint is joined again."""
    log = filled_log(first())
    context = await context_over(log, FakeClock())
    document_of_all, view = context.views.snapshot(100), context.views.view(MINER)
    checkpoint = await context.checkpoint.snapshot()
    log.append([document(Document.LIMIT_ORDERS, [limit_order(1)], MINER)], NOW)
    log.append([document(Document.SNAPSHOTS, [], MINER)], NOW)
    await context.follower.catch_up()
    assert context.views.snapshot(100) is document_of_all
    assert context.views.view(MINER) is view
    assert await context.checkpoint.snapshot() is not checkpoint
