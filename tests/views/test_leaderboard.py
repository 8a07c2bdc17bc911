"""The leaderboard: what each tier shows of the miners, kept until something in it changes."""

from __future__ import annotations

import gzip
import json
import random
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from ptn_api.event_log import Change, Document
from ptn_api.model.miner import Leaderboard
from ptn_api.model.tiers import Tier, is_live
from ptn_api.rest.context import AppContext
from ptn_api.tasks import TimeSlice
from tests.factories import EURUSD, MINER, OTHER_MINER, order, position, uuid, written
from tests.rest.serving import DAY, HOUR, NOW, FakeClock, context_over, document, encoded, filled_log

HIDDEN = [n for n in range(1, 50) if not is_live(uuid(n), 50)]
LONG = {"open_ms": NOW - 9 * DAY, "close_ms": NOW - 8 * DAY}
ELIMINATION = {"hotkey": MINER, "reason": "FAILED", "elimination_initiated_time_ms": 7.0, "dd": 0.1}
CHECKPOINTS = [
    {"last_update_ms": NOW - 2 * DAY, "prev_portfolio_ret": 1.02, "mdd": 0.99},
    {"last_update_ms": NOW - DAY, "prev_portfolio_ret": 0.98123456789, "mdd": 0.9566666666},
    {"last_update_ms": NOW, "prev_portfolio_ret": 1.0, "mdd": 0.98},
]


async def leaderboard(context: AppContext, tier: Tier = 100) -> Leaderboard:
    body = await context.leaderboards.updated(tier, TimeSlice())
    assert context.leaderboards.current(tier) is body
    return msgspec.json.decode(encoded(body), type=Leaderboard)


async def rows(context: AppContext, tier: Tier = 100) -> dict[str, Any]:
    shown = json.loads(msgspec.json.encode(await leaderboard(context, tier)))
    return {row["hotkey"]: row for row in shown["miners"]}


async def test_a_row() -> None:
    """Every value of a miner, in the order of the keys; the worst miner last."""
    changes = [
        written(position(1, [order(1, at=NOW - 9 * DAY)], closed=True, return_at_close=0.9) | LONG),
        written(position(2, [order(3, 0.1, at=NOW - 30 * HOUR), order(4, 0.2, at=NOW - HOUR)])),
        written(position(3, [order(5, -2.0, at=NOW - 2 * HOUR)], trade_pair=EURUSD)),
        written(position(4, [order(6, at=NOW - DAY)], miner=OTHER_MINER)),
        document(Document.ELIMINATIONS, {"eliminations": [ELIMINATION]}),
        document(Document.CHALLENGEPERIOD, {"testing": {MINER: 7}, "success": {}}),
        document(Document.PERF_LEDGERS, {MINER: {"cps": CHECKPOINTS}}),
    ]
    context = await context_over(filled_log(changes), FakeClock())
    shown = await leaderboard(context)
    assert (shown.tier, shown.delay_ms, shown.lookback_days) == (100, 0, 180)
    assert [(row.hotkey, row.rank) for row in shown.miners] == [(OTHER_MINER, 1), (MINER, 2)]
    row = (await rows(context))[MINER]
    assert row == {
        "hotkey": MINER,
        "rank": 2,
        "thirty_day_returns": 0.9,
        "all_time_returns": 0.9,
        "n_positions": 1,
        "percentage_profitable": 0.0,
        "open_positions": 2,
        "net_leverage": {"BTCUSD": pytest.approx(0.3), "EURUSD": -2.0},
        "last_order": {
            "processed_ms": NOW - HOUR,
            "trade_pair": "BTCUSD",
            "order_type": "LONG",
            "leverage": 0.2,
        },
        "phase": "CHALLENGE",
        "elimination": {"reason": "FAILED", "elimination_initiated_time_ms": 7},
        "drawdown": 0.04333,
        "curve": [[NOW - 2 * DAY, 1.02], [NOW - DAY, 0.98123], [NOW, 1.0]],
    }
    assert list(json.loads(encoded(await _body(context)))["miners"][1]) == list(row)
    other = (await rows(context))[OTHER_MINER]
    assert (other["phase"], other["elimination"], other["drawdown"], other["curve"]) == (None,) * 4


