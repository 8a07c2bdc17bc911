"""Orders and position changes as messages, each encoded once for all its recipients."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Literal, Protocol

import msgspec

from ptn_api.event_log.contract import Event, LoggedPosition, RemovedPosition
from ptn_api.model.trade_pair import pair_id
from ptn_api.wire import codec
from ptn_api.wire.client_frames import Subscription
from ptn_api.wire.frames import PositionsRemoved

__all__ = [
    "Change",
    "Framing",
    "Message",
    "MessageEncoder",
    "PositionUpdate",
    "Shared",
    "UpdateEncoder",
    "join_frames",
]

_WRITE_BYTES = 64 * 1024
"""Frames are joined up to this size: copying them costs less than the system calls saved."""

Message = tuple[int, bytes]
"""An order's sequence, and its message."""
Change = tuple[Literal["position", "removed"], bytes]
"""The kind of a frame about positions, and the frame."""
Shared = dict[Hashable, bytes] | None
"""Frames that a framing keeps during one send, so that groups with equal messages share one bytes object.

None if there is only one group: finding a frame takes a hash of its bytes.
"""


class Framing(Protocol):
    """How a transport writes what is sent. Subscribers with equal framings and subscriptions get equal bytes.

    A frame may name a place in the log (sequence and revision): everything that matches up to there was sent.
    """

    def orders(self, messages: Sequence[Message], revision: int, shared: Shared) -> list[bytes]:
        """Returns frames with these orders, which were sent after everything up to `revision`."""
        ...

    def variant(self, revision: int) -> Hashable:
        """Returns what the frames of orders depend on, besides the orders."""
        ...

    def changes(
        self, changes: Sequence[Change], sequence: int, revisions: tuple[int, int], shared: Shared
    ) -> list[bytes]:
        """Returns a frame for each change. `revisions` are the places before the first and after the last."""
        ...

    def single(self, frame: msgspec.Struct, revision: int) -> bytes:
        """Returns a heartbeat or a reply as sent; empty if the transport does not have it."""
        ...


def join_frames(frames: Sequence[bytes]) -> Iterator[bytes]:
    """Yields the frames in as few writes as sensible: small ones joined, large ones unchanged."""
    small: list[bytes] = []
    size = 0
    for data in frames:
        if small and size + len(data) > _WRITE_BYTES:
            yield b"".join(small)
            small, size = [], 0
        small.append(data)
        size += len(data)
    if small:
        yield b"".join(small) if len(small) > 1 else small[0]


class MessageEncoder:
    """Consecutive orders as messages, each encoded once per variant."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events
        self._messages: dict[tuple[int, str, bool, bool], Message] = {}

    def matching(self, subscription: Subscription, now_ms: int, *, replay_until: int = 0) -> list[Message]:
        """Returns the messages for a subscription; those up to `replay_until` are marked as replayed."""
        messages = []
        filtered = subscription.filtered
        for event in self._events:
            if filtered and not subscription.matches(event.miner_hotkey, event.trade_pair):
                continue
            if event.late and subscription.is_too_old(event, now_ms):
                continue
            late = event.late and subscription.version == 2
            replay = event.sequence <= replay_until
            key = (event.sequence, subscription.format, late, replay)
            message = self._messages.get(key)
            if message is None:
                text = codec.encode_message(
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
                message = self._messages[key] = (event.sequence, text)
            messages.append(message)
        return messages


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
        self.since_revision = since_revision
        self.after = after
        self._orders = {(e.miner_hotkey, e.position_uuid, e.order) for e in announced}
        self._headers = {(e.miner_hotkey, e.position_uuid): e.header for e in announced}

    def changed(self, position: LoggedPosition) -> PositionUpdate | None:
        """Returns the update for a position, or None if its orders' messages already contain everything."""
        key = (position.miner_hotkey, position.position_uuid)
        text = position.text
        orders = [
            order
            for order, revision in zip(text.orders, position.order_revisions, strict=True)
            if revision > self.since_revision and (*key, order) not in self._orders
        ]
        layout_changed = position.layout_revision > self.since_revision
        if not orders and not layout_changed and self._headers.get(key) == text.header:
            return None
        uuids = [_uuid.decode(order).order_uuid for order in text.orders] if layout_changed else None
        payload = codec.encode_position_changed(
            revision=position.revision, after=self.after, text=text, orders=orders, order_uuids=uuids
        )
        return PositionUpdate(position.miner_hotkey, pair_id(_pair.decode(text.header).trade_pair), payload)

    def matching(
        self,
        subscription: Subscription,
        updates: Sequence[PositionUpdate],
        removed: Sequence[RemovedPosition],
    ) -> list[Change]:
        """Returns the frames for a subscription, the last one for all removals together.

        A removed position's trade pair is not known.
        """
        changes: list[Change] = [
            ("position", update.payload)
            for update in updates
            if subscription.matches(update.miner_hotkey, update.trade_pair)
        ]
        if gone := [position for position in removed if subscription.matches(position.miner_hotkey, None)]:
            removals = PositionsRemoved(
                revision=max(position.revision for position in gone),
                after=self.after,
                positions=[(position.miner_hotkey, position.position_uuid) for position in gone],
            )
            changes.append(("removed", codec.encode(removals)))
        return changes
