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
    """A quote that the validator consulted when it filled an order, or its latest mark.

    For display: values have the stated types in sound files, but nothing depends on them, so none is checked.

    - volume: Traded volume in the span. Unit: base units. Null: absent since 2025. Since: 2024 only.
    """

    source: Any = None
    """Name of the data provider. Type: text. Null: malformed."""
    timespan_ms: Any = None
    """Length of the span that the quote covers; 0 for a single quote. Unit: ms. Null: malformed."""
    open: Any = None
    """First price of the span. Unit: quote currency. Null: not provided."""
    close: Any = None
    """Last price of the span. Unit: quote currency. Null: not provided."""
    vwap: Any = None
    """Volume-weighted average price of the span. Unit: quote currency. Null: not provided."""
    high: Any = None
    """Highest price of the span. Unit: quote currency. Null: not provided."""
    low: Any = None
    """Lowest price of the span. Unit: quote currency. Null: not provided."""
    start_ms: Any = None
    """Start of the span. Unit: epoch ms. Null: malformed."""
    websocket: Any = None
    """Whether the quote came from a live feed, not from a request. Type: true or false. Null: malformed."""
    lag_ms: Any = None
    """Distance in time between the quote and the order. Unit: ms. Null: malformed."""
    bid: Any = None
    """Best bid; 0 if unknown. Unit: quote currency. Null: not provided. Since: 2025."""
    ask: Any = None
    """Best ask; 0 if unknown. Unit: quote currency. Null: not provided. Since: 2025."""


if TYPE_CHECKING:
    PriceSources: TypeAlias = list[Any]
else:
    PriceSources = list[PriceSource | list[Any] | str | float | bool | None]
    """Elements other than objects are malformed, and kept as they are."""


