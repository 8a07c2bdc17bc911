"""A position's order list as the log keeps it, and what a rewrite of it changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

__all__ = ["OrderList", "departures", "rewritten", "touched", "up_to"]


class OrderList(msgspec.Struct, frozen=True, kw_only=True):
    """Orders in the list's order. `revisions[i]` is the one at which `texts[i]` last changed or came,
    `layout_revision` the one at which orders were last dropped, moved or inserted before the end.
    """

    uuids: tuple[str, ...] = ()
    texts: tuple[bytes, ...] = ()
    revisions: tuple[int, ...] = ()
    layout_revision: int = 0


def rewritten(
    old: OrderList, uuids: Sequence[str], texts: Sequence[bytes], revision: int, *, returned: bool = False
) -> OrderList:
    """The list after a rewrite at `revision`.

    `returned`: the position had been removed, and whoever saw that has forgotten its orders: all of them
    count as changed, and the layout too.
    """
    if returned:
        known: dict[tuple[str, int], tuple[bytes, int]] = {}
    else:
        known = dict(zip(_keys(old.uuids), zip(old.texts, old.revisions, strict=True), strict=True))
    revisions = []
    for key, text in zip(_keys(uuids), texts, strict=True):
        before = known.get(key)
        revisions.append(before[1] if before is not None and before[0] == text else revision)
    kept = not returned and tuple(uuids[: len(old.uuids)]) == old.uuids
    return OrderList(
        uuids=tuple(uuids),
        texts=tuple(texts),
        revisions=tuple(revisions),
        layout_revision=old.layout_revision if kept else revision,
    )


def touched(orders: OrderList, revision: int) -> list[int]:
    """Places, from 0, of the orders that came or changed at `revision`."""
    return [place for place, changed in enumerate(orders.revisions) if changed == revision]


def departures(old: OrderList, uuids: Sequence[str]) -> dict[str, str | None]:
    """For each order that left the list: the nearest order before it that stayed, None if there is none."""
    staying = set(uuids)
    gone: dict[str, str | None] = {}
    before: str | None = None
    for uuid in old.uuids:
        if uuid in staying:
            before = uuid
        else:
            gone.setdefault(uuid, before)
    return gone


def up_to(
    places: Mapping[str, int],
    texts: Sequence[bytes],
    departed: Mapping[str, str | None],
    order_uuid: str,
    order: bytes,
) -> tuple[bytes, ...]:
    """The orders up to an announced one, which is last.

    `places` says where each order stands in `texts`. If the order has left the list: what remains of its
    predecessors, then the order as it was announced. `departed` is what `departures` said, over time; it
    holds no cycle, because each entry points to an order that left later, if at all.
    """
    if order_uuid in places:
        return tuple(texts[: places[order_uuid] + 1])
    before = departed.get(order_uuid)
    while before is not None and before not in places:
        before = departed.get(before)
    return (*texts[: places[before] + 1], order) if before is not None else (order,)


def _keys(uuids: Sequence[str]) -> Iterator[tuple[str, int]]:
    """(uuid, how many of it came before): tells apart the same uuid standing twice in a list."""
    counts: Counter[str] = Counter()
    for uuid in uuids:
        yield uuid, counts[uuid]
        counts[uuid] += 1
