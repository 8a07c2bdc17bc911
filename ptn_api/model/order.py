"""An order: one trade of a miner, as the validator filled it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

__all__ = [
    "SLIPPAGE_STARTS_MS",
    "ExecutionType",
    "Order",
    "OrderPage",
    "OrderRow",
    "OrderSource",
    "OrderType",
    "PriceSource",
    "effective_price",
]

SLIPPAGE_STARTS_MS = 1739937600000
"""From here on an order's slippage is part of its price."""

OrderType = Literal["LONG", "SHORT", "FLAT"]
ExecutionType = Literal["MARKET", "LIMIT", "BRACKET", "STOP_LIMIT", "LIMIT_CANCEL", "FLAT_ALL"]
"""The known kinds of execution; the last two are signals and never an order."""


class OrderSource(enum.IntEnum):
    """The origin of an order (`src`). An open set: an order with another number is served like any other."""

    MINER = 0
    ELIMINATION = 1
    """The miner was eliminated or the position liquidated; the price may be 0."""
    DEPRECATED_PAIR = 2
    """The trade pair was removed; the price may be 0."""
    PRICED_ELIMINATION = 3
    """As ELIMINATION, at a price of the feed."""
    TOO_MANY_ORDERS = 4
    LIMIT_UNFILLED = 5
    LIMIT_FILLED = 6
    LIMIT_CANCELLED = 7
    BRACKET_UNFILLED = 8
    BRACKET_FILLED = 9
    BRACKET_CANCELLED = 10
    FLAT_ALL = 11
    """The miner closed all positions at once."""
    PROMOTION = 12
    """The subaccount was promoted."""
    STOP_LIMIT_UNFILLED = 13
    STOP_LIMIT_FILLED = 14
    STOP_LIMIT_CANCELLED = 15
    HYPERLIQUID_FILL = 16
    CORRECTION = 17
    CANCELLED_BY_ELIMINATION = 18


class PriceSource(msgspec.Struct, kw_only=True, gc=False):
    """A quote that the validator consulted when it filled an order, or its latest mark; times in ms.

    For display: values have the stated types in sound files (numbers, `websocket` a bool), but nothing
    depends on them, so none is checked.
    """

    source: Any = None
    timespan_ms: Any = None
    open: Any = None
    close: Any = None
    vwap: Any = None
    high: Any = None
    low: Any = None
    start_ms: Any = None
    websocket: Any = None
    lag_ms: Any = None
    bid: Any = None
    ask: Any = None


if TYPE_CHECKING:
    PriceSources: TypeAlias = list[Any]
else:
    PriceSources = list[PriceSource | list[Any] | str | float | bool | None]
    """Elements other than objects are malformed, and kept as they are."""


# gc=False: there are hundreds of thousands of orders, and none can be part of a reference cycle.
class Order(msgspec.Struct, kw_only=True, gc=False):
    """One order.

    `leverage` is the signed change of the position's leverage (LONG > 0, SHORT < 0), `value` the same in USD
    and `quantity` in lots; a validator may write null for those that it did not compute. `price`, `bid`,
    `ask` and the limits are in the quote currency, `slippage` is a fraction of the price, `processed_ms` is
    epoch milliseconds. `quote_usd_rate` converts the quote currency to USD, `usd_base_rate` USD to the base
    currency; 0 means unknown. `realized_pnl` and `margin_loan` are in USD. Orders of older validators lack
    the later keys; bid, ask, slippage and src then count as 0.
    """

    order_type: OrderType
    leverage: float | None = None
    price: float = 0.0
    """0: forced by the validator without a price, or not filled."""
    processed_ms: int
    order_uuid: str
    bid: float | None = 0.0
    ask: float | None = 0.0
    slippage: float | None = 0.0
    src: int | None = 0
    price_sources: PriceSources | None = None
    value: float | None = None
    quantity: float | None = None
    quote_usd_rate: float | None = None
    usd_base_rate: float | None = None
    execution_type: str | None = None
    """An `ExecutionType`, or a newer one; None means MARKET."""
    limit_price: float | None = None
    stop_loss: float | None = None
    take_profit: float | None = None
    stop_price: float | None = None
    stop_condition: str | None = None
    """GTE or LTE."""
    trailing_stop: dict[str, Any] | None = None
    bracket_orders: list[Any] | None = None
    bracket_pct: float | None = None
    realized_pnl: float | None = None
    margin_loan: float | None = None
    is_hl_taker: bool | None = None


class OrderRow(msgspec.Struct, kw_only=True):
    """An order of any miner, with its position's names; `trade_pair` is the pair's id.

    `sequence` is that of its message, None if it was never announced.
    """

    miner_hotkey: str
    position_uuid: str
    trade_pair: str
    sequence: int | None
    order: Order


class OrderPage(msgspec.Struct, kw_only=True):
    """Orders, newest first; continue with `before=<next>` until `next` is null."""

    orders: list[OrderRow]
    next: str | None


def effective_price(order: Order, leverage: float) -> float:
    """Returns the order's price with its slippage, which is to the miner's disadvantage."""
    slippage = order.slippage or 0.0
    return order.price * (1 + slippage if leverage > 0 else 1 - slippage)
