"""The JSON of a position as a tier shows it in REST (docs/accounting.md, 4).

Put together from the validator's own text wherever that is shown; only what was replayed is encoded anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ptn_api.model.order import Order
from ptn_api.model.position import Position, PositionText
from ptn_api.model.tiers import AsIs, Replayed

__all__ = ["PRICE_SOURCES_SHOWN_MS", "next_price_source_change_ms", "shown_text"]

PRICE_SOURCES_SHOWN_MS = 7 * 86_400_000
"""An order's price sources are shown this long after it."""


class _Identity(msgspec.Struct):
    """What a replayed position takes from the validator's text, as it is written there."""

    miner_hotkey: msgspec.Raw
    position_uuid: msgspec.Raw
    trade_pair: msgspec.Raw


_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_identity = msgspec.json.Decoder(_Identity)
_encode = msgspec.json.Encoder().encode
_NONE = msgspec.Raw(b"[]")


def shown_text(text: PositionText, position: Position, view: AsIs | Replayed, now_ms: int) -> bytes:
    """One compact JSON object. `position` is what `text` says; `view` what the tier shows of it at `now_ms`.

    As it is: the file's keys in its order, `close_ms` 0 while open. Replayed: the known keys only, in the
    canonical order, the orders in the validator's words; nothing in it depends on other orders.
    """
    if isinstance(view, Replayed):
        kept = [(position.orders[place], text.orders[place]) for place in view.places]
        return _replayed_text(text, position, view, _order_texts(kept, now_ms))
    orders = b",".join(_order_texts(zip(position.orders, text.orders, strict=True), now_ms))
    if position.is_closed_position:
        return text.header[: text.orders_at] + orders + text.header[text.orders_at :]
    fields = _raw_object.decode(text.header)
    fields["orders"] = msgspec.Raw(b"[" + orders + b"]")
    fields["close_ms"] = msgspec.Raw(b"0")
    return _encode(fields)


def next_price_source_change_ms(position: Position, now_ms: int) -> int | None:
    """When the next of the price sources that are shown at `now_ms` ages out; None if none will."""
    oldest = now_ms - PRICE_SOURCES_SHOWN_MS
    times = (o.processed_ms for o in position.orders if o.price_sources and o.processed_ms >= oldest)
    first = min(times, default=None)
    return None if first is None else first + PRICE_SOURCES_SHOWN_MS + 1


def _order_texts(orders: Iterable[tuple[Order, bytes]], now_ms: int) -> Iterator[bytes]:
    oldest = now_ms - PRICE_SOURCES_SHOWN_MS
    return (
        _without_price_sources(text) if order.price_sources and order.processed_ms < oldest else text
        for order, text in orders
    )


def _without_price_sources(order: bytes) -> bytes:
    fields = _raw_object.decode(order)
    fields["price_sources"] = _NONE
    return _encode(fields)


def _replayed_text(text: PositionText, position: Position, view: Replayed, orders: Iterator[bytes]) -> bytes:
    """Identity and orders aside, all comes from the replay: else a later order could shine through."""
    identity = _identity.decode(text.header)
    state = view.replay.state
    appended = view.replay.appended
    texts = [*orders] if appended is None else [*orders, _order_text(appended)]
    fields: dict[str, Any] = {
        "miner_hotkey": identity.miner_hotkey,
        "position_uuid": identity.position_uuid,
        "open_ms": state.open_ms,
        "trade_pair": identity.trade_pair,
        "orders": msgspec.Raw(b"[" + b",".join(texts) + b"]"),
        "current_return": state.current_return,
        "close_ms": state.close_ms or 0,
        "net_leverage": state.net_leverage,
        "return_at_close": state.return_at_close,
        "average_entry_price": state.average_entry_price,
        "cumulative_entry_value": state.cumulative_entry_value,
        "realized_pnl": state.realized_pnl,
        "position_type": state.position_type,
        "is_closed_position": state.is_closed_position,
    }
    if position.initial_entry_price is not None:
        fields["initial_entry_price"] = view.replay.initial_entry_price
    return _encode(fields)


def _order_text(order: Order) -> bytes:
    """An order that no validator wrote, with the keys in the validator's order."""
    keys = (
        "order_type",
        "leverage",
        "price",
        "bid",
        "ask",
        "slippage",
        "processed_ms",
        "order_uuid",
        "price_sources",
        "src",
    )
    return _encode({key: getattr(order, key) for key in keys})
