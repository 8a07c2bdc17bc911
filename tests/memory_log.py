"""The event log in plain Python: a fast log for tests, and the model for the other implementation."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import LogPrunedError
from ptn_api.event_log.announcements import AppendTime, PendingEvents, event_bytes, new_orders
from ptn_api.event_log.append import changed_at, removed_orders, rewritten
from ptn_api.event_log.contract import (
    Change,
    Document,
    DocumentWritten,
    Event,
    Head,
    LoggedOrder,
    LoggedPosition,
    Lost,
    OrderKey,
    PositionRemoved,
    PositionWritten,
    RemovedPosition,
    SourceStatus,
)
from ptn_api.event_log.damage import Damage
from ptn_api.event_log.rows import OrderList, orders_up_to
from ptn_api.model.position import PositionText
from ptn_api.model.trade_pair import pair_id
from ptn_api.options import LATE_MS, RETENTION_BYTES, RETENTION_MS
from ptn_api.tasks import wait_for_event

__all__ = ["MemoryLog"]


@dataclass
class _Entry:
    """A position, present or (with `removed_ms`) removed."""

    close_ms: int | None = None
    revision: int = 0
    header: bytes = b""
    orders_at: int = 0
    orders: OrderList = field(default_factory=OrderList)
    fingerprint: str = ""
    removed_ms: int | None = None
    removed_orders: dict[str, str | None] = field(default_factory=dict)

    @property
    def present(self) -> bool:
        return self.revision > 0 and self.removed_ms is None


@dataclass
class _StoredDocument:
    content: bytes | None
    fingerprint: str
    revision: int
    written_ms: int


class MemoryLog:
    """An `EventLogWriter` (see contract.py) in memory, for one thread."""

    def __init__(
        self,
        *,
        created_ms: int | None = None,
        epoch: str | None = None,
        late_ms: int = LATE_MS,
        retention_ms: int = RETENTION_MS,
        retention_bytes: int = RETENTION_BYTES,
        clock: Clock = wall_ms,
    ) -> None:
        self.created_ms = clock() if created_ms is None else created_ms
        self.epoch = epoch or secrets.token_hex(16)
        self._late_ms = late_ms
        self._retention_ms = retention_ms
        self._retention_bytes = retention_bytes
        self._ready = False
        self._head = Head(sequence=self.created_ms, revision=0)
        self._tombstone_floor = 0
        self._events: list[Event] = []
        self._positions: dict[tuple[str, str], _Entry] = {}
        self._seen: dict[str, dict[str, tuple[int, float | None]]] = {}
        """Per miner, as `FirstSeen`."""
        self._sequences: dict[tuple[str, str], int] = {}
        self._documents: dict[tuple[Document, str], _StoredDocument] = {}
        self._source = SourceStatus()
        self._counters = {"events": 0, "late": 0, "conflicts": 0, "pruned": 0, "skipped": 0}
        self._listeners: set[_MemoryListener] = set()

    # --- reading ------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        return self._ready

    def head(self) -> Head:
        return self._head

    def floor(self) -> int:
        return self._events[0].sequence if self._events else self._head.sequence + 1

    def read(self, after: int, limit: int, *, orders: bool = True) -> list[Event]:
        floor = self.floor()
        if after + 1 < floor:
            raise LogPrunedError(f"events after {after} are gone, the oldest is {floor}")
        start = after + 1 - floor
        events = self._events[start : start + limit]
        return [self._with_orders(event) for event in events] if orders else events

    def first_timestamp_after(self, sequence: int) -> int | None:
        return next((e.timestamp_ms for e in self._events if e.sequence > sequence), None)

    def hotkeys(self) -> list[str]:
        return sorted({key[0] for key, _ in self._present()})

    def removed_hotkeys(self, *, removed_after_ms: int) -> list[str]:
        removed = [(key[0], entry.removed_ms or 0) for key, entry in self._positions.items()]
        return sorted({miner for miner, removed_ms in removed if removed_ms > removed_after_ms})

    def positions(self, *, miner: str | None = None, since_revision: int = 0) -> Iterator[LoggedPosition]:
        positions = [
            _logged(key, entry)
            for key, entry in self._present()
            if entry.revision > since_revision and miner in (None, key[0])
        ]
        return iter(sorted(positions, key=lambda position: position.revision))

    def positions_of(self, miner: str, *, open_or_closed_since_ms: int) -> list[LoggedPosition]:
        return [
            position
            for position in self.positions(miner=miner)
            if position.close_ms is None or position.close_ms >= open_or_closed_since_ms
        ]

    def position(self, miner: str, position_uuid: str) -> LoggedPosition | None:
        entry = self._positions.get((miner, position_uuid))
        if entry is None or entry.removed_ms is not None:
            return None
        return _logged((miner, position_uuid), entry)

    def removed_positions(self, miner: str, *, removed_after_ms: int) -> Iterator[LoggedPosition]:
        positions = [
            _logged(key, entry)
            for key, entry in self._positions.items()
            if key[0] == miner and (entry.removed_ms or 0) > removed_after_ms
        ]
        return iter(sorted(positions, key=lambda position: position.revision))

    def orders_before(
        self,
        before: OrderKey | None,
        limit: int,
        *,
        miners: Collection[str] = (),
        trade_pairs: Collection[str] = (),
    ) -> tuple[list[LoggedOrder], OrderKey | None]:
        found: dict[OrderKey, LoggedOrder] = {}
        for number, ((miner, position_uuid), entry) in enumerate(self._positions.items(), 1):
            position = _logged((miner, position_uuid), entry).text.position()
            pair = pair_id(position.trade_pair)
            if entry.removed_ms is not None or not (
                (not miners or miner in miners) and (not trade_pairs or pair in trade_pairs)
            ):
                continue
            for index, (order, text) in enumerate(zip(position.orders, entry.orders.texts, strict=True)):
                key = OrderKey(order.processed_ms, order.order_uuid, pair, (number << 32) + index)
                if before is None or key < before:
                    found[key] = LoggedOrder(
                        miner_hotkey=miner,
                        position_uuid=position_uuid,
                        trade_pair=pair,
                        order_uuid=order.order_uuid,
                        processed_ms=order.processed_ms,
                        sequence=self._sequences.get((miner, order.order_uuid)),
                        text=text,
                    )
        keys = sorted(found, reverse=True)[:limit]
        return [found[key] for key in keys], keys[-1] if len(keys) == limit else None

    def removed(self, since_revision: int) -> list[RemovedPosition]:
        if since_revision < self._tombstone_floor:
            raise LogPrunedError(f"removals after revision {since_revision} are gone")
        removals = [
            RemovedPosition(miner_hotkey=miner, position_uuid=uuid, revision=entry.revision)
            for (miner, uuid), entry in self._positions.items()
            if entry.removed_ms is not None and entry.revision > since_revision
        ]
        return sorted(removals, key=lambda removal: removal.revision)

    def oldest_revision(self) -> int:
        return self._tombstone_floor

    def changes(self, since_revision: int) -> tuple[Head, list[LoggedPosition], list[RemovedPosition]]:
        changed = list(self.positions(since_revision=since_revision))
        return self._head, changed, self.removed(since_revision)

    def document(self, document: Document, miner_hotkey: str = "") -> bytes | None:
        stored = self._documents.get((document, miner_hotkey))
        return stored.content if stored else None

    def document_revision(self, document: Document) -> int:
        return max((s.revision for key, s in self._documents.items() if key[0] is document), default=0)

    def document_revisions(self, document: Document) -> dict[str, int]:
        return {
            miner: stored.revision
            for (name, miner), stored in sorted(self._documents.items())
            if name is document and stored.content is not None
        }

    def documents_changed(self, since_revision: int) -> set[tuple[Document, str]]:
        return {key for key, stored in self._documents.items() if stored.revision > since_revision}

    def source(self) -> SourceStatus:
        return self._source

    def behind_ms(self) -> int:
        return 0

    def copy_status(self) -> None:
        return None

    def counters(self) -> dict[str, int]:
        return dict(self._counters)

    def damaged(self) -> int:
        return 0

    def find_damage(self) -> list[Damage]:
        return []

    def repair(self) -> Lost:
        return Lost()

    def commit_listener(self) -> _MemoryListener:
        listener = _MemoryListener(self._listeners)
        self._listeners.add(listener)
        return listener

    def close(self) -> None:
        for listener in list(self._listeners):
            listener.close()

    # --- writing ------------------------------------------------------------------------------------------

    def baseline(self, changes: Iterable[Change], now_ms: int) -> Head:
        head = self._apply(list(changes), now_ms)
        self._ready = True
        self._notify()
        return head

    def append(self, changes: Iterable[Change], now_ms: int) -> Head:
        return self._apply(list(changes), now_ms)

    def fingerprints(self) -> dict[tuple[str, str], str]:
        return {key: entry.fingerprint for key, entry in self._present()}

    def document_fingerprints(self) -> dict[tuple[Document, str], str]:
        return {
            key: stored.fingerprint for key, stored in self._documents.items() if stored.content is not None
        }

    def seen(self, miner: str, order_uuids: Iterable[str]) -> set[str]:
        return set(order_uuids) & set(self._seen.get(miner, {}))

    def set_source(self, status: SourceStatus) -> None:
        self._source = status
        self._notify()

    def prune(self, now_ms: int) -> int:
        oldest_ms = now_ms - self._retention_ms
        size = sum(event_bytes(event) for event in self._events)
        while self._events and (size > self._retention_bytes or self._events[0].timestamp_ms < oldest_ms):
            self._counters["pruned"] += 1
            size -= event_bytes(self._events.pop(0))
        needed = {(event.miner_hotkey, event.position_uuid) for event in self._events}
        for key, entry in list(self._positions.items()):
            if entry.removed_ms is not None and entry.removed_ms < oldest_ms and key not in needed:
                self._tombstone_floor = max(self._tombstone_floor, entry.revision)
                del self._positions[key]
        for document, stored in list(self._documents.items()):
            last_change = stored.revision == self.document_revision(document[0])
            if stored.content is None and stored.written_ms < oldest_ms and not last_change:
                self._tombstone_floor = max(self._tombstone_floor, stored.revision)
                del self._documents[document]
        return self.floor()

    # --- the parts of an append ---------------------------------------------------------------------------

    def _apply(self, changes: list[Change], now_ms: int) -> Head:
        before = self._head
        time = AppendTime(now_ms=now_ms, late_ms=self._late_ms, created_ms=self.created_ms)
        pending = PendingEvents()
        for change in changes:
            match change:
                case PositionWritten():
                    self._write(change, pending, time)
                case PositionRemoved():
                    self._remove(change, now_ms)
                case DocumentWritten():
                    self._write_document(change, now_ms)
        self._announce(pending)
        if self._head != before:
            self._notify()
        return self._head

    def _announce(self, pending: PendingEvents) -> None:
        events = [
            msgspec.structs.replace(event, sequence=sequence)
            for sequence, event in enumerate(pending.in_order(), self._head.sequence + 1)
        ]
        self._events += events
        self._sequences.update({(event.miner_hotkey, event.order_uuid): event.sequence for event in events})
        self._head = Head(sequence=self._head.sequence + len(events), revision=self._head.revision)
        self._counters["events"] += len(events)
        self._counters["late"] += sum(event.late for event in events)
        self._counters["conflicts"] += len(pending.conflicts)

    def _write(self, change: PositionWritten, pending: PendingEvents, time: AppendTime) -> None:
        position, text = change.position, change.text
        key = (position.miner_hotkey, position.position_uuid)
        entry = self._positions.get(key, _Entry())
        if entry.present and _same(entry, text):
            entry.fingerprint = change.fingerprint
            return
        self._positions[key] = entry
        uuids = [order.order_uuid for order in position.orders]
        entry.removed_orders.update(removed_orders(entry.orders, uuids))
        returned = entry.removed_ms is not None
        entry.revision = self._next_revision()
        entry.orders = rewritten(entry.orders, uuids, text.orders, entry.revision, returned=returned)
        entry.header, entry.orders_at = text.header, text.orders_at
        entry.close_ms = position.closed_at
        entry.fingerprint, entry.removed_ms = change.fingerprint, None
        changed = changed_at(entry.orders, entry.revision)
        seen = self._seen.setdefault(key[0], {})
        new = new_orders(change, changed, seen, time, entry.revision)
        pending.add(new)
        seen.update(new.first)

    def _remove(self, change: PositionRemoved, now_ms: int) -> None:
        entry = self._positions.get((change.miner_hotkey, change.position_uuid))
        if entry is not None and entry.removed_ms is None:
            entry.removed_ms, entry.revision, entry.fingerprint = now_ms, self._next_revision(), ""

    def _write_document(self, change: DocumentWritten, now_ms: int) -> None:
        key = (change.document, change.miner_hotkey)
        stored = self._documents.get(key)
        if change.content == (stored.content if stored else None):
            if stored:
                stored.fingerprint = change.fingerprint
            return
        revision = self._next_revision()
        self._documents[key] = _StoredDocument(change.content, change.fingerprint, revision, now_ms)

    def _next_revision(self) -> int:
        self._head = Head(sequence=self._head.sequence, revision=self._head.revision + 1)
        return self._head.revision

    def _present(self) -> Iterator[tuple[tuple[str, str], _Entry]]:
        return (item for item in self._positions.items() if item[1].removed_ms is None)

    def _with_orders(self, event: Event) -> Event:
        entry = self._positions.get((event.miner_hotkey, event.position_uuid), _Entry())
        indexes = {uuid: index for index, uuid in reversed(list(enumerate(entry.orders.uuids)))}
        orders = orders_up_to(
            event.order_uuid, event.order, indexes, entry.orders.texts, entry.removed_orders
        )
        return msgspec.structs.replace(event, orders=orders)

    def _notify(self) -> None:
        for listener in list(self._listeners):
            listener.notify()


class _MemoryListener:
    """Commit notifications for the asyncio loop that it was created in, from any thread."""

    def __init__(self, listeners: set[_MemoryListener]) -> None:
        self._listeners = listeners
        self._loop = asyncio.get_running_loop()
        self._committed = asyncio.Event()

    def notify(self) -> None:
        if self._loop.is_closed():
            self.close()
        else:
            self._loop.call_soon_threadsafe(self._committed.set)

    async def wait_for_commit(self, timeout_ms: int = 1_000) -> None:
        await wait_for_event(self._committed, timeout_ms)
        self._committed.clear()

    def close(self) -> None:
        self._listeners.discard(self)


def _same(entry: _Entry, text: PositionText) -> bool:
    return entry.header == text.header and entry.orders.texts == text.orders


def _logged(key: tuple[str, str], entry: _Entry) -> LoggedPosition:
    return LoggedPosition(
        miner_hotkey=key[0],
        position_uuid=key[1],
        revision=entry.revision,
        close_ms=entry.close_ms,
        text=PositionText(header=entry.header, orders_at=entry.orders_at, orders=entry.orders.texts),
        order_revisions=entry.orders.revisions,
        layout_revision=entry.orders.layout_revision,
    )
