"""A position's state by generations 1 and 2, in price x leverage (docs/accounting.md, 2.1 and 2.2)."""

from __future__ import annotations

import msgspec

from ptn_api.model.fees import SLIPPAGE_STARTS_MS, fee, fee_by_category
from ptn_api.model.order import Order, OrderSource, OrderType
from ptn_api.model.position import PositionState
from ptn_api.model.trade_pair import FeeCategory

__all__ = ["LeverageAccount", "effective_price", "has_liquidation", "liquidation_flat"]

_LIQUIDATIONS = (OrderSource.ELIMINATION, OrderSource.PRICED_ELIMINATION)


class LeverageAccount:
    """A position while its orders are taken one by one.

    Without an account size by generation 1, with one by generation 2. Numbers in comments are the steps of
    docs/accounting.md, 2.1. Raises ValueError if the first order has leverage 0 or no price.
    """

    def __init__(
        self, first: Order, position_uuid: str, terms: tuple[FeeCategory, float], account_size: float | None
    ) -> None:
        self._uuid = position_uuid
        self._category, self._rate = terms
        self._account_size = account_size
        leverage = self._leverage(first)
        slipping = first.processed_ms >= SLIPPAGE_STARTS_MS
        self.initial_entry_price = effective_price(first, leverage) if slipping else first.price  # P0
        if leverage == 0 or not self.initial_entry_price > 0:
            raise ValueError("the first order has no leverage or no price")
        self._open_ms = first.processed_ms  # 1
        self._priced_ms: int | None = None
        """When the returns were last computed: fees are those of this time."""
        self._type: OrderType = "LONG" if leverage > 0 else "SHORT"
        self._close_ms: int | None = None
        self._liquidated_ms: int | None = None
        self._stopped = False
        self._net = self._average = self._cumulative = self._realized = 0.0
        self._current_return = 1.0
        self._orders: list[Order] = []

    def take(self, order: Order) -> Order:
        """Takes the next order, and returns it unchanged."""
        leverage = self._leverage(order)
        self._orders.append(
            order if order.leverage is not None else msgspec.structs.replace(order, leverage=leverage)
        )
        if self._stopped:
            return order
        now = order.processed_ms
        after = self._net + leverage
        crosses = after <= 0 if self._type == "LONG" else after >= 0
        if order.order_type == "FLAT" or crosses:
            self._close(now)  # 2
        by_validator = order.src == OrderSource.ELIMINATION or (
            self._account_size is not None and order.src == OrderSource.DEPRECATED_PAIR
        )
        if by_validator:
            self._stop()  # 3
            return order
        gain = self._gain(order, leverage)
        self._current_return = 0.0 if gain <= -1 else 1 + gain  # 5
        self._priced_ms = now  # 6
        if self._close_ms is not None:
            self._stop()  # 7
        elif self._current_return == 0:
            self._close(now)  # 8, net stays
            self._liquidated_ms = now
            self._stopped = True
        else:
            slipping = now >= SLIPPAGE_STARTS_MS
            if not slipping or order.order_type == self._type:  # 9
                value = (effective_price(order, leverage) if slipping else order.price) * leverage
                self._average = (self._average * self._net + value) / after
                in_account = slipping and self._account_size is not None
                self._cumulative += leverage * (self._account_size or 0.0) if in_account else value
            self._net = after  # 10
        return order

    def state(self) -> PositionState:
        return PositionState(
            position_type=self._type,
            is_closed_position=self._close_ms is not None,
            open_ms=self._open_ms,
            close_ms=self._close_ms,
            net_leverage=self._net,
            average_entry_price=self._average,
            cumulative_entry_value=self._cumulative,
            realized_pnl=self._realized,
            current_return=self._current_return,
            return_at_close=self._current_return * self._fee(),
        )

    def liquidation(self) -> Order | None:
        if self._liquidated_ms is None or has_liquidation(self._orders, self._uuid):
            return None
        return liquidation_flat(self._uuid, self._liquidated_ms)

    def _fee(self) -> float:
        if self._priced_ms is None:
            return 1.0
        charge = fee if self._account_size is None else fee_by_category
        return charge(self._priced_ms, self._orders, self._category, self._rate, self._open_ms)

    def _leverage(self, order: Order) -> float:
        """Returns the order's leverage, or the one that its value makes."""
        if order.leverage is not None:
            return order.leverage
        if order.value is None or not self._account_size:
            raise ValueError("no leverage")
        return order.value / self._account_size

    def _close(self, at_ms: int) -> None:
        self._type = "FLAT"
        self._close_ms = at_ms

    def _stop(self) -> None:
        self._net = 0.0
        self._stopped = True

    def _gain(self, order: Order, leverage: float) -> float:  # 4
        if order.processed_ms < SLIPPAGE_STARTS_MS:
            return (order.price - self._average) * self._net / self.initial_entry_price
        if order.order_type != self._type or self._type == "FLAT":
            self._realized -= (effective_price(order, leverage) - self._average) * leverage
        after = self._net + leverage
        held = after if abs(after) < abs(self._net) else self._net
        return (self._realized + (order.price - self._average) * held) / self.initial_entry_price


def effective_price(order: Order, leverage: float) -> float:
    """Returns the order's price with its slippage, which is to the miner's disadvantage."""
    slippage = order.slippage or 0.0
    return order.price * (1 + slippage if leverage > 0 else 1 - slippage)


def has_liquidation(orders: list[Order], position_uuid: str) -> bool:
    """Returns whether the orders contain the FLAT that a liquidation appends."""
    uuid = position_uuid[::-1]
    return any(order.order_uuid == uuid and order.src in _LIQUIDATIONS for order in orders)


def liquidation_flat(position_uuid: str, at_ms: int, leverage: float = 0.0) -> Order:
    """Returns the FLAT that a liquidation appends, as without a price."""
    return Order(
        order_type="FLAT",
        leverage=leverage,
        price=0.0,
        processed_ms=at_ms,
        order_uuid=position_uuid[::-1],
        src=int(OrderSource.ELIMINATION),
        price_sources=[],
        quote_usd_rate=0.0,
        usd_base_rate=0.0,
        execution_type="MARKET",
    )
