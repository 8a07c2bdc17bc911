"""The types of all WebSocket frames, of protocol versions 1 and 2 (docs/protocol.md).

Times are epoch milliseconds. The frames of version 1 keep the exact field names that existing clients know.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ptn_api.model.order import Order
from ptn_api.model.position import Position

__all__ = [
    "Auth",
    "AuthFailure",
    "AuthSuccess",
    "Batch",
    "ClientTime",
    "Error",
    "Format",
    "Heartbeat",
    "Message",
    "MessageData",
    "Ping",
    "Pong",
    "PositionChanged",
    "PositionsRemoved",
    "ResumeFailed",
    "ResumeFailure",
    "Resumed",
    "SubaccountAction",
    "SubaccountRequest",
    "SubaccountStatus",
    "Subscribe",
    "SubscriptionStatus",
    "Unsubscribe",
]

Format = Literal["full", "delta"]
ResumeFailure = Literal["epoch", "too_old", "future"]
SubaccountAction = Literal[
    "subscribe_subaccount", "unsubscribe_subaccount", "subscribe_subaccounts", "unsubscribe_subaccounts"
]
ClientTime = int | float | str
"""A time that the server only echoes; a text of at most 64 bytes."""

# --- client to server -------------------------------------------------------------------------------------


class Auth(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The login. `last_sequence` -1: start with the next order. Version 2 resumes with `epoch`."""

    api_key: str = ""
    last_sequence: int = -1
    version: int = 1
    epoch: str | None = None


class Subscribe(msgspec.Struct, kw_only=True, omit_defaults=True, tag="subscribe"):
    """Version 1 has only `all` and `sender_timestamp`; the rest needs version 2. Filters are AND-ed."""

    all: bool | None = None
    sender_timestamp: ClientTime | None = None
    miners: list[str] | None = None
    trade_pairs: list[str] | None = None
    format: Format = "full"
    updates: bool = False
    revision: int | None = None


class Unsubscribe(msgspec.Struct, kw_only=True, omit_defaults=True, tag="unsubscribe"):
    all: bool | None = None
    sender_timestamp: ClientTime | None = None


class Ping(msgspec.Struct, kw_only=True, tag="ping"):
    timestamp: ClientTime = 0


class SubaccountRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A request for an entity's subaccounts, which only the validator itself can serve.

    The singular types need the subaccount's `synthetic_hotkey`.
    """

    type: SubaccountAction
    synthetic_hotkey: str | None = None


# --- server to client -------------------------------------------------------------------------------------


class AuthSuccess(msgspec.Struct, kw_only=True):
    """`current_sequence`: the sequence after which messages will follow.

    Only version 2 has `user`, the name of the key's user: with `epoch`, it tells whose cursor a client has.
    """

    status: Literal["success"] = "success"
    message: str = "Authentication successful."
    current_sequence: int
    tier: int | float
    epoch: str
    oldest_sequence: int
    version: int
    heartbeat_ms: int
    user: str | msgspec.UnsetType = msgspec.UNSET


class AuthFailure(msgspec.Struct, kw_only=True, omit_defaults=True):
    status: Literal["error"]  # no default: it would be omitted when encoding
    message: str
    code: str = ""


class SubscriptionStatus(msgspec.Struct, kw_only=True, omit_defaults=True, tag="subscription_status"):
    status: str
    all: bool | msgspec.UnsetType = msgspec.UNSET
    action: Literal["subscribe", "unsubscribe"]
    sender_timestamp: ClientTime | None = None
    received_timestamp: int
    miners: list[str] | None = None
    trade_pairs: list[str] | None = None
    unknown_miners: list[str] = []
    """Those of `miners` that the validator does not have at present: misspelt, or not registered yet."""
    format: Format | None = None
    updates: bool | None = None


class SubaccountStatus(msgspec.Struct, kw_only=True, omit_defaults=True, tag="subscription_status"):
    """The answer to a `SubaccountRequest`. `code`: `INSUFFICIENT_TIER` or `NOT_SERVED`."""

    status: Literal["error"]  # no default: it would be omitted when encoding
    action: str
    synthetic_hotkey: str | None = None
    message: str
    code: str = ""


class Pong(msgspec.Struct, kw_only=True, tag="pong"):
    client_timestamp: ClientTime
    server_timestamp: int
    timestamp: int


class MessageData(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`position` has its orders up to the announced one, which is last; in format `delta` it has none.

    Only format `delta` has `order` and `n_orders`, the order's place in the position's list, from 1.
    """

    position: Position
    order: Order | None = None
    n_orders: int | None = None


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One order. `timestamp` is when the server first saw it, also in a replay."""

    sequence: int
    timestamp: int
    data: MessageData
    late: bool = False
    replay: bool = False


class Batch(msgspec.Struct, kw_only=True, tag="batch"):
    messages: list[Message]
    count: int


class Resumed(msgspec.Struct, kw_only=True, tag="resumed"):
    """Every message after `after` follows; those up to `head` are marked as replayed."""

    after: int
    head: int


class ResumeFailed(msgspec.Struct, kw_only=True, tag="resume_failed"):
    """The missed messages will not follow: take a snapshot."""

    reason: ResumeFailure
    epoch: str
    oldest_sequence: int
    head: int


class Heartbeat(msgspec.Struct, kw_only=True, omit_defaults=True, tag="heartbeat"):
    """Everything up to `head` that matches the subscription has been sent.

    `problems` are the codes of `/health` at that moment; absent if the server is well.
    """

    head: int
    revision: int
    timestamp: int
    source_ms: int | None
    stale: bool
    checksum: str | None = None
    problems: list[str] = []


class PositionChanged(msgspec.Struct, kw_only=True, omit_defaults=True, tag="position"):
    """A position's summary and its changed orders; `order_uuids` if its list of orders changed."""

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
