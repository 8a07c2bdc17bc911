"""The events of one append, as they gather and until they are numbered. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ptn_api.event_log.announce import Moment, announcements, conflicts, unseen
from ptn_api.event_log.contract import Event, PositionWritten
from ptn_api.model.trade_pair import pair_id

__all__ = ["EVENT_OVERHEAD", "Conflict", "FirstSeen", "Scan", "event_bytes"]

EVENT_OVERHEAD = 256
"""Bytes that an event counts for beside its texts, towards the retention's size."""

FirstSeen = Mapping[str, tuple[int, float]]
"""Order uuid -> (processed_ms, leverage) as they were when the order was first seen."""


class Conflict(NamedTuple):
    """An order that came back with another time or leverage; the first stands."""

    miner_hotkey: str
    order_uuid: str
    processed_ms: int
    leverage: float


class _SortKey(NamedTuple):
    """Events of one scan stand in this order (docs/architecture.md, "The event log").

    `turn` keeps two texts of a position apart.
    """

    largest_ms: int
    position_uuid: str
    miner_hotkey: str
    turn: int
    place: int


class Scan:
    """Collects what the changes of one append announce."""

    def __init__(self, moment: Moment) -> None:
        self.conflicts: list[Conflict] = []
        self._moment = moment
        self._staged: list[tuple[_SortKey, Event]] = []
        self._turn = 0
        self._largest: dict[tuple[str, str], int] = {}

    def take(
        self, change: PositionWritten, touched: list[int], seen: FirstSeen, revision: int
    ) -> dict[str, tuple[int, float]]:
        """Stages the unseen orders of a text and returns them, to be remembered as seen.

        `touched` are the places of the orders that came or changed with this text, the others have been
        seen; `seen` says so at least of the touched ones that were seen before.
        """
        orders = change.position.orders
        fresh = unseen(orders, touched, seen)
        first = {orders[p].order_uuid: (orders[p].processed_ms, orders[p].leverage) for p in fresh}
        miner = change.position.miner_hotkey
        self.conflicts += (Conflict(miner, *it) for it in conflicts(orders, touched, {**seen, **first}))
        if fresh:
            self._stage(change, fresh, revision)
        return first

    def events(self, after: int) -> list[Event]:
        """The staged events in their order, numbered from `after` + 1."""
        self._staged.sort(key=lambda row: row[0])
        return [
            msgspec.structs.replace(event, sequence=after + n)
            for n, (_, event) in enumerate(self._staged, start=1)
        ]

    def _stage(self, change: PositionWritten, fresh: list[int], revision: int) -> None:
        position = change.position
        key = (position.miner_hotkey, position.position_uuid)
        self._turn += 1
        for made in announcements(change, fresh, self._moment):
            # A position written twice in one append keeps its own order whatever its times say.
            self._largest[key] = max(made.largest_ms, self._largest.get(key, 0))
            sort_key = _SortKey(self._largest[key], key[1], key[0], self._turn, made.place)
            event = Event(
                sequence=0,
                revision=revision,
                timestamp_ms=self._moment.now_ms,
                miner_hotkey=key[0],
                position_uuid=key[1],
                trade_pair=pair_id(position.trade_pair),
                order_uuid=made.order_uuid,
                processed_ms=made.processed_ms,
                order=made.order,
                header=made.header,
                orders_at=made.orders_at,
                n_orders=made.place + 1,
                late=made.late,
                extra=change.extra,
            )
            self._staged.append((sort_key, event))


def event_bytes(event: Event) -> int:
    """What an event counts towards the retention's size."""
    return len(event.order) + len(event.header) + len(event.extra) + EVENT_OVERHEAD
