"""Encoding and decoding of frames.

Orders and positions are sent as the JSON text that the validator wrote, so messages are joined from text.
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
    """Encodes one order's message. `text` is the position after the order, with its orders up to this one.

    Format `delta` has the position without its orders, and the order next to it: a constant size however old
    the position is. `extra` is a JSON object with further fields of `data`. Version 1 has neither `late` nor
    `replay`: leave them False for it.
    """
    if format == "delta":
        data = b'{"order":%b,"position":%b,"n_orders":%d' % (order, text.summary(), n_orders)
    else:
        data = b'{"position":' + text.json()
    if len(extra) > 2:
        data += b"," + extra[1:-1]
    flags = (b',"late":true' if late else b"") + (b',"replay":true' if replay else b"")
    return b'{"sequence":%d,"timestamp":%d,"data":%b}%b}' % (sequence, timestamp_ms, data, flags)


def encode_batch(messages: list[bytes]) -> bytes:
    """Encodes several encoded messages as one frame."""
    return b'{"type":"batch","messages":[%b],"count":%d}' % (b",".join(messages), len(messages))


def encode_position_changed(
    *,
    revision: int,
    after: int,
    text: PositionText,
    orders: list[bytes],
    order_uuids: list[str] | None = None,
) -> bytes:
    """Encodes a changed position with its changed orders; `order_uuids` if its list of orders changed."""
    layout = b"" if order_uuids is None else b',"order_uuids":' + msgspec.json.encode(order_uuids)
    return b'{"type":"position","revision":%d,"after":%d,"position":%b,"orders":[%b]%b}' % (
        revision,
        after,
        text.summary(),
        b",".join(orders),
        layout,
    )


def decode(data: bytes | str | msgspec.Raw, kind: type[T]) -> T:
    """Decodes a frame of a known type or union. Raises InvalidInputError, code `not_json` or `bad_frame`."""
    return decoded(msgspec.json.Decoder(kind), data)


def decoded(decoder: msgspec.json.Decoder[T], data: bytes | str | msgspec.Raw) -> T:
    """`decode` with a reusable decoder, for frequent frames."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise InvalidInputError(str(error), code="bad_frame") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"not JSON: {error}", code="not_json") from None