# gc=False: there are hundreds of thousands of orders, and none can be part of a reference cycle.
class Order(msgspec.Struct, kw_only=True, gc=False):
    """One order: a change of a position, as the validator filled it.

    Orders of older validators lack the later keys; absent bid, ask, slippage and src count as 0.
    """

    order_type: OrderType
    """LONG adds to the long side, SHORT to the short side, FLAT closes the position."""
    leverage: float | None = None
    """Signed change of the position's leverage: LONG > 0, SHORT < 0.

    Unit: multiple of the balance. Null: the validator did not compute it.
    """
    price: float = 0.0
    """Price at which the order was filled; 0: forced by the validator without a price, or not filled.

    Unit: quote currency.
    """
    processed_ms: int
    """Time of the fill; of a limit order that waits, of its creation. Unit: epoch ms."""
    order_uuid: str
    """Identifies the order within its miner. A forced close has `<position>-close-<src>`, or the position's
    uuid reversed.
    """
    bid: float | None = 0.0
    """Best bid at the fill; 0 if unknown. Unit: quote currency. Null: unknown. Since: 2025."""
    ask: float | None = 0.0
    """Best ask at the fill; 0 if unknown. Unit: quote currency. Null: unknown. Since: 2025."""
    slippage: float | None = 0.0
    """Disadvantage of the fill: a buy costs price × (1 + slippage), a sale yields price × (1 − slippage).

    Unit: fraction of the price. Null: counts as 0. Since: 2025.
    """
    src: int | None = 0
    """The order's origin: 0 miner, 1 elimination or liquidation, 2 removed pair, 3 elimination with a price,
    4 too many orders, 5 to 7 limit order unfilled, filled, cancelled, 8 to 10 bracket order likewise, 11 flat
    all, 12 promotion, 13 to 15 stop-limit order likewise, 16 Hyperliquid fill, 17 correction, 18 cancelled by
    elimination. Others may follow.

    Unit: code. Null: counts as 0. Since: 2025.
    """
    price_sources: PriceSources | None = None
    """Quotes that the validator consulted; [] once the order is older than 7 days.

    Type: list of PriceSource or null. Null: none stored.
    """
    value: float | None = None
    """Signed size, also of a FLAT. Unit: USD. Null: the validator did not compute it. Since: generation 3."""
    quantity: float | None = None
    """Signed size, also of a FLAT: base units / lot size.

    Unit: lots. Null: the validator did not compute it. Since: generation 3.
    """
    quote_usd_rate: float | None = None
    """Converts the quote currency to USD; 0 if unknown.

    Unit: USD per unit of the quote currency. Null: unknown. Since: generation 3.
    """
    usd_base_rate: float | None = None
    """Converts USD to the base currency; 0 if unknown.

    Unit: base units per USD. Null: unknown. Since: generation 3.
    """
    execution_type: str | None = None
    """MARKET, LIMIT, BRACKET or STOP_LIMIT; others may follow. Null: MARKET. Since: generation 3."""
    limit_price: float | None = None
    """Price at which a LIMIT or STOP_LIMIT order is filled.

    Unit: quote currency. Null: no limit. Since: generation 3.
    """
    stop_loss: float | None = None
    """Price at which the position is closed with a loss.

    Unit: quote currency. Null: none. Since: generation 3.
    """
    take_profit: float | None = None
    """Price at which the position is closed with a profit.

    Unit: quote currency. Null: none. Since: generation 3.
    """
    stop_price: float | None = None
    """Price that triggers a STOP_LIMIT order.

    Unit: quote currency. Null: another type of order. Since: generation 4.
    """
    stop_condition: str | None = None
    """GTE or LTE: the price triggers from `stop_price` upwards or downwards.

    Null: another type of order. Since: generation 4.
    """
    trailing_stop: dict[str, Any] | None = None
    """A stop that follows the price. Null: none. Since: generation 4.

    - trailing_percent: Distance from the best price, 0 to 1. Unit: fraction of the price. Null: absent with
      `trailing_value`.
    - trailing_value: Distance from the best price. Unit: quote currency. Null: absent with
      `trailing_percent`.
    """
    bracket_orders: list[Any] | None = None
    """Stops that are placed once the order is filled. Null: none. Since: generation 4.

    - stop_loss: As in the order. Unit: quote currency. Null: none.
    - take_profit: As in the order. Unit: quote currency. Null: none.
    - trailing_percent: As in `trailing_stop`. Unit: fraction of the price. Null: absent without one.
    - trailing_value: As in `trailing_stop`. Unit: quote currency. Null: absent without one.
    """
    bracket_pct: float | None = None
    """Share of the open position that a bracket order closes.

    Unit: fraction. Null: all of it, or another type of order. Since: generation 4.
    """
    realized_pnl: float | None = None
    """Profit that this order realized, before fees; 0 if it opened or enlarged the position.

    Unit: USD. Null: not stored. Since: generation 4.
    """
    margin_loan: float | None = None
    """Borrowed for spot equities (> 0), or repaid (< 0). Unit: USD. Null: not stored. Since: generation 4."""
    is_hl_taker: bool | None = None
    """Whether a fill at Hyperliquid took liquidity. Null: not such a fill. Since: generation 4."""

    def __repr__(self) -> str:
        size = self.value if self.leverage is None else self.leverage
        done = f"{self.order_type!s:.9} {size} at {self.price}, {self.processed_ms}"
        return f"{type(self).__name__}({done}, {self.order_uuid[:48]!r})"


class OrderRow(msgspec.Struct, kw_only=True):
    """An order of any miner, with its position's names. Since: 0.2.0."""

    miner_hotkey: str
    """The position's miner."""
    position_uuid: str
    """The order's position."""
    trade_pair: str
    """The pair's id, such as BTCUSD."""
    sequence: int | None
    """Sequence of its message. Unit: sequence. Null: it was never announced."""
    order: Order
    """The order."""


class OrderPage(msgspec.Struct, kw_only=True):
    """Orders, newest first; continue with `before=<next>` until `next` is null. Since: 0.2.0."""

    orders: list[OrderRow]
    """The orders, newest first."""
    next: str | None
    """The next `before`. Null: there are no older ones."""


def effective_price(order: Order, leverage: float) -> float:
    """Returns the order's price with its slippage, which is to the miner's disadvantage."""
    slippage = order.slippage or 0.0
    return order.price * (1 + slippage if leverage > 0 else 1 - slippage)
