"""What a tier shows of a position, and its JSON (docs/accounting.md, 4).

The cutoff is now - 24 h; orders strictly before it count. Of a position that is not live, everything shown
follows from those orders alone, so that a lower tier's responses reveal nothing about later ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import msgspec

from ptn_api.model.accounting import RebuiltPosition, rebuild, rebuild_each
from ptn_api.model.order import Order
from ptn_api.model.position import Dividend, FeeEvent, Position, PositionState, PositionText
from ptn_api.model.tiers import Tier, is_live

__all__ = [
    "AS_IS",
    "PRICE_SOURCES_SHOWN_MS",
    "Appearance",
    "AsIs",
    "Hidden",
    "Rebuilt",
    "appearance",
    "headers_after",
    "next_change_ms",
    "next_price_source_change_ms",
    "render_order",
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
    cutoff_ms: int


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
    rebuilt = rebuild(position, [orders[i] for i in indexes])
    return _NOT_REBUILDABLE if rebuilt is None else Rebuilt(indexes, rebuilt, cutoff_ms)


def next_change_ms(position: Position, tier: Tier, cutoff_ms: int) -> int | None:
    """Returns the next cutoff at which the tier shows something else after `cutoff_ms`; None: never.

    By age alone: when an order, a fee, a dividend or the close falls before the cutoff, and on the days of a
    payment or a stock split.
    """
    if is_live(position.position_uuid, tier) or _closed_before(position, cutoff_ms):
        return None
    times = [order.processed_ms for order in position.orders]
    times += [fee.time_ms for fee in position.fee_history or ()]
    times += [dividend.time_ms for dividend in position.dividend_history or ()]
    if position.closed_at is not None:
        times.append(position.closed_at)
    # Strictly before the cutoff: a time counts from one millisecond after it. A day counts from its start.
    changes = [time + 1 for time in times]
    dates = [dividend.payment_date for dividend in position.dividend_history or () if dividend.applied]
    changes += [start for date in [*dates, position.last_stock_split_date] if (start := _start_of(date))]
    return min((change for change in changes if change > cutoff_ms), default=None)


def _closed_before(position: Position, cutoff_ms: int) -> bool:
    return position.closed_at is not None and position.closed_at < cutoff_ms


_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_raw_list_or_none = msgspec.json.Decoder(list[msgspec.Raw] | None)
_encode = msgspec.json.Encoder().encode
_EMPTY_LIST = msgspec.Raw(b"[]")
_NO_SOURCES = b'"price_sources":[]'
_NULL = msgspec.Raw(b"null")
_STATE_KEYS = frozenset(PositionState.__struct_fields__)
_OLDEST_STATE_KEYS = (
    "open_ms",
    "current_return",
    "net_leverage",
    "return_at_close",
    "average_entry_price",
    "cumulative_entry_value",
    "realized_pnl",
    "position_type",
    "is_closed_position",
)
"""The keys of a state by generation 1, which a rebuilt position has even if its file is older."""
_KEPT_KEYS = frozenset(
    {"miner_hotkey", "position_uuid", "trade_pair", "account_size", "is_hl", "is_pro", "orders"}
)
"""The keys that a rebuilt position takes from the validator's text, verbatim."""
_ACCOUNTED_KEYS = ("leverage", "value", "quantity", "realized_pnl")
"""The keys of an order that the accounting may change."""
_accounted = attrgetter(*_ACCOUNTED_KEYS)
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
"""Of an appended FLAT, in the validator's order."""
_UNKNOWN_SOURCE = msgspec.Raw(
    b'{"source":"unknown","timespan_ms":0,"open":null,"close":null,"vwap":null,"high":null,"low":null,'
    b'"start_ms":0,"websocket":false,"lag_ms":0,"bid":0.0,"ask":0.0}'
)
"""What a validator writes where it has no price source."""


