"""Views after any history equal views built from scratch; they age with the clock."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.event_log import Change, Document, PositionRemoved
from ptn_api.model.tiers import is_live
from ptn_api.rest.context import AppContext
from tests.factories import MINER, OTHER_MINER, order, position, uuid, written
from tests.memory_log import MemoryLog
from tests.properties import tries
from tests.rest.serving import (
    DAY,
    HOUR,
    NOW,
    FakeClock,
    body_of,
    context_over,
    document,
    encoded,
    filled_log,
    limit_order,
)

TIERS = (0, 30, 50, 100)


async def served(context: AppContext) -> dict[Any, Any]:
    """Every body that could be sent, in each coding, and the tags; of some only the tag."""
    found: dict[Any, Any] = {}
    for tier in TIERS:
        snapshot = context.views.snapshot(tier)  # type: ignore[arg-type]
        found[tier] = snapshot.tag
        for coding in ("identity", "gzip", "zstd"):
            found[tier, coding] = encoded(snapshot, coding)
    checkpoint = await context.checkpoint.snapshot()
    found["checkpoint"] = checkpoint and checkpoint.tag
    for miner in (MINER, OTHER_MINER):
        body = context.archive.joined(miner, context.views.view(miner))
        found["with archived", miner] = body and body.tag
    return found


# --- histories --------------------------------------------------------------------------------------------

ages = st.sampled_from([HOUR, 23 * HOUR, DAY, 25 * HOUR, 3 * DAY, 6 * DAY + 23 * HOUR, 8 * DAY, 89 * DAY])


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    number = draw(st.integers(1, 6))
    miner = (MINER, OTHER_MINER)[number % 2]
    opened = NOW - draw(ages) - draw(st.integers(0, 2)) * 1000
    count = draw(st.integers(1, 4))
    gap = draw(st.sampled_from([1000, HOUR, 12 * HOUR]))
    sources = draw(st.sampled_from([[], [{"source": "Polygon", "open": 1.5}]]))
    orders = [
        order(number * 10 + n, draw(st.sampled_from([0.1, 0.2, -0.05])), at=opened + n * gap)
        | {"price_sources": sources}
        for n in range(count)
    ]
    closed = draw(st.booleans())
    if closed:
        orders[-1] |= {"order_type": "FLAT", "leverage": 0.0}
    live = {"current_return": draw(st.floats(0.5, 2)), "return_at_close": draw(st.floats(0.5, 2))}
    return position(number, orders, miner=miner, closed=closed, **live)


removals = st.integers(1, 6).map(
    lambda n: PositionRemoved(miner_hotkey=(MINER, OTHER_MINER)[n % 2], position_uuid=uuid(n))
)
lookbacks = st.sampled_from([None, 7, 90]).map(
    lambda days: document(
        Document.STATISTICS, days and {"constants": {"SET_WEIGHT_LOOKBACK_RANGE_DAYS": days}}
    )
)
of_miners = st.builds(
    document,
    st.just(Document.LIMIT_ORDERS),
    st.sampled_from([None, [limit_order(1), limit_order(2, src=7)], [limit_order(3, pair="ETHUSDC")]]),
    st.sampled_from([MINER, OTHER_MINER]),
) | st.builds(
    document,
    st.just(Document.ARCHIVED_POSITIONS),
    st.none() | st.lists(bodies(), max_size=2),
    st.sampled_from([MINER, OTHER_MINER]),
)
miners = st.sampled_from([None, [], [MINER], [MINER, "5Nobody"]]).map(
    lambda hotkeys: document(Document.MINERS, hotkeys)
)
changes = st.one_of(bodies().map(written), bodies().map(written), removals, lookbacks, miners, of_miners)
steps = st.lists(
    st.tuples(st.lists(changes, max_size=3), st.sampled_from([0, 1, HOUR, DAY, 7 * DAY])), max_size=6
)


@given(st.lists(changes, max_size=4), steps)
@tries(60)
async def test_updated_views_equal_views_built_from_scratch(
    first: list[Change], history: list[tuple[list[Change], int]]
) -> None:
    """Byte for byte, in every coding, after every step: edits, removals, documents, time."""
    clock = FakeClock()
    log = filled_log(first)
    context = await context_over(log, clock)
    for edits, passed in history:
        if edits:
            log.append(edits, clock())
        clock.now_ms += passed
        await context.follower.catch_up()
        assert await served(context) == await served(await context_over(log, clock))
        assert context.views.head == log.head()


# --- ageing -----------------------------------------------------------------------------------------------


def not_sampled(number: int) -> int:
    """The first position number from this one on that is live in tier 100 only."""
    return next(n for n in range(number, number + 100) if not is_live(uuid(n), 50))


async def orders_shown(context: AppContext, tier: int) -> list[int]:
    """The number of orders that the tier shows of each of the miner's positions."""
    entry = (await body_of(context, tier)).get(MINER, {"positions": []})
    return [len(p["orders"]) for p in entry["positions"]]


