"""Every response to a lower tier is a function of what that tier may see.

Two histories with the same removals and documents for every key, which differ only after the cutoff and
outside the tier's sample, give byte-equal responses on every route: bodies in every coding and all headers
but Date. They differ in orders and their corrections, closes by the validator, marks, fees, dividends, splits
and unknown keys of positions of every generation; in the set of miners, from a first order to the removal; in
positions that move to the archive, limit orders, the state of accounts and the entities. In the midst of it,
both have the same eliminations, corrections and removals that every tier sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from ptn_api.event_log import Change, Document, DocumentWritten, PositionRemoved, PositionWritten
from ptn_api.model.tiers import is_live
from ptn_api.rest.app import App
from ptn_api.rest.context import AppContext
from ptn_api.rest.routes import ROUTES
from tests.factories import MINER, OTHER_MINER, order, position, uuid, written
from tests.memory_log import MemoryLog
from tests.model import histories
from tests.properties import tries
from tests.rest.serving import (
    ARCHIVED,
    DAY,
    ENTITY,
    HOUR,
    NOW,
    FakeClock,
    context_over,
    document,
    filled_log,
    key_ring,
    limit_order,
    respond,
    some_changes,
)

CUTOFF = NOW - DAY
MINERS = (MINER, OTHER_MINER)
NEW_MINER = "5New"
NEW_MINERS = (NEW_MINER, "5Newer", "5Ahead")
NEW_PAIR = ["NEWUSD", "NEW/USD"]
"""A pair that the network's table lacks: a filter knows it only while a position in it is shown."""
CODINGS = ("identity", "gzip", "zstd")
STATIC = ("/", "/openapi.json", "/asyncapi.json", "/docs", "/docs/stream")
PATHS = [
    *(
        route.path.replace("{hotkey}", hotkey)
        for route in ROUTES
        if route.path not in STATIC
        for hotkey in ([MINER, NEW_MINER] if "{hotkey}" in route.path else [""])
    ),
    "/miner-positions?tier={tier}",
    "/miner-positions?tier={tier}&status=open",
    "/miner-positions?tier={tier}&trade_pair=BTCUSD&status=closed",
    "/miner-positions?tier={tier}&trade_pair=NEWUSD",
    "/miner-positions?tier={tier}&miner=" + NEW_MINER,
    f"/miner-positions?tier={{tier}}&miner={NEW_MINER},{MINER}",
    "/miner-positions?tier={tier}&since=x:1",
    *(
        f"/miner-positions{miner}at={at}"
        for at in (CUTOFF, CUTOFF - HOUR, CUTOFF - 4 * DAY, NOW)
        for miner in ("?tier={tier}&", f"/{MINER}?", f"/{NEW_MINER}?")
    ),
    f"/miner-positions?tier={{tier}}&trade_pair=BTCUSD&status=closed&miner={NEW_MINER},{MINER}&at={CUTOFF}",
    f"/miner-positions?tier={{tier}}&trade_pair=NEWUSD&at={CUTOFF}",
    "/orders?limit=7",
    "/collateral?hotkey=" + NEW_MINER,
    "/collateral?most_recent=true",
    "/challenge-period/" + MINER + "?history=true",
    "/entity/endpoint?subaccount=" + MINER + "_0",
    "/entity/endpoint?hl_address=0xaB",
    "/statistics?checkpoints=false",
    "/nope",
]
SAMPLED = [n for n in range(1, 200) if is_live(uuid(n), 30)][:2]
"""Live in 30 and 50 and 100: the same in both histories."""
HIDDEN = [n for n in range(1, 200) if not is_live(uuid(n), 50)][:4]
"""Live in tier 100 only; they differ after the cutoff."""


class Past(NamedTuple):
    """A position before the cutoff."""

    number: int
    generation: int
    orders: list[dict[str, Any]]
    fees: list[dict[str, Any]]
    dividends: list[dict[str, Any]]
    split: str | None


@st.composite
def pasts(draw: st.DrawFn, number: int) -> Past:
    first = CUTOFF - draw(st.sampled_from([1, HOUR, 3 * DAY, 7 * DAY - HOUR, 100 * DAY])) - 10 * 1000
    sources = draw(st.sampled_from([[], [{"source": "Polygon", "open": 1.0}]]))
    orders = [
        order(number * 100 + n, draw(st.sampled_from([0.1, -0.05])), at=first + n * 1000)
        | {"price_sources": sources}
        for n in range(draw(st.integers(0, 3)))
    ]
    start = CUTOFF - 3 * DAY
    return Past(
        number,
        draw(st.sampled_from([1, 2, 3, 4, 4])),
        orders,
        draw(histories.fees(start, CUTOFF - 1)),
        draw(histories.dividends(start, CUTOFF - 1)),
        draw(st.sampled_from([None, histories.date(CUTOFF - DAY), histories.date(CUTOFF)])),
    )


