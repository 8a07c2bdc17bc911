"""Every response to a lower tier is a function of what that tier may see.

Two histories with the same removals and documents for every key, which differ only after the cutoff and
outside the tier's sample, give byte-equal responses: bodies in every coding and all headers but Date. New
miners, archived positions and limit orders are among the differences.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ptn_api.access.key_ring import KeyRing
from ptn_api.event_log import Document
from ptn_api.model.tiers import is_live
from ptn_api.rest.app import App
from ptn_api.rest.context import AppContext
from ptn_api.rest.routes import ROUTES
from tests.factories import MINER, OTHER_MINER, order, position, uuid, written
from tests.memory_log import MemoryLog
from tests.properties import tries
from tests.rest.serving import (
    ARCHIVED,
    DAY,
    HOUR,
    NOW,
    FakeClock,
    context_over,
    document,
    filled_log,
    key_ring,
    limit_order,
    respond,
)

CUTOFF = NOW - DAY
MINERS = (MINER, OTHER_MINER)
NEW_MINER = "5New"
PATHS = [
    "/miner-positions?tier={tier}",
    "/miner-positions?tier={tier}&status=open",
    "/miner-positions?tier={tier}&trade_pair=BTCUSD&status=closed",
    "/miner-positions/" + MINER,
    "/miner-positions/" + NEW_MINER,
    "/miner-hotkeys",
    "/orders/" + MINER,
    "/limit-orders/" + MINER,
    "/perf-ledger/" + MINER,
    "/account-snapshots/" + MINER,
    "/collateral",
    "/entities",
    "/eliminations",
    "/statistics",
    "/me",
    "/health",
    "/validator-checkpoint",
    "/messages",
    "/nope",
]
SAMPLED = [n for n in range(1, 200) if is_live(uuid(n), 30)][:2]
"""Live in 30 and 50 and 100: the same in both histories."""
HIDDEN = [n for n in range(1, 200) if not is_live(uuid(n), 50)][:4]
"""Live in tier 100 only; they differ after the cutoff."""


@st.composite
def old_orders(draw: st.DrawFn, number: int) -> list[dict[str, Any]]:
    """Orders before the cutoff."""
    first = CUTOFF - draw(st.sampled_from([1, HOUR, 3 * DAY, 7 * DAY - HOUR, 100 * DAY])) - 10 * 1000
    sources = draw(st.sampled_from([[], [{"source": "Polygon", "open": 1.0}]]))
    return [
        order(number * 100 + n, draw(st.sampled_from([0.1, -0.05])), at=first + n * 1000)
        | {"price_sources": sources}
        for n in range(draw(st.integers(0, 3)))
    ]


@st.composite
def later_lives(draw: st.DrawFn, number: int, old: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Draws how a position may develop after the cutoff: successive versions of its body."""
    orders = list(old)
    versions = []
    for n in range(draw(st.integers(0, 3))):
        at = CUTOFF + draw(st.sampled_from([0, 1, HOUR, 23 * HOUR]))
        orders = [*orders, order(number * 100 + 50 + n, draw(st.sampled_from([0.3, -0.1])), at=at)]
        versions.append(body(draw, number, orders))
    if draw(st.booleans()) and orders:
        flat = order(number * 100 + 90, 0.0, at=CUTOFF + draw(st.integers(0, DAY - 1)), order_type="FLAT")
        versions.append(body(draw, number, [*orders, flat], closed=True))
    return versions


def body(draw: st.DrawFn, number: int, orders: list[dict[str, Any]], closed: bool = False) -> dict[str, Any]:
    """Draws a version as the validator may write it, with arbitrary live values and unknown keys."""
    return position(
        number,
        orders,
        miner=MINERS[number % 2],
        closed=closed,
        current_return=draw(st.floats(0.5, 2)),
        return_at_close=draw(st.floats(0.5, 2)),
        realized_pnl=draw(st.floats(-9, 9)),
        new_key_of_the_validator=draw(st.integers()),
    )


UNSEEN = next(n for n in range(1000, 1200) if not is_live(uuid(n), 50))
hidden_changes = st.sampled_from(
    [
        [
            written(position(UNSEEN, [order(9, at=CUTOFF)], miner=NEW_MINER)),
            document(Document.MINERS, [*MINERS, NEW_MINER]),
        ],
        [document(Document.MINERS, [*MINERS, NEW_MINER])],
        [document(Document.LIMIT_ORDERS, [limit_order(1), limit_order(2, src=7)], MINER)],
        [document(Document.LIMIT_ORDERS, [limit_order(3)], NEW_MINER)],
        [document(Document.ARCHIVED_POSITIONS, [ARCHIVED], MINER)],
    ]
)
"""Changes that tier 100 alone sees."""


@st.composite
def pairs_of_histories(draw: st.DrawFn) -> tuple[list[Any], list[list[Any]], list[list[Any]]]:
    """Draws (common baseline, changes of one log, changes of the other)."""
    common = [document(Document.MINERS, list(MINERS))]
    if draw(st.booleans()):
        common.append(document(Document.ELIMINATIONS, {"eliminations": [{"hotkey": MINER}]}))
    one: list[Any] = []
    other: list[Any] = []
    for number in SAMPLED:
        orders = [*draw(old_orders(number)), order(number * 100 + 50, at=NOW - HOUR)]
        common.append(written(body(draw, number, orders)))
    for number in HIDDEN:
        old = draw(old_orders(number))
        closed = bool(old) and draw(st.booleans())
        if closed:
            common.append(written(body(draw, number, old, closed=True)))
            continue
        if old:
            common.append(written(body(draw, number, old)))
        one += [[written(version)] for version in draw(later_lives(number, old))]
        other += [[written(version)] for version in draw(later_lives(number, old))]
    one += draw(st.lists(hidden_changes, max_size=3))
    other += draw(st.lists(hidden_changes, max_size=3))
    return common, one, other


async def answers(log: MemoryLog, clock: FakeClock, context: AppContext, keys: KeyRing) -> dict[Any, Any]:
    """Returns every response that a key of each lower tier can get."""
    found: dict[Any, Any] = {}
    app = App(context, keys, ROUTES, monotonic=clock)
    for tier in (0, 30, 50):
        for path in PATHS:
            for coding in ("identity", "gzip", "zstd"):
                response = await respond(app, path.format(tier=tier), f"k{tier}", accept_encoding=coding)
                shown = {k: v for k, v in response.headers.items() if k != "date"}
                found[tier, path, coding] = (response.status, shown, response.body)
    return found


@given(pairs_of_histories(), st.sampled_from([0, HOUR]))
@tries(40)
async def test_lower_tiers_learn_nothing_after_the_cutoff(
    histories: tuple[list[Any], list[list[Any]], list[list[Any]]], apart: int
) -> None:
    """Byte-equal responses however the histories develop, also if one was read in many steps."""
    common, one, other = histories
    keys, clock = key_ring(), FakeClock(NOW - apart)
    followed = filled_log(common, now_ms=NOW - apart)
    context = await context_over(followed, clock)
    for changes in one:
        followed.append(changes, clock())
        await context.follower.catch_up()
    clock.now_ms = NOW
    await context.follower.catch_up()
    first = await answers(followed, clock, context, keys)

    at_once = filled_log(common, epoch="f" * 32)
    at_once.append([change for changes in other for change in changes], NOW)
    second = await answers(at_once, clock, await context_over(at_once, clock), keys)
    assert first == second
    # The test can fail: tier 100 sees the histories differ.
    if one and not other:
        assert context.views.snapshot(100).tag != (await context_over(at_once, clock)).views.snapshot(100).tag
