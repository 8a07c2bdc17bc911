"""Orders as `/orders`, `/limit-orders` and the checkpoint list them, and the files of limit orders."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.model.order import Order, OrderSource
from ptn_api.model.position import check_unknown
from ptn_api.model.repair import repair_object
from ptn_api.model.trade_pair import display_of, pair_id

__all__ = ["LimitOrderFile", "ListedOrder", "OrderStatus", "order_answer", "parse_limit_order", "status_of"]

OrderStatus = Literal["unfilled", "filled", "cancelled"]


class LimitOrderFile(msgspec.Struct, kw_only=True):
    """One file below `limit_orders`, as the log holds it: an order that waits, or was cancelled.

    `trade_pair_id` and `folder` come from the file's path, `order` is the file's JSON object.
    """

    trade_pair_id: str
    folder: Literal["unfilled", "closed"]
    order: msgspec.Raw


class ListedOrder(Order, kw_only=True):
    """An order as it is listed, with its trade pair. Since: 0.2.0."""

    trade_pair_id: str = ""
    """Id of the trade pair."""
    trade_pair: list[str] = msgspec.field(default_factory=list)
    """[id, display], such as ["BTCUSDC", "BTC/USDC"]."""


_UNFILLED = frozenset(
    {OrderSource.LIMIT_UNFILLED, OrderSource.BRACKET_UNFILLED, OrderSource.STOP_LIMIT_UNFILLED}
)
_CANCELLED = frozenset(
    {
        OrderSource.LIMIT_CANCELLED,
        OrderSource.BRACKET_CANCELLED,
        OrderSource.STOP_LIMIT_CANCELLED,
        OrderSource.CANCELLED_BY_ELIMINATION,
    }
)
_KEYS: dict[str, Any] = {
    "order_type": None,
    "leverage": None,
    "value": None,
    "quantity": None,
    "price": 0.0,
    "bid": 0.0,
    "ask": 0.0,
    "slippage": 0.0,
    "quote_usd_rate": 0.0,
    "usd_base_rate": 0.0,
    "processed_ms": None,
    "price_sources": [],
    "order_uuid": None,
    "src": 0,
    "execution_type": "MARKET",
    "realized_pnl": 0.0,
    "limit_price": None,
    "stop_loss": None,
    "take_profit": None,
    "margin_loan": 0.0,
    "trailing_stop": None,
    "bracket_orders": None,
    "stop_price": None,
    "stop_condition": None,
}
"""In the network's order, each with its value where the file has none; other keys are not listed."""

_order = msgspec.json.Decoder(Order)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_DEFAULTS = {key: msgspec.Raw(_encode(value)) for key, value in _KEYS.items()}


def parse_limit_order(text: bytes, problems: list[str]) -> msgspec.Raw:
    """Returns a limit order's JSON object with values that clients can decode.

    A value of a wrong type becomes null, or its default if it may not be null, and is named in `problems`.
    Raises InvalidInputError, code `bad_value`: no uuid, time or type, or what `check_unknown` refuses.
    """
    check_unknown(text)
    odd: list[str] = []
    try:
        _order.decode(text)
    except msgspec.ValidationError:
        try:
            text = _encode(repair_object(text, Order, odd))
            _order.decode(text)
        except msgspec.ValidationError as error:
            raise InvalidInputError(str(error), code="bad_value") from None
    problems += [f"{name} has an odd value" for name in odd]
    return msgspec.Raw(text)


def status_of(src: int | None) -> OrderStatus:
    """Returns the status that an order's `src` (`OrderSource`) means; an unknown `src` means filled."""
    return "unfilled" if src in _UNFILLED else "cancelled" if src in _CANCELLED else "filled"


def order_answer(order: bytes | msgspec.Raw, trade_pair_id: str, trade_pair: Any = None) -> bytes:
    """Returns an order's JSON as it is listed; `order` is a JSON object.

    `trade_pair` is its position's; without one, the order's own `trade_pair` counts, in any of its shapes.
    `trade_pair_id` is the pair of the file's folder, for a pair that names none.
    """
    fields = _fields.decode(order)
    if trade_pair is None and "trade_pair" in fields:
        trade_pair = _decode(fields["trade_pair"])
    name = pair_id(trade_pair) or trade_pair_id
    pair = {"trade_pair_id": name, "trade_pair": [name, display_of(trade_pair) or display_of(name)]}
    return _encode(pair | {key: fields.get(key, default) for key, default in _DEFAULTS.items()})
