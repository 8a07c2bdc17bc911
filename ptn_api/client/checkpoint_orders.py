"""A validator's checkpoint as the stream that could have been: its orders, in the order of their time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.gzip_file import read_maybe_gzipped
from ptn_api.model.accounting import rebuild_each
from ptn_api.model.position import Position, PositionState, PositionText, parse_position
from ptn_api.wire.codec import encode_message
from ptn_api.wire.server_frames import OrderMessage

__all__ = ["checkpoint_orders"]


class _Entry(msgspec.Struct):
    positions: list[msgspec.Raw]


class _Checkpoint(msgspec.Struct):
    positions: dict[str, _Entry]


_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_message = msgspec.json.Decoder(OrderMessage)


def checkpoint_orders(path: str | os.PathLike[str]) -> Iterator[OrderMessage]:
    """One message per order, numbered from 1; its `timestamp` is when it was processed.

    Each comes with its position as it was then: the orders up to it, and what follows from them
    (docs/accounting.md, 2); with the position's last order, and where that cannot be told, as the checkpoint
    has it. Gzipped or not. Raises InvalidInputError, code `unreadable`, `damaged` or `not_a_checkpoint`.
    """
    positions = [parse_position(bytes(body)) for body in _bodies(path)]
    turns = sorted(
        (order.processed_ms, order.order_uuid, which, place)
        for which, (position, _) in enumerate(positions)
        for place, order in enumerate(position.orders)
    )
    headers = [_headers(*pair) for pair in positions]
    for sequence, (at_ms, _, which, place) in enumerate(turns, 1):
        text = PositionText(
            header=(header := headers[which][place]),
            orders_at=header.rindex(_ORDERS) + len(_ORDERS) - 1,
            orders=positions[which][1].orders[: place + 1],
        )
        yield _said(sequence, at_ms, text)


_ORDERS = b'"orders":[]'


def _bodies(path: str | os.PathLike[str]) -> Iterator[msgspec.Raw]:
    content = read_maybe_gzipped(path, str(path))
    try:
        entries = msgspec.json.decode(content, type=_Checkpoint).positions.values()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem = f"{path} is neither a recording nor a checkpoint: {error}"
        raise InvalidInputError(problem, code="not_a_checkpoint") from None
    return (body for entry in entries for body in entry.positions)


def _headers(position: Position, text: PositionText) -> list[bytes]:
    """The position without orders, as of each of its orders; `orders` stands last."""
    fields = _raw_object.decode(text.header)
    fields["orders"] = msgspec.Raw(b"[]")  # moves to the end below
    if not position.is_closed_position:
        fields["close_ms"] = msgspec.Raw(b"null")
    now = _header(fields)
    lengths = range(1, len(position.orders))
    before = rebuild_each(position.orders, position.trade_pair, position.position_uuid, lengths)
    return [*(now if then is None else _header(fields | _raw(then.state)) for then in before), now]


def _raw(state: PositionState) -> dict[str, msgspec.Raw]:
    return _raw_object.decode(msgspec.json.encode(state))


def _header(fields: dict[str, msgspec.Raw]) -> bytes:
    rest = {key: value for key, value in fields.items() if key != "orders"}
    return msgspec.json.encode(rest | {"orders": fields["orders"]})


def _said(sequence: int, at_ms: int, text: PositionText) -> OrderMessage:
    return _message.decode(
        encode_message(
            sequence=sequence,
            timestamp_ms=at_ms,
            text=text,
            order=text.orders[-1],
            n_orders=len(text.orders),
        )
    )
