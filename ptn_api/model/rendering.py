"""What a tier shows of a position, and its JSON (docs/accounting.md, 4).

The cutoff is now - 24 h; orders strictly before it count. Of a position that is not live, everything shown
follows from those orders alone, so that a lower tier's responses reveal nothing about later ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from ptn_api.model.accounting import RebuiltPosition, rebuild
from ptn_api.model.order import Order
from ptn_api.model.position import Position, PositionText
from ptn_api.model.tiers import Tier, is_live

__all__ = [
    "AS_IS",
    "PRICE_SOURCES_SHOWN_MS",
    "Appearance",
    "AsIs",
    "Hidden",
    "Rebuilt",
    "appearance",
    "next_change_ms",
    "next_price_source_change_ms",
    "render_position",
]

PRICE_SOURCES_SHOWN_MS = 7 * 86_400_000
"""An order's price sources are shown this long after the order."""


class AsIs(msgspec.Struct, frozen=True):
    """Shown as the validator has it."""


class Rebuilt(msgspec.Struct, frozen=True):
    """Shown with the orders at these indexes of its list, and the state that follows from them."""

    indexes: tuple[int, ...]
    position: RebuiltPosition


class Hidden(msgspec.Struct, frozen=True):
    """Not shown: no order is old enough yet, or the position cannot be rebuilt."""

    reason: Literal["not_yet", "not_rebuildable"]


Appearance = AsIs | Rebuilt | Hidden

AS_IS = AsIs()
_NOT_YET = Hidden("not_yet")
_NOT_REBUILDABLE = Hidden("not_rebuildable")


def appearance(position: Position, tier: Tier, cutoff_ms: int) -> Appearance:
    """Returns what the tier shows of the position."""
    if is_live(position.position_uuid, tier) or _closed_before(position, cutoff_ms):
        return AS_IS
    orders = position.orders
    indexes = tuple(index for index, order in enumerate(orders) if order.processed_ms < cutoff_ms)
    if orders and not indexes:
        return _NOT_YET
    rebuilt = rebuild([orders[i] for i in indexes], position.trade_pair, position.position_uuid)
    return _NOT_REBUILDABLE if rebuilt is None else Rebuilt(indexes, rebuilt)


def next_change_ms(position: Position, tier: Tier, cutoff_ms: int) -> int | None:
    """Returns the next cutoff at which `appearance` changes after `cutoff_ms`; None if it never will."""
    if is_live(position.position_uuid, tier) or _closed_before(position, cutoff_ms):
        return None
    times = [order.processed_ms for order in position.orders]
    if position.closed_at is not None:
        times.append(position.closed_at)
    # Strictly before the cutoff: a time counts from one millisecond after it.
    return min((time + 1 for time in times if time >= cutoff_ms), default=None)


def _closed_before(position: Position, cutoff_ms: int) -> bool:
    return position.closed_at is not None and position.closed_at < cutoff_ms


class _Identity(msgspec.Struct):
    """The keys that a rebuilt position takes from the validator's text, verbatim."""

    miner_hotkey: msgspec.Raw
    position_uuid: msgspec.Raw
    trade_pair: msgspec.Raw


_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_identity = msgspec.json.Decoder(_Identity)
_encode = msgspec.json.Encoder().encode
_EMPTY_LIST = msgspec.Raw(b"[]")
_ORDER_KEYS = (
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
"""In the validator's order."""


def render_position(text: PositionText, position: Position, shown: AsIs | Rebuilt, now_ms: int) -> bytes:
    """Returns the position's compact JSON. `position` is the decoded `text`, `shown` what the tier shows.

    As is: the file's keys in its order, `close_ms` 0 while open. Rebuilt: the known keys only, in canonical
    order, the orders verbatim; nothing depends on other orders.
    """
    if isinstance(shown, Rebuilt):
        kept = [(position.orders[i], text.orders[i]) for i in shown.indexes]
        return _render_rebuilt(text, position, shown.position, _order_texts(kept, now_ms))
    orders = b",".join(_order_texts(zip(position.orders, text.orders, strict=True), now_ms))
    if position.is_closed_position:
        return text.header[: text.orders_at] + orders + text.header[text.orders_at :]
    fields = _raw_object.decode(text.header)
    fields["orders"] = msgspec.Raw(b"[" + orders + b"]")
    fields["close_ms"] = msgspec.Raw(b"0")
    return _encode(fields)


def next_price_source_change_ms(position: Position, now_ms: int) -> int | None:
    """Returns when the next of the price sources shown at `now_ms` ages out; None if none will."""
    oldest_ms = now_ms - PRICE_SOURCES_SHOWN_MS
    times = (o.processed_ms for o in position.orders if o.price_sources and o.processed_ms >= oldest_ms)
    first_ms = min(times, default=None)
    return None if first_ms is None else first_ms + PRICE_SOURCES_SHOWN_MS + 1


def _order_texts(orders: Iterable[tuple[Order, bytes]], now_ms: int) -> Iterator[bytes]:
    """Yields the orders' texts, with an empty list in place of price sources that have aged out."""
    oldest_ms = now_ms - PRICE_SOURCES_SHOWN_MS
    for order, text in orders:
        if order.price_sources and order.processed_ms < oldest_ms:
            yield _encode(_raw_object.decode(text) | {"price_sources": _EMPTY_LIST})
        else:
            yield text


def _render_rebuilt(
    text: PositionText, position: Position, rebuilt: RebuiltPosition, orders: Iterator[bytes]
) -> bytes:
    # Except for identity and orders, every value comes from the rebuilt state: a value from the file would
    # reveal later orders.
    identity = _identity.decode(text.header)
    state = rebuilt.state
    texts = [*orders]
    if rebuilt.appended is not None:
        texts.append(_encode({key: getattr(rebuilt.appended, key) for key in _ORDER_KEYS}))
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
        fields["initial_entry_price"] = rebuilt.initial_entry_price
    return _encode(fields)
