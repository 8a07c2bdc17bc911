"""An order: one trade of a miner, as the validator filled it."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Order", "OrderSource", "OrderType", "PriceSource"]

OrderType = Literal["LONG", "SHORT", "FLAT"]


class OrderSource:
    """The origin of an order (`src`)."""

    MINER = 0
    ELIMINATION = 1
    DEPRECATED_PAIR = 2


# gc=False: there are hundreds of thousands of orders, and none can be part of a reference cycle.
class PriceSource(msgspec.Struct, kw_only=True, gc=False):
    """A quote that the validator consulted when it filled an order; times in ms."""

    source: str | None = None
    timespan_ms: int | None = None
    open: float | None = None
    close: float | None = None
    vwap: float | None = None
    high: float | None = None
    low: float | None = None
    start_ms: int | None = None
    websocket: bool | None = None
    lag_ms: int | None = None
    bid: float | None = None
    ask: float | None = None


class Order(msgspec.Struct, kw_only=True, gc=False):
    """One order.

    `leverage` is the signed change of the position's leverage (LONG > 0, SHORT < 0). `price`, `bid` and `ask`
    are in the quote currency, `slippage` is a fraction of the price, `processed_ms` is epoch milliseconds.
    Older orders lack bid, ask, slippage and src, which then count as 0.
    """

    order_type: OrderType
    leverage: float
    price: float
    processed_ms: int
    order_uuid: str
    bid: float | None = 0.0
    ask: float | None = 0.0
    slippage: float | None = 0.0
    src: int | None = 0
    price_sources: list[PriceSource] | None = None
