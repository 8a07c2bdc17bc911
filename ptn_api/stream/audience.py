"""The live subscribers, grouped by what they are sent: each group's frames are made once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from ptn_api.clock import Clock, wall_ms
from ptn_api.event_log.contract import Event, RemovedPosition
from ptn_api.stream.options import StreamCounters
from ptn_api.stream.outbound import FrameMaker, MessageMaker, PositionUpdates, Update, pack
from ptn_api.wire.subscription import Subscription

__all__ = ["Audience", "Subscriber"]


class Subscriber(Protocol):
    @property
    def subscription(self) -> Subscription: ...

    @property
    def deflate(self) -> bool: ...

    def deliver(self, frames: Sequence[bytes], messages: int) -> None:
        """Takes these frames, which hold so many orders. Never waits."""
        ...


class _Variant(NamedTuple):
    subscription: Subscription
    deflate: bool


class Audience:
    def __init__(self, counters: StreamCounters, clock: Clock = wall_ms) -> None:
        self._counters = counters
        self._clock = clock
        self._groups: dict[_Variant, dict[Subscriber, None]] = {}
        self._variants: dict[Subscriber, _Variant] = {}

    def join(self, subscriber: Subscriber) -> None:
        """From the next order on; under its new subscription if it was here already."""
        self.leave(subscriber)
        variant = _Variant(subscriber.subscription, subscriber.deflate)
        self._variants[subscriber] = variant
        self._groups.setdefault(variant, {})[subscriber] = None

    def leave(self, subscriber: Subscriber) -> None:
        variant = self._variants.pop(subscriber, None)
        if variant is None:
            return
        members = self._groups[variant]
        del members[subscriber]
        if not members:
            del self._groups[variant]

    @property
    def wants_orders_of_positions(self) -> bool:
        """Whether anybody takes whole positions, so that the log must put their orders together."""
        return any(variant.subscription.format == "full" for variant in self._groups)

    @property
    def wants_updates(self) -> bool:
        return any(variant.subscription.updates for variant in self._groups)

    @property
    def wants_checksum(self) -> bool:
        return any(v.subscription.updates and not v.subscription.filtered for v in self._groups)

    def send_orders(self, events: Sequence[Event]) -> None:
        """One step of the log to everybody: alone if it is one order, else in batches."""
        made, framed = MessageMaker(events), FrameMaker()
        for variant, members in list(self._groups.items()):
            messages = made.matching(variant.subscription)
            frames = [framed(payload, deflate=variant.deflate) for payload in pack(messages)]
            self._send(members, frames, len(messages))
        if self._groups:
            self._observe_lag(events)

    def _observe_lag(self, events: Sequence[Event]) -> None:
        now = self._clock()
        for event in events:
            self._counters.lag_seen.observe(max(0, now - event.timestamp_ms) / 1000)
            if not event.late:
                self._counters.lag_processed.observe(max(0, now - event.processed_ms) / 1000)

    def send_updates(
        self, made: PositionUpdates, updates: Sequence[Update], removed: Sequence[RemovedPosition]
    ) -> None:
        """What is no order, to those who asked for it."""
        framed = FrameMaker()
        for variant, members in list(self._groups.items()):
            subscription = variant.subscription
            if not subscription.updates:
                continue
            payloads = [u.payload for u in updates if subscription.matches(u.miner_hotkey, u.trade_pair)]
            gone = made.removed(removed, subscription)
            if gone is not None:
                payloads.append(gone)
            self._send(members, [framed(p, deflate=variant.deflate) for p in payloads], 0)

    def _send(self, members: Iterable[Subscriber], frames: Sequence[bytes], messages: int) -> None:
        if not frames:
            return
        subscribers = tuple(members)  # one that is too slow leaves while it is being sent to
        for subscriber in subscribers:
            subscriber.deliver(frames, messages)
        self._counters.deliveries += messages * len(subscribers)
        self._counters.sent_bytes += sum(map(len, frames)) * len(subscribers)