async def test_orders_appear_24_hours_later_to_the_millisecond() -> None:
    """Strictly before the cutoff: at 24 h an order is hidden, one millisecond later it is shown."""
    clock = FakeClock()
    body = position(not_sampled(1), [order(1, at=NOW - DAY + 5000), order(2, at=NOW - DAY + 7000)])
    context = await context_over(filled_log([written(body)]), clock)
    for now, shown in [(0, []), (5000, []), (5001, [1]), (7000, [1]), (7001, [2])]:
        clock.now_ms = NOW + now
        await context.follower.catch_up()
        assert await orders_shown(context, 0) == shown
        assert await orders_shown(context, 100) == [2]
        assert context.views.as_of_ms() == clock.now_ms - DAY


async def test_a_close_appears_24_hours_later() -> None:
    """Until then the position is open, with the orders and the state from before the close."""
    clock = FakeClock()
    orders = [order(1, at=NOW - 2 * DAY), order(2, 0.0, at=NOW - DAY + 50, order_type="FLAT")]
    body = position(not_sampled(1), orders, closed=True)
    context = await context_over(filled_log([written(body)]), clock)
    (shown,) = (await body_of(context, 0))[MINER]["positions"]
    assert (shown["close_ms"], shown["is_closed_position"]) == (0, False)
    clock.now_ms += 51
    await context.follower.catch_up()
    (shown,) = (await body_of(context, 0))[MINER]["positions"]
    assert shown["close_ms"] == NOW - DAY + 50
    assert shown["return_at_close"] == body["return_at_close"]


@pytest.mark.parametrize("closed", [False, True])
async def test_price_sources_age_out_after_7_days(closed: bool) -> None:
    """In open positions and in the first block's, for every tier."""
    clock = FakeClock()
    sources = [{"source": "Polygon", "open": 1.0}]
    orders = [
        order(1, at=NOW - 7 * DAY + 10, price_sources=sources),
        order(2, -0.1, at=NOW - 5 * DAY, price_sources=sources),
    ]
    context = await context_over(filled_log([written(position(1, orders, closed=closed))]), clock)
    for now, shown in [(10, [1, 1]), (11, [0, 1]), (2 * DAY, [0, 1]), (2 * DAY + 1, [0, 0])]:
        clock.now_ms = NOW + now
        await context.follower.catch_up()
        for tier in TIERS:
            (found,) = (await body_of(context, tier))[MINER]["positions"]
            assert [len(o["price_sources"]) for o in found["orders"]] == shown


