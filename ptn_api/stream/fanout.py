"""The live subscribers, grouped by what they are sent: each group's frames are made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ptn_api.clock import Clock, wall_ms
from ptn_api.event_log.contract import Event, RemovedPosition
from ptn_api.stream.counters import StreamCounters
from ptn_api.stream.encoding import FrameMaker, MessageMaker, PositionUpdates, Update, pack
from ptn_api.stream.framing import joined
from ptn_api.wire.client_frames import Subscription

__all__ = ["Audience", "Subscriber"]


class Subscriber(Protocol):
    @property
    def subscription(self) -> Subscription: ...

    @property
    def deflate(self) -> bool: ...

    @property
    def send(self) -> Callable[[bytes], None]:
        """Sends whole frames or keeps them to be sent; never waits. The same at every look."""
        ...

    def credit(self, messages: int, sent_bytes: int) -> None:
        """It was sent so many orders, and so many bytes."""
        ...

    def check_buffer(self) -> None:
        """Closes itself if it is too far behind, so that it costs the others nothing."""
        ...


class _Variant(NamedTuple):
    subscription: Subscription
    deflate: bool


class _Group:
    """Subscribers that are sent the same bytes.

    Per subscriber and write nothing is done but the write: what was sent is counted once for all of them,
    and credited to a subscriber when somebody asks.
    """

    def __init__(self) -> None:
        self._credited: dict[Subscriber, tuple[int, int]] = {}
        """Member -> how much of the group's messages and bytes is not its own, or credited already."""
        self._sends: tuple[Callable[[bytes], None], ...] | None = None
        self._messages = 0
        self._sent_bytes = 0

    def __len__(self) -> int:
        return len(self._credited)

    def add(self, subscriber: Subscriber) -> None:
        self._credited[subscriber] = self._messages, self._sent_bytes
        self._sends = None

    def remove(self, subscriber: Subscriber) -> None:
        self.credit(subscriber)
        del self._credited[subscriber]
        self._sends = None

    def credit(self, subscriber: Subscriber) -> None:
        messages, sent_bytes = self._credited[subscriber]
        subscriber.credit(self._messages - messages, self._sent_bytes - sent_bytes)
        self._credited[subscriber] = self._messages, self._sent_bytes

    def send(self, data: bytes) -> None:
        if self._sends is None:
            self._sends = tuple(subscriber.send for subscriber in self._credited)
        for send in self._sends:
            send(data)
        self._sent_bytes += len(data)

    def count(self, messages: int) -> None:
        self._messages += messages


class Audience:
    def __init__(self, counters: StreamCounters, clock: Clock = wall_ms) -> None:
        self._counters = counters
        self._clock = clock
        self._groups: dict[_Variant, _Group] = {}
        self._variants: dict[Subscriber, _Variant] = {}
        self._congested: dict[Subscriber, None] = {}

    def join(self, subscriber: Subscriber) -> None:
        """From the next order on; under its new subscription if it was here already."""
        self.leave(subscriber)
        variant = _Variant(subscriber.subscription, subscriber.deflate)
        self._variants[subscriber] = variant
        self._groups.setdefault(variant, _Group()).add(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        variant = self._variants.pop(subscriber, None)
        if variant is None:
            return
        group = self._groups[variant]
        group.remove(subscriber)
        if not group:
            del self._groups[variant]

    def congested(self, subscriber: Subscriber) -> None:
        """Its socket keeps more than it should: to be looked at after every step."""
        self._congested[subscriber] = None

    def flowing(self, subscriber: Subscriber) -> None:
        """Or gone."""
        self._congested.pop(subscriber, None)

    def credit(self, subscriber: Subscriber) -> None:
        """Brings what the subscriber knows of what it was sent up to date."""
        variant = self._variants.get(subscriber)
        if variant is not None:
            self._groups[variant].credit(subscriber)

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
        for variant, group in self._groups.items():
            messages = made.matching(variant.subscription)
            frames = [framed(payload, deflate=variant.deflate) for payload in pack(messages)]
            self._send(group, frames, len(messages))
        self._check_congested()
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
        for variant, group in self._groups.items():
            subscription = variant.subscription
            if not subscription.updates:
                continue
            payloads = [u.payload for u in updates if subscription.matches(u.miner_hotkey, u.trade_pair)]
            gone = made.removed(removed, subscription)
            if gone is not None:
                payloads.append(gone)
            self._send(group, [framed(p, deflate=variant.deflate) for p in payloads], 0)
        self._check_congested()

    def _send(self, group: _Group, frames: Sequence[bytes], messages: int) -> None:
        for data in joined(frames):
            group.send(data)
        group.count(messages)
        self._counters.deliveries += messages * len(group)
        self._counters.sent_bytes += sum(map(len, frames)) * len(group)

    def _check_congested(self) -> None:
        for subscriber in tuple(self._congested):
            if subscriber in self._variants:
                subscriber.check_buffer()
