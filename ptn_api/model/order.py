"""An order: one trade of a miner, as the validator filled it."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Order", "OrderSource", "OrderType", "PriceSource"]

OrderType = Literal["LONG", "SHORT", "FLAT"]


class OrderSource:
    """Where an order came from (`src`)."""

    MINER = 0
    ELIMINATION = 1
    DEPRECATED_PAIR = 2


# gc=False: orders come by the hundred thousand and hold nothing that could lead back to them.
class PriceSource(msgspec.Struct, kw_only=True, gc=False):
    """A quote that the validator looked at when it filled an order; times in ms."""

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

    `leverage` is signed (LONG > 0, SHORT < 0) and a change of the position's leverage, `price`, `bid`, `ask`
    are in the quote currency, `slippage` is a fraction of the price, `processed_ms` epoch milliseconds.
    Older orders lack bid, ask, slippage and src; they count as 0.
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
