"""Orders and position changes as frames, each encoded once for all its recipients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ptn_api.event_log.contract import Event, LoggedPosition, RemovedPosition
from ptn_api.model.trade_pair import pair_id
from ptn_api.stream.framing import compress, frame
from ptn_api.wire import codec
from ptn_api.wire.client_frames import Subscription
from ptn_api.wire.frames import PositionsRemoved

__all__ = ["FrameEncoder", "MessageEncoder", "PositionUpdate", "UpdateEncoder", "pack"]

BATCH_MESSAGES = 50
BATCH_BYTES = 512 * 1024
_ENVELOPE_BYTES = 64
"""More than a batch adds around its messages."""
COMPRESS_FROM_BYTES = 256
"""Below this size deflate costs more than it saves."""


class FrameEncoder:
    """Payloads to WebSocket frames; equal payloads share one bytes object."""

    def __init__(self) -> None:
        self._frames: dict[tuple[bytes, bool], bytes] = {}

    def __call__(self, payload: bytes, *, deflate: bool) -> bytes:
        deflate = deflate and len(payload) >= COMPRESS_FROM_BYTES
        encoded = self._frames.get((payload, deflate))
        if encoded is None:
            encoded = frame(compress(payload), compressed=True) if deflate else frame(payload)
            self._frames[payload, deflate] = encoded
        return encoded


class MessageEncoder:
    """Consecutive orders as messages, each encoded once per variant."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events
        self._messages: dict[tuple[int, str, bool, bool], bytes] = {}

    def matching(self, subscription: Subscription, now_ms: int, *, replay_until: int = 0) -> list[bytes]:
        """Returns the messages for a subscription; those up to `replay_until` are marked as replayed."""
        messages = []
        for event in self._events:
            if not subscription.matches(event.miner_hotkey, event.trade_pair):
                continue
            if subscription.is_too_old(event, now_ms):
                continue
            late = event.late and subscription.version == 2
            replay = event.sequence <= replay_until
            key = (event.sequence, subscription.format, late, replay)
            message = self._messages.get(key)
            if message is None:
                message = self._messages[key] = codec.encode_message(
                    sequence=event.sequence,
                    timestamp_ms=event.timestamp_ms,
                    text=event.text,
                    order=event.order,
                    n_orders=event.n_orders,
                    format=subscription.format,
                    late=late,
                    replay=replay,
                    extra=event.extra,
                )
            messages.append(message)
        return messages


def pack(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the messages as payloads: alone, or in batches of bounded count and size."""
    batch: list[bytes] = []
    size = _ENVELOPE_BYTES
    for message in messages:
        if batch and (len(batch) == BATCH_MESSAGES or size + len(message) >= BATCH_BYTES):
            yield _payload(batch)
            batch, size = [], _ENVELOPE_BYTES
        batch.append(message)
        size += len(message) + 1
    if batch:
        yield _payload(batch)


def _payload(batch: list[bytes]) -> bytes:
    return batch[0] if len(batch) == 1 else codec.encode_batch(batch)


# --- position changes -------------------------------------------------------------------------------------


class PositionUpdate(msgspec.Struct, frozen=True):
    """A changed position's frame, with the fields that filters match."""

    miner_hotkey: str
    trade_pair: str
    payload: bytes


class _Pair(msgspec.Struct):
    trade_pair: Any = None


class _Uuid(msgspec.Struct):
    order_uuid: str


_pair = msgspec.json.Decoder(_Pair)
_uuid = msgspec.json.Decoder(_Uuid)


class UpdateEncoder:
    """Position changes since a revision, as frames for subscriptions with `updates`.

    `announced` are the orders just sent to the same subscribers; what their messages contain is not repeated.
    """

    def __init__(self, *, since_revision: int, after: int, announced: Sequence[Event] = ()) -> None:
        self._since = since_revision
        self._after = after
        self._orders = {(e.miner_hotkey, e.position_uuid, e.order) for e in announced}
        self._headers = {(e.miner_hotkey, e.position_uuid): e.header for e in announced}

    def changed(self, position: LoggedPosition) -> PositionUpdate | None:
        """Returns the update for a position, or None if its orders' messages already contain everything."""
        key = (position.miner_hotkey, position.position_uuid)
        text = position.text
        orders = [
            order
            for order, revision in zip(text.orders, position.order_revisions, strict=True)
            if revision > self._since and (*key, order) not in self._orders
        ]
        layout_changed = position.layout_revision > self._since
        if not orders and not layout_changed and self._headers.get(key) == text.header:
            return None
        uuids = [_uuid.decode(order).order_uuid for order in text.orders] if layout_changed else None
        payload = codec.encode_position_changed(
            revision=position.revision, after=self._after, text=text, orders=orders, order_uuids=uuids
        )
        return PositionUpdate(position.miner_hotkey, pair_id(_pair.decode(text.header).trade_pair), payload)

    def removed(self, positions: Sequence[RemovedPosition], subscription: Subscription) -> bytes | None:
        """Returns one frame for the removals that match; a removed position's trade pair is not known."""
        matching = [p for p in positions if subscription.matches(p.miner_hotkey, None)]
        if not matching:
            return None
        return codec.encode(
            PositionsRemoved(
                revision=max(p.revision for p in matching),
                after=self._after,
                positions=[(p.miner_hotkey, p.position_uuid) for p in matching],
            )
        )
