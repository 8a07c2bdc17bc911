"""A position's state, derived from its orders (docs/accounting.md, 2), the network's quirks included."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ptn_api.model.fees import SLIPPAGE_STARTS_MS, fee
from ptn_api.model.order import Order, OrderSource, OrderType
from ptn_api.model.position import PositionState
from ptn_api.model.trade_pair import category_and_rate

__all__ = ["RebuiltPosition", "rebuild", "rebuild_each"]


class RebuiltPosition(msgspec.Struct, frozen=True, kw_only=True):
    """A position's state, rebuilt from a list of orders.

    `appended` is the FLAT that the accounting adds when the position is liquidated.
    """

    state: PositionState
    initial_entry_price: float
    appended: Order | None = None


def rebuild(orders: Sequence[Order], trade_pair: Any, position_uuid: str) -> RebuiltPosition | None:
    """Returns the position that has exactly these orders, taken in list order; None if it cannot be rebuilt.

    It cannot without orders, if the first has leverage 0 or no price, if the pair's fees are unknown,
    or if a result is not finite.
    """
    return next(rebuild_each(orders, trade_pair, position_uuid, [len(orders)]))


def rebuild_each(
    orders: Sequence[Order], trade_pair: Any, position_uuid: str, lengths: Sequence[int]
) -> Iterator[RebuiltPosition | None]:
    """Yields `rebuild(orders[:length], ...)` for each length, in one pass. Lengths must ascend."""
    terms = category_and_rate(trade_pair)
    builder = _PositionBuilder(orders[0]) if orders and orders[0].leverage != 0 else None
    taken = 0
    for length in lengths:
        if builder is None or not builder.entry_price > 0 or terms is None or length < 1:
            yield None
            continue
        for order in orders[taken:length]:
            builder.take(order)
        taken = length
        prefix = orders[:length]
        fees = (
            fee(builder.priced_ms, prefix, *terms, builder.open_ms) if builder.priced_ms is not None else 1.0
        )
        state = builder.state(fees)
        appended = builder.liquidation(prefix, position_uuid)
        yield (
            RebuiltPosition(state=state, initial_entry_price=builder.entry_price, appended=appended)
            if _is_finite(state)
            else None
        )


def _is_finite(state: PositionState) -> bool:
    values = (
        state.net_leverage,
        state.average_entry_price,
        state.cumulative_entry_value or 0.0,
        state.realized_pnl or 0.0,
        state.current_return,
        state.return_at_close,
    )
    return all(map(math.isfinite, values))


def _effective_price(order: Order) -> float:
    slippage = order.slippage or 0.0
    return order.price * (1 + slippage if order.leverage > 0 else 1 - slippage)


class _PositionBuilder:
    """A position while its orders are taken one by one. Fees are computed outside, per state.

    Numbers in comments are the steps of docs/accounting.md, 2.
    """

    __slots__ = (
        "_average",
        "_close_ms",
        "_cumulative",
        "_current_return",
        "_liquidated_ms",
        "_net",
        "_realized",
        "_stopped",
        "_type",
        "entry_price",
        "open_ms",
        "priced_ms",
    )

    def __init__(self, first: Order) -> None:
        slipping = first.processed_ms >= SLIPPAGE_STARTS_MS
        self.entry_price = _effective_price(first) if slipping else first.price  # P0
        self.open_ms = first.processed_ms  # 1
        self.priced_ms: int | None = None
        """When the returns were last computed: fees are those of this time."""
        self._type: OrderType = "LONG" if first.leverage > 0 else "SHORT"
        self._close_ms: int | None = None
        self._liquidated_ms: int | None = None
        self._stopped = False
        self._net = self._average = self._cumulative = self._realized = 0.0
        self._current_return = 1.0

    def take(self, order: Order) -> None:
        if self._stopped:
            return
        now = order.processed_ms
        after = self._net + order.leverage
        crosses = after <= 0 if self._type == "LONG" else after >= 0
        if order.order_type == "FLAT" or crosses:
            self._close(now)  # 2
        if order.src == OrderSource.ELIMINATION:
            self._stop()  # 3
            return
        gain = self._gain(order)
        self._current_return = 0.0 if gain <= -1 else 1 + gain  # 5
        self.priced_ms = now  # 6
        if self._close_ms is not None:
            self._stop()  # 7
        elif self._current_return == 0:
            self._close(now)  # 8, net stays
            self._liquidated_ms = now
            self._stopped = True
        else:
            slipping = now >= SLIPPAGE_STARTS_MS
            if not slipping or order.order_type == self._type:  # 9
                value = (_effective_price(order) if slipping else order.price) * order.leverage
                self._average = (self._average * self._net + value) / after
                self._cumulative += value
            self._net = after  # 10

    def state(self, fee_factor: float) -> PositionState:
        return PositionState(
            position_type=self._type,
            is_closed_position=self._close_ms is not None,
            open_ms=self.open_ms,
            close_ms=self._close_ms,
            net_leverage=self._net,
            average_entry_price=self._average,
            cumulative_entry_value=self._cumulative,
            realized_pnl=self._realized,
            current_return=self._current_return,
            return_at_close=self._current_return * fee_factor,
        )

    def liquidation(self, orders: Sequence[Order], position_uuid: str) -> Order | None:
        """Returns the FLAT that a liquidation appends, unless these orders already contain it."""
        if self._liquidated_ms is None:
            return None
        uuid = position_uuid[::-1]
        if any(o.order_uuid == uuid and o.src == OrderSource.ELIMINATION for o in orders):
            return None
        return Order(
            order_type="FLAT",
            leverage=0.0,
            price=0.0,
            processed_ms=self._liquidated_ms,
            order_uuid=uuid,
            src=OrderSource.ELIMINATION,
            price_sources=[],
        )

    def _close(self, at_ms: int) -> None:
        self._type = "FLAT"
        self._close_ms = at_ms

    def _stop(self) -> None:
        self._net = 0.0
        self._stopped = True

    def _gain(self, order: Order) -> float:  # 4
        if order.processed_ms < SLIPPAGE_STARTS_MS:
            return (order.price - self._average) * self._net / self.entry_price
        if order.order_type != self._type or self._type == "FLAT":
            self._realized -= (_effective_price(order) - self._average) * order.leverage
        after = self._net + order.leverage
        held = after if abs(after) < abs(self._net) else self._net
        return (self._realized + (order.price - self._average) * held) / self.entry_price
