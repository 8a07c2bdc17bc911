"""A position's order list in the log, and what a rewrite of it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

__all__ = ["OrderList", "changed_at", "orders_up_to", "removed_orders", "rewritten"]


class OrderList(msgspec.Struct, frozen=True, kw_only=True):
    """Orders with the revisions at which they changed.

    `revisions[i]` is the revision at which `texts[i]` was added or last changed, `layout_revision` the one at
    which orders were last removed, moved or inserted before the end.
    """

    uuids: tuple[str, ...] = ()
    texts: tuple[bytes, ...] = ()
    revisions: tuple[int, ...] = ()
    layout_revision: int = 0


def rewritten(
    old: OrderList, uuids: Sequence[str], texts: Sequence[bytes], revision: int, *, returned: bool = False
) -> OrderList:
    """The list after a rewrite at `revision`.

    `returned`: the position had been removed, so readers have discarded its orders; all of them and the
    layout count as changed.
    """
    if returned:
        known: dict[tuple[str, int], tuple[bytes, int]] = {}
    else:
        known = dict(zip(_keys(old.uuids), zip(old.texts, old.revisions, strict=True), strict=True))
    revisions = []
    for key, text in zip(_keys(uuids), texts, strict=True):
        before = known.get(key)  # by uuid, not by index: a moved order has not changed
        revisions.append(before[1] if before is not None and before[0] == text else revision)
    only_appended = not returned and tuple(uuids[: len(old.uuids)]) == old.uuids
    return OrderList(
        uuids=tuple(uuids),
        texts=tuple(texts),
        revisions=tuple(revisions),
        layout_revision=old.layout_revision if only_appended else revision,
    )


def changed_at(orders: OrderList, revision: int) -> list[int]:
    """Indexes of the orders that were added or changed at `revision`."""
    return [index for index, changed in enumerate(orders.revisions) if changed == revision]


def removed_orders(old: OrderList, uuids: Sequence[str]) -> dict[str, str | None]:
    """For each order that a rewrite removes: the nearest order before it that remains, or None."""
    remaining = set(uuids)
    removed: dict[str, str | None] = {}
    before: str | None = None
    for uuid in old.uuids:
        if uuid in remaining:
            before = uuid
        else:
            removed.setdefault(uuid, before)
    return removed


def orders_up_to(
    order_uuid: str,
    order: bytes,
    indexes: Mapping[str, int],
    texts: Sequence[bytes],
    removed: Mapping[str, str | None],
) -> tuple[bytes, ...]:
    """The position's orders up to an announced one, which is last.

    `indexes` maps each order's uuid to its index in `texts`. If the order has been removed since: what
    remains of its predecessors, then the order as announced. `removed` collects the results of
    `removed_orders` over time. It contains no cycle: an entry names an order that was removed later, if ever.
    """
    if order_uuid in indexes:
        return tuple(texts[: indexes[order_uuid] + 1])
    before = removed.get(order_uuid)
    while before is not None and before not in indexes:
        before = removed.get(before)
    return (*texts[: indexes[before] + 1], order) if before is not None else (order,)


def _keys(uuids: Sequence[str]) -> Iterator[tuple[str, int]]:
    """(uuid, number of its earlier occurrences): distinguishes repetitions of a uuid in a list."""
    counts: Counter[str] = Counter()
    for uuid in uuids:
        yield uuid, counts[uuid]
        counts[uuid] += 1
