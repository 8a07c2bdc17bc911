"""What a position's fees are at a time (docs/accounting.md, 3). Fees are factors, 1.0 = nothing charged.

All functions look at all orders they are given, also those later than the time asked about.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from ptn_api.model.order import Order
from ptn_api.model.trade_pair import Category

__all__ = [
    "CARRY_STARTS_MS",
    "CUMULATIVE_STARTS_MS",
    "SLIPPAGE_STARTS_MS",
    "Carry",
    "carry_fee",
    "fee",
    "spread_fee",
]

SLIPPAGE_STARTS_MS = 1739937600000
"""From here on an order's slippage is part of its price, and the spread is charged no more."""
CARRY_STARTS_MS = 1720843707000
CUMULATIVE_STARTS_MS = 1713198680000
"""Before this, the fee was the rate times the largest leverage."""

_HOUR = 3_600_000
_DAY = 24 * _HOUR
_INTERVAL = 8 * _HOUR

_CARRY_PER_INTERVAL: dict[Category, float] = {
    "crypto": math.exp(math.log(1 - 0.1095) / 1095),
    "forex": math.exp(math.log(1 - 0.03) / 365),
    "equities": math.exp(math.log(1 - 0.0525) / 365),
    "indices": math.exp(math.log(1 - 0.0525) / 365),
}
_WEEKDAY_WEIGHTS = (1, 1, 3, 1, 1, 0, 0)
"""How often an interval that ends on Monday, ..., Sunday is charged, except for crypto."""
_INTERVALS_PER_WEEK = 7 * _DAY // _INTERVAL


class Carry(NamedTuple):
    factor: float
    next_change_ms: int


def fee(
    at_ms: int,
    orders: Sequence[Order],
    category: Category,
    rate: float,
    open_ms: int,
    close_ms: int | None = None,
) -> float:
    """The factor by which all fees up to `at_ms` reduce a position's return."""
    if at_ms < CUMULATIVE_STARTS_MS:
        return 1 - rate * _Exposure(orders).peak
    return carry_fee(at_ms, orders, category, open_ms, close_ms).factor * spread_fee(at_ms, orders, rate)


def spread_fee(at_ms: int, orders: Sequence[Order], rate: float) -> float:
    """The factor for trading; nothing since slippage is accounted."""
    return 1.0 if at_ms >= SLIPPAGE_STARTS_MS else 1 - _cumulative_leverage(orders) * rate / 2


def carry_fee(
    at_ms: int, orders: Sequence[Order], category: Category, open_ms: int, close_ms: int | None = None
) -> Carry:
    """The factor for holding, by the largest leverage within each interval, and when it changes next."""
    if close_ms is not None:
        at_ms = min(at_ms, close_ms)
    step = _INTERVAL if category == "crypto" else _DAY
    start = max(CARRY_STARTS_MS, open_ms)
    if at_ms < start:
        return Carry(1.0, min(at_ms + step, start))
    to_boundary = _to_boundary(at_ms, category)
    intervals, rest = divmod(at_ms - start, step)
    intervals += rest >= _to_boundary(start, category)
    charged = _charged_leverage(_Exposure(orders), category, start, start + to_boundary, intervals)
    return Carry(_CARRY_PER_INTERVAL[category] ** charged, at_ms + to_boundary)


def _to_boundary(at_ms: int, category: Category) -> int:
    """Milliseconds to the next boundary strictly after: 4, 12, 20 h UTC for crypto, else 21 h."""
    if category == "crypto":
        return _INTERVAL - (at_ms - 4 * _HOUR) % _INTERVAL
    return _DAY - (at_ms - 21 * _HOUR) % _DAY


def _charged_leverage(exposure: _Exposure, category: Category, begin: int, end: int, intervals: int) -> float:
    """The sum of (largest leverage x weight) over the intervals, which are [begin, end] and then 8 h each.

    Intervals between two orders are counted, not walked, so that time costs nothing.
    """
    charged = 0.0
    while intervals > 0:
        alike = min(exposure.alike(begin, end), intervals)
        weight = alike if category == "crypto" else _weight(end, alike)
        charged += exposure.largest(begin, end) * weight
        begin, end = end + (alike - 1) * _INTERVAL, end + alike * _INTERVAL
        intervals -= alike
    return charged


def _weight(end: int, intervals: int) -> int:
    """How often this many intervals, the first of which ends at `end`, are charged outside crypto."""
    weeks, rest = divmod(intervals, _INTERVALS_PER_WEEK)
    ends = range(end, end + rest * _INTERVAL, _INTERVAL)
    # The epoch began on a Thursday.
    return weeks * sum(_WEEKDAY_WEIGHTS) * (_DAY // _INTERVAL) + sum(
        _WEEKDAY_WEIGHTS[(e // _DAY + 3) % 7] for e in ends
    )


def _cumulative_leverage(orders: Sequence[Order]) -> float:
    """How much leverage the miner's own orders moved, until they closed the position."""
    running = moved = 0.0
    for order in orders:
        if order.src:
            continue
        before, running = running, running + order.leverage
        if order.order_type == "FLAT" or _ends(before, running):
            return moved + abs(before)
        moved += abs(running - before)
    return moved


def _ends(before: float, after: float) -> bool:
    """Whether a change of the running leverage reaches or crosses 0."""
    return after == 0 or before < 0 < after or after < 0 < before


class _Exposure:
    """A position's |running leverage| over time, until an order ends it."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self._steps: list[tuple[int, float, float]] = []
        """(time, |leverage| before, after it) in the list's order, which need not be that of time."""
        self.peak = 0.0
        """The largest |running leverage| of all times; the order that ends it does not count."""
        running = 0.0
        for order in orders:
            before, running = running, running + order.leverage
            ended = order.order_type == "FLAT" or _ends(before, running)
            if ended:
                running = 0.0
            self._steps.append((order.processed_ms, abs(before), abs(running)))
            self.peak = max(self.peak, abs(running))
            if ended:
                break
        times = [step[0] for step in self._steps]
        self._times = sorted(times)
        self._in_order = times == self._times
        self._last = abs(running)

    def alike(self, begin: int, end: int) -> int:
        """How many intervals from this one on, 8 h each, have the same largest leverage, no order being
        near: at least this one.
        """
        following = bisect_left(self._times, begin)
        if following == len(self._times):
            return 1 << 62
        return 1 + max(0, (self._times[following] - end - 1) // _INTERVAL)

    def largest(self, begin: int, end: int) -> float:
        """The largest |leverage| within [begin, end]; the last one if no order tells."""
        first = bisect_left(self._times, begin) if self._in_order else 0
        found: float | None = None
        for place in range(first, len(self._steps)):
            at, before, after = self._steps[place]
            if at < begin:
                continue
            known = after if at == begin else before if at > end else max(before, after)
            found = known if found is None else max(found, known)
            if at > end:
                break
        return self._last if found is None else found
