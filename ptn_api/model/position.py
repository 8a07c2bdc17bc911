"""A position: a miner's stake in one trade pair, from its first order to its close."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.model.order import Order, OrderType
from ptn_api.model.repair import repair_list, repair_object, sound_json
from ptn_api.model.trade_pair import pair_id
from ptn_api.summary import Summary, summarised, time_text

__all__ = [
    "Dividend",
    "FeeEvent",
    "Position",
    "PositionState",
    "PositionText",
    "check_unknown",
    "parse_position",
]


class FeeEvent(msgspec.Struct, kw_only=True, gc=False):
    """A fee that was charged. Since: generation 4."""

    time_ms: int
    """When it was charged. Unit: epoch ms."""
    fee_type: str | None = None
    """carry, hl_funding, borrow, interest, transaction, dividend_liability, or another one.

    Null: malformed.
    """
    amount: float | None = None
    """The fee, > 0. Unit: USD. Null: malformed."""


class Dividend(msgspec.Struct, kw_only=True, gc=False):
    """A dividend of a stock that the position holds. Since: generation 4."""

    time_ms: int
    """When it was recorded. Unit: epoch ms."""
    type: str | None = None
    """long_credit or short_debit. Null: malformed."""
    gross_dividend: float | None = None
    """Dividend per share. Unit: USD. Null: malformed."""
    quantity: float | None = None
    """Shares that it was computed for. Unit: lots. Null: malformed."""
    amount: float | None = None
    """Total. Unit: USD. Null: malformed."""
    ex_date: str | None = None
    """Ex-dividend date. Unit: YYYY-MM-DD. Null: malformed."""
    payment_date: str | None = None
    """Payment date. Unit: YYYY-MM-DD. Null: malformed."""
    applied: bool | None = None
    """Whether a credit was paid to the account. Null: malformed."""


class PositionState(msgspec.Struct, kw_only=True):
    """The part of a position that follows from its orders (docs/accounting.md, 2).

    Between orders, the validator updates the returns and `unrealized_pnl` of an open position with the
    market.
    """

    position_type: OrderType | None = None
    """Side: LONG or SHORT; FLAT once closed. Null: in some old files."""
    is_closed_position: bool = False
    """Whether the position is closed."""
    open_ms: int = 0
    """Time of the first order. Unit: epoch ms."""
    close_ms: int | None = None
    """Time of the close.

    Unit: epoch ms. Null: while open, in files and stream messages; REST responses have 0.
    """
    net_leverage: float = 0.0
    """Sum of the orders' leverages, signed; 0 once closed. Unit: multiple of the balance."""
    average_entry_price: float = 0.0
    """Average price of the orders on the position's own side, weighted by size, slippage included; orders
    that reduce the position do not change it.

    Unit: quote currency.
    """
    cumulative_entry_value: float | None = 0.0
    """Signed sum of the sizes of the orders on the position's own side.

    Unit: USD; generation 1: price × leverage. Null: absent until 2025. Since: 2025.
    """
    realized_pnl: float | None = 0.0
    """Profit of the parts already closed, before fees.

    Unit: USD; generations 1 and 2: price × leverage. Null: absent until 2025. Since: 2025.
    """
    unrealized_pnl: float | None = None
    """Profit of the open part at the latest mark, before fees.

    Unit: USD. Null: generations 1 and 2. Since: generation 3.
    """
    net_value: float | None = None
    """Signed value of the open part, at the last order's price.

    Unit: USD. Null: generations 1 and 2. Since: generation 3.
    """
    net_quantity: float | None = None
    """Signed size of the open part: base units / lot size.

    Unit: lots. Null: generations 1 and 2. Since: generation 3.
    """
    current_return: float = 1.0
    """Return before fees, at the latest mark: 1 + (realized + unrealized pnl) / account size; in generations
    1 and 2 relative to the initial entry price. Never below 0.

    Unit: factor (1.0 = unchanged).
    """
    return_at_close: float = 1.0
    """Return if closed now: `current_return`, in generations 1 to 3 times the fees until now.

    Unit: factor (1.0 = unchanged).
    """

    @property
    def closed_at(self) -> int | None:
        """Epoch ms of the close; None while open, which is null in files and 0 in REST answers."""
        return (self.close_ms or None) if self.is_closed_position else None


