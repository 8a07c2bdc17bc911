"""Live subscribers, grouped by the bytes they are sent: each group's frames are encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ptn_api.clock import Clock, wall_ms
from ptn_api.event_log.contract import Event, RemovedPosition
from ptn_api.fanout.counters import StreamCounters
from ptn_api.fanout.encoding import (
    Framing,
    MessageEncoder,
    PositionUpdate,
    Shared,
    UpdateEncoder,
    join_frames,
)
from ptn_api.wire.client_frames import Subscription

__all__ = ["Subscriber", "SubscriberGroups"]


class Subscriber(Protocol):
    """A live connection, as the fan-out sees it."""

    @property
    def subscription(self) -> Subscription: ...

    @property
    def framing(self) -> Framing: ...

    @property
    def write(self) -> Callable[[bytes], None]:
        """Sends complete frames, or buffers them. Always the same function.

        It neither waits nor closes the connection: a full buffer is only noted (`congested`), and checked
        after all writes. So no group changes while it is written to.
        """
        ...

    def count_sent(self, messages: int, sent_bytes: int) -> None:
        """Adds to the connection's own counters."""
        ...

    def check_buffer(self) -> None:
        """Closes the connection if it is too far behind."""
        ...


class _Variant(NamedTuple):
    subscription: Subscription
    framing: Framing


class _Group:
    """Subscribers that are sent the same bytes.

    A write costs each of them one function call and nothing else: messages and bytes are counted once for the
    group, and added to a subscriber's counters when they are read.
    """

    def __init__(self) -> None:
        self._counted: dict[Subscriber, tuple[int, int]] = {}
        """Subscriber -> the group's messages and bytes at its last count, or at its joining."""
        self._writes: tuple[Callable[[bytes], None], ...] | None = None
        self._messages = 0
        self._sent_bytes = 0

    def __len__(self) -> int:
        return len(self._counted)

    def add(self, subscriber: Subscriber) -> None:
        self._counted[subscriber] = self._messages, self._sent_bytes
        self._writes = None

    def remove(self, subscriber: Subscriber) -> None:
        self.update_counts(subscriber)
        del self._counted[subscriber]
        self._writes = None

    def update_counts(self, subscriber: Subscriber) -> None:
        messages, sent_bytes = self._counted[subscriber]
        subscriber.count_sent(self._messages - messages, self._sent_bytes - sent_bytes)
        self._counted[subscriber] = self._messages, self._sent_bytes

    def send(self, frames: Sequence[bytes], messages: int) -> None:
        for data in join_frames(frames):
            if self._writes is None:
                self._writes = tuple(subscriber.write for subscriber in self._counted)
            for write in self._writes:
                write(data)
            self._sent_bytes += len(data)
        self._messages += messages


class SubscriberGroups:
    """The fan-out to all live subscribers."""

    def __init__(self, counters: StreamCounters, clock: Clock = wall_ms) -> None:
        self._counters = counters
        self._clock = clock
        self._groups: dict[_Variant, _Group] = {}
        self._variants: dict[Subscriber, _Variant] = {}
        self._congested: dict[Subscriber, None] = {}

    def join(self, subscriber: Subscriber) -> None:
        """Adds a subscriber from the next order on, or moves it to the group of its new subscription."""
        self.leave(subscriber)
        variant = _Variant(subscriber.subscription, subscriber.framing)
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
        """Checks the subscriber's buffer after every send, until it is drained."""
        self._congested[subscriber] = None

    def drained(self, subscriber: Subscriber) -> None:
        self._congested.pop(subscriber, None)

    def update_counts(self, subscriber: Subscriber) -> None:
        """Brings the subscriber's own counters up to date."""
        variant = self._variants.get(subscriber)
        if variant is not None:
            self._groups[variant].update_counts(subscriber)

    def __len__(self) -> int:
        return len(self._variants)

    @property
    def wants_full_positions(self) -> bool:
        """Whether a subscription has format `full`, for which the log must add each position's orders."""
        return any(variant.subscription.format == "full" for variant in self._groups)

    @property
    def wants_updates(self) -> bool:
        return any(variant.subscription.updates for variant in self._groups)

    @property
    def wants_checksum(self) -> bool:
        return any(variant.subscription.wants_checksum for variant in self._groups)

    def send_orders(self, events: Sequence[Event], revision: int) -> None:
        """Sends the orders to every group whose subscription matches, after all changes up to `revision`."""
        encoder, now = MessageEncoder(events), self._clock()
        shared: Shared = {} if len(self._groups) > 1 else None
        for variant, group in self._groups.items():
            messages = encoder.matching(variant.subscription, now)
            self._send(group, variant.framing.orders(messages, revision, shared), len(messages))
        self._check_congested()
        if not self._groups:
            return
        for event in events:
            self._counters.lag_seen.observe(max(0, now - event.timestamp_ms) / 1000)
            if not event.late:
                self._counters.lag_processed.observe(max(0, now - event.processed_ms) / 1000)

    def send_updates(
        self,
        encoder: UpdateEncoder,
        updates: Sequence[PositionUpdate],
        removed: Sequence[RemovedPosition],
        revision: int,
    ) -> None:
        """Sends position changes and removals up to `revision` to the subscriptions with `updates`."""
        shared: Shared = {} if len(self._groups) > 1 else None
        for variant, group in self._groups.items():
            subscription = variant.subscription
            if not subscription.updates:
                continue
            changes = encoder.matching(subscription, updates, removed)
            revisions = (encoder.since_revision, revision)
            self._send(group, variant.framing.changes(changes, encoder.after, revisions, shared), 0)
        self._check_congested()

    def _send(self, group: _Group, frames: Sequence[bytes], messages: int) -> None:
        group.send(frames, messages)
        self._counters.deliveries += messages * len(group)
        self._counters.sent_bytes += sum(map(len, frames)) * len(group)

    def _check_congested(self) -> None:
        for subscriber in tuple(self._congested):
            if subscriber in self._variants:
                subscriber.check_buffer()
