"""The fees in a position's return, by generations 1 to 3 (docs/accounting.md, 3).

Fees are factors, 1.0 = nothing charged. Generation 4 keeps fees apart from the return, as amounts in the
validator's files. All functions take every order into account, including orders later than the given time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ptn_api.model.order import SLIPPAGE_STARTS_MS, Order
from ptn_api.model.trade_pair import FeeCategory

__all__ = [
    "CARRY_STARTS_MS",
    "CUMULATIVE_STARTS_MS",
    "Carry",
    "carry_fee",
    "fee",
    "fee_by_category",
    "spread_fee",
    "spread_fee_by_category",
]

CARRY_STARTS_MS = 1720843707000
CUMULATIVE_STARTS_MS = 1713198680000
"""Before this, the fee was the rate times the largest leverage."""

_HOUR = 3_600_000
_DAY = 24 * _HOUR
_INTERVAL = 8 * _HOUR

_CARRY_PER_INTERVAL: dict[FeeCategory, float] = {
    "crypto": math.exp(math.log(1 - 0.1095) / 1095),
    "forex": math.exp(math.log(1 - 0.03) / 365),
    "equities": math.exp(math.log(1 - 0.0525) / 365),
    "indices": math.exp(math.log(1 - 0.0525) / 365),
    "perpetual": 1.0,
}
_CRYPTO_SPREAD = 0.001
_WEEKDAY_WEIGHTS = (1, 1, 3, 1, 1, 0, 0)
"""How many times an interval that ends on Monday, ..., Sunday is charged, except for crypto."""
_INTERVALS_PER_WEEK = 7 * _DAY // _INTERVAL


class Carry(NamedTuple):
    factor: float
    next_change_ms: int


def fee(
    at_ms: int,
    orders: Sequence[Order],
    category: FeeCategory,
    rate: float,
    open_ms: int,
    close_ms: int | None = None,
) -> float:
    """Returns the factor by which all fees up to `at_ms` reduce a position's return, by generation 1."""
    if at_ms < CUMULATIVE_STARTS_MS:
        return 1 - rate * _Exposure(orders).peak
    return carry_fee(at_ms, orders, category, open_ms, close_ms).factor * spread_fee(at_ms, orders, rate)


def fee_by_category(
    at_ms: int,
    orders: Sequence[Order],
    category: FeeCategory,
    rate: float,
    open_ms: int,
    close_ms: int | None = None,
) -> float:
    """Returns the same factor by generations 2 and 3."""
    if at_ms < CUMULATIVE_STARTS_MS:
        return 1 - rate * _Exposure(orders).peak
    carry = carry_fee(at_ms, orders, category, open_ms, close_ms)
    return carry.factor * spread_fee_by_category(orders, category)


def spread_fee(at_ms: int, orders: Sequence[Order], rate: float) -> float:
    """Returns the factor for trading by generation 1: 1.0 since slippage is part of the price."""
    if at_ms >= SLIPPAGE_STARTS_MS:
        return 1.0
    # Only the miner's own orders count.
    return 1 - _moved_leverage(order for order in orders if not order.src) * rate / 2


def spread_fee_by_category(orders: Sequence[Order], category: FeeCategory) -> float:
    """Returns the factor for trading by generations 2 and 3: for crypto, at any time, over all orders."""
    return 1 - _moved_leverage(orders) * _CRYPTO_SPREAD if category == "crypto" else 1.0


def _moved_leverage(orders: Iterable[Order]) -> float:
    running = moved = 0.0
    for order in orders:
        before, running = running, running + (order.leverage or 0.0)
        if order.order_type == "FLAT" or _ends(before, running):
            moved += abs(before)
            break
        moved += abs(running - before)
    return moved


def carry_fee(
    at_ms: int, orders: Sequence[Order], category: FeeCategory, open_ms: int, close_ms: int | None = None
) -> Carry:
    """Returns the factor for holding, by the largest leverage within each interval, and its next change."""
    if close_ms is not None:
        at_ms = min(at_ms, close_ms)
    step = _INTERVAL if category == "crypto" else _DAY
    start = max(CARRY_STARTS_MS, open_ms)
    if at_ms < start:
        return Carry(1.0, min(at_ms + step, start))
    to_boundary = _to_boundary(at_ms, category)
    intervals, rest = divmod(at_ms - start, step)
    intervals += rest >= _to_boundary(start, category)
    # The network's quirk: the first interval has the length to the boundary after at_ms, not after start.
    charged = _charged_leverage(_Exposure(orders), category, start, start + to_boundary, intervals)
    return Carry(_CARRY_PER_INTERVAL[category] ** charged, at_ms + to_boundary)


def _to_boundary(at_ms: int, category: FeeCategory) -> int:
    """Returns the ms to the next boundary strictly after: 4, 12 and 20 h UTC for crypto, else 21 h."""
    if category == "crypto":
        return _INTERVAL - (at_ms - 4 * _HOUR) % _INTERVAL
    return _DAY - (at_ms - 21 * _HOUR) % _DAY


def _charged_leverage(
    exposure: _Exposure, category: FeeCategory, begin: int, end: int, intervals: int
) -> float:
    """Returns the sum of (largest leverage x weight) over the intervals: [begin, end], then 8 h each.

    Intervals between two orders are counted, not walked: a position that is open for years costs no more.
    """
    charged = 0.0
    while intervals > 0:
        equal = min(exposure.equal_intervals(begin, end), intervals)
        weight = equal if category == "crypto" else _weight(end, equal)
        charged += exposure.largest(begin, end) * weight
        begin, end = end + (equal - 1) * _INTERVAL, end + equal * _INTERVAL
        intervals -= equal
    return charged


def _weight(end: int, intervals: int) -> int:
    """Returns how many times these intervals, the first ending at `end`, are charged outside crypto."""
    weeks, rest = divmod(intervals, _INTERVALS_PER_WEEK)
    ends = range(end, end + rest * _INTERVAL, _INTERVAL)
    # 1970-01-01 was a Thursday.
    return weeks * sum(_WEEKDAY_WEIGHTS) * (_DAY // _INTERVAL) + sum(
        _WEEKDAY_WEIGHTS[(e // _DAY + 3) % 7] for e in ends
    )


def _ends(before: float, after: float) -> bool:
    """Returns whether a change of the running leverage reaches or crosses 0."""
    return after == 0 or before < 0 < after or after < 0 < before


class _Exposure:
    """A position's absolute running leverage over time, until an order ends it."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self._steps: list[tuple[int, float, float]] = []
        """(time, |leverage| before, after) in list order, which may differ from the order of time."""
        self.peak = 0.0
        """The largest absolute running leverage; the order that ends it does not count."""
        running = 0.0
        for order in orders:
            before, running = running, running + (order.leverage or 0.0)
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

    def equal_intervals(self, begin: int, end: int) -> int:
        """Returns how many intervals of 8 h, from this one on, have the same largest leverage; at least 1."""
        following = bisect_left(self._times, begin)
        if following == len(self._times):
            return 1 << 62
        return 1 + max(0, (self._times[following] - end - 1) // _INTERVAL)

    def largest(self, begin: int, end: int) -> float:
        """Returns the largest |leverage| within [begin, end]; the last known one if no order decides."""
        first = bisect_left(self._times, begin) if self._in_order else 0
        largest: float | None = None
        for index in range(first, len(self._steps)):
            at, before, after = self._steps[index]
            if at < begin:
                continue
            known = after if at == begin else before if at > end else max(before, after)
            largest = known if largest is None else max(largest, known)
            if at > end:
                break
        return self._last if largest is None else largest