@summarised
class Position(PositionState, kw_only=True):
    """A position: a miner's stake in one trade pair, in the validator's file, REST responses and stream
    messages.

    Its keys tell the generation of its accounting (docs/accounting.md, 1). Unknown keys are ignored here and
    kept in the text that is served (`PositionText`).
    """

    miner_hotkey: str
    """The miner; a subaccount is `<hotkey of its entity>_<number>`."""
    position_uuid: str
    """Identifies the position; that of the order that opened it."""
    trade_pair: Any
    """[id, display, fee, min leverage, max leverage], such as ["BTCUSD", "BTC/USD", 0.001, 0.01, 2.5]; an
    object or the id alone is accepted. The fee is for display.

    Type: list of text and number.
    """
    orders: list[Order] = msgspec.field(default_factory=list)
    """The orders, in the validator's order; a closed position's last ones may change nothing."""
    initial_entry_price: float | None = None
    """Price of the first order. Unit: quote currency. Null: absent since 2025. Since: 2024 only."""
    account_size: float | None = None
    """Size of the miner's account when the position was opened; 0 if unknown.

    Unit: USD. Null: generation 1. Since: generation 2.
    """
    fee_history: list[FeeEvent] | None = None
    """Fees charged so far, by time; they are not part of the returns.

    Null: generations 1 to 3. Since: generation 4.
    """
    dividend_history: list[Dividend] | None = None
    """Dividends of a stock, by time. Null: generations 1 to 3. Since: generation 4."""
    is_hl: bool | None = None
    """Whether the account is one at Hyperliquid. Null: generations 1 to 3. Since: generation 4."""
    is_pro: bool | None = None
    """Whether the account has the fees of a pro account. Null: generations 1 to 3. Since: generation 4."""
    last_stock_split_date: str | None = None
    """Last stock split that was applied to the orders. Unit: YYYY-MM-DD. Null: none. Since: generation 4."""
    last_price_source: Any = None
    """The latest mark, for display. Type: PriceSource. Null: generations 1 to 3. Since: generation 4."""
    last_quote_usd_conversion: float | None = None
    """Rate of the latest mark.

    Unit: USD per unit of the quote currency. Null: generations 1 to 3. Since: generation 4.
    """
    return_as_of: str | None = None
    """`last_order` if the returns are of the last order's price: in a document of the past, of a position
    that was open then.

    Null: otherwise. Since: 0.2.0.
    """

    @property
    def trade_pair_id(self) -> str:
        """The trade pair's id, such as "BTCUSD"; `trade_pair` may be a list, an object or a string."""
        return pair_id(self.trade_pair)

    def _summary(self) -> Summary:
        side = "closed" if self.is_closed_position else self.position_type or "open"
        state = (
            f"{side} {self.net_leverage:+g}, return {self.current_return:.5f}, orders: {len(self.orders):,}"
        )
        since = f"since {time_text(self.open_ms)}"
        name = f"{self.trade_pair_id} of {self.miner_hotkey}"
        return Summary(f"Position({name}, {state}, {since}, {self.position_uuid})")


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
_ORDERS_HERE = b"\0"
"""Marks where the orders were cut out: a character that JSON does not contain."""
_MAX_DEPTH = 48
"""More than any validator writes, less than the limit of JSON parsers (64 in some)."""
_MOST_MALFORMED_ORDERS = 10_000
"""Beyond that, the file is refused: no order may wait for seconds until a million of them were examined."""
_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*"')
_AS_ROUND = bytes.maketrans(b"[]{}", b"()()")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_position(body: bytes, problems: list[str] | None = None) -> tuple[Position, PositionText]:
    """Reads one position as a validator writes it; the text that is returned is valid JSON.

    NaN and numbers beyond a float become null, half surrogate pairs U+FFFD, and a whole float an int where an
    int belongs. Another value of a wrong type becomes null, or its default if it may not be null. Unknown
    trade pairs, unknown keys and odd price sources are kept unchanged.

    An order that cannot be understood (no uuid, time or type) is left out, so that it hides no other: it has
    no identity to announce, no time to delay it by, and clients would fail to decode the whole position.
    `problems` collects a sentence for each of these changes; without it, such an order is refused.

    Raises InvalidInputError with code `not_json`, `not_a_position` or `bad_value`: missing or mistyped fields
    that identify the position, absurd times, too deep nesting.
    """
    try:
        try:
            position, text = _read(body)
        except (msgspec.ValidationError, KeyError):
            # The text behind a value that does not fit has not been read: it may not be JSON either.
            position, text = _read_repaired(sound_json(body), problems)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        sound = sound_json(body)
        if sound == body:
            raise InvalidInputError(f"not JSON: {error}", code="not_json") from None
        return parse_position(sound, problems)
    if not (_is_time(position.open_ms) and _is_time(position.close_ms or 0)):
        raise InvalidInputError("time is negative or absurd", code="bad_value", field="open_ms")
    if not position.position_uuid:
        raise InvalidInputError("empty uuid", code="bad_value", field="position_uuid")
    _check_nesting(text.header)
    bad: dict[int, InvalidInputError] = {}
    for index, (order, order_text) in enumerate(zip(position.orders, text.orders, strict=True)):
        try:
            _check_nesting(order_text)
            if not _is_time(order.processed_ms):
                raise InvalidInputError("time is negative or absurd", code="bad_value", field="processed_ms")
            if not order.order_uuid:
                raise InvalidInputError("empty uuid", code="bad_value", field="order_uuid")
        except InvalidInputError as error:
            if problems is None:
                raise
            bad[index] = error
    if bad:
        assert problems is not None
        problems += [f"orders[{index}] was left out: {error}" for index, error in bad.items()]
        position.orders = [order for index, order in enumerate(position.orders) if index not in bad]
        kept = tuple(order for index, order in enumerate(text.orders) if index not in bad)
        text = msgspec.structs.replace(text, orders=kept)
    return position, text


