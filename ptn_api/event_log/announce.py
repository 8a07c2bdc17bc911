"""Which orders of a position's new text are announced, and how the position looked at each of them. Pure.

An order is announced once, for ever; the log hands in which ones it has seen (DESIGN 3.2).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

import msgspec

from ptn_api.event_log.contract import Event, PositionWritten
from ptn_api.model.order import Order
from ptn_api.model.position import PositionState

__all__ = ["Announcement", "Moment", "announcements", "conflicts", "event_bytes", "pair_id", "unseen"]

_shell = msgspec.json.Decoder(dict[str, msgspec.Raw])
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
    shell: bytes
    orders_at: int
    late: bool


def unseen(orders: list[Order], seen: Container[str]) -> list[int]:
    """Places of the orders never seen before. Of a uuid that stands twice in the list the first counts."""
    found: dict[str, int] = {}
    for place, order in enumerate(orders):
        if order.order_uuid not in seen:
            found.setdefault(order.order_uuid, place)
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


def announcements(
    change: PositionWritten, places: list[int], seen: Container[str], moment: Moment
) -> Iterator[Announcement]:
    """The events-to-be of the unseen orders at `places`, in list order.

    `seen` are the uuids seen before this text. Each event shows the position as it stood after that order;
    the file's own summary goes with the last order of the list, with one that stands before an order
    already seen, and where nothing can be replayed.
    """
    orders = change.position.orders
    silent = {place for place in places if _is_silent(orders[place], moment)}
    last_seen = _last_seen(orders, seen, silent)
    largest = _running_maxima(orders)
    for place in places:
        if place in silent:
            continue
        order = orders[place]
        inserted = place < last_seen
        shell, orders_at = change.text.shell, change.text.orders_at
        if not inserted and place != len(orders) - 1:
            shell, orders_at = _as_of(change, place)
        yield Announcement(
            largest_ms=largest[place],
            place=place,
            order_uuid=order.order_uuid,
            processed_ms=order.processed_ms,
            order=change.text.orders[place],
            shell=shell,
            orders_at=orders_at,
            late=inserted or moment.now_ms - order.processed_ms > moment.late_ms,
        )


def pair_id(trade_pair: Any) -> str:
    """The id of a position's trade pair, "" where it has none that could be named."""
    name = trade_pair[0] if isinstance(trade_pair, list) and trade_pair else trade_pair
    return name if isinstance(name, str) else ""


def event_bytes(event: Event) -> int:
    """What an event counts towards the retention's size: its texts, and a round sum for the rest."""
    return len(event.order) + len(event.shell) + len(event.extra) + 256


def _is_silent(order: Order, moment: Moment) -> bool:
    return moment.silent_until_ms is not None and order.processed_ms <= moment.silent_until_ms


def _last_seen(orders: list[Order], seen: Container[str], silent: set[int]) -> int:
    """The place of the last order already seen, -1 if there is none. Repetitions in the list don't count."""
    met: set[str] = set()
    last = -1
    for place, order in enumerate(orders):
        if order.order_uuid not in met and (order.order_uuid in seen or place in silent):
            last = place
        met.add(order.order_uuid)
    return last


def _running_maxima(orders: list[Order]) -> list[int]:
    maxima: list[int] = []
    for order in orders:
        maxima.append(max(order.processed_ms, maxima[-1] if maxima else 0))
    return maxima


def _as_of(change: PositionWritten, place: int) -> tuple[bytes, int]:
    """The position's shell with the state that follows from the orders up to `place`."""
    try:
        from ptn_api.model.accounting import replay
    except ImportError:  # until the accounting lands
        return change.text.shell, change.text.orders_at
    position = change.position
    replayed = replay(position.orders[: place + 1], position.trade_pair, position.position_uuid)
    if replayed is None:
        return change.text.shell, change.text.orders_at
    return _with_state(change.text.shell, replayed.state)


def _with_state(shell: bytes, state: PositionState) -> tuple[bytes, int]:
    """The shell with the keys of the state that it has replaced, others as they came; and its orders_at."""
    joined = bytearray(b"{")
    orders_at = 0
    for key, value in _shell.decode(shell).items():
        if len(joined) > 1:
            joined += b","
        joined += msgspec.json.encode(key) + b":"
        joined += msgspec.json.encode(getattr(state, key)) if key in _STATE_KEYS else bytes(value)
        if key == "orders":
            orders_at = len(joined) - 1
    return bytes(joined + b"}"), orders_at
