"""A position's state by generations 3 and 4, in USD (docs/accounting.md, 2.3 and 2.4)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ptn_api.model.accounting_leverage import effective_price, has_liquidation, liquidation_flat
from ptn_api.model.fees import SLIPPAGE_STARTS_MS, fee_by_category
from ptn_api.model.order import Order, OrderSource, OrderType
from ptn_api.model.position import PositionState
from ptn_api.model.trade_pair import FeeCategory

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
    """A position while its orders are taken one by one.

    With fee terms by generation 3, without by generation 4. Numbers in comments are the steps of
    docs/accounting.md, 2.3. Raises ValueError if the first order has no price, or for missing sizes.
    """

    def __init__(
        self,
        first: Order,
        position_uuid: str,
        account_size: float,
        contract: Contract,
        terms: tuple[FeeCategory, float] | None,
    ) -> None:
        self._uuid = position_uuid
        self._account_size = account_size
        self._contract = contract
        self._terms = terms
        leverage = self._sizes(first).leverage
        self.initial_entry_price = self._effective_price(first, leverage)
        if not self.initial_entry_price > 0:
            raise ValueError("the first order has no price")
        self._open_ms = first.processed_ms  # 1
        self._type: OrderType | None = None
        self._close_ms: int | None = None
        self._priced_ms: int | None = None
        """When the returns were last computed: fees are those of this time."""
        self._liquidated_ms: int | None = None
        self._stopped = False
        self._leverage = self._quantity = self._value = 0.0  # net
        self._average = self._cumulative = self._realized = self._unrealized = 0.0
        self._current_return = 1.0
        self._orders: list[Order] = []

    def take(self, order: Order) -> Order:
        """Takes the next order. Returns it with the pnl that it realized, and the sizes of a closing one."""
        if self._stopped:
            self._orders.append(order)
            return order
        sizes = self._sizes(order)
        leverage, quantity, value = sizes.leverage, sizes.quantity, sizes.value
        closes = False
        if self._type is None:  # 1
            self._type = "LONG" if leverage > 0 else "SHORT" if leverage < 0 else "FLAT"
            if leverage == 0:
                self._close_ms = order.processed_ms
        if self._closes(order, leverage, quantity):  # 2
            self._close(order.processed_ms)
            leverage, quantity, value = -self._leverage, -self._quantity, -self._value
            closes = True
        self._orders.append(
            order if order.leverage == leverage else msgspec.structs.replace(order, leverage=leverage)
        )
        if self._is_unpriced(order, sizes):  # 3
            self._flatten()
            return self._resized(order, leverage, quantity, value) if closes else order
        multiplier = self._contract.lot_size * sizes.quote_usd_rate
        effective = self._effective_price(order, leverage)  # 4
        realized = 0.0
        if order.order_type != self._type or self._type == "FLAT":  # 5
            realized = -(effective - self._average) * quantity * multiplier
            self._realized += realized
        after = self._quantity + quantity
        held = after if abs(after) < abs(self._quantity) else self._quantity
        self._unrealized = (order.price - self._average) * held * multiplier  # 6
        gain = (self._realized + self._unrealized) / self._account_size if self._cumulative else 0.0
        self._current_return = 0.0 if gain <= -1 else 1 + gain  # 7
        self._priced_ms = order.processed_ms
        if self._current_return == 0 and (self._terms is None or self._close_ms is None):  # 8
            if self._terms is not None:
                self._close(order.processed_ms)
                self._liquidated_ms = order.processed_ms
                self._stopped = True
        elif self._type == "FLAT":  # 9
            self._flatten()
        else:  # 10
            if order.order_type == self._type:
                self._average = (self._average * self._quantity + effective * quantity) / after
                self._cumulative += value
            self._quantity = after
            self._leverage += leverage
            self._value = order.price * after * multiplier
        if closes:
            return self._resized(order, leverage, quantity, value, realized)
        return (
            order if order.realized_pnl == realized else msgspec.structs.replace(order, realized_pnl=realized)
        )

    def state(self) -> PositionState:
        fees = 1.0
        if self._terms is not None and self._priced_ms is not None:
            fees = fee_by_category(self._priced_ms, self._orders, *self._terms, self._open_ms)
        return PositionState(
            position_type=self._type,
            is_closed_position=self._close_ms is not None,
            open_ms=self._open_ms,
            close_ms=self._close_ms,
            net_leverage=self._leverage,
            net_value=self._value,
            net_quantity=self._quantity,
            average_entry_price=self._average,
            cumulative_entry_value=self._cumulative,
            realized_pnl=self._realized,
            unrealized_pnl=self._unrealized,
            current_return=self._current_return,
            return_at_close=self._current_return * fees,
        )

    def liquidation(self) -> Order | None:
        if self._liquidated_ms is None or has_liquidation(self._orders, self._uuid):
            return None
        return liquidation_flat(self._uuid, self._liquidated_ms, -self._leverage)

    def _sizes(self, order: Order) -> _Sizes:
        """Returns the order's sizes by the rules for missing ones (docs/accounting.md, 2.3)."""
        price, (lot, base, quote) = order.price, self._contract
        quote_usd_rate, usd_base_rate = order.quote_usd_rate or 0.0, order.usd_base_rate or 0.0
        if price and not quote_usd_rate:
            quote_usd_rate = 1.0 if quote == "USD" else 1 / price if base == "USD" else 0.0
        if price and not usd_base_rate:
            usd_base_rate = 1.0 if base == "USD" else 1 / price if quote == "USD" else 0.0
        leverage, value, quantity = order.leverage, order.value, order.quantity
        if leverage is not None:
            if value is None or quantity is None:
                value = leverage * self._account_size
                quantity = value * usd_base_rate / lot if price else 0.0
        else:
            if value is None and quantity is not None and usd_base_rate:
                value = quantity * lot / usd_base_rate
            if value is None:
                if order.order_type != "FLAT":
                    raise ValueError("no sizes")
                value = 0.0  # it closes the position, whatever its size
            leverage = value / self._account_size
            if quantity is None:
                quantity = value * usd_base_rate / lot if price else 0.0
        return _Sizes(leverage, quantity, value, quote_usd_rate, usd_base_rate)

    def _effective_price(self, order: Order, leverage: float) -> float:
        gated = self._terms is not None and order.processed_ms < SLIPPAGE_STARTS_MS
        return order.price if gated else effective_price(order, leverage)

    def _closes(self, order: Order, leverage: float, quantity: float) -> bool:
        if order.order_type == "FLAT":
            return True
        by_leverage = self._terms is not None
        if self._type == "LONG":
            return self._quantity + quantity <= 0 or (by_leverage and self._leverage + leverage <= 0)
        if self._type == "SHORT":
            return self._quantity + quantity >= 0 or (by_leverage and self._leverage + leverage >= 0)
        return False

    def _is_unpriced(self, order: Order, sizes: _Sizes) -> bool:
        """Returns whether the validator closed the position without a price."""
        by_validator = order.src == OrderSource.ELIMINATION or (
            self._terms is not None and order.src == OrderSource.DEPRECATED_PAIR
        )
        return by_validator and not (order.price and sizes.usd_base_rate and sizes.quote_usd_rate)

    def _close(self, at_ms: int) -> None:
        self._type = "FLAT"
        self._close_ms = at_ms

    def _flatten(self) -> None:
        self._quantity = self._leverage = self._value = 0.0
        self._stopped = True

    def _resized(
        self, order: Order, leverage: float, quantity: float, value: float, realized: float | None = None
    ) -> Order:
        return msgspec.structs.replace(
            order,
            leverage=leverage,
            quantity=quantity,
            value=value,
            realized_pnl=order.realized_pnl if realized is None else realized,
        )
