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
    """The login."""

    api_key: str = ""
    """The API key."""
    last_sequence: int = -1
    """Sequence of the last message processed: later ones follow. -1: only new ones. Unit: sequence."""
    version: int = 1
    """Version of the protocol: 1 or 2. Unit: number."""
    epoch: str | None = None
    """Epoch of the log that `last_sequence` is from; version 2 resumes with it. Null: no resume."""


class Subscribe(msgspec.Struct, kw_only=True, omit_defaults=True, tag="subscribe"):
    """Starts the delivery of orders. Version 1 has only `all` and `sender_timestamp`. Filters are AND-ed."""

    all: bool | None = None
    """As version 1 clients send it; filters count in any case. Null: not sent."""
    sender_timestamp: ClientTime | None = None
    """Client's time, echoed. Unit: any, usually epoch ms. Null: not sent."""
    miners: list[str] | None = None
    """Only these hotkeys. Null: all."""
    trade_pairs: list[str] | None = None
    """Only these trade pairs. Null: all."""
    format: Format = "full"
    """`full`: positions with all orders; `delta`: the new order and the position's summary."""
    updates: bool = False
    """Whether changes without a new order are sent too."""
    revision: int | None = None
    """Revision of the snapshot that the client has: changes after it follow.

    Unit: revision. Null: no snapshot.
    """


class Unsubscribe(msgspec.Struct, kw_only=True, omit_defaults=True, tag="unsubscribe"):
    """Ends the delivery."""

    all: bool | None = None
    """As version 1 clients send it; without effect. Null: not sent."""
    sender_timestamp: ClientTime | None = None
    """Client's time, echoed. Unit: any, usually epoch ms. Null: not sent."""


class Ping(msgspec.Struct, kw_only=True, tag="ping"):
    """A question for the server's time."""

    timestamp: ClientTime = 0
    """Client's time, echoed; 0 if not sent. Unit: any, usually epoch ms."""


class SubaccountRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A request for an entity's subaccounts, which only the validator itself can serve.

    Since: 0.2.0.
    """

    type: SubaccountAction
    """The request."""
    synthetic_hotkey: str | None = None
    """The subaccount. Null: all, for the types in the plural."""


# --- server to client -------------------------------------------------------------------------------------


class AuthSuccess(msgspec.Struct, kw_only=True):
    """The login was accepted."""

    status: Literal["success"] = "success"
    """Always `success`."""
    message: str = "Authentication successful."
    """A sentence for humans."""
    current_sequence: int
    """Messages after this sequence follow the subscribe. Unit: sequence."""
    tier: int | float
    """The key's tier. Unit: tier."""
    epoch: str
    """Epoch of the log: cursors of other epochs cannot be resumed."""
    oldest_sequence: int
    """Oldest sequence that can still be read. Unit: sequence."""
    version: int
    """Version of the protocol on this connection. Unit: number."""
    heartbeat_ms: int
    """Period of the heartbeats of version 2. Unit: ms."""
    user: str | msgspec.UnsetType = msgspec.UNSET
    """Name of the key's user: with `epoch`, it tells whose cursor a client has.

    Absent: in version 1. Since: 0.2.0.
    """


