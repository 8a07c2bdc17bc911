"""One append to the SQLite log, within its transaction."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import structlog

from ptn_api.event_log.announcements import (
    AppendTime,
    Conflict,
    NewOrders,
    PendingEvents,
    event_bytes,
    new_orders,
)
from ptn_api.event_log.contract import Change, DocumentWritten, PositionRemoved, PositionWritten
from ptn_api.event_log.documents import (
    PackedDocument,
    has_chunks,
    pack,
    put_chunk,
    put_document,
    stored_digest,
    update_fingerprint,
)
from ptn_api.event_log.rows import (
    LogState,
    OrderList,
    delete_orders,
    find_position,
    insert_event,
    number_orders,
    orders_of,
    put_orders,
    put_position,
    put_removed_orders,
    put_tombstone,
    remember_orders,
    seen_orders,
)

__all__ = ["Append", "Skipped", "changed_at", "removed_orders", "rewritten"]

logger = structlog.get_logger()
_FAULTS = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    OverflowError,
    UnicodeEncodeError,
)
"""Raised by SQLite and its module for values that the schema does not allow or that cannot be stored."""


class Skipped(NamedTuple):
    """A change, or an event, that the schema refused: a bug in this package. `fields` identify it."""

    fields: dict[str, str]
    error: Exception


ChangeToApply = tuple[Change, PackedDocument | None]
"""A change; with a document whose chunks are already written. Other documents are packed here."""


class Append:
    """Changes applied in their order; `finish` gives their events sequences.

    A change that the schema refuses is skipped, because a retry would fail as well and hold up all other
    changes.
    """

    def __init__(self, db: sqlite3.Connection, state: LogState, time: AppendTime) -> None:
        self.skipped: list[Skipped] = []
        self._db = db
        self._state = state
        self._time = time
        self._pending = PendingEvents()
        self._position_ids: dict[tuple[str, str], int] = {}

    @property
    def conflicts(self) -> list[Conflict]:
        return self._pending.conflicts

    def apply(self, changes: Sequence[ChangeToApply]) -> None:
        """Applies changes; one by one only if the schema refuses one of them.

        One savepoint for all of them: within each, SQLite copies every page before its first change.
        """
        revision = self._state.revision
        refused: Exception | None = None
        self._db.execute("SAVEPOINT changes")
        try:
            added = [self._apply(change, packed) for change, packed in changes]
        except _FAULTS as error:
            self._db.execute("ROLLBACK TO changes")
            self._state.revision = revision
            added, refused = [], error
        self._db.execute("RELEASE changes")
        for new in added:
            if new is not None:
                self._pending.add(new)
        if refused is not None and len(changes) == 1:
            self._skip(_identity(changes[0][0]), refused)
        elif refused is not None:
            for one in changes:
                self.apply([one])

    def _apply(self, change: Change, packed: PackedDocument | None) -> NewOrders | None:
        match change:
            case PositionWritten():
                return self._write_position(change)
            case PositionRemoved():
                stored = find_position(self._db, change.miner_hotkey, change.position_uuid)
                if stored is not None and not (stored.removed and stored.intact):
                    key, revision = (change.miner_hotkey, change.position_uuid), self._state.next_revision()
                    put_tombstone(self._db, stored, *key, revision, self._time.now_ms)
            case DocumentWritten():
                self._write_document(change, packed)
        return None

    def finish(self) -> None:
        """Numbers and writes the events, and counts."""
        state = self._state
        announced = []
        for event in self._pending.in_order():
            position = (event.miner_hotkey, event.position_uuid)
            numbered = msgspec.structs.replace(event, sequence=state.sequence + 1)
            try:
                insert_event(self._db, self._position_ids[position], numbered)
            except _FAULTS as error:
                identity = {"miner_hotkey": position[0], "position_uuid": position[1]}
                self._skip(identity | {"order_uuid": event.order_uuid}, error)
                continue
            state.sequence += 1
            state.events += 1
            state.late += event.late
            state.event_bytes += event_bytes(event)
            announced.append(numbered)
        number_orders(self._db, announced)
        state.conflicts += len(self.conflicts)

    def _skip(self, fields: dict[str, str], error: Exception) -> None:
        self.skipped.append(Skipped(fields, error))
        self._state.skipped += 1

    def _write_position(self, change: PositionWritten) -> NewOrders | None:
        position, text = change.position, change.text
        key = (position.miner_hotkey, position.position_uuid)
        stored = find_position(self._db, *key)
        old = OrderList()
        if stored is not None:
            found = orders_of(self._db, stored.id, stored.n_orders, stored.layout_revision)
            if found is not None and stored.intact:
                old = found
            else:
                # Written as if it had been removed: readers have left it out, and get all of it.
                delete_orders(self._db, stored.id)
                stored = stored._replace(removed=True)
                logger.warning("log_row_rewritten", miner_hotkey=key[0], position_uuid=key[1])
        if stored and not stored.removed and stored.header == text.header and old.texts == text.orders:
            if stored.fingerprint != change.fingerprint:
                self._db.execute(
                    "UPDATE positions SET fingerprint = ? WHERE id = ?", (change.fingerprint, stored.id)
                )
            return None
        revision = self._state.next_revision()
        uuids = [order.order_uuid for order in position.orders]
        returned = stored is not None and stored.removed
        orders = rewritten(old, uuids, text.orders, revision, returned=returned)
        stored_id = stored.id if stored else None
        position_id = put_position(self._db, stored_id, change, revision, orders.layout_revision)
        put_orders(self._db, position_id, position, old, orders)
        if removed := removed_orders(old, uuids):
            put_removed_orders(self._db, position_id, removed, self._time.now_ms)
        self._position_ids[key] = position_id
        changed = changed_at(orders, revision)
        if not changed:  # the common case, a refreshed return
            return None
        seen = seen_orders(self._db, position.miner_hotkey, {uuids[index] for index in changed})
        new = new_orders(change, changed, seen, self._time, revision)
        remember_orders(self._db, position.miner_hotkey, new.first)
        return new

    def _write_document(self, change: DocumentWritten, packed: PackedDocument | None) -> None:
        content = change.content
        stored = stored_digest(self._db, change)
        if content is not None:
            # A document packed ahead has no chunks if it matched the digest of then; another thread may have
            # replaced the stored document since. In a cluster, another machine that had the turn in between
            # has deleted its chunks.
            usable = packed is not None and (has_chunks(self._db, packed) or packed.digest == stored)
            if not usable:
                packed = pack(content, stored=stored)
                for index in range(len(packed.chunks)):
                    put_chunk(self._db, packed, index)
        if stored == (packed.digest if packed else None):
            update_fingerprint(self._db, change)
            return
        put_document(self._db, change, self._state.next_revision(), packed, self._time.now_ms)


def _identity(change: Change) -> dict[str, str]:
    match change:
        case PositionWritten(position=position):
            return {"miner_hotkey": position.miner_hotkey, "position_uuid": position.position_uuid}
        case PositionRemoved():
            return {"miner_hotkey": change.miner_hotkey, "position_uuid": change.position_uuid}
        case DocumentWritten():
            return {"document": change.document.value, "miner_hotkey": change.miner_hotkey}


# --- order lists ------------------------------------------------------------------------------------------


def rewritten(
    old: OrderList, uuids: Sequence[str], texts: Sequence[bytes], revision: int, *, returned: bool = False
) -> OrderList:
    """The list after a rewrite at `revision`.

    `returned`: the position had been removed, so readers have discarded its orders; all of them and the
    layout count as changed.
    """
    if returned or not old.uuids:
        revisions = [revision] * len(texts)
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
