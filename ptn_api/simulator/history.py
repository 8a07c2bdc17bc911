"""The positions that a simulated miner holds or closed before the simulation begins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

import msgspec

from ptn_api.simulator.market import Instrument, Market, SimulatedOrder, seeded
from ptn_api.simulator.miner import Miner, Trade
from ptn_api.simulator.position import POSITION_KINDS, SimulatedPosition

__all__ = ["Period", "make_history"]

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """The time to fill, epoch ms. Orders before `sources_from_ms` have no price sources, as after a restore
    from a checkpoint."""

    from_ms: int
    until_ms: int
    sources_from_ms: int


def make_history(
    miner: Miner, market: Market, count: int, period: Period, seed: int
) -> Iterator[SimulatedPosition]:
    """Yields `count` positions, the same ones on every call.

    Those on one pair do not overlap. The last one may still be open; its latest order is between a minute and
    60 hours old.
    """
    rng = seeded(f"{seed}/history/{miner.hotkey}")
    for number, instrument in enumerate(miner.pairs):
        share = count // len(miner.pairs) + (number < count % len(miner.pairs))
        slot = (period.until_ms - period.from_ms) / max(share, 1)
        for place in range(share):
            begin = period.from_ms + int(slot * (place + rng.uniform(0, 0.4)))
            end = begin + _holding_ms(slot, rng)
            still_open = False
            if place == share - 1:
                age = int(_MINUTE_MS * math.exp(rng.uniform(0, math.log(3_600))))
                begin, end = min(begin, period.until_ms - age - 1), period.until_ms - age
                begin = max(begin, end - _holding_ms(slot, rng))
                still_open = rng.random() < 0.6
            yield _position(miner, market, instrument, (begin, end), still_open, period, rng)


def _holding_ms(slot: float, rng: Random) -> int:
    """Returns how long a position is held: median 3 hours, sometimes a week, at most 55 % of the slot."""
    return int(max(_MINUTE_MS, min(slot * 0.55, 3 * _HOUR_MS * rng.lognormvariate(0, 1.5))))


def _position(
    miner: Miner,
    market: Market,
    instrument: Instrument,
    span: tuple[int, int],
    still_open: bool,
    period: Period,
    rng: Random,
) -> SimulatedPosition:
    # Mostly two to ten orders, occasionally hundreds; an open position has not received its last ones yet.
    count = rng.randint(50, 300) if rng.random() < 0.008 else 2 + int(rng.expovariate(1 / (miner.orders - 1)))
    if still_open:
        count = max(1, count - rng.randint(1, 3))
    trades = _trades(miner, instrument, count, still_open, rng)
    orders: list[SimulatedOrder] = []
    for trade, at_ms in zip(trades, _times(span, len(trades), rng), strict=True):
        with_sources = at_ms >= period.sources_from_ms
        orders.append(
            market.fill(instrument, trade.order_type, trade.leverage, at_ms, rng, sources=with_sources)
        )
    position = POSITION_KINDS[market.network].begin(miner, instrument)
    if not position.take_all(orders, market):
        raise AssertionError("the accounting rejected a simulated history")
    return position


def _trades(miner: Miner, instrument: Instrument, count: int, still_open: bool, rng: Random) -> list[Trade]:
    """Returns the opening, the adjustments and the close.

    Some positions cross zero midway by an order other than a FLAT. The accounting ignores the orders after
    it, until a synchronisation splits the position in two.
    """
    crossing = rng.randint(1, count - 3) if count >= 4 and not still_open and rng.random() < 0.1 else -1
    trades: list[Trade] = []
    net = 0.0
    for place in range(count):
        if net == 0:
            trade = miner.opening(instrument, rng)
        elif place == count - 1 and not still_open:
            trade = miner.closing(net)
        elif place == crossing:
            trade = Trade("SHORT" if net > 0 else "LONG", -net)
        else:
            trade = miner.adjustment(instrument, net, rng)
        trades.append(trade)
        net += trade.leverage
    return trades


def _times(span: tuple[int, int], count: int, rng: Random) -> list[int]:
    """Returns strictly increasing times, the first at the begin and the last at the end of the span."""
    begin, end = span
    if count == 1:
        return [end]
    times = [begin, *sorted(rng.randint(begin, end) for _ in range(count - 2)), end]
    for place in range(1, count):
        times[place] = max(times[place], times[place - 1] + 1)
    return times
