"""The message that a client receives: one order, with its position.

Its objects also answer to the names that the network's own classes have (`order_type.name`,
`position.trade_pair.trade_pair_id`, `is_open_position`, `to_dict()`), so that bots written for those work.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import msgspec

from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import InvalidInputError
from ptn_api.model.order import Order
from ptn_api.model.position import Position
from ptn_api.model.trade_pair import display_of, pair_id
from ptn_api.summary import Summary, number, summarised, time_text
from ptn_api.wire import codec
from ptn_api.wire.server_frames import OrderMessage

__all__ = [
    "MESSAGE_COLUMNS",
    "MessageOrder",
    "MessagePosition",
    "NewOrder",
    "OrderType",
    "PTNWebSocketMessage",
    "TradePairId",
    "message_cells",
]

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
"""The documented order of the fields when printed."""


class TradePairId(str):
    """A trade pair's id, such as "BTCUSD", with its definition as an attribute."""

    __slots__ = ("definition",)

    definition: Any
    """The validator's definition: [id, display, fee, min leverage, max leverage]."""

    def __new__(cls, definition: Any) -> TradePairId:
        pair = super().__new__(cls, pair_id(definition))
        pair.definition = definition
        return pair

    @property
    def trade_pair_id(self) -> str:
        return str(self)

    @property
    def trade_pair(self) -> str:
        """The display, such as "BTC/USD"."""
        return display_of(self.definition)


class OrderType(str, enum.Enum):
    """LONG, SHORT or FLAT: a string, which also equals the member of that name of any other enum."""

    LONG = "LONG"
    SHORT = "SHORT"
    FLAT = "FLAT"

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other.name if isinstance(other, enum.Enum) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__  # that of an enum's member of this name, too
    __str__ = str.__str__

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)


class _Named:
    """A position's `trade_pair` with the names of the network's class."""

    @property
    def trade_pair_id(self) -> str:
        return pair_id(self)

    @property
    def trade_pair(self) -> str:
        """The display, such as "BTC/USD"."""
        return display_of(self)

    @property
    def fees(self) -> Any:
        return self._part(2, "fees")

    @property
    def min_leverage(self) -> Any:
        return self._part(3, "min_leverage")

    @property
    def max_leverage(self) -> Any:
        return self._part(4, "max_leverage")

    def _part(self, index: int, key: str) -> Any:
        if isinstance(self, dict):
            return self.get(key)
        assert isinstance(self, list)
        return self[index] if len(self) > index else None


class _PairList(_Named, list[Any]):
    pass


class _PairObject(_Named, dict[str, Any]):
    pass


class MessageOrder(Order, kw_only=True):
    """An order of a message's position."""

    order_type: OrderType  # type: ignore[assignment]  # a string as well

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values."""
        return _plain(self)


class NewOrder(Order, kw_only=True):
    """An order with its position's trade pair, which orders on the wire lack."""

    order_type: OrderType  # type: ignore[assignment]  # a string as well
    trade_pair: TradePairId = TradePairId("")

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values."""
        return _plain(self)


def _plain(value: msgspec.Struct) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(value, enc_hook=str)  # a TradePairId
    return values


class MessagePosition(Position, kw_only=True):
    """A message's position, with all orders up to the new one. `trade_pair_id` is the pair as a string."""

    position_type: OrderType | None = None  # type: ignore[assignment]
    orders: list[MessageOrder] = msgspec.field(default_factory=list)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        pair = self.trade_pair
        if isinstance(pair, list):
            self.trade_pair = _PairList(pair)
        elif isinstance(pair, dict):
            self.trade_pair = _PairObject(pair)
        elif isinstance(pair, str):
            self.trade_pair = TradePairId(pair)

    @property
    def is_open_position(self) -> bool:
        return not self.is_closed_position

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values."""
        return _plain(self)


class MessageContent(msgspec.Struct):
    """A message's data as a client reads it (wire/frames.py, MessageData)."""

    position: MessagePosition
    order: MessageOrder | None = None


_data = msgspec.json.Decoder(MessageContent)


