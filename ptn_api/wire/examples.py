"""Examples of every frame, built from the frame types, for the API descriptions."""

from __future__ import annotations

from typing import Any

import msgspec

from ptn_api.model.order import Order, PriceSource
from ptn_api.model.position import Position
from ptn_api.wire.frames import (
    Auth,
    AuthFailure,
    AuthSuccess,
    Batch,
    Error,
    Heartbeat,
    Message,
    MessageData,
    Ping,
    Pong,
    PositionChanged,
    PositionsRemoved,
    Resumed,
    ResumeFailed,
    SubaccountRequest,
    SubaccountStatus,
    Subscribe,
    SubscriptionStatus,
    Unsubscribe,
)

__all__ = ["EPOCH", "FRAMES", "HOTKEY", "ORDER", "POSITION", "SUMMARY", "examples_of", "plain"]

HOTKEY = "5GhCxfBcA7Ur5iiAS343xwvrYHTUfBjBi4JimiL5LhujRT9t"
EPOCH = "0b1f6d3a9c8e4f7782d4a1b2c3d4e5f6"
_SEQUENCE = 1_763_800_237
_REVISION = 90_412
_NOW = 1_763_800_301_250
_POSITION_UUID = "7a6f0a52-9a3b-4c42-9d7e-2f2f9d1c6c11"

ORDER = Order(
    order_type="LONG",
    leverage=0.1,
    price=95_250.5,
    bid=95_250.0,
    ask=95_251.0,
    slippage=0.00003,
    processed_ms=_NOW - 900,
    order_uuid="c1f7e3d0-54b2-4a39-8a7b-0a8c3e3e9f01",
    src=0,
    price_sources=[PriceSource(source="Polygon_ws", bid=95_250.0, ask=95_251.0, websocket=True, lag_ms=120)],
)
SUMMARY = Position(
    miner_hotkey=HOTKEY,
    position_uuid=_POSITION_UUID,
    trade_pair=["BTCUSD", "BTC/USD", 0.001, 0.01, 0.5],
    open_ms=ORDER.processed_ms,
    position_type="LONG",
    net_leverage=0.1,
    average_entry_price=95_253.4,
    cumulative_entry_value=9_525.34,
    current_return=1.0,
    return_at_close=0.9999,
)
POSITION = msgspec.structs.replace(SUMMARY, orders=[ORDER])

_FULL = Message(sequence=_SEQUENCE, timestamp=_NOW - 850, data=MessageData(position=POSITION))
_DELTA = Message(
    sequence=_SEQUENCE,
    timestamp=_NOW - 850,
    data=MessageData(position=SUMMARY, order=ORDER, n_orders=1),
    replay=True,
)

FRAMES: dict[str, msgspec.Struct] = {
    "from now on": Auth(api_key="<your key>"),
    "with the last sequence": Auth(api_key="<your key>", last_sequence=_SEQUENCE - 1),
    "resume in version 2": Auth(api_key="<your key>", last_sequence=_SEQUENCE - 1, version=2, epoch=EPOCH),
    "everything": Subscribe(all=True, sender_timestamp=_NOW),
    "one miner, one pair, as deltas": Subscribe(miners=[HOTKEY], trade_pairs=["BTCUSD"], format="delta"),
    "a mirror": Subscribe(updates=True, revision=_REVISION),
    "no more": Unsubscribe(all=True, sender_timestamp=_NOW),
    "a ping": Ping(timestamp=_NOW),
    "logged in": AuthSuccess(
        current_sequence=_SEQUENCE - 1,
        tier=100,
        epoch=EPOCH,
        oldest_sequence=1_763_500_000,
        version=2,
        heartbeat_ms=15_000,
        user="alice",
    ),
    "wrong key": AuthFailure(status="error", message="Invalid API key. Authentication failed."),
    "replaced": AuthFailure(
        status="error",
        message="Disconnected due to too many connections for this API key",
        code="MAX_CONNECTIONS_EXCEEDED",
    ),
    "subscribed": SubscriptionStatus(
        status="success", all=True, action="subscribe", sender_timestamp=_NOW - 40, received_timestamp=_NOW
    ),
    "subscribed to one miner, as deltas": SubscriptionStatus(
        status="success",
        all=False,
        action="subscribe",
        received_timestamp=_NOW,
        miners=[HOTKEY, "5Misspelt"],
        trade_pairs=["BTCUSD"],
        unknown_miners=["5Misspelt"],
        format="delta",
        updates=True,
    ),
    "one subaccount": SubaccountRequest(type="subscribe_subaccount", synthetic_hotkey=f"{HOTKEY}_0"),
    "not served": SubaccountStatus(
        status="error",
        action="subscribe_subaccount",
        synthetic_hotkey=f"{HOTKEY}_0",
        message="Subaccount data comes from the validator's memory and is not served here.",
        code="NOT_SERVED",
    ),
    "a pong": Pong(client_timestamp=_NOW - 40, server_timestamp=_NOW, timestamp=_NOW),
    "an order": _FULL,
    "an order, replayed, as delta": _DELTA,
    "two orders": Batch(
        messages=[_FULL, msgspec.structs.replace(_FULL, sequence=_SEQUENCE + 1, late=True)], count=2
    ),
    "what follows was missed": Resumed(after=_SEQUENCE - 1, head=_SEQUENCE + 1),
    "take a snapshot": ResumeFailed(
        reason="too_old", epoch=EPOCH, oldest_sequence=1_763_500_000, head=_SEQUENCE
    ),
    "all was sent": Heartbeat(
        head=_SEQUENCE,
        revision=_REVISION,
        timestamp=_NOW,
        source_ms=_NOW - 3_000,
        stale=False,
        checksum="9f86d081884c7d65",
        problems=["files_refused"],
    ),
    "a refreshed return": PositionChanged(
        revision=_REVISION, after=_SEQUENCE, position=msgspec.structs.replace(SUMMARY, current_return=1.0021)
    ),
    "a corrected order": PositionChanged(
        revision=_REVISION,
        after=_SEQUENCE,
        position=SUMMARY,
        orders=[ORDER],
        order_uuids=[ORDER.order_uuid],
    ),
    "a position is gone": PositionsRemoved(
        revision=_REVISION, after=_SEQUENCE, positions=[(HOTKEY, _POSITION_UUID)]
    ),
    "a misspelt field": Error(code="bad_frame", message="Object contains unknown field `miner`"),
}
"""Title -> frame."""


def examples_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Returns title -> frame as JSON values, for one type of frame."""
    return {name: plain(frame) for name, frame in FRAMES.items() if type(frame) is kind}


def plain(value: Any) -> Any:
    """Returns an example as it looks on the wire: without nulls, except an open position's `close_ms`."""
    return _without_nulls(msgspec.json.decode(msgspec.json.encode(value)))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_nulls(part)
            for key, part in value.items()
            if key == "close_ms" or not (part is None or (key == "orders" and not part))
        }
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
