"""One order as a bot sees it, with the position it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import InvalidInputError
from ptn_api.model.order import Order
from ptn_api.model.position import Position
from ptn_api.model.trade_pair import pair_id
from ptn_api.wire import codec
from ptn_api.wire.server_frames import OrderMessage, read_message_data

__all__ = ["NewOrder", "PTNWebSocketMessage", "TradePairId"]

_ORDER_KEYS = (
    "order_type",
    "leverage",
    "price",
    "bid",
    "ask",
    "slippage",
    "processed_ms",
    "price_sources",
    "order_uuid",
    "src",
)
"""The order in which an order's fields are documented to be printed."""


class TradePairId(str):
    """A trade pair by its id, "BTCUSD"; what else is known of it hangs on it."""

    __slots__ = ("definition",)

    definition: Any
    """As the validator wrote it: [id, display, fee, min leverage, max leverage]."""

    def __new__(cls, definition: Any) -> TradePairId:
        pair = super().__new__(cls, pair_id(definition))
        pair.definition = definition
        return pair

    @property
    def trade_pair_id(self) -> str:
        return str(self)


class NewOrder(Order, kw_only=True):
    """An order together with its position's trade pair (an order on the wire carries none)."""

    trade_pair: TradePairId = TradePairId("")


class PTNWebSocketMessage:
    """One order, and its position with all orders up to this one.

    `position` and `new_order` are structs, `sequence` counts orders, `timestamp` (epoch ms) is when the
    server first saw the order. `late` marks an order that came out of its turn, `replay` one that is sent
    again because it was missed. In format "delta" `position.orders` is empty.
    Raises InvalidInputError for what is no such message.
    """

    def __init__(
        self,
        raw_message: OrderMessage | Mapping[str, Any] | str | bytes,
        clock_offset_ms: int = 0,
        *,
        clock: Clock = wall_ms,
    ) -> None:
        message = raw_message if isinstance(raw_message, OrderMessage) else _decode(raw_message)
        data = read_message_data(message.data)
        self._order = data.order or _last(data.position.orders)
        self._new_order: NewOrder | None = None
        self._data = bytes(message.data)  # a copy: the text it came in may be a batch of hundreds
        self._clock = clock
        self.sequence: int = message.sequence
        self.timestamp: int = message.timestamp
        self.late: bool = message.late
        self.replay: bool = message.replay
        self.clock_offset_ms = clock_offset_ms
        """The server's clock minus ours."""
        self.position: Position = data.position

    @property
    def new_order(self) -> NewOrder:
        """The order that is announced."""
        if self._new_order is None:
            self._new_order = _with_pair(self._order, self.position.trade_pair)
        return self._new_order

    @property
    def timelag_from_order(self) -> int:
        """How long ago the order was filled, in ms by the server's clock."""
        return self._server_ms() - self._order.processed_ms

    @property
    def timelag_from_queue(self) -> int:
        """How long ago the server first saw the order, in ms by the server's clock."""
        return self._server_ms() - self.timestamp

    @property
    def age_ms(self) -> int:
        """How old the news is: the longer of the two time lags."""
        return self._server_ms() - min(self._order.processed_ms, self.timestamp)

    @property
    def data(self) -> dict[str, Any]:
        """What came, as plain values: `position`, and whatever else was sent beside it."""
        values: dict[str, Any] = msgspec.json.decode(self._data)
        return values

    def _server_ms(self) -> int:
        return self._clock() + self.clock_offset_ms

    def __str__(self) -> str:
        data = self.data
        summary = {key: value for key, value in data["position"].items() if key != "orders"}
        order = data["order"] if "order" in data else data["position"]["orders"][-1]
        return (
            f"PTNWebSocketMessage(seq={self.sequence})\n"
            f"Position Summary:\n{_pretty(summary)}\n"
            f"New Order:\n{_pretty(_documented(order, self.new_order.trade_pair))}\n"
            f"Approx Timelag (ms): from_queue={self.timelag_from_queue}, "
            f"from_order={self.timelag_from_order}"
        )

    __repr__ = __str__


def _decode(raw: Mapping[str, Any] | str | bytes) -> OrderMessage:
    text = msgspec.json.encode(raw) if isinstance(raw, Mapping) else raw
    return codec.decode(text, OrderMessage)


def _last(orders: list[Order]) -> Order:
    if not orders:
        raise InvalidInputError("a message without an order", code="bad_frame", field="orders")
    return orders[-1]


def _with_pair(order: Order, pair: Any) -> NewOrder:
    return NewOrder(  # written out: a loop over the fields takes four times as long
        order_type=order.order_type,
        leverage=order.leverage,
        price=order.price,
        processed_ms=order.processed_ms,
        order_uuid=order.order_uuid,
        bid=order.bid,
        ask=order.ask,
        slippage=order.slippage,
        src=order.src,
        price_sources=order.price_sources,
        trade_pair=TradePairId(pair),
    )


def _documented(order: dict[str, Any], pair: TradePairId) -> dict[str, Any]:
    known = {key: order[key] for key in _ORDER_KEYS if key in order}
    return {"trade_pair_id": str(pair)} | known | order


def _pretty(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2)