async def test_events_of_a_position_appear_24_hours_later() -> None:
    """A fee becomes visible without an order."""
    clock = FakeClock()
    fee = {"fee_type": "carry", "amount": 1.5, "time_ms": NOW - DAY + 5000}
    sizes = {"value": 10_000.0, "quantity": 99.0, "quote_usd_rate": 1.0, "usd_base_rate": 0.0099}
    body = position(
        not_sampled(1),
        [order(1, at=NOW - 2 * DAY, **sizes)],
        account_size=100_000.0,
        net_quantity=99.0,
        net_value=10_000.0,
        fee_history=[fee],
    )
    context = await context_over(filled_log([written(body)]), clock)
    for now, shown in [(5000, []), (5001, [fee])]:
        clock.now_ms = NOW + now
        await context.follower.catch_up()
        (found,) = (await body_of(context, 0))[MINER]["positions"]
        assert found["fee_history"] == shown


async def test_positions_leave_the_window() -> None:
    """`thirty_day_returns` excludes a position opened 180 days ago; other aggregates include it."""
    clock = FakeClock()
    opened = NOW - 180 * DAY + 10
    body = position(1, [order(1, at=opened), order(2, -0.1, at=opened + HOUR)], closed=True)
    context = await context_over(filled_log([written(body | {"return_at_close": 1.5})]), clock)
    for now, recent in [(9, 1.5), (10, 1.0)]:
        clock.now_ms = NOW + now
        await context.follower.catch_up()
        entry = (await body_of(context, 30))[MINER]
        assert (entry["thirty_day_returns"], entry["all_time_returns"]) == (recent, 1.5)


async def test_a_position_that_the_rebuild_closes_earlier_is_sorted_by_that() -> None:
    """Lagging tiers sort by the close they show, even before positions of the first block."""
    flat = order(2, 0.0, at=NOW - 10 * DAY, order_type="FLAT")
    odd = position(not_sampled(1), [order(1, at=NOW - 11 * DAY), flat, order(3, at=NOW - 2 * DAY)])
    later = position(
        not_sampled(200), [order(4, at=NOW - 6 * DAY), order(5, -0.1, at=NOW - 5 * DAY)], closed=True
    )
    context = await context_over(filled_log([written(odd), written(later)]), FakeClock())
    shown = (await body_of(context, 0))[MINER]["positions"]
    assert [p["close_ms"] for p in shown] == [NOW - 10 * DAY, NOW - 5 * DAY]
    shown = (await body_of(context, 100))[MINER]["positions"]
    assert [p["close_ms"] for p in shown] == [NOW - 5 * DAY, 0]


# --- the cost of a change ---------------------------------------------------------------------------------


def three_miners() -> MemoryLog:
    old = [order(1, at=NOW - 9 * DAY), order(2, -0.1, at=NOW - 8 * DAY)]
    return filled_log(
        [
            written(position(1, old, closed=True)),
            written(position(2, [order(3, at=NOW - HOUR)])),
            written(position(3, [order(4, at=NOW - HOUR)], miner=OTHER_MINER)),
        ]
    )


async def test_an_order_replaces_one_block() -> None:
    """All other blocks, with their compressed forms, are the same objects."""
    log = three_miners()
    context = await context_over(log, FakeClock())
    before = context.views.snapshot(100).segments
    log.append([written(position(2, [order(3, at=NOW - HOUR), order(5, at=NOW - 1)]))], NOW)
    await context.follower.catch_up()
    after = context.views.snapshot(100).segments
    assert [one is other for one, other in zip(before, after, strict=True)].count(False) == 1


async def test_a_lower_tier_without_a_visible_change_keeps_its_document() -> None:
    """A live order outside its sample leaves even the object unchanged."""
    log = three_miners()
    context = await context_over(log, FakeClock())
    before = context.views.snapshot(0)
    log.append([written(position(not_sampled(2), [order(5, at=NOW - 1)]))], NOW)
    await context.follower.catch_up()
    assert context.views.snapshot(0) is before