async def _body(context: AppContext) -> Any:
    return await context.leaderboards.updated(100, TimeSlice())


async def test_each_tier_shows_what_its_document_shows() -> None:
    """A lower tier's row is of the orders before its cutoff; a miner that it does not show is absent."""
    old, new = order(1, 0.1, at=NOW - 30 * HOUR), order(2, 0.2, at=NOW - HOUR)
    changes = [
        written(position(HIDDEN[0], [old, new])),
        written(position(HIDDEN[1], [order(3, at=NOW - HOUR)], miner=OTHER_MINER)),
    ]
    context = await context_over(filled_log(changes), FakeClock())
    live, delayed = await rows(context), await rows(context, 0)
    assert list(live) == sorted([MINER, OTHER_MINER])
    assert live[MINER]["last_order"]["processed_ms"] == NOW - HOUR
    assert live[MINER]["net_leverage"] == {"BTCUSD": pytest.approx(0.3)}
    assert list(delayed) == [MINER]
    assert delayed[MINER]["last_order"]["processed_ms"] == NOW - 30 * HOUR
    assert delayed[MINER]["net_leverage"] == {"BTCUSD": 0.1}
    assert (await leaderboard(context, 0)).delay_ms == DAY


async def test_closed_positions_count_for_the_last_order_alone() -> None:
    """Wherever they are kept; a liquidation that a tier shows counts as an order."""
    closed = [order(1, at=NOW - 9 * DAY), order(2, 0.0, at=NOW - 8 * DAY, order_type="FLAT")]
    today = [order(3, at=NOW - 3 * HOUR), order(4, 0.0, at=NOW - 2 * HOUR, order_type="FLAT")]
    log = filled_log([written(position(1, closed, closed=True))])
    context = await context_over(log, FakeClock())
    row = (await rows(context))[MINER]
    assert (row["open_positions"], row["net_leverage"]) == (0, {})
    assert (row["last_order"]["processed_ms"], row["last_order"]["order_type"]) == (NOW - 8 * DAY, "FLAT")
    log.append([written(position(2, today, closed=True))], NOW)
    await context.follower.catch_up()
    row = (await rows(context))[MINER]
    assert (row["open_positions"], row["last_order"]["processed_ms"]) == (0, NOW - 2 * HOUR)


async def test_a_change_is_shown_and_nothing_else_is_made_again() -> None:
    """Of the positions or of a document; the same content keeps its body, whatever was written."""
    ledgers = document(Document.PERF_LEDGERS, {MINER: {"cps": CHECKPOINTS}})
    changes = [
        written(position(HIDDEN[0], [order(1, at=NOW - HOUR)])),
        written(position(HIDDEN[1], [order(2, at=NOW - 30 * HOUR)], miner=OTHER_MINER)),
        ledgers,
    ]
    log = filled_log(changes)
    context = await context_over(log, FakeClock())
    before, delayed = await _body(context), await context.leaderboards.updated(0, TimeSlice())

    async def after(*changes: Change) -> Any:
        log.append(list(changes), NOW)
        await context.follower.catch_up()
        return await _body(context)

    assert await after(document(Document.ASSET_SELECTIONS, {})) is before
    assert await after(document(Document.PERF_LEDGERS, {MINER: {"cps": CHECKPOINTS, "new": 1}})) is before
    orders = [order(1, at=NOW - HOUR), order(3, at=NOW - 1)]
    assert await after(written(position(HIDDEN[0], orders))) is not before
    assert (await rows(context))[MINER]["last_order"]["processed_ms"] == NOW - 1
    assert await context.leaderboards.updated(0, TimeSlice()) is delayed
    for changed in (
        document(Document.PERF_LEDGERS, {MINER: {"cps": CHECKPOINTS[:1]}}),
        document(Document.CHALLENGEPERIOD, {MINER: [{"bucket": "PROBATION"}]}),
        document(Document.ELIMINATIONS, {"eliminations": [ELIMINATION]}),
        document(Document.STATISTICS, {"constants": {"SET_WEIGHT_LOOKBACK_RANGE_DAYS": 90}}),
    ):
        before = await _body(context)
        log.append([changed], NOW)
        await context.follower.catch_up()
        assert context.leaderboards.current(100) is None
        assert (await _body(context)).tag != before.tag
    assert (await leaderboard(context)).lookback_days == 90
    row = (await rows(context))[MINER]
    assert (row["phase"], row["elimination"]["reason"]) == ("PROBATION", "FAILED")
    assert row["curve"] == [[NOW - 2 * DAY, 1.02]]
    assert (await after(document(Document.PERF_LEDGERS, None))).tag != before.tag
    assert (await rows(context))[MINER]["curve"] is None


