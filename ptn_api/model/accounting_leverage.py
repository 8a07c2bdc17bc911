"""The account of a position by generations 1 and 2, in price x leverage (docs/accounting.md, 2.1 and 2.2)."""

from __future__ import annotations

import msgspec

from ptn_api.model.order import SLIPPAGE_STARTS_MS, Order, OrderSource, OrderType, effective_price

__all__ = ["LeverageAccount"]


class LeverageAccount:
    """A position while its orders are taken one by one; see `accounting.Account` for its attributes.

    Without an account size by generation 1, with one by generation 2. Numbers in comments are the steps of
    docs/accounting.md, 2.1. Raises ValueError if the first order has leverage 0 or no price.
    """

    def __init__(self, first: Order, account_size: float | None) -> None:
        self._account_size = account_size
        leverage = self._leverage_of(first)
        slipping = first.processed_ms >= SLIPPAGE_STARTS_MS
        self.initial_entry_price = effective_price(first, leverage) if slipping else first.price  # P0
        if leverage == 0 or not self.initial_entry_price > 0:
            raise ValueError("the first order has no leverage or no price")
        self.open_ms = first.processed_ms  # 1
        self.position_type: OrderType | None = "LONG" if leverage > 0 else "SHORT"
        self.close_ms: int | None = None
        self.priced_ms: int | None = None
        self.liquidated_ms: int | None = None
        self.orders: list[Order] = []
        self.net_leverage = self.average_entry_price = self.cumulative_entry_value = self.realized_pnl = 0.0
        self.current_return = 1.0
        self.net_value: float | None = None
        self.net_quantity: float | None = None
        self.unrealized_pnl: float | None = None
        self._stopped = False

    def take(self, order: Order) -> Order:
        """Takes the next order, and returns it unchanged. Raises ValueError if it has no leverage."""
        leverage = order.leverage
        if leverage is None:
            leverage = self._leverage_of(order)
            self.orders.append(msgspec.structs.replace(order, leverage=leverage))
        else:
            self.orders.append(order)
        if self._stopped:
            return order
        now = order.processed_ms
        after = self.net_leverage + leverage
        crosses = after <= 0 if self.position_type == "LONG" else after >= 0
        if order.order_type == "FLAT" or crosses:
            self._close(now)  # 2
        if order.src == OrderSource.ELIMINATION or (
            order.src == OrderSource.DEPRECATED_PAIR and self._account_size is not None
        ):
            self._stop()  # 3
            return order
        gain = self._gain(order, leverage)
        self.current_return = 0.0 if gain <= -1 else 1 + gain  # 5
        self.priced_ms = now  # 6
        if self.close_ms is not None:
            self._stop()  # 7
        elif self.current_return == 0:
            self._close(now)  # 8, net stays
            self.liquidated_ms = now
            self._stopped = True
        else:
            slipping = now >= SLIPPAGE_STARTS_MS
            if not slipping or order.order_type == self.position_type:  # 9
                value = (effective_price(order, leverage) if slipping else order.price) * leverage
                self.average_entry_price = (self.average_entry_price * self.net_leverage + value) / after
                in_account = slipping and self._account_size is not None
                self.cumulative_entry_value += leverage * (self._account_size or 0.0) if in_account else value
            self.net_leverage = after  # 10
        return order

    def _leverage_of(self, order: Order) -> float:
        """Returns the order's leverage, or the one that its value makes."""
        if order.leverage is not None:
            return order.leverage
        if order.value is None or not self._account_size:
            raise ValueError("no leverage")
        return order.value / self._account_size

    def _close(self, at_ms: int) -> None:
        self.position_type = "FLAT"
        self.close_ms = at_ms

    def _stop(self) -> None:
        self.net_leverage = 0.0
        self._stopped = True

    def _gain(self, order: Order, leverage: float) -> float:  # 4
        net, average = self.net_leverage, self.average_entry_price
        if order.processed_ms < SLIPPAGE_STARTS_MS:
            return (order.price - average) * net / self.initial_entry_price
        if order.order_type != self.position_type or self.position_type == "FLAT":
            self.realized_pnl -= (effective_price(order, leverage) - average) * leverage
        after = net + leverage
        held = after if abs(after) < abs(net) else net
        return (self.realized_pnl + (order.price - average) * held) / self.initial_entry_price
