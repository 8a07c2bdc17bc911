"""A position: a miner's stake in one trade pair, from its first order to its close."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.model.order import Order, OrderType

__all__ = ["Position", "PositionState", "PositionText", "check_unknown", "parse_position"]


class PositionState(msgspec.Struct, kw_only=True):
    """The part of a position that follows from its orders (docs/accounting.md, 2).

    `close_ms`: None while the position is open. `current_return` and `return_at_close` are factors, 1.0 =
    unchanged; prices and values are in the quote currency.
    """

    position_type: OrderType | None = None
    is_closed_position: bool = False
    open_ms: int = 0
    close_ms: int | None = None
    net_leverage: float = 0.0
    average_entry_price: float = 0.0
    cumulative_entry_value: float | None = 0.0
    realized_pnl: float | None = 0.0
    current_return: float = 1.0
    return_at_close: float = 1.0

    @property
    def closed_at(self) -> int | None:
        """Epoch ms of the close; None while open, which is null in files and 0 in REST answers."""
        return (self.close_ms or None) if self.is_closed_position else None


class Position(PositionState, kw_only=True):
    """A position in the validator's file, in REST answers and in stream messages.

    `trade_pair` is [id, display, fee, min leverage, max leverage]. Unknown keys are ignored here and kept
    in the text that is served (`PositionText`). In REST answers `close_ms` is 0 while the position is open.
    """

    miner_hotkey: str
    position_uuid: str
    trade_pair: Any
    orders: list[Order] = msgspec.field(default_factory=list)
    initial_entry_price: float | None = None


class PositionText(msgspec.Struct, frozen=True, kw_only=True):
    """A position's JSON, cut into header and orders, so that a change of one does not rewrite the other.

    `header` is the compact JSON object in the file's key order with an empty order list, `orders_at` the
    offset in it at which the orders belong, `orders` each order's compact JSON.
    """

    header: bytes
    orders_at: int
    orders: tuple[bytes, ...]

    def json(self) -> bytes:
        """Returns the complete position as one JSON object."""
        return self.header[: self.orders_at] + b",".join(self.orders) + self.header[self.orders_at :]

    def summary(self) -> bytes:
        """Returns the position as a JSON object without the key `orders`."""
        head = self.header[: self.orders_at + 1 - len(_EMPTY_ORDERS)]
        tail = self.header[self.orders_at + 1 :]
        return head + tail.removeprefix(b",") if head == b"{" else head.removesuffix(b",") + tail

    def position(self) -> Position:
        """Returns the decoded position; the text was validated when it was cut."""
        return _position.decode(self.json())


_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_position = msgspec.json.Decoder(Position)
_anything = msgspec.json.Decoder(dict[str, Any])
_EMPTY_ORDERS = b'"orders":[]'
_MAX_DEPTH = 48
"""More than any validator writes, less than the limit of JSON parsers (64 in some)."""
_BRACKETS = re.compile(rb'"(?:[^"\\]+|\\.)*"|[][{}]')


def parse_position(body: bytes) -> tuple[Position, PositionText]:
    """Reads one position as the validator writes it.

    Raises InvalidInputError with code `not_json`, `not_a_position` or `bad_value`: NaN is not JSON; negative
    times, missing or mistyped fields, numbers beyond a float and too deep nesting are refused. Unknown trade
    pairs and unknown keys are kept unchanged.
    """
    try:
        position = _position.decode(body)
        _anything.decode(body)  # unknown keys too: clients decode what this decoder skips
        text = _cut(body)
    except msgspec.ValidationError as error:
        raise InvalidInputError(str(error), code="not_a_position") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"not JSON: {error}", code="not_json") from None
    except KeyError:
        raise InvalidInputError("no list of orders", code="not_a_position", field="orders") from None
    times = [position.open_ms, position.close_ms or 0, *(o.processed_ms for o in position.orders)]
    if any(not 0 <= t < 1 << 53 for t in times):
        raise InvalidInputError("time is negative or absurd", code="bad_value", field="processed_ms")
    if not all(o.order_uuid for o in position.orders) or not position.position_uuid:
        raise InvalidInputError("empty uuid", code="bad_value", field="order_uuid")
    for part in (text.header, *text.orders):
        _check_nesting(part)
    return position, text


def check_unknown(text: bytes) -> None:
    """Checks JSON that is passed on unchanged, to clients whose decoders may be stricter than this one.

    Raises InvalidInputError with code `bad_value`: numbers beyond a float, too deep nesting.
    """
    try:
        _anything.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInputError(str(error), code="bad_value") from None
    _check_nesting(text)


def _check_nesting(text: bytes) -> None:
    if text.count(b"[") + text.count(b"{") <= _MAX_DEPTH:
        return  # the common case, without a scan for strings
    depth = 0
    for token in _BRACKETS.finditer(text):
        depth += (token[0] in (b"[", b"{")) - (token[0] in (b"]", b"}"))
        if depth > _MAX_DEPTH:
            raise InvalidInputError("nested too deeply", code="bad_value")


def _cut(body: bytes) -> PositionText:
    keys = _raw_object.decode(msgspec.json.format(body, indent=-1))
    orders = tuple(bytes(order) for order in _raw_list.decode(keys["orders"]))
    head = bytearray(b"{")
    orders_at = 0
    for key, value in keys.items():
        if len(head) > 1:
            head += b","
        if key == "orders":
            head += _EMPTY_ORDERS
            orders_at = len(head) - 1
        else:
            head += msgspec.json.encode(key) + b":" + bytes(value)
    return PositionText(header=bytes(head + b"}"), orders_at=orders_at, orders=orders)
