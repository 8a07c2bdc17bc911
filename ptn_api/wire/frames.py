"""Every frame of the WebSocket, as a type. Part 1 of the protocol is version 1; the rest needs version 2.

Times are epoch milliseconds. Frames that existing clients know keep their exact field names.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ptn_api.model.order import Order
from ptn_api.model.position import Position

__all__ = [
    "Auth",
    "AuthFailure",
    "AuthSuccess",
    "Batch",
    "Error",
    "Heartbeat",
    "Message",
    "MessageData",
    "Ping",
    "Pong",
    "PositionChanged",
    "PositionsRemoved",
    "ResumeFailed",
    "Resumed",
    "Subscribe",
    "SubscriptionStatus",
    "Unsubscribe",
]

Format = Literal["full", "delta"]
ResumeFailure = Literal["epoch", "too_old", "future"]

# --- client to server -------------------------------------------------------------------------------------


class Auth(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The first frame. `last_sequence` -1 means: from now on. Version 2 resumes with `epoch`."""

    api_key: str = ""
    last_sequence: int = -1
    version: int = 1
    epoch: str | None = None


class Subscribe(msgspec.Struct, kw_only=True, omit_defaults=True, tag="subscribe"):
    """Version 1 knows `all` and `sender_timestamp`; the rest is version 2's. Filters are AND-ed."""

    all: bool | None = None
    sender_timestamp: Any = None
    miners: list[str] | None = None
    trade_pairs: list[str] | None = None
    format: Format = "full"
    updates: bool = False
    revision: int | None = None


class Unsubscribe(msgspec.Struct, kw_only=True, omit_defaults=True, tag="unsubscribe"):
    all: bool | None = None
    sender_timestamp: Any = None


class Ping(msgspec.Struct, kw_only=True, tag="ping"):
    timestamp: Any = 0


# --- server to client -------------------------------------------------------------------------------------


class AuthSuccess(msgspec.Struct, kw_only=True):
    """`current_sequence`: the number after which messages will follow."""

    status: Literal["success"] = "success"
    message: str = "Authentication successful."
    current_sequence: int
    tier: int
    epoch: str
    oldest_sequence: int
    version: int
    heartbeat_ms: int


class AuthFailure(msgspec.Struct, kw_only=True, omit_defaults=True):
    status: Literal["error"]  # no default: a default would be left out
    message: str
    code: str = ""


class SubscriptionStatus(msgspec.Struct, kw_only=True, omit_defaults=True, tag="subscription_status"):
    status: str
    all: bool | msgspec.UnsetType = msgspec.UNSET
    action: Literal["subscribe", "unsubscribe"]
    sender_timestamp: Any = None
    received_timestamp: int
    miners: list[str] | None = None
    trade_pairs: list[str] | None = None
    format: Format | None = None
    updates: bool | None = None


class Pong(msgspec.Struct, kw_only=True, tag="pong"):
    client_timestamp: Any
    server_timestamp: int
    timestamp: int


class MessageData(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`position` with its orders up to the announced one, which is last; in format `delta` without orders.

    `order` and `n_orders` (the place of the order in its list, from 1) are there in format `delta` only.
    """

    position: Position
    order: Order | None = None
    n_orders: int | None = None


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One order. `timestamp` is when intake first saw it, the same in a replay."""

    sequence: int
    timestamp: int
    data: MessageData
    late: bool = False
    replay: bool = False


class Batch(msgspec.Struct, kw_only=True, tag="batch"):
    messages: list[Message]
    count: int


class Resumed(msgspec.Struct, kw_only=True, tag="resumed"):
    """Every message after `after` follows; those up to `head` marked as replayed."""

    after: int
    head: int


class ResumeFailed(msgspec.Struct, kw_only=True, tag="resume_failed"):
    """Nothing that was missed will follow: take a snapshot."""

    reason: ResumeFailure
    epoch: str
    oldest_sequence: int
    head: int


class Heartbeat(msgspec.Struct, kw_only=True, omit_defaults=True, tag="heartbeat"):
    """Everything up to `head` that matches the subscription has been sent."""

    head: int
    revision: int
    timestamp: int
    source_ms: int | None
    stale: bool
    checksum: str | None = None


class PositionChanged(msgspec.Struct, kw_only=True, omit_defaults=True, tag="position"):
    """A position's summary and its orders that changed; `order_uuids` where the list's layout did."""

    revision: int
    after: int
    position: Position
    orders: list[Order] = []
    order_uuids: list[str] | None = None


class PositionsRemoved(msgspec.Struct, kw_only=True, tag="removed"):
    revision: int
    after: int
    positions: list[tuple[str, str]]


class Error(msgspec.Struct, kw_only=True, tag="error"):
    code: str
    message: str
