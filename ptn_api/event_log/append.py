"""One append to the SQLite log, within its transaction."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence

from ptn_api.event_log.announcements import AppendTime, Conflict, PendingEvents, event_bytes
from ptn_api.event_log.contract import Change, DocumentWritten, PositionRemoved, PositionWritten
from ptn_api.event_log.documents import (
    PackedDocument,
    pack,
    put_chunk,
    put_document,
    stored_digest,
    update_fingerprint,
)
from ptn_api.event_log.rows import (
    LogState,
    OrderList,
    find_position,
    insert_events,
    orders_of,
    put_orders,
    put_position,
    remember_orders,
    seen_orders,
)

__all__ = ["Append", "changed_at", "removed_orders", "rewritten"]


class Append:
    """Changes applied one by one; `finish` gives their events sequences."""

    def __init__(self, db: sqlite3.Connection, state: LogState, time: AppendTime) -> None:
        self._db = db
        self._state = state
        self._now_ms = time.now_ms
        self._pending = PendingEvents(time)
        self._position_ids: dict[tuple[str, str], int] = {}

    def apply(self, change: Change, packed: PackedDocument | None = None) -> None:
        """`packed` is a document whose chunks are already written; other documents are packed here."""
        match change:
            case PositionWritten():
                self._write_position(change)
            case PositionRemoved():
                stored = find_position(self._db, change.miner_hotkey, change.position_uuid)
                if stored is not None and not stored.removed:
                    # The row remains as a tombstone, and the orders for the events that need them.
                    self._db.execute(
                        "UPDATE positions SET removed_ms = ?, revision = ?, fingerprint = '' WHERE id = ?",
                        (self._now_ms, self._state.next_revision(), stored.id),
                    )
            case DocumentWritten():
                self._write_document(change, packed)

    def finish(self) -> list[Conflict]:
        """Numbers and writes the events. Returns the conflicts, to be logged after the commit."""
        state = self._state
        events = self._pending.numbered(state.sequence)
        ids = self._position_ids
        insert_events(self._db, [(ids[event.miner_hotkey, event.position_uuid], event) for event in events])
        state.sequence += len(events)
        state.events += len(events)
        state.late += sum(event.late for event in events)
        state.event_bytes += sum(map(event_bytes, events))
        state.conflicts += len(self._pending.conflicts)
        return self._pending.conflicts

    def _write_position(self, change: PositionWritten) -> None:
        position, text = change.position, change.text
        stored = find_position(self._db, position.miner_hotkey, position.position_uuid)
        old = orders_of(self._db, stored.id, stored.layout_revision) if stored else OrderList()
        if stored and not stored.removed and stored.header == text.header and old.texts == text.orders:
            if stored.fingerprint != change.fingerprint:
                self._db.execute(
                    "UPDATE positions SET fingerprint = ? WHERE id = ?", (change.fingerprint, stored.id)
                )
            return
        revision = self._state.next_revision()
        uuids = [order.order_uuid for order in position.orders]
        returned = stored is not None and stored.removed
        orders = rewritten(old, uuids, text.orders, revision, returned=returned)
        stored_id = stored.id if stored else None
        position_id = put_position(self._db, stored_id, change, revision, orders.layout_revision)
        put_orders(self._db, position_id, old, orders)
        self._db.executemany(
            "INSERT OR REPLACE INTO departed VALUES (?, ?, ?, ?)",
            [
                (position_id, uuid, before, self._now_ms)
                for uuid, before in removed_orders(old, uuids).items()
            ],
        )
        self._position_ids[position.miner_hotkey, position.position_uuid] = position_id
        self._announce(change, changed_at(orders, revision), revision)

    def _announce(self, change: PositionWritten, changed: list[int], revision: int) -> None:
        """Collects events of the orders never seen before, and remembers these orders."""
        miner, orders = change.position.miner_hotkey, change.position.orders
        seen = seen_orders(self._db, miner, {orders[index].order_uuid for index in changed})
        remember_orders(self._db, miner, self._pending.add(change, changed, seen, revision))

    def _write_document(self, change: DocumentWritten, packed: PackedDocument | None) -> None:
        content = change.content
        stored = stored_digest(self._db, change)
        if content is not None:
            # A document packed ahead has no chunks if it matched the digest of then; another thread may have
            # replaced the stored document since.
            usable = packed is not None and (packed.chunks or packed.digest == stored)
            if not usable:
                packed = pack(content, stored=stored)
                for index in range(len(packed.chunks)):
                    put_chunk(self._db, packed, index)
        if stored == (packed.digest if packed else None):
            update_fingerprint(self._db, change)
            return
        put_document(self._db, change, self._state.next_revision(), packed)


# --- order lists ------------------------------------------------------------------------------------------


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


def _keys(uuids: Sequence[str]) -> Iterator[tuple[str, int]]:
    """(uuid, number of its earlier occurrences): distinguishes repetitions of a uuid in a list."""
    counts: Counter[str] = Counter()
    for uuid in uuids:
        yield uuid, counts[uuid]
        counts[uuid] += 1