def _read(body: bytes) -> tuple[Position, PositionText]:
    """Raises msgspec.DecodeError, UnicodeDecodeError, RecursionError, or KeyError without orders."""
    position = _position.decode(body)
    _anything.decode(body)  # unknown keys too: clients decode what this decoder skips
    return position, _cut(body)


def _read_repaired(body: bytes, problems: list[str] | None) -> tuple[Position, PositionText]:
    """Reads a position like `_read`, but repairs values that do not fit.

    Raises InvalidInputError, or msgspec.DecodeError or UnicodeDecodeError for text that is not JSON.
    """
    odd: list[str] = []
    left_out: list[str] = []
    try:
        fields = _raw_object.decode(body)
        lists: dict[str, type[msgspec.Struct]] = {"fee_history": FeeEvent, "dividend_history": Dividend}
        for key, kind in lists.items():
            if key in fields and bytes(fields[key])[:1] == b"[":
                fields[key] = _joined(repair_list(fields[key], kind, odd, name=key))
        if "orders" in fields:
            orders = repair_list(
                fields["orders"], Order, left_out, name="orders", most_left_out=_MOST_MALFORMED_ORDERS
            )
            fields["orders"] = _joined(orders)
        names: list[str] = []
        fields = repair_object(msgspec.json.encode(fields), Position, names)
        odd += [f"{name} has an odd value" for name in names]
        result = _read(msgspec.json.encode(fields))
    except msgspec.ValidationError as error:
        raise InvalidInputError(str(error), code="not_a_position") from None
    except RecursionError as error:
        raise InvalidInputError(f"not JSON: {error}", code="not_json") from None
    except KeyError:
        raise InvalidInputError("no list of orders", code="not_a_position", field="orders") from None
    if problems is None and any("left out" in problem for problem in left_out):
        raise InvalidInputError(left_out[0], code="not_a_position", field="orders")
    if problems is not None:
        problems += left_out + odd
    return result


def _joined(elements: list[bytes]) -> msgspec.Raw:
    return msgspec.Raw(b"[" + b",".join(elements) + b"]")


def _is_time(value: int) -> bool:
    return 0 <= value < 1 << 53


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
    brackets = _STRING.sub(b"", text).translate(_AS_ROUND, _NO_BRACKETS)
    for _ in range(_MAX_DEPTH):  # each removes the innermost level
        brackets = brackets.replace(b"()", b"")
    if brackets:
        raise InvalidInputError("nested too deeply", code="bad_value")


def _cut(body: bytes) -> PositionText:
    keys = _raw_object.decode(msgspec.json.format(body, indent=-1))
    orders = tuple(bytes(order) for order in _raw_list.decode(keys["orders"]))
    keys["orders"] = msgspec.Raw(b"[" + _ORDERS_HERE + b"]")
    head, tail = msgspec.json.encode(keys).split(_ORDERS_HERE)
    return PositionText(header=head + tail, orders_at=len(head), orders=orders)