@summarised
class PTNWebSocketMessage:
    """An order, and its position with all orders up to this one.

    `position` and `new_order` are structs; `sequence` counts orders; `timestamp` (epoch ms) is the time at
    which the server first saw the order. `late` marks an order that arrived out of order, `replay` one sent
    again because the client missed it. In format "delta" `position.orders` is empty. Raises InvalidInputError
    for a malformed message.
    """

    def __init__(
        self,
        raw_message: OrderMessage | Mapping[str, Any] | str | bytes,
        clock_offset_ms: int = 0,
        *,
        clock: Clock = wall_ms,
    ) -> None:
        if isinstance(raw_message, OrderMessage):
            message = raw_message
        else:
            text = msgspec.json.encode(raw_message) if isinstance(raw_message, Mapping) else raw_message
            message = codec.decode(text, OrderMessage)
        data = codec.decoded(_data, message.data)
        if data.order is None and not data.position.orders:
            raise InvalidInputError("the message has no order", code="bad_frame", field="orders")
        self._order = data.order or data.position.orders[-1]
        self._new_order: NewOrder | None = None
        self._data = bytes(message.data)  # a copy: the original may keep a batch of hundreds alive
        self._clock = clock
        self.sequence: int = message.sequence
        self.timestamp: int = message.timestamp
        self.late: bool = message.late
        self.replay: bool = message.replay
        self.clock_offset_ms = clock_offset_ms
        """The server's clock minus the client's."""
        self.position: MessagePosition = data.position
        self.server = ""
        """The URL of the server that sent it, in a stream of several servers."""

    @property
    def new_order(self) -> NewOrder:
        """The announced order."""
        if self._new_order is None:
            order = self._order
            self._new_order = NewOrder(  # explicit, because a loop over the fields takes four times as long
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
                value=order.value,
                quantity=order.quantity,
                quote_usd_rate=order.quote_usd_rate,
                usd_base_rate=order.usd_base_rate,
                execution_type=order.execution_type,
                limit_price=order.limit_price,
                stop_loss=order.stop_loss,
                take_profit=order.take_profit,
                stop_price=order.stop_price,
                stop_condition=order.stop_condition,
                trailing_stop=order.trailing_stop,
                bracket_orders=order.bracket_orders,
                bracket_pct=order.bracket_pct,
                realized_pnl=order.realized_pnl,
                margin_loan=order.margin_loan,
                is_hl_taker=order.is_hl_taker,
                trade_pair=TradePairId(self.position.trade_pair),
            )
        return self._new_order

    @property
    def timelag_from_order(self) -> int:
        """Time since the order was filled, in ms by the server's clock."""
        return self._server_ms() - self._order.processed_ms

    @property
    def timelag_from_queue(self) -> int:
        """Time since the server first saw the order, in ms by the server's clock."""
        return self._server_ms() - self.timestamp

    @property
    def age_ms(self) -> int:
        """The longer of the two time lags."""
        return self._server_ms() - min(self._order.processed_ms, self.timestamp)

    @property
    def data(self) -> dict[str, Any]:
        """The message's data as plain values: `position` and all other keys."""
        values: dict[str, Any] = msgspec.json.decode(self._data)
        return values

    def to_json(self) -> bytes:
        """Returns the message as the stream sends it."""
        fields = {"sequence": self.sequence, "timestamp": self.timestamp, "data": self.data}
        marks = {"late": self.late, "replay": self.replay}
        return msgspec.json.encode(fields | {name: True for name, is_set in marks.items() if is_set})

    def _server_ms(self) -> int:
        return self._clock() + self.clock_offset_ms

    def __str__(self) -> str:
        data = self.data
        summary = {key: value for key, value in data["position"].items() if key != "orders"}
        order = data["order"] if "order" in data else data["position"]["orders"][-1]
        first = {key: order[key] for key in _ORDER_KEYS if key in order}
        printed = {"trade_pair_id": str(self.new_order.trade_pair)} | first | order
        return (
            f"PTNWebSocketMessage(seq={self.sequence})\n"
            f"Position Summary:\n{_pretty(summary)}\n"
            f"New Order:\n{_pretty(printed)}\n"
            f"Approx Timelag (ms): from_queue={self.timelag_from_queue}, "
            f"from_order={self.timelag_from_order}"
        )

    def _summary(self) -> Summary:
        sequence, miner, pair, side, leverage, price, processed, marks = message_cells(self)
        order = f"{pair} {side} {leverage} at {price}, {processed} {marks}".rstrip()
        return Summary(f"PTNWebSocketMessage({sequence}, {miner}, {order}, {self.new_order.order_uuid})")


MESSAGE_COLUMNS = ("sequence", "miner", "pair", "type", "leverage", "price", "processed", "")
"""Of `message_cells`."""


def message_cells(message: PTNWebSocketMessage) -> tuple[object, ...]:
    """Returns the message as a row of a table."""
    order = message.new_order
    return (
        message.sequence,
        message.position.miner_hotkey,
        str(order.trade_pair),
        str(order.order_type),
        number(order.leverage, "+g"),
        f"{order.price:g}",
        time_text(order.processed_ms),
        " ".join(name for name in ("late", "replay") if getattr(message, name)),
    )


def _pretty(values: dict[str, Any]) -> str:
    import json

    return json.dumps(values, indent=2)
