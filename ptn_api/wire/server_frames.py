"""Server frames as a client reads them: leniently, with positions left as JSON text.

A server encodes exactly the types in `frames`. A client must accept more: frames without the fields of
version 2, unknown frames, and positions with unreadable fields, which may cost it one message but not its
place in the sequence.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.model.trade_pair import pair_id
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
    Subscribe,
)

__all__ = [
    "ChangedPosition",
    "LoginAccepted",
    "OrderBatch",
    "OrderMessage",
    "ServerFrame",
    "SubscriptionAnswer",
    "matches",
    "read_frame",
    "read_message_data",
]


class LoginAccepted(msgspec.Struct, kw_only=True):
    """The success frame (`frames.AuthSuccess`); other servers send only the first two fields."""

    current_sequence: int
    tier: int | float = 100
    epoch: str | None = None
    oldest_sequence: int | None = None
    version: int = 1
    heartbeat_ms: int = 0
    user: str = ""


class SubscriptionAnswer(msgspec.Struct, kw_only=True, tag="subscription_status"):
    """The answer to a subscribe or unsubscribe (`frames.SubscriptionStatus`); others leave out the times."""

    status: str = "success"
    action: str = ""
    message: str = ""
    sender_timestamp: Any = None
    received_timestamp: int | None = None
    unknown_miners: list[str] = []


class OrderMessage(msgspec.Struct, kw_only=True):
    """One order (`frames.Message`); `data` stays JSON text."""

    sequence: int
    timestamp: int
    data: msgspec.Raw
    late: bool = False
    replay: bool = False


class OrderBatch(msgspec.Struct, kw_only=True, tag="batch"):
    messages: list[OrderMessage]


class ChangedPosition(msgspec.Struct, kw_only=True, tag="position"):
    """A changed position (`frames.PositionChanged`); the summary and the orders stay JSON text."""

    revision: int
    after: int
    position: msgspec.Raw
    orders: list[msgspec.Raw] = []
    order_uuids: list[str] | None = None


ServerFrame = (
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
    | SubscriptionAnswer
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
    "subscription_status": SubscriptionAnswer,
}
_STATUSES: dict[str, Any] = {"success": LoginAccepted, "error": AuthFailure}


class _Head(msgspec.Struct):
    """The fields that tell frames apart."""

    type: str = ""
    sequence: int | None = None
    status: str = ""


_DECODERS = {kind: msgspec.json.Decoder(kind) for kind in (*_KINDS.values(), *_STATUSES.values())}
_batch = msgspec.json.Decoder(OrderBatch)
_message = msgspec.json.Decoder(OrderMessage)
_head = msgspec.json.Decoder(_Head)
_data = msgspec.json.Decoder(MessageData)
_keys = msgspec.json.Decoder(dict[str, msgspec.Raw])

_MESSAGE_START = b'{"sequence":'
_BATCH_START = b'{"type":"batch"'
"""How the frequent frames begin: they are recognised without being decoded twice."""


def read_frame(data: bytes | str) -> ServerFrame | None:
    """Decodes any frame of a server; returns None for an unknown type, which is to be ignored.

    Raises InvalidInputError, code `not_json` or `bad_frame`.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if raw.startswith(_MESSAGE_START):
        return codec.decoded(_message, data)
    if raw.startswith(_BATCH_START):
        return codec.decoded(_batch, data)
    head = codec.decoded(_head, raw)
    if not head.type and head.sequence is not None:
        return codec.decoded(_message, data)
    kind = _KINDS.get(head.type) if head.type else _STATUSES.get(head.status)
    if kind is None:
        return None
    frame: ServerFrame = codec.decoded(_DECODERS[kind], data)
    return frame


def read_message_data(data: msgspec.Raw | bytes) -> MessageData:
    """Decodes the data of an order's message. Raises InvalidInputError."""
    return codec.decoded(_data, data)


def matches(message: OrderMessage, subscription: Subscribe | None) -> bool:
    """Returns whether it is an order that passes the subscription's filters, which its server did not apply.

    A validator's own server numbers its dashboards like orders.
    """
    try:
        if "position" not in codec.decoded(_keys, message.data):
            return False
        if subscription is None or (subscription.miners is None and subscription.trade_pairs is None):
            return True
        position = read_message_data(message.data).position
    except InvalidInputError:
        return True  # reported when it is read
    miners, pairs = subscription.miners, subscription.trade_pairs
    return (miners is None or position.miner_hotkey in miners) and (
        pairs is None or pair_id(position.trade_pair) in pairs
    )