@st.composite
def later_lives(draw: st.DrawFn, past: Past) -> list[Change]:
    """Draws how a position may develop after the cutoff: successive versions of it."""
    orders = list(past.orders)
    changes: list[Change] = []
    for n in range(draw(st.integers(0, 3))):
        at = CUTOFF + draw(st.sampled_from([0, 1, HOUR, 23 * HOUR]))
        later = order(past.number * 100 + 50 + n, draw(st.sampled_from([0.3, -0.1])), at=at)
        orders.insert(draw(st.integers(0, len(orders))), later)
        changes.append(draw(versions(past, orders)))
    if draw(st.booleans()):  # corrections within minutes of an order
        price = draw(st.floats(1, 9))
        orders = [one | {"price": price, "bid": price} if hidden(one) else one for one in orders]
        changes.append(draw(versions(past, orders)))
    if draw(st.booleans()) and orders:
        at = CUTOFF + draw(st.integers(0, DAY - 1))
        # By the miner, or by the validator, as when it eliminates or liquidates a miner.
        source = draw(st.sampled_from([0, 1, 3]))
        flat = order(past.number * 100 + 90, 0.0, at=at, order_type="FLAT", src=source)
        changes.append(draw(versions(past, [*orders, flat], closed=True)))
    if draw(st.booleans()) and not past.orders:
        changes += draw(departures(miner_of(past), past.number))
    return changes


def hidden(order: dict[str, Any]) -> bool:
    at: int = order["processed_ms"]
    return at >= CUTOFF


@st.composite
def departures(draw: st.DrawFn, miner: str, number: int) -> list[Change]:
    """Draws the end of a hidden position: it is removed, or moved to the archive."""
    removed = PositionRemoved(miner_hotkey=miner, position_uuid=uuid(number))
    archived = document(Document.ARCHIVED_POSITIONS, [{**ARCHIVED, "position_uuid": uuid(number)}], miner)
    return draw(st.sampled_from([[removed], [archived, removed], [removed, archived]]))


@st.composite
def new_miners(draw: st.DrawFn) -> list[list[Change]]:
    """Draws the lives of miners that tier 100 alone knows, from a first order to, maybe, the removal."""
    steps: list[list[Change]] = []
    listed = list(MINERS)
    for index, miner in enumerate(draw(st.lists(st.sampled_from(NEW_MINERS), unique=True, max_size=3))):
        number, pair = UNSEEN[index], draw(st.sampled_from([{}, {"trade_pair": NEW_PAIR}]))
        orders = [
            order(number * 100 + n, draw(st.sampled_from([0.2, -0.1])), at=CUTOFF + n * HOUR)
            for n in range(draw(st.integers(1, 2)))
        ]
        first = [written(position(number, orders[: n + 1], miner=miner, **pair)) for n in range(len(orders))]
        steps += [[change] for change in first]
        listed.append(miner)
        steps.insert(draw(st.integers(0, len(steps))), [document(Document.MINERS, listed)])
        if draw(st.booleans()):
            flat = order(number * 100 + 9, 0.0, at=CUTOFF + 3 * HOUR, order_type="FLAT")
            steps.append([written(position(number, [*orders, flat], miner=miner, closed=True, **pair))])
        if draw(st.booleans()):
            steps.append(draw(departures(miner, number)))
            listed = listed[:-1]
            steps.append([document(Document.MINERS, listed)])
    return steps


@st.composite
def versions(draw: st.DrawFn, past: Past, orders: Sequence[dict[str, Any]], closed: bool = False) -> Change:
    """Draws a version of a position as the validator may write it: what tier 100 alone sees is arbitrary."""
    live = st.floats(-9, 9)
    keys: dict[str, Any] = {
        "current_return": draw(st.floats(0.5, 2)),
        "return_at_close": draw(st.floats(0.5, 2)),
        "realized_pnl": draw(live),
    }
    orders = [one | {"best_price": draw(live)} for one in orders]
    if past.generation >= 2:
        keys["account_size"] = histories.ACCOUNT_SIZE
    if past.generation >= 3:
        orders = [histories.in_usd(one) | {"realized_pnl": draw(live)} for one in orders]
        keys |= {key: draw(live) for key in ("net_value", "net_quantity", "unrealized_pnl")}
    if past.generation == 4:
        dividends = [one | {"paid_ms": draw(st.integers(0))} for one in past.dividends]
        for dividend in dividends:
            if dividend["payment_date"] > histories.date(CUTOFF):
                dividend["applied"] = draw(st.booleans())
        later_splits = st.sampled_from([None, histories.date(CUTOFF + DAY)])
        keys |= {
            "fee_history": [one | {"charged_ms": draw(st.integers(0))} for one in past.fees]
            + draw(histories.fees(CUTOFF, NOW)),
            "is_hl": False,
            "last_stock_split_date": past.split or draw(later_splits),
            "dividend_history": dividends + draw(histories.dividends(CUTOFF, NOW)),
            "last_price_source": draw(st.sampled_from([None, {"source": "a"}, {"source": "b"}])),
            "last_quote_usd_conversion": draw(live),
        }
    for key in draw(st.lists(st.sampled_from(["unfilled_orders", "new_key_of_the_validator"]))):
        keys[key] = [draw(live)]
    return written(position(past.number, orders, miner=miner_of(past), closed=closed, **keys))