async def test_odd_documents_cost_their_own_values_alone() -> None:
    """Null, wrong types, absurd numbers and shapes: that value is null, every other is shown."""
    odd = [None, 7, "x", [], {}, {"cps": None}, {"cps": 5}, {"cps": []}]
    points: list[Any] = [
        None,
        "x",
        {},
        {"last_update_ms": None, "prev_portfolio_ret": 1.5, "mdd": None},
        {"last_update_ms": 1e300, "prev_portfolio_ret": 1.5},
        {"last_update_ms": "soon", "prev_portfolio_ret": 1.5, "mdd": 0.5},
        {"last_update_ms": NOW, "prev_portfolio_ret": 1.25, "mdd": 1.5},
        {"last_update_ms": -1, "prev_portfolio_ret": 1.5},
        {"last_update_ms": NOW - 1.0, "prev_portfolio_ret": 1.125},
    ]
    ledgers = {f"5Odd{n}": ledger for n, ledger in enumerate(odd)} | {MINER: {"cps": points}}
    changes = [written(position(n, [order(n, at=NOW - HOUR)], miner=f"5Odd{n}")) for n in range(len(odd))]
    unsized = position(99, [order(99, at=NOW - HOUR)])
    unsized["orders"][0]["leverage"] = None
    changes.append(written(unsized))
    huge = [
        written(position(n, [order(n, at=NOW - HOUR)], miner=OTHER_MINER, net_leverage=1.7e308))
        for n in (50, 51)
    ]
    documents = [
        document(Document.PERF_LEDGERS, ledgers),
        document(Document.CHALLENGEPERIOD, {MINER: [{"bucket": 5}, {"bucket": "MAINCOMP"}], "5Odd1": 7}),
        document(
            Document.ELIMINATIONS,
            {
                "eliminations": [
                    None,
                    {"hotkey": 7},
                    {"hotkey": "5Odd1", "reason": 7, "elimination_initiated_time_ms": "soon"},
                    {"hotkey": "5Odd2", "elimination_initiated_time_ms": 1e300},
                ]
            },
        ),
    ]
    context = await context_over(filled_log([*changes, *huge, *documents]), FakeClock())
    shown = await rows(context)
    assert len(shown) == len(odd) + 2
    assert all(shown[f"5Odd{n}"]["curve"] is shown[f"5Odd{n}"]["drawdown"] is None for n in range(len(odd)))
    assert (shown[MINER]["drawdown"], shown[MINER]["phase"]) == (0.0, "MAINCOMP")
    assert shown[MINER]["curve"] == [[NOW - 1, 1.125], [NOW, 1.25]]
    assert shown[MINER]["last_order"]["leverage"] is None
    assert shown["5Odd1"]["elimination"] == {"reason": None, "elimination_initiated_time_ms": None}
    assert shown["5Odd2"]["elimination"] == {"reason": None, "elimination_initiated_time_ms": None}
    assert shown[OTHER_MINER]["net_leverage"]["BTCUSD"] > 1e308


