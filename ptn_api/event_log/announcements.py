"""Announcements: which orders of a new text become events, and how the position looks in each. Pure.

An order is announced once. The log supplies which orders it has seen (docs/architecture.md, "The event log").
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

import msgspec

from ptn_api.event_log.contract import Event, PositionWritten
from ptn_api.model.order import Order
from ptn_api.model.rendering import headers_after
from ptn_api.model.trade_pair import pair_id

__all__ = [
    "EVENT_OVERHEAD",
    "AppendTime",
    "Conflict",
    "FirstSeen",
    "NewOrders",
    "PendingEvents",
    "announcements",
    "event_bytes",
    "new_orders",
]

EVENT_OVERHEAD = 256
"""Bytes that an event counts for besides its texts, towards the retention's size."""
_MAX_REBUILT_ORDERS = 500_000
"""Orders processed to rebuild the positions of one text's events: about a second, for 1,000 new orders."""

FirstSeen = Mapping[str, tuple[int, float | None]]
"""Order uuid -> (processed_ms, leverage) when the order was first seen."""


class AppendTime(msgspec.Struct, frozen=True, kw_only=True):
    """The time of an append, with the limits that decide what is announced and what is late.

    Orders processed at or before `created_ms`, the log's creation, are not announced.
    """

    now_ms: int
    late_ms: int
    created_ms: int

    def is_history(self, order: Order) -> bool:
        """Returns whether the order was placed before the log was created.

        While the clock is behind that time, it is wrong or was so then, and new orders have its times.
        """
        is_new = self.now_ms < self.created_ms and abs(order.processed_ms - self.now_ms) <= self.late_ms
        return order.processed_ms <= self.created_ms and not is_new


class Conflict(NamedTuple):
    """An order that came back with another time or leverage; the first version is kept."""

    miner_hotkey: str
    order_uuid: str
    processed_ms: int
    leverage: float | None


class NewOrders(NamedTuple):
    """What a text adds: the orders never seen before, the conflicts, and the events without a sequence.

    Each event has the largest processed_ms in the list up to its order.
    """

    first: FirstSeen
    conflicts: list[Conflict]
    events: list[tuple[int, Event]]


class _SortKey(NamedTuple):
    """The order of an append's events (docs/architecture.md, "The event log").

    `text` separates two texts of one position.
    """

    largest_ms: int
    position_uuid: str
    miner_hotkey: str
    text: int
    n_orders: int


class PendingEvents:
    """The events of one append, collected until they are sorted and numbered."""

    def __init__(self) -> None:
        self.conflicts: list[Conflict] = []
        self._events: list[tuple[_SortKey, Event]] = []
        self._texts = 0
        self._largest_ms: dict[tuple[str, str], int] = {}

    def add(self, new: NewOrders) -> None:
        """Takes what a text adds. Texts of one position must come in the order in which they were written."""
        self.conflicts += new.conflicts
        self._texts += 1  # separates this text's events from those of an earlier text of the position
        for largest_ms, event in new.events:
            key = (event.miner_hotkey, event.position_uuid)
            # The events of a position written twice in one append keep the order of the texts.
            self._largest_ms[key] = max(largest_ms, self._largest_ms.get(key, 0))
            sort_key = _SortKey(self._largest_ms[key], key[1], key[0], self._texts, event.n_orders)
            self._events.append((sort_key, event))

    def in_order(self) -> list[Event]:
        """Returns the events in the order of their sequences."""
        return [event for _, event in sorted(self._events, key=lambda row: row[0])]


def new_orders(
    change: PositionWritten, changed: list[int], seen: FirstSeen, time: AppendTime, revision: int
) -> NewOrders:
    """Returns what a text written at `revision` adds.

    `changed` are the indexes of the orders that this text added or changed; all others have been seen.
    `seen` contains at least those of the changed orders that were seen before.
    """
    orders = change.position.orders
    unseen = _unseen(orders, changed, seen)
    first = {orders[i].order_uuid: (orders[i].processed_ms, orders[i].leverage) for i in unseen}
    known = {**seen, **first}
    conflicts = []
    for order in (orders[index] for index in changed):
        version = (order.processed_ms, order.leverage)
        if known.get(order.order_uuid, version) != version:
            conflicts.append(Conflict(change.position.miner_hotkey, order.order_uuid, *version))
    return NewOrders(first, conflicts, list(announcements(change, unseen, time, revision)))


def announcements(
    change: PositionWritten, unseen: list[int], time: AppendTime, revision: int
) -> Iterator[tuple[int, Event]]:
    """Events, still without a sequence, of the orders at these indexes; each with the largest time so far.

    An event shows the position after its order. It shows the file's own summary for the last order of the
    list, for an order before one that was already seen, and where rebuilding the position is impossible or
    would delay other orders.
    """
    position, text = change.position, change.text
    orders = position.orders
    announced = [index for index in unseen if not time.is_history(orders[index])]
    if not announced:
        return
    last_seen = _last_seen(orders, announced)
    largest_ms = list(accumulate((order.processed_ms for order in orders), max))
    rebuilt = [index for index in announced if last_seen < index < len(orders) - 1]
    # The fee at each event depends on all orders before it, so the cost is quadratic in a list of new orders.
    if sum(rebuilt) > _MAX_REBUILT_ORDERS:
        rebuilt = []
    headers: dict[int, tuple[bytes, int]] = {}
    if rebuilt:  # an order at the end of its list needs none, and preparing to rebuild reads the whole list
        lengths = [index + 1 for index in rebuilt]
        headers = dict(zip(rebuilt, headers_after(text, position, lengths), strict=True))
    for index in announced:
        order = orders[index]
        header, orders_at = headers.get(index, (text.header, text.orders_at))
        event = Event(
            sequence=0,
            revision=revision,
            timestamp_ms=time.now_ms,
            miner_hotkey=position.miner_hotkey,
            position_uuid=position.position_uuid,
            trade_pair=pair_id(position.trade_pair),
            order_uuid=order.order_uuid,
            processed_ms=order.processed_ms,
            order=text.orders[index],
            header=header,
            orders_at=orders_at,
            n_orders=index + 1,
            late=index < last_seen or time.now_ms - order.processed_ms > time.late_ms,
            extra=change.extra,
        )
        yield largest_ms[index], event


def event_bytes(event: Event) -> int:
    """The bytes that an event counts for towards the retention's size."""
    return len(event.order) + len(event.header) + len(event.extra) + EVENT_OVERHEAD


def _unseen(orders: list[Order], changed: list[int], seen: Container[str]) -> list[int]:
    """Indexes of the orders never seen before. If a uuid occurs twice in the list, the first one counts."""
    unchanged = set(range(len(orders))).difference(changed)
    known = {orders[index].order_uuid for index in unchanged}
    first: dict[str, int] = {}
    for index in changed:
        uuid = orders[index].order_uuid
        if uuid not in seen and uuid not in known:
            first.setdefault(uuid, index)
    return list(first.values())


def _last_seen(orders: list[Order], announced: list[int]) -> int:
    """The index of the last order that is not announced now; repetitions of a uuid do not count. -1: none."""
    uuids = {orders[index].order_uuid for index in announced}
    first: dict[str, int] = {}
    for index, order in enumerate(orders):
        first.setdefault(order.order_uuid, index)
    return max((index for uuid, index in first.items() if uuid not in uuids), default=-1)