class AuthFailure(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The login was refused, or the connection evicted."""

    status: Literal["error"]  # no default: it would be omitted when encoding
    """Always `error`."""
    message: str
    """A sentence for humans."""
    code: str = ""
    """INSUFFICIENT_TIER, MAX_CONNECTIONS_EXCEEDED and others. Absent: for an unknown key."""


class SubscriptionStatus(msgspec.Struct, kw_only=True, omit_defaults=True, tag="subscription_status"):
    """Confirms a subscribe or an unsubscribe."""

    status: str
    """Always `success`."""
    all: bool | msgspec.UnsetType = msgspec.UNSET
    """Whether all orders are sent: false with filters. Absent: from a validator's own server."""
    action: Literal["subscribe", "unsubscribe"]
    """The request that is confirmed."""
    sender_timestamp: ClientTime | None = None
    """Echo of the request's. Unit: any, usually epoch ms. Absent: not sent."""
    received_timestamp: int
    """When the server received the request. Unit: epoch ms."""
    miners: list[str] | None = None
    """The filter. Absent: without one."""
    trade_pairs: list[str] | None = None
    """The filter. Absent: without one."""
    unknown_miners: list[str] = []
    """Those of `miners` that the validator does not have at present: misspelt, or not registered yet.

    Absent: all are known. Since: 0.2.0.
    """
    format: Format | None = None
    """The format. Absent: in version 1."""
    updates: bool | None = None
    """Whether updates are sent. Absent: in version 1."""


class SubaccountStatus(msgspec.Struct, kw_only=True, omit_defaults=True, tag="subscription_status"):
    """Refuses a `SubaccountRequest`. Since: 0.2.0."""

    status: Literal["error"]  # no default: it would be omitted when encoding
    """Always `error`."""
    action: str
    """Type of the request."""
    synthetic_hotkey: str | None = None
    """Echo of the request's. Absent: not sent."""
    message: str
    """A sentence for humans."""
    code: str = ""
    """INSUFFICIENT_TIER or NOT_SERVED. Absent: the request was incomplete."""


class Pong(msgspec.Struct, kw_only=True, tag="pong"):
    """Answers a ping."""

    client_timestamp: ClientTime
    """Echo of the ping's `timestamp`. Unit: any, usually epoch ms."""
    server_timestamp: int
    """Server's time. Unit: epoch ms."""
    timestamp: int
    """The same. Unit: epoch ms."""


class MessageData(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The content of an order's message. Unknown keys beside these are passed through."""

    position: Position
    """The position after the order. Its orders end with the announced one; in format `delta` it has none."""
    order: Order | None = None
    """The announced order. Absent: in format `full`, where it is the position's last order."""
    n_orders: int | None = None
    """Place of the order in the position's list, from 1. Unit: count. Absent: in format `full`."""


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One order."""

    sequence: int
    """Number of the order in the log; increases by one per order. Unit: sequence."""
    timestamp: int
    """When the server first saw the order, also in a replay. Unit: epoch ms."""
    data: MessageData
    """The order and its position."""
    late: bool = False
    """Whether the order was seen long after its own time. Absent: if not, and in version 1."""
    replay: bool = False
    """Whether the message is sent again after a resume. Absent: if not, and in version 1."""


class Batch(msgspec.Struct, kw_only=True, tag="batch"):
    """Several orders at once."""

    messages: list[Message]
    """The messages, by sequence."""
    count: int
    """Number of messages. Unit: count."""


class Resumed(msgspec.Struct, kw_only=True, tag="resumed"):
    """Every message after `after` follows; those up to `head` are marked as replayed."""

    after: int
    """The client's `last_sequence`. Unit: sequence."""
    head: int
    """Newest sequence at the login. Unit: sequence."""


class ResumeFailed(msgspec.Struct, kw_only=True, tag="resume_failed"):
    """The missed messages will not follow: take a snapshot."""

    reason: ResumeFailure
    """`epoch`: of another log; `too_old`: below `oldest_sequence`; `future`: beyond `head`."""
    epoch: str
    """Epoch of the log."""
    oldest_sequence: int
    """Oldest sequence that can still be read. Unit: sequence."""
    head: int
    """Newest sequence: messages after it follow. Unit: sequence."""


class Heartbeat(msgspec.Struct, kw_only=True, omit_defaults=True, tag="heartbeat"):
    """Everything up to `head` that matches the subscription has been sent."""

    head: int
    """Newest sequence. Unit: sequence."""
    revision: int
    """Newest revision. Unit: revision."""
    timestamp: int
    """Server's time. Unit: epoch ms."""
    source_ms: int | None
    """End of the last completed sweep of the validator's files. Unit: epoch ms. Null: without a directory."""
    stale: bool
    """Whether the validator's files have stopped being updated or read."""
    checksum: str | None = None
    """Checksum of all positions at `revision`, to verify a mirror with.

    Absent: without `updates`, or with filters.
    """
    problems: list[str] = []
    """Codes of `/health` at that moment. Absent: if the server is well. Since: 0.2.0."""


class PositionChanged(msgspec.Struct, kw_only=True, omit_defaults=True, tag="position"):
    """A change of a position without a new order: a refreshed return, or a correction."""

    revision: int
    """Revision of the change. Unit: revision."""
    after: int
    """Sequence of the newest order before the change. Unit: sequence."""
    position: Position
    """The position without its orders."""
    orders: list[Order] = []
    """Orders that changed. Absent: none did."""
    order_uuids: list[str] | None = None
    """The whole list of orders, as uuids. Absent: unless orders were dropped, moved or inserted."""


class PositionsRemoved(msgspec.Struct, kw_only=True, tag="removed"):
    """Positions that the validator removed or archived."""

    revision: int
    """Revision of the removal. Unit: revision."""
    after: int
    """Sequence of the newest order before the removal. Unit: sequence."""
    positions: list[tuple[str, str]]
    """The positions: [hotkey, position uuid]."""


class Error(msgspec.Struct, kw_only=True, tag="error"):
    """A frame was invalid; the connection stays open."""

    code: str
    """A stable identifier, such as `bad_frame`."""
    message: str
    """A sentence for humans."""