def render_position(text: PositionText, position: Position, shown: AsIs | Rebuilt, now_ms: int) -> bytes:
    """Returns the position's compact JSON. `position` is the decoded `text`, `shown` what the tier shows.

    As is: all keys of the file. Rebuilt: its known keys, each as of the cutoff; nothing depends on later
    orders. Both in the file's order, with `close_ms` 0 while open.
    """
    if isinstance(shown, Rebuilt):
        return _render_rebuilt(text, position, shown, now_ms)
    orders = b",".join(_order_texts(zip(position.orders, text.orders, strict=True), now_ms))
    if position.is_closed_position:
        return text.header[: text.orders_at] + orders + text.header[text.orders_at :]
    fields = _raw_object.decode(text.header)
    fields["orders"] = msgspec.Raw(b"[" + orders + b"]")
    fields["close_ms"] = msgspec.Raw(b"0")
    return _encode(fields)


def headers_after(
    text: PositionText, position: Position, lengths: Sequence[int]
) -> Iterator[tuple[bytes, int]]:
    """Yields the header right after the first `length` orders, for each length, with its `orders_at`.

    In the file's units and with all of its keys: unknown ones, and where rebuilding is impossible all, as the
    file has them. Lengths must ascend.
    """
    for length, rebuilt in zip(lengths, rebuild_each(position, lengths), strict=True):
        if rebuilt is None:
            yield text.header, text.orders_at
            continue
        order = position.orders[length - 1]
        fields = _raw_object.decode(text.header)
        moment = _Moment(order.processed_ms + 1, order.processed_ms)
        fields |= _fields_at(fields, position, rebuilt, text.orders[length - 1], moment)
        # Joined by hand, to know where the orders belong.
        header = bytearray(b"{")
        orders_at = 0
        for key, value in fields.items():
            header += (b"," if len(header) > 1 else b"") + _encode(key) + b":" + _encode(value)
            if key == "orders":
                orders_at = len(header) - 1
        yield bytes(header + b"}"), orders_at


def next_price_source_change_ms(position: Position, now_ms: int) -> int | None:
    """Returns when the next of the price sources shown at `now_ms` ages out; None if none will."""
    oldest_ms = now_ms - PRICE_SOURCES_SHOWN_MS
    times = (o.processed_ms for o in position.orders if o.price_sources and o.processed_ms >= oldest_ms)
    first_ms = min(times, default=None)
    return None if first_ms is None else first_ms + PRICE_SOURCES_SHOWN_MS + 1


def render_order(text: bytes, processed_ms: int, now_ms: int) -> bytes:
    """Returns an order's text as it is shown in its position."""
    if processed_ms >= now_ms - PRICE_SOURCES_SHOWN_MS or _NO_SOURCES in text:
        return text
    fields = _raw_object.decode(text)
    if bytes(fields.get("price_sources", _NULL)) in (b"null", b"[]"):
        return text
    return _encode(fields | {"price_sources": _EMPTY_LIST})


def _order_texts(orders: Iterable[tuple[Order, bytes]], now_ms: int) -> Iterator[bytes]:
    """Yields the orders' texts, with an empty list in place of price sources that have aged out."""
    oldest_ms = now_ms - PRICE_SOURCES_SHOWN_MS
    for order, text in orders:
        if order.price_sources and order.processed_ms < oldest_ms:
            yield _encode(_raw_object.decode(text) | {"price_sources": _EMPTY_LIST})
        else:
            yield text


# --- a rebuilt position -----------------------------------------------------------------------------------


class _Moment(msgspec.Struct, frozen=True):
    """A time in a position's history: events before `before_ms` have happened, it is `now_ms`."""

    before_ms: int
    now_ms: int

    def has_begun(self, date: str | None) -> bool:
        """Returns whether a UTC date has begun; False if it cannot be parsed."""
        start = _start_of(date)
        return start is not None and start <= self.now_ms


