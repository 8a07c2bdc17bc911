"""Frames to bytes and back: the one home of the stream's JSON.

Orders and positions travel as the text that the validator wrote, so messages are joined, not encoded.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.model.position import PositionText
from ptn_api.wire.frames import Format

__all__ = [
    "decode",
    "decoded",
    "encode",
    "encode_batch",
    "encode_message",
    "encode_position_changed",
]

T = TypeVar("T")


def encode(frame: msgspec.Struct) -> bytes:
    return msgspec.json.encode(frame)


def encode_message(
    *,
    sequence: int,
    timestamp_ms: int,
    text: PositionText,
    order: bytes,
    n_orders: int,
    format: Format = "full",  # noqa: A002 - the protocol's word
    late: bool = False,
    replay: bool = False,
    extra: bytes = b"",
) -> bytes:
    """One order's message. `text` is the position after the order, with its orders up to this one.

    In format `delta` the position goes without orders and the order beside it: constant size however old
    the position is. `extra` (a JSON object) is what else came beside `position`. Version 1 knows neither
    `late` nor `replay`: leave them False for it.
    """
    if format == "delta":
        data = b'{"order":%b,"position":%b,"n_orders":%d' % (order, text.summary(), n_orders)
    else:
        data = b'{"position":' + text.json()
    if len(extra) > 2:
        data += b"," + extra[1:-1]
    marks = (b',"late":true' if late else b"") + (b',"replay":true' if replay else b"")
    return b'{"sequence":%d,"timestamp":%d,"data":%b}%b}' % (sequence, timestamp_ms, data, marks)


def encode_batch(messages: list[bytes]) -> bytes:
    """Several encoded messages as one frame."""
    return b'{"type":"batch","messages":[%b],"count":%d}' % (b",".join(messages), len(messages))


def encode_position_changed(
    *,
    revision: int,
    after: int,
    text: PositionText,
    orders: list[bytes],
    order_uuids: list[str] | None = None,
) -> bytes:
    """A position whose state changed, with the orders that did; `order_uuids` where the list's layout did."""
    layout = b"" if order_uuids is None else b',"order_uuids":' + msgspec.json.encode(order_uuids)
    return b'{"type":"position","revision":%d,"after":%d,"position":%b,"orders":[%b]%b}' % (
        revision,
        after,
        text.summary(),
        b",".join(orders),
        layout,
    )


def decode(data: bytes | str, kind: type[T]) -> T:
    """A frame of a known kind (or union). Raises InvalidInputError, code `not_json` or `bad_frame`."""
    return decoded(msgspec.json.Decoder(kind), data)


def decoded(decoder: msgspec.json.Decoder[T], data: bytes | str | msgspec.Raw) -> T:
    """`decode` with a decoder that is kept, for what comes often."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise InvalidInputError(str(error), code="bad_frame") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"no JSON: {error}", code="not_json") from None
