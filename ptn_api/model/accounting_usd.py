"""The account of a position by generations 3 and 4, in USD (docs/accounting.md, 2.3 and 2.4)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ptn_api.model.order import SLIPPAGE_STARTS_MS, Order, OrderSource, OrderType, effective_price

__all__ = ["Contract", "UsdAccount"]


class Contract(NamedTuple):
    """What turns a pair's quantities into money: lot size in base units, and the two currencies."""

    lot_size: int
    base: str
    quote: str


class _Sizes(NamedTuple):
    """An order's sizes and rates, with those filled in that its file lacks."""

    leverage: float
    quantity: float
    value: float
    quote_usd_rate: float
    usd_base_rate: float


class UsdAccount:
    """A position while its orders are taken one by one; see `accounting.Account` for its attributes.

    By generation 4, or 3 with `fees_in_return`. Numbers in comments are the steps of docs/accounting.md, 2.3.
    Raises ValueError if the first order has no price.
    """

    def __init__(
        self, first: Order, account_size: float, contract: Contract, *, fees_in_return: bool
    ) -> None:
        self._account_size = account_size
        self._contract = contract
        self._is_g3 = fees_in_return
        leverage = self._sizes_of(first).leverage
        self.initial_entry_price = self._effective_price(first, leverage)
        if not self.initial_entry_price > 0:
            raise ValueError("the first order has no price")
        self.open_ms = first.processed_ms  # 1
        self.position_type: OrderType | None = None
        self.close_ms: int | None = None
        self.priced_ms: int | None = None
        self.liquidated_ms: int | None = None
        self.orders: list[Order] = []
        self.net_leverage = self.average_entry_price = self.cumulative_entry_value = self.realized_pnl = 0.0
        self.net_quantity = self.net_value = self.unrealized_pnl = 0.0
        self.current_return = 1.0
        self._stopped = False

    def take(self, order: Order) -> Order:
        """Takes the next order. Returns it with the pnl that it realized, and the sizes of a closing one.

        Raises ValueError if it has no sizes.
        """
        if self._stopped:
            self.orders.append(order)
            return msgspec.structs.replace(order, realized_pnl=0.0)
        now, sizes = order.processed_ms, self._sizes_of(order)
        leverage, quantity, value = sizes.leverage, sizes.quantity, sizes.value
        opens = self.position_type is None
        if opens:  # 1
            self.position_type = "LONG" if leverage > 0 else "SHORT" if leverage < 0 else "FLAT"
            self.close_ms = None if leverage else now
        nets = [self.net_quantity + quantity]
        if self._is_g3:
            nets.append(self.net_leverage + leverage)
        crosses = min(nets) <= 0 if self.position_type == "LONG" else max(nets) >= 0
        closes = order.order_type == "FLAT" or (crosses and self.position_type != "FLAT")
        if closes and not (opens and leverage == 0):  # 2
            self._close(now)
            leverage, quantity, value = -self.net_leverage, -self.net_quantity, -self.net_value
        self.orders.append(
            order if order.leverage == leverage else msgspec.structs.replace(order, leverage=leverage)
        )
        realized = 0.0
        unpriced = not (order.price and sizes.usd_base_rate and sizes.quote_usd_rate)
        if unpriced and (
            order.src == OrderSource.ELIMINATION or (order.src == OrderSource.DEPRECATED_PAIR and self._is_g3)
        ):
            self._flatten()  # 3
        else:
            realized = self._account_for(order, sizes, leverage, quantity, value)
        if closes:
            return msgspec.structs.replace(
                order, leverage=leverage, quantity=quantity, value=value, realized_pnl=realized
            )
        return msgspec.structs.replace(order, realized_pnl=realized)

    def _account_for(
        self, order: Order, sizes: _Sizes, leverage: float, quantity: float, value: float
    ) -> float:
        """Takes a priced order of these sizes into account. Returns the pnl that it realized."""
        multiplier = self._contract.lot_size * sizes.quote_usd_rate
        effective = self._effective_price(order, leverage)  # 4
        realized = 0.0
        if order.order_type != self.position_type or self.position_type == "FLAT":  # 5
            realized = -(effective - self.average_entry_price) * quantity * multiplier
            self.realized_pnl += realized
        after = self.net_quantity + quantity
        held = after if abs(after) < abs(self.net_quantity) else self.net_quantity
        self.unrealized_pnl = (order.price - self.average_entry_price) * held * multiplier  # 6
        gain = 0.0
        if self.cumulative_entry_value:
            gain = (self.realized_pnl + self.unrealized_pnl) / self._account_size
        self.current_return = 0.0 if gain <= -1 else 1 + gain  # 7
        self.priced_ms = order.processed_ms
        if self.current_return == 0 and not self._is_g3:
            pass  # 8
        elif self.current_return == 0 and self.close_ms is None:
            self._close(order.processed_ms)  # 8
            self.liquidated_ms = order.processed_ms
            self._stopped = True
        elif self.position_type == "FLAT":
            self._flatten()  # 9
        else:  # 10
            if order.order_type == self.position_type:
                cost = self.average_entry_price * self.net_quantity + effective * quantity
                self.average_entry_price = cost / after
                self.cumulative_entry_value += value
            self.net_quantity = after
            self.net_leverage += leverage
            self.net_value = order.price * after * multiplier
        return realized

    def _sizes_of(self, order: Order) -> _Sizes:
        """Returns the order's sizes by the rules for missing ones (docs/accounting.md, 2.4)."""
        price, (lot, base, quote) = order.price, self._contract
        quote_usd_rate, usd_base_rate = order.quote_usd_rate or 0.0, order.usd_base_rate or 0.0
        if price and not quote_usd_rate:
            quote_usd_rate = 1.0 if quote == "USD" else 1 / price if base == "USD" else 0.0
        if price and not usd_base_rate:
            usd_base_rate = 1.0 if base == "USD" else 1 / price if quote == "USD" else 0.0
        leverage, value, quantity = order.leverage, order.value, order.quantity
        if leverage is not None and (value is None or quantity is None):
            value, quantity = leverage * self._account_size, None
        if value is None and quantity is not None and usd_base_rate:
            value = quantity * lot / usd_base_rate
        if value is None:
            if order.order_type != "FLAT":
                raise ValueError("no sizes")
            value = 0.0  # it closes the position at any size
        if leverage is None:
            leverage = value / self._account_size
        if quantity is None:
            quantity = value * usd_base_rate / lot if price else 0.0
        return _Sizes(leverage, quantity, value, quote_usd_rate, usd_base_rate)

    def _effective_price(self, order: Order, leverage: float) -> float:
        gated = self._is_g3 and order.processed_ms < SLIPPAGE_STARTS_MS
        return order.price if gated else effective_price(order, leverage)

    def _close(self, at_ms: int) -> None:
        self.position_type = "FLAT"
        self.close_ms = at_ms

    def _flatten(self) -> None:
        self.net_quantity = self.net_leverage = self.net_value = 0.0
        self._stopped = True