def _render_rebuilt(text: PositionText, position: Position, shown: Rebuilt, now_ms: int) -> bytes:
    rebuilt = shown.position
    fields = _raw_object.decode(text.header)
    last = text.orders[shown.indexes[-1]]
    moment = _Moment(shown.cutoff_ms, shown.cutoff_ms)
    at = _fields_at(fields, position, rebuilt, last, moment)
    if position.initial_entry_price is not None:
        at["initial_entry_price"] = rebuilt.initial_entry_price
    for key, kind in _EVENTS.items():
        if key in at:
            at[key] = [_known_part(kind, event) for event in at[key]]
    orders = []
    for index, order in zip(shown.indexes, rebuilt.orders, strict=True):
        order_text, before = _known_part(_ORDER, text.orders[index]), position.orders[index]
        # Compared as texts: 0.0 equals -0.0.
        if order is not before and _encode(_accounted(order)) != _encode(_accounted(before)):
            keys = _raw_object.decode(order_text)
            keys |= {key: getattr(order, key) for key in _ACCOUNTED_KEYS if key in keys}
            order_text = _encode(keys)
        orders.append((order, order_text))
    texts = [*_order_texts(orders, now_ms)]
    if rebuilt.appended is not None:
        known_keys = [key for key in _raw_object.decode(last) if key in Order.__struct_fields__]
        texts.append(_encode({key: getattr(rebuilt.appended, key) for key in [*known_keys, *_ORDER_KEYS]}))
    # A value from the file would reveal later orders, except for those that no order changes.
    known = {key: at.get(key, value) for key, value in fields.items() if key in at or key in _KEPT_KEYS}
    known |= {key: getattr(rebuilt.state, key) for key in _OLDEST_STATE_KEYS if key not in known}
    known["orders"] = msgspec.Raw(b"[" + b",".join(texts) + b"]")
    known["close_ms"] = rebuilt.state.close_ms or 0
    return _encode(known)


class _Known(NamedTuple):
    """A kind of objects in a position, with a decoder that refuses unknown keys."""

    keys: frozenset[str]
    strict: msgspec.json.Decoder[Any]

    @classmethod
    def of(cls, kind: type[msgspec.Struct]) -> _Known:
        strict = msgspec.defstruct(f"Known{kind.__name__}", [], bases=(kind,), forbid_unknown_fields=True)
        return cls(frozenset(kind.__struct_fields__), msgspec.json.Decoder(strict))


_ORDER = _Known.of(Order)
_EVENTS = {"fee_history": _Known.of(FeeEvent), "dividend_history": _Known.of(Dividend)}


def _known_part(known: _Known, text: bytes | msgspec.Raw) -> bytes | msgspec.Raw:
    """Returns an object's text without unknown keys: a validator may change those at any time."""
    try:
        known.strict.decode(text)
    except msgspec.ValidationError:
        fields = _raw_object.decode(text)
        return msgspec.Raw(_encode({key: value for key, value in fields.items() if key in known.keys}))
    return text


def _fields_at(
    fields: dict[str, msgspec.Raw],
    position: Position,
    rebuilt: RebuiltPosition,
    last_order: bytes,
    moment: _Moment,
) -> dict[str, Any]:
    """Returns the values of the keys that change in the course of a position, those of `fields` only."""
    at: dict[str, Any] = {key: getattr(rebuilt.state, key) for key in fields if key in _STATE_KEYS}
    if position.fee_history is not None:
        at["fee_history"] = [
            raw
            for raw, fee in zip(_raw_list.decode(fields["fee_history"]), position.fee_history, strict=True)
            if fee.time_ms < moment.before_ms
        ]
    if position.dividend_history is not None:
        shown = at["dividend_history"] = []
        raws = _raw_list.decode(fields["dividend_history"])
        for raw, dividend in zip(raws, position.dividend_history, strict=True):
            if dividend.time_ms < moment.before_ms:
                unpaid = dividend.applied and not moment.has_begun(dividend.payment_date)
                fields_now = _raw_object.decode(raw) | {"applied": False}
                shown.append(msgspec.Raw(_encode(fields_now)) if unpaid else raw)
    if "last_stock_split_date" in fields:
        date = position.last_stock_split_date
        at["last_stock_split_date"] = date if moment.has_begun(date) else None
    if "last_price_source" in fields or "last_quote_usd_conversion" in fields:
        order = _raw_object.decode(last_order)
        if "last_price_source" in fields:
            sources = _raw_list_or_none.decode(order.get("price_sources", _NULL)) or []
            at["last_price_source"] = next((s for s in sources if bytes(s)[:1] == b"{"), _UNKNOWN_SOURCE)
        if "last_quote_usd_conversion" in fields:
            at["last_quote_usd_conversion"] = order.get("quote_usd_rate", _NULL)
    return at


def _start_of(date: str | None) -> int | None:
    """Returns the epoch ms at which a UTC date begins; None if it cannot be parsed."""
    try:
        start = datetime.fromisoformat(date or "").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return (start - _EPOCH) // timedelta(milliseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
