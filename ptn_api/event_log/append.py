"""One append to the SQLite log, within its transaction."""

from __future__ import annotations

import sqlite3

from ptn_api.event_log.announce import Moment
from ptn_api.event_log.contract import Change, DocumentWritten, Event, PositionRemoved, PositionWritten
from ptn_api.event_log.documents import (
    PackedDocument,
    pack,
    put_document,
    put_piece,
    refresh_fingerprint,
    stored_digest,
)
from ptn_api.event_log.order_list import OrderList, departures, rewritten, touched
from ptn_api.event_log.rows import (
    LogState,
    StoredPosition,
    find_position,
    insert_events,
    orders_of,
    put_orders,
    put_position,
)
from ptn_api.event_log.scan import Conflict, Scan, event_bytes

__all__ = ["Append"]


class Append:
    """Applies changes one by one; `finish` gives the events their sequences."""

    def __init__(self, db: sqlite3.Connection, state: LogState, moment: Moment) -> None:
        self._db = db
        self._state = state
        self._now_ms = moment.now_ms
        self._scan = Scan(moment)
        self._ids: dict[tuple[str, str], int] = {}

    def apply(self, change: Change, packed: PackedDocument | None = None) -> None:
        """`packed`: a document's content, its pieces already written; without it they are written now."""
        match change:
            case PositionWritten():
                self._write(change)
            case PositionRemoved():
                self._remove(change)
            case DocumentWritten():
                self._write_document(change, packed)

    def finish(self) -> list[Conflict]:
        """Numbers and writes the events; returns the conflicts that were met, to be told after the commit."""
        state = self._state
        events = self._scan.events(state.sequence)
        insert_events(self._db, [(self._ids[_key(event)], event) for event in events])
        state.sequence += len(events)
        state.events += len(events)
        state.late += sum(event.late for event in events)
        state.event_bytes += sum(map(event_bytes, events))
        state.conflicts += len(self._scan.conflicts)
        return self._scan.conflicts

    def _write(self, change: PositionWritten) -> None:
        position, text = change.position, change.text
        stored = find_position(self._db, position.miner_hotkey, position.position_uuid)
        kept = orders_of(self._db, stored.id, stored.layout_revision) if stored else OrderList()
        if stored and not stored.removed and stored.header == text.header and kept.texts == text.orders:
            self._recognise(stored, change.fingerprint)
            return
        revision = self._state.next_revision()
        uuids = [order.order_uuid for order in position.orders]
        returned = stored is not None and stored.removed
        orders = rewritten(kept, uuids, text.orders, revision, returned=returned)
        position_id = put_position(self._db, stored and stored.id, change, revision, orders.layout_revision)
        put_orders(self._db, position_id, kept, orders)
        self._note_departures(position_id, departures(kept, uuids))
        self._ids[position.miner_hotkey, position.position_uuid] = position_id
        self._announce(change, touched(orders, revision), revision)

    def _announce(self, change: PositionWritten, places: list[int], revision: int) -> None:
        miner = change.position.miner_hotkey
        seen: dict[str, tuple[int, float]] = {}
        for uuid in {change.position.orders[place].order_uuid for place in places}:
            row = self._db.execute(
                "SELECT processed_ms, leverage FROM seen WHERE miner = ? AND uuid = ?", (miner, uuid)
            ).fetchone()
            if row:
                seen[uuid] = row
        fresh = self._scan.take(change, places, seen, revision)
        self._db.executemany(
            "INSERT INTO seen VALUES (?, ?, ?, ?)", [(miner, uuid, *first) for uuid, first in fresh.items()]
        )

    def _recognise(self, stored: StoredPosition, fingerprint: str) -> None:
        if stored.fingerprint != fingerprint:
            self._db.execute("UPDATE positions SET fingerprint = ? WHERE id = ?", (fingerprint, stored.id))

    def _note_departures(self, position_id: int, gone: dict[str, str | None]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO departed VALUES (?, ?, ?, ?)",
            [(position_id, uuid, before, self._now_ms) for uuid, before in gone.items()],
        )

    def _remove(self, change: PositionRemoved) -> None:
        """Leaves a tombstone; the orders stay for the events that need them."""
        stored = find_position(self._db, change.miner_hotkey, change.position_uuid)
        if stored is not None and not stored.removed:
            self._db.execute(
                "UPDATE positions SET removed_ms = ?, revision = ?, fingerprint = '' WHERE id = ?",
                (self._now_ms, self._state.next_revision(), stored.id),
            )

    def _write_document(self, change: DocumentWritten, packed: PackedDocument | None) -> None:
        name, content = change.document.value, change.content
        known = stored_digest(self._db, name)
        # Without pieces it was recognised before the transaction; another thread may have replaced it since.
        if content is not None and (packed is None or not (packed.pieces or packed.digest == known)):
            packed = pack(content, unless=known)
            for place in range(len(packed.pieces)):
                put_piece(self._db, packed, place)
        if known == (packed and packed.digest):
            refresh_fingerprint(self._db, name, change.fingerprint)
            return
        put_document(self._db, name, self._state.next_revision(), change.fingerprint, packed)


def _key(event: Event) -> tuple[str, str]:
    return event.miner_hotkey, event.position_uuid
