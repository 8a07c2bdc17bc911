"""Which orders of a position's new text are announced, and how the position looked at each of them. Pure.

An order is announced once, for ever; the log hands in which ones it has seen (docs/architecture.md, "The
event log").
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

import msgspec

from ptn_api.event_log.contract import PositionWritten
from ptn_api.model.accounting import rebuild_each
from ptn_api.model.order import Order
from ptn_api.model.position import PositionState

__all__ = ["Announcement", "Moment", "announcements", "conflicts", "unseen"]

_header = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MOST_REBUILT = 500_000
"""Orders gone through for one text's events, each anew from the first on: a new list of 1,000 orders, about a
second."""
_STATE_KEYS = tuple(field.name for field in msgspec.structs.fields(PositionState))


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """When a text was taken in. Orders processed at or before `silent_until_ms` are not announced: that is
    the log's creation during the baseline, None afterwards.
    """

    now_ms: int
    late_ms: int
    silent_until_ms: int | None = None


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """An event-to-be: all but its sequence and revision.

    `largest_ms` is the largest processed_ms in the list up to this order, by which events of one scan are
    sorted; `place` counts from 0.
    """

    largest_ms: int
    place: int
    order_uuid: str
    processed_ms: int
    order: bytes
    header: bytes
    orders_at: int
    late: bool


def unseen(orders: list[Order], touched: list[int], seen: Container[str]) -> list[int]:
    """Places of the orders never seen before, among those at `touched` (the others were seen before).

    Of a uuid that stands twice in the list the first counts.
    """
    untouched = set(range(len(orders))).difference(touched)
    known = {orders[place].order_uuid for place in untouched}
    found: dict[str, int] = {}
    for place in touched:
        uuid = orders[place].order_uuid
        if uuid not in seen and uuid not in known:
            found.setdefault(uuid, place)
    return list(found.values())


def conflicts(
    orders: list[Order], places: list[int], seen: Mapping[str, tuple[int, float]]
) -> list[tuple[str, int, float]]:
    """The orders at `places` that came back with another (processed_ms, leverage) than when first seen."""
    return [
        (order.order_uuid, order.processed_ms, order.leverage)
        for order in (orders[place] for place in places)
        if seen.get(order.order_uuid, (order.processed_ms, order.leverage))
        != (order.processed_ms, order.leverage)
    ]


def announcements(change: PositionWritten, fresh: list[int], moment: Moment) -> Iterator[Announcement]:
    """The events-to-be of the unseen orders, whose places are `fresh`, in list order.

    Each shows the position as it stood after that order; the file's own summary goes with the last order
    of the list, with one that stands before an order already seen, and where nothing can be rebuilt, or
    so much that everything else would have to wait.
    """
    orders = change.position.orders
    loud = [place for place in fresh if not _is_silent(orders[place], moment)]
    last_seen = _last_seen(orders, loud) if loud else -1
    largest = _running_maxima(orders)
    between = [place for place in loud if last_seen < place < len(orders) - 1]
    if sum(between) > _MOST_REBUILT:
        between = []
    headers = dict(zip(between, _headers(change, between), strict=True))
    for place in loud:
        order = orders[place]
        header, orders_at = headers.get(place, (change.text.header, change.text.orders_at))
        yield Announcement(
            largest_ms=largest[place],
            place=place,
            order_uuid=order.order_uuid,
            processed_ms=order.processed_ms,
            order=change.text.orders[place],
            header=header,
            orders_at=orders_at,
            late=place < last_seen or moment.now_ms - order.processed_ms > moment.late_ms,
        )


def _is_silent(order: Order, moment: Moment) -> bool:
    return moment.silent_until_ms is not None and order.processed_ms <= moment.silent_until_ms


def _last_seen(orders: list[Order], loud: list[int]) -> int:
    """The place of the last order seen before, in silence too; -1 if none. Repetitions don't count."""
    announced = {orders[place].order_uuid for place in loud}
    first: dict[str, int] = {}
    for place, order in enumerate(orders):
        first.setdefault(order.order_uuid, place)
    return max((place for uuid, place in first.items() if uuid not in announced), default=-1)


def _running_maxima(orders: list[Order]) -> list[int]:
    maxima: list[int] = []
    for order in orders:
        maxima.append(max(order.processed_ms, maxima[-1] if maxima else 0))
    return maxima


def _headers(change: PositionWritten, places: list[int]) -> Iterator[tuple[bytes, int]]:
    """The position's header as it was after the order at each of the places, and its orders_at."""
    position, text = change.position, change.text
    lengths = [place + 1 for place in places]
    for rebuilt in rebuild_each(position.orders, position.trade_pair, position.position_uuid, lengths):
        if rebuilt is None:
            yield text.header, text.orders_at
        else:
            yield _with_state(text.header, rebuilt.state)


def _with_state(header: bytes, state: PositionState) -> tuple[bytes, int]:
    """The header with the keys of the state that it has replaced, others as they came; and its orders_at."""
    joined = bytearray(b"{")
    orders_at = 0
    for key, value in _header.decode(header).items():
        if len(joined) > 1:
            joined += b","
        joined += msgspec.json.encode(key) + b":"
        joined += msgspec.json.encode(getattr(state, key)) if key in _STATE_KEYS else bytes(value)
        if key == "orders":
            orders_at = len(joined) - 1
    return bytes(joined + b"}"), orders_at