@pytest.mark.parametrize("content", [b"7", b"[]", b"null", b'"x"', b"{" * 99, b"", b"\xff"])
@pytest.mark.parametrize(
    "kind", [Document.PERF_LEDGERS, Document.CHALLENGEPERIOD, Document.ELIMINATIONS, Document.STATISTICS]
)
async def test_a_malformed_document(kind: Document, content: bytes) -> None:
    """The same as without it."""
    changed = document(kind, None)
    changed = msgspec.structs.replace(changed, content=content)
    changes: list[Change] = [written(position(1, [order(1, at=NOW - HOUR)])), changed]
    context = await context_over(filled_log(changes), FakeClock())
    row = (await rows(context))[MINER]
    assert (row["open_positions"], row["phase"], row["elimination"], row["curve"]) == (1, None, None, None)


async def test_returns_beyond_a_float() -> None:
    """Products of absurd returns stay numbers, and the order of the miners a defined one."""
    returns = {"5Huge": [1e300, 1e300], "5Both": [1e300, 1e300, 0.0], "5Sound": [1.5]}
    changes = [
        written(
            position(
                100 * m + n, [order(1, at=NOW - 9 * DAY)], miner=miner, closed=True, return_at_close=value
            )
            | LONG
        )
        for m, (miner, values) in enumerate(returns.items())
        for n, value in enumerate(values)
    ]
    context = await context_over(filled_log(changes), FakeClock())
    shown = await leaderboard(context)
    assert [row.hotkey for row in shown.miners] == ["5Huge", "5Sound", "5Both"]
    assert [row.all_time_returns for row in shown.miners] == [1.7976931348623157e308, 1.5, 0.0]


async def test_a_long_ledger_is_thinned_evenly() -> None:
    """At most 60 points; the first and the last are kept."""
    points = [{"last_update_ms": n, "prev_portfolio_ret": 1 + n / 1000} for n in range(361)]
    changes = [
        written(position(1, [order(1, at=NOW - HOUR)])),
        document(Document.PERF_LEDGERS, {MINER: {"portfolio": {"cps": points}}}),
    ]
    context = await context_over(filled_log(changes), FakeClock())
    curve = (await rows(context))[MINER]["curve"]
    assert (len(curve), curve[0], curve[-1]) == (60, [0, 1.0], [360, 1.36])
    assert {later[0] - earlier[0] for earlier, later in pairwise(curve)} == {6, 7}


async def test_250_miners_take_little_space() -> None:
    """Under 150 KB compressed, with full ledgers, positions in several pairs and eliminations."""
    rng, changes = random.Random(1), list[Change]()
    ledgers: dict[str, Any] = {}
    miners = [
        "5" + "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkm123456789", k=47)) for _ in range(250)
    ]
    for m, miner in enumerate(miners):
        for n, pair in enumerate((["BTCUSD", "BTC/USD"], EURUSD, ["ETHUSD", "ETH/USD"])):
            orders = [order(m * 10 + n, rng.uniform(-1, 1), at=NOW - rng.randrange(DAY))]
            changes.append(written(position(m * 10 + n, orders, miner=miner, trade_pair=pair)))
        value, start = 1.0, NOW - rng.randrange(HOUR)
        ledgers[miner] = {"cps": []}
        for n in range(360):
            value *= rng.gauss(1.0, 0.005)
            ledgers[miner]["cps"].append(
                {"last_update_ms": start - (360 - n) * 12 * HOUR, "prev_portfolio_ret": value, "mdd": value}
            )
    changes.append(document(Document.PERF_LEDGERS, ledgers))
    rows = [{"hotkey": m, "reason": "X", "elimination_initiated_time_ms": NOW} for m in miners[:100]]
    changes.append(document(Document.ELIMINATIONS, {"eliminations": rows}))
    changes.append(document(Document.CHALLENGEPERIOD, {m: [{"bucket": "MAINCOMP"}] for m in miners}))
    context = await context_over(filled_log(changes), FakeClock())
    body = await _body(context)
    compressed = encoded(body, "gzip")
    assert len(json.loads(gzip.decompress(compressed))["miners"]) == 250
    assert len(compressed) < 150_000