async def test_miners_are_listed_with_a_position_or_a_directory() -> None:
    """A miner without either is dropped."""
    log = three_miners()
    context = await context_over(log, FakeClock())
    assert context.views.hotkeys() == sorted([MINER, OTHER_MINER])
    log.append([document(Document.MINERS, ["5New"])], NOW)
    await context.follower.catch_up()
    assert context.views.hotkeys() == sorted([MINER, OTHER_MINER, "5New"])
    assert (await body_of(context, 100))["5New"]["positions"] == []
    assert await body_of(context, 0) == {MINER: (await body_of(context, 0))[MINER]}
    log.append(
        [document(Document.MINERS, []), PositionRemoved(miner_hotkey=OTHER_MINER, position_uuid=uuid(3))], NOW
    )
    await context.follower.catch_up()
    assert context.views.hotkeys() == [MINER]


async def test_the_keys_of_an_entry_are_in_the_documented_order() -> None:
    """`positions`, the aggregates, `tier` (docs/accounting.md, 5)."""
    context = await context_over(three_miners(), FakeClock())
    text = encoded(context.views.snapshot(30))
    keys = [
        "positions",
        "thirty_day_returns",
        "all_time_returns",
        "n_positions",
        "percentage_profitable",
        "tier",
    ]
    assert [list(entry) for entry in json.loads(text).values()] == [keys, keys]


async def test_moving_a_position_to_the_first_block_keeps_the_document() -> None:
    """The tag remains; the compressed forms equal those of a server that starts at that time."""
    orders = [order(1, at=NOW - 3 * DAY), order(2, -0.1, at=NOW - HOUR)]
    log, clock = filled_log([written(position(1, orders, closed=True))]), FakeClock()
    context = await context_over(log, clock)
    before = await served(context)
    clock.now_ms += DAY
    await context.follower.catch_up()
    after = await served(context)
    assert after[100] == before[100]
    assert after[100, "identity"] == before[100, "identity"]
    assert after[100, "gzip"] != before[100, "gzip"]
    assert after == await served(await context_over(log, clock))


async def test_a_hidden_order_leaves_the_bodies_of_lower_tiers() -> None:
    """They are not made again: the time that an answer takes would tell."""
    hidden = next(n for n in range(1, 200) if not is_live(uuid(n), 50))
    orders = [order(1, at=NOW - 3 * DAY)]
    log = filled_log([written(position(hidden, orders, miner=MINER))])
    context = await context_over(log, FakeClock(NOW))
    before = {tier: context.views.entry(MINER, tier) for tier in TIERS}  # type: ignore[arg-type]
    log.append([written(position(hidden, [*orders, order(2, at=NOW - HOUR)], miner=MINER))], NOW)
    await context.follower.catch_up()
    same = [tier for tier in TIERS if context.views.entry(MINER, tier) is before[tier]]  # type: ignore[arg-type]
    assert same == [0, 30, 50]


async def test_a_hidden_miner_leaves_the_documents_of_lower_tiers() -> None:
    """Its first order, its directory and its removal: a document that is joined again takes longer."""
    hidden = next(n for n in range(1, 200) if not is_live(uuid(n), 50))
    log = three_miners()
    context = await context_over(log, FakeClock())

    def documents() -> dict[int, Any]:
        return {tier: context.views.snapshot(tier) for tier in TIERS}  # type: ignore[arg-type]

    changes: list[Change] = [
        written(position(hidden, [order(50, at=NOW - HOUR)], miner="5New")),
        written(position(hidden, [order(50, at=NOW - HOUR), order(51, at=NOW - 1)], miner="5New")),
        PositionRemoved(miner_hotkey="5New", position_uuid=uuid(hidden)),
        document(Document.MINERS, [MINER, OTHER_MINER, "5New"]),
        document(Document.MINERS, [MINER, OTHER_MINER]),
    ]
    for change in changes:
        before = documents()
        log.append([change], NOW)
        await context.follower.catch_up()
        after = documents()
        assert [tier for tier in TIERS if after[tier] is before[tier]] == [0, 30, 50], change
