"""How a position's state follows from its orders (docs/accounting.md, 2), the network's quirks included."""

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
    """A position rebuilt from a list of orders.

    `appended` is the FLAT that the accounting itself adds when the position is liquidated.
    """

    state: PositionState
    initial_entry_price: float
    appended: Order | None = None


def rebuild(orders: Sequence[Order], trade_pair: Any, position_uuid: str) -> RebuiltPosition | None:
    """The position that holds only these orders, in the order of the list; None: it cannot be rebuilt.

    That is so without orders, if the first one has leverage 0 or no price, if the pair's fees are unknown,
    or if a value leaves the range of floats.
    """
    return next(rebuild_each(orders, trade_pair, position_uuid, [len(orders)]))


def rebuild_each(
    orders: Sequence[Order], trade_pair: Any, position_uuid: str, lengths: Sequence[int]
) -> Iterator[RebuiltPosition | None]:
    """As `rebuild(orders[:length], ...)` for each of the lengths, which ascend, in one pass."""
    terms = category_and_rate(trade_pair)
    walk = _begin(orders)
    taken = 0
    for length in lengths:
        if walk is None or terms is None or length < 1:
            yield None
            continue
        for order in orders[taken:length]:
            walk.take(order)
        taken = length
        held = orders[:length]
        factor = fee(walk.priced_ms, held, *terms, walk.open_ms) if walk.priced_ms is not None else 1.0
        appended = walk.liquidation(held, position_uuid)
        yield _finite(walk.state(factor), walk.entry_price, appended)


def _begin(orders: Sequence[Order]) -> _Walk | None:
    if not orders or orders[0].leverage == 0:
        return None
    first = orders[0]
    entry_price = _effective_price(first) if first.processed_ms >= SLIPPAGE_STARTS_MS else first.price
    return _Walk(first, entry_price) if entry_price > 0 else None


def _effective_price(order: Order) -> float:
    slippage = order.slippage or 0.0
    return order.price * (1 + slippage if order.leverage > 0 else 1 - slippage)


def _finite(state: PositionState, entry_price: float, appended: Order | None) -> RebuiltPosition | None:
    values = (
        state.net_leverage,
        state.average_entry_price,
        state.cumulative_entry_value or 0.0,
        state.realized_pnl or 0.0,
        state.current_return,
        state.return_at_close,
    )
    if not all(map(math.isfinite, values)):
        return None
    return RebuiltPosition(state=state, initial_entry_price=entry_price, appended=appended)


class _Walk:
    """A position on its way through its orders; fees are left to whoever asks for the state.

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

    def __init__(self, first: Order, entry_price: float) -> None:
        self.entry_price = entry_price
        self.open_ms = first.processed_ms  # 1
        self.priced_ms: int | None = None
        """When the returns were last computed: the time of their fees."""
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
        if self._is_closed_by(order):
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
            self._add(order)

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
        """The FLAT that a liquidation appends, unless these orders already hold it."""
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

    def _is_closed_by(self, order: Order) -> bool:
        after = self._net + order.leverage
        return (
            order.order_type == "FLAT"
            or (self._type == "LONG" and after <= 0)
            or (self._type == "SHORT" and after >= 0)
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

    def _add(self, order: Order) -> None:  # 9, 10
        after = self._net + order.leverage
        slipping = order.processed_ms >= SLIPPAGE_STARTS_MS
        if not slipping or order.order_type == self._type:
            value = (_effective_price(order) if slipping else order.price) * order.leverage
            self._average = (self._average * self._net + value) / after
            self._cumulative += value
        self._net = after