def miner_of(past: Past) -> str:
    return MINERS[past.number % 2]


UNSEEN = [n for n in range(1000, 1200) if not is_live(uuid(n), 50)][:3]
ACCOUNT = {"update_time_ms": 7, "account_size": 5.0}
"""A record of an account's size; its other values move with every order."""
hidden_changes: st.SearchStrategy[list[Change]] = st.one_of(
    st.sampled_from(
        [
            [document(Document.LIMIT_ORDERS, [limit_order(1), limit_order(2, src=7)], MINER)],
            [document(Document.LIMIT_ORDERS, [limit_order(3)], NEW_MINER)],
            [document(Document.ARCHIVED_POSITIONS, [ARCHIVED], MINER)],
            [document(Document.ARCHIVED_POSITIONS, [ARCHIVED], NEW_MINER)],
            [document(Document.ENTITIES, {MINER: ENTITY | {"next_subaccount_id": 9}})],
        ]
    ),
    st.floats(0, 9).map(
        lambda live: [document(Document.ACCOUNT_SIZES, {MINER: [ACCOUNT, {"capital_used": live}]})]
    ),
    st.floats(0, 9).map(
        lambda live: [
            document(
                Document.ACCOUNT_SIZES,
                {MINER: {"daily_open_snapshot": live, "collateral_records": [ACCOUNT]}},
            )
        ]
    ),
)
"""Changes that tier 100 alone sees."""

Steps = list[list[Change]]


class Histories(NamedTuple):
    """Two histories: a common baseline, changes of either, common changes, and again changes of either."""

    common: list[Change]
    one: Steps
    other: Steps
    seen: Steps
    one_later: Steps
    other_later: Steps


@st.composite
def pairs_of_histories(draw: st.DrawFn) -> Histories:
    common: list[Change] = [change for change in some_changes() if isinstance(change, DocumentWritten)]
    common.append(document(Document.MINERS, list(MINERS)))
    common.append(document(Document.ACCOUNT_SIZES, {MINER: [ACCOUNT]}))
    one: Steps = []
    other: Steps = []
    for number in SAMPLED:
        past = draw(pasts(number))
        orders = [*past.orders, order(number * 100 + 50, at=NOW - HOUR)]
        common.append(draw(versions(past, orders)))
    for number in HIDDEN:
        past = draw(pasts(number))
        if draw(st.booleans()) and past.orders:
            common.append(draw(versions(past, past.orders, closed=True)))
            continue
        if past.orders:
            common.append(draw(versions(past, past.orders)))
        one += [[change] for change in draw(later_lives(past))]
        other += [[change] for change in draw(later_lives(past))]
    for steps in (one, other):
        for step in draw(st.lists(hidden_changes, max_size=3)):
            steps.insert(draw(st.integers(0, len(steps))), step)
        steps += draw(new_miners())
    seen = draw(changes_for_all(common))
    gone = {
        change.position_uuid for changes in seen for change in changes if isinstance(change, PositionRemoved)
    }

    def halves(steps: Steps) -> tuple[Steps, Steps]:
        """Cuts a history anywhere. What every tier saw removed does not come back afterwards."""
        cut = draw(st.integers(0, len(steps)))
        return steps[:cut], [
            [c for c in step if not (isinstance(c, PositionWritten) and c.position.position_uuid in gone)]
            for step in steps[cut:]
        ]

    (one, one_later), (other, other_later) = halves(one), halves(other)
    return Histories(common, one, other, seen, one_later, other_later)


