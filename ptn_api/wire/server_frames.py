"""Server frames as a client reads them: an old server's too, and positions left as the text they came as.

A server encodes exactly what `frames` says. A client must bear more: frames without what version 2 added,
frames it has never heard of, a position with a field it cannot read (which must cost that message at most,
not its place in the sequence).
"""

from __future__ import annotations

from typing import Any

import msgspec

from ptn_api.wire import codec
from ptn_api.wire.frames import (
    AuthFailure,
    Error,
    Heartbeat,
    MessageData,
    Pong,
    PositionsRemoved,
    Resumed,
    ResumeFailed,
    SubscriptionStatus,
)

__all__ = [
    "ChangedPosition",
    "LoginAccepted",
    "OrderBatch",
    "OrderMessage",
    "Received",
    "read_frame",
    "read_message_data",
]


class LoginAccepted(msgspec.Struct, kw_only=True):
    """The success frame; a server of version 1 says only the first two."""

    current_sequence: int
    tier: int = 100
    epoch: str | None = None
    oldest_sequence: int | None = None
    version: int = 1
    heartbeat_ms: int = 0


class OrderMessage(msgspec.Struct, kw_only=True):
    """One order (`frames.Message`); `data` is JSON text."""

    sequence: int
    timestamp: int
    data: msgspec.Raw
    late: bool = False
    replay: bool = False


class OrderBatch(msgspec.Struct, kw_only=True, tag="batch"):
    messages: list[OrderMessage]


class ChangedPosition(msgspec.Struct, kw_only=True, tag="position"):
    """A refresh or correction (`frames.PositionChanged`); the summary and the orders are JSON texts."""

    revision: int
    after: int
    position: msgspec.Raw
    orders: list[msgspec.Raw] = []
    order_uuids: list[str] | None = None


Received = (
    AuthFailure
    | ChangedPosition
    | Error
    | Heartbeat
    | LoginAccepted
    | OrderBatch
    | OrderMessage
    | Pong
    | PositionsRemoved
    | ResumeFailed
    | Resumed
    | SubscriptionStatus
)

_KINDS: dict[str, Any] = {
    "batch": OrderBatch,
    "error": Error,
    "heartbeat": Heartbeat,
    "pong": Pong,
    "position": ChangedPosition,
    "removed": PositionsRemoved,
    "resume_failed": ResumeFailed,
    "resumed": Resumed,
    "subscription_status": SubscriptionStatus,
}
_STATUSES: dict[str, Any] = {"success": LoginAccepted, "error": AuthFailure}


class _Head(msgspec.Struct):
    """What frames are told apart by."""

    type: str = ""
    sequence: int | None = None
    status: str = ""


_DECODERS = {
    kind: msgspec.json.Decoder(kind) for kind in (*_KINDS.values(), *_STATUSES.values(), OrderMessage)
}
_head = msgspec.json.Decoder(_Head)
_data = msgspec.json.Decoder(MessageData)

_MESSAGE_START = b'{"sequence":'
_BATCH_START = b'{"type":"batch"'
"""How the frames begin that come by the thousand: they need not be read twice to be told apart."""


def read_frame(data: bytes | str) -> Received | None:
    """Any frame of a server; None for a kind that this client does not know, which is to be ignored.

    Raises InvalidInputError, code `not_json` or `bad_frame`.
    """
    kind = _kind(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    if kind is None:
        return None
    frame: Received = codec.decoded(_DECODERS[kind], data)
    return frame


def read_message_data(data: msgspec.Raw | bytes) -> MessageData:
    """What an order's message is about. Raises InvalidInputError."""
    return codec.decoded(_data, data)


def _kind(data: bytes) -> Any:
    if data.startswith(_BATCH_START):
        return OrderBatch
    if data.startswith(_MESSAGE_START):
        return OrderMessage
    head = codec.decoded(_head, data)
    if head.type:
        return _KINDS.get(head.type)
    return OrderMessage if head.sequence is not None else _STATUSES.get(head.status)