@st.composite
def changes_for_all(draw: st.DrawFn, common: list[Change]) -> Steps:
    """Draws changes that every tier sees at once, and that both histories have."""
    positions = [change.position for change in common if isinstance(change, PositionWritten)]
    steps: Steps = []
    if draw(st.booleans()):
        rows = [{"hotkey": miner, "reason": "FAILED"} for miner in MINERS]
        steps.append([document(Document.ELIMINATIONS, {"eliminations": rows[: draw(st.integers(0, 2))]})])
    if draw(st.booleans()):
        points = [{"last_update_ms": NOW, "prev_portfolio_ret": draw(st.floats(0.5, 2)), "mdd": 0.9}]
        steps.append([document(Document.PERF_LEDGERS, {miner: {"cps": points} for miner in MINERS})])
    if draw(st.booleans()):
        sampled = [order(SAMPLED[0] * 100 + n, 0.1, at=NOW - HOUR + n) for n in range(2)]
        steps.append([written(position(SAMPLED[0], sampled, miner=MINERS[SAMPLED[0] % 2]))])
    leaving = draw(st.sampled_from([(), ("position",), MINERS[:1], MINERS]))
    chosen = (
        positions[-1:] if leaving == ("position",) else [p for p in positions if p.miner_hotkey in leaving]
    )
    if chosen:
        removals: list[Change] = [
            PositionRemoved(miner_hotkey=one.miner_hotkey, position_uuid=one.position_uuid) for one in chosen
        ]
        steps.append(removals)
    return steps


Answers = dict[Any, Any]


class Server:
    """A server over a log, and its clock."""

    def __init__(self, log: MemoryLog, clock: FakeClock, context: AppContext) -> None:
        self.log, self.clock, self.context = log, clock, context
        self._app = App(context, key_ring(), ROUTES, monotonic=clock)

    @classmethod
    async def over(cls, log: MemoryLog, now_ms: int) -> Server:
        clock = FakeClock(now_ms)
        return cls(log, clock, await context_over(log, clock, requests_per_minute=0))

    async def take(self, steps: Steps) -> None:
        for changes in steps:
            self.log.append(changes, self.clock())
            await self.context.follower.catch_up()

    async def wait_until(self, now_ms: int) -> None:
        self.clock.now_ms = now_ms
        await self.context.follower.catch_up()

    async def answers(self, *codings: str) -> Answers:
        """Returns every response that a key of each lower tier can get."""
        found: Answers = {}
        for tier in (0, 30, 50):
            for path in PATHS:
                for coding in codings:
                    target = path.format(tier=tier)
                    response = await respond(self._app, target, f"k{tier}", accept_encoding=coding)
                    headers = {k: v for k, v in response.headers.items() if k != "date"}
                    found[tier, path, coding] = (response.status, headers, response.body)
        return found


def assert_equal(one: Answers, other: Answers) -> None:
    assert {key: (one[key], other[key]) for key in one if one[key] != other[key]} == {}


@given(pairs_of_histories(), st.sampled_from([0, HOUR]), st.booleans())
@tries(40)
async def test_lower_tiers_learn_nothing_after_the_cutoff(
    histories: Histories, apart: int, early: bool
) -> None:
    """Byte-equal responses however the histories develop, between and after their changes.

    `early`: the changes of the first come before the clock moves on, those of the second always after.
    """
    common, one, other, seen, one_later, other_later = histories
    first = await Server.over(filled_log(common, now_ms=NOW - apart), NOW - apart)
    second = await Server.over(filled_log(common, now_ms=NOW - apart, epoch="f" * 32), NOW - apart)
    before = await second.answers("gzip")
    assert_equal(await first.answers("gzip"), before)
    await first.take(one if early else [])
    assert_equal(await first.answers("gzip"), before)
    for server in (first, second):
        await server.wait_until(NOW)
    after = await second.answers("identity")
    await first.take([] if early else one)
    await second.take(other)
    assert_equal(await first.answers("identity"), after)
    for server, later in ((first, one_later), (second, other_later)):
        await server.take(seen)
        await server.take(later)
    assert_equal(await second.answers(*CODINGS), await first.answers(*CODINGS))


@given(pairs_of_histories(), st.sampled_from([0, HOUR]))
@tries(40)
async def test_a_restart_tells_nothing_either(histories: Histories, apart: int) -> None:
    """Byte-equal responses also if one server read everything at its start."""
    common, one, other, seen, one_later, other_later = histories
    followed = await Server.over(filled_log(common, now_ms=NOW - apart), NOW - apart)
    await followed.take(one)
    await followed.wait_until(NOW)
    await followed.take([*seen, *one_later])
    at_once = filled_log(common, epoch="f" * 32)
    at_once.append([change for changes in [*other, *seen, *other_later] for change in changes], NOW)
    restarted = await Server.over(at_once, NOW)
    assert_equal(await followed.answers(*CODINGS), await restarted.answers(*CODINGS))


async def test_tier_100_tells_such_histories_apart() -> None:
    """The tests above can fail."""
    (number, *_) = HIDDEN
    old = order(1, at=CUTOFF - 1)
    server = await Server.over(filled_log([written(position(number, [old]))]), NOW)
    before = server.context.views.snapshot(100).tag
    await server.take([[written(position(number, [old, order(2, at=CUTOFF)]))]])
    assert server.context.views.snapshot(100).tag != before
