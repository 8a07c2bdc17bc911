"""Rows of the SQLite log: reading, writing and pruning them."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import msgspec

from ptn_api.event_log.announcements import EVENT_OVERHEAD, FirstSeen
from ptn_api.event_log.contract import Event, LoggedPosition, PositionWritten
from ptn_api.model.position import PositionText

__all__ = [
    "POSITION_COLUMNS",
    "LogState",
    "OrderList",
    "StoredPosition",
    "events_after",
    "find_position",
    "insert_event",
    "logged_position",
    "orders_of",
    "orders_up_to",
    "prune_events",
    "prune_removed_orders",
    "prune_tombstones",
    "put_orders",
    "put_position",
    "remember_orders",
    "seen_orders",
]


@dataclass
class LogState:
    """The single row of the log: its head and counters. Loaded and saved within a transaction."""

    epoch: str
    created_ms: int
    ready: bool
    sequence: int
    revision: int
    tombstone_floor: int
    event_bytes: int
    events: int
    late: int
    conflicts: int
    pruned: int
    skipped: int

    @classmethod
    def load(cls, db: sqlite3.Connection) -> LogState:
        return cls(*db.execute(_LOAD_STATE).fetchone())

    def save(self, db: sqlite3.Connection) -> None:
        db.execute(_SAVE_STATE, [getattr(self, name) for name in _MUTABLE])

    def next_revision(self) -> int:
        self.revision += 1
        return self.revision


_COLUMNS = tuple(field.name for field in fields(LogState))
_MUTABLE = tuple(name for name in _COLUMNS if name not in ("epoch", "created_ms"))
_LOAD_STATE = f"SELECT {', '.join(_COLUMNS)} FROM log"  # noqa: S608 - the names above
_SAVE_STATE = f"UPDATE log SET {', '.join(f'{name} = ?' for name in _MUTABLE)}"  # noqa: S608


# --- positions --------------------------------------------------------------------------------------------

POSITION_COLUMNS = "id, miner, uuid, revision, close_ms, header, orders_at, layout_revision"
"""The columns that `logged_position` takes."""


class StoredPosition(NamedTuple):
    id: int
    removed: bool
    fingerprint: str
    header: bytes
    layout_revision: int


def find_position(db: sqlite3.Connection, miner: str, uuid: str) -> StoredPosition | None:
    row = db.execute(
        "SELECT id, removed_ms IS NOT NULL, fingerprint, header, layout_revision"
        " FROM positions WHERE miner = ? AND uuid = ?",
        (miner, uuid),
    ).fetchone()
    return StoredPosition(*row) if row else None


def put_position(
    db: sqlite3.Connection,
    position_id: int | None,
    change: PositionWritten,
    revision: int,
    layout_revision: int,
) -> int:
    """Updates the row with that id, or inserts one without an id. Returns the id."""
    position, text = change.position, change.text
    values = (
        change.fingerprint,
        revision,
        layout_revision,
        position.closed_at,
        text.orders_at,
        text.header,
    )
    if position_id is not None:
        db.execute(
            "UPDATE positions SET fingerprint = ?, revision = ?, layout_revision = ?, close_ms = ?,"
            " orders_at = ?, header = ?, removed_ms = NULL WHERE id = ?",
            (*values, position_id),
        )
        return position_id
    cursor = db.execute(
        "INSERT INTO positions (fingerprint, revision, layout_revision, close_ms, orders_at, header,"
        " miner, uuid, last_sequence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
        (*values, position.miner_hotkey, position.position_uuid),
    )
    assert cursor.lastrowid is not None  # set by every INSERT that does not raise
    return cursor.lastrowid


def logged_position(db: sqlite3.Connection, row: tuple[Any, ...]) -> LoggedPosition:
    """`row` has the POSITION_COLUMNS."""
    position_id, miner, uuid, revision, close_ms, header, orders_at, layout_revision = row
    orders = db.execute(
        "SELECT text, revision FROM orders WHERE id BETWEEN ? AND ?", _order_span(position_id)
    )
    texts, revisions = _columns(orders.fetchall(), 2)
    return LoggedPosition(
        miner_hotkey=miner,
        position_uuid=uuid,
        revision=revision,
        close_ms=close_ms,
        text=PositionText(header=header, orders_at=orders_at, orders=texts),
        order_revisions=revisions,
        layout_revision=layout_revision,
    )


# --- orders -----------------------------------------------------------------------------------------------


class OrderList(msgspec.Struct, frozen=True, kw_only=True):
    """Orders with the revisions at which they changed.

    `revisions[i]` is the revision at which `texts[i]` was added or last changed, `layout_revision` the one at
    which orders were last removed, moved or inserted before the end.
    """

    uuids: tuple[str, ...] = ()
    texts: tuple[bytes, ...] = ()
    revisions: tuple[int, ...] = ()
    layout_revision: int = 0


def orders_of(db: sqlite3.Connection, position_id: int, layout_revision: int = 0) -> OrderList:
    rows = db.execute(
        "SELECT uuid, text, revision FROM orders WHERE id BETWEEN ? AND ?", _order_span(position_id)
    )
    uuids, texts, revisions = _columns(rows.fetchall(), 3)
    return OrderList(uuids=uuids, texts=texts, revisions=revisions, layout_revision=layout_revision)


def put_orders(db: sqlite3.Connection, position_id: int, old: OrderList, new: OrderList) -> None:
    """Writes the rows that differ at their index: one row for an appended order."""
    first = position_id << 32
    before = list(zip(old.uuids, old.revisions, old.texts, strict=True))
    after = list(zip(new.uuids, new.revisions, new.texts, strict=True))
    differing = [
        (first + index, *row)
        for index, row in enumerate(after)
        if index >= len(before) or before[index] != row
    ]
    if differing:
        db.executemany(
            "INSERT OR REPLACE INTO orders (id, uuid, revision, text) VALUES (?, ?, ?, ?)", differing
        )
    if len(after) < len(before):
        db.execute(
            "DELETE FROM orders WHERE id BETWEEN ? AND ?", (first + len(after), _order_span(position_id)[1])
        )


def _order_span(position_id: int) -> tuple[int, int]:
    """The smallest and the largest id that an order of the position can have."""
    return position_id << 32, ((position_id + 1) << 32) - 1


def _columns(rows: list[tuple[Any, ...]], width: int) -> tuple[tuple[Any, ...], ...]:
    return tuple(zip(*rows, strict=True)) if rows else ((),) * width


# --- seen orders ------------------------------------------------------------------------------------------


def seen_orders(db: sqlite3.Connection, miner: str, uuids: Iterable[str]) -> FirstSeen:
    """Returns those of the orders that were seen before, with processed_ms and leverage as first seen."""
    seen: dict[str, tuple[int, float | None]] = {}
    for uuid in uuids:
        row = db.execute(
            "SELECT processed_ms, leverage FROM seen WHERE miner = ? AND uuid = ?", (miner, uuid)
        ).fetchone()
        if row is not None:
            seen[uuid] = row
    return seen


def remember_orders(db: sqlite3.Connection, miner: str, orders: FirstSeen) -> None:
    """Adds orders that were never seen before."""
    db.executemany(
        "INSERT INTO seen VALUES (?, ?, ?, ?)", [(miner, uuid, *version) for uuid, version in orders.items()]
    )


# --- events -----------------------------------------------------------------------------------------------


def insert_event(db: sqlite3.Connection, position_id: int, event: Event) -> None:
    db.execute(
        "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            event.sequence,
            event.revision,
            event.timestamp_ms,
            position_id,
            event.miner_hotkey,
            event.position_uuid,
            event.trade_pair,
            event.order_uuid,
            event.processed_ms,
            event.n_orders,
            event.late,
            event.orders_at,
            event.order,
            event.header,
            event.extra,
        ),
    )
    db.execute("UPDATE positions SET last_sequence = ? WHERE id = ?", (event.sequence, position_id))


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


def events_after(db: sqlite3.Connection, after: int, limit: int, *, orders: bool) -> list[Event]:
    rows = db.execute(
        "SELECT sequence, revision, timestamp_ms, position, miner, position_uuid, trade_pair, order_uuid,"
        " processed_ms, n_orders, late, orders_at, order_text, header, extra"
        " FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
        (after, limit),
    ).fetchall()
    lists = _lists_of_events(db, rows[0][0], rows[-1][0]) if orders and rows else {}
    return [
        Event(
            sequence=row[0],
            revision=row[1],
            timestamp_ms=row[2],
            miner_hotkey=row[4],
            position_uuid=row[5],
            trade_pair=row[6],
            order_uuid=row[7],
            processed_ms=row[8],
            n_orders=row[9],
            late=bool(row[10]),
            orders_at=row[11],
            order=row[12],
            header=row[13],
            extra=row[14],
            orders=orders_up_to(row[7], row[12], *lists[row[3]]) if orders else (),
        )
        for row in rows
    ]


class _EventLists(NamedTuple):
    """The orders of a position with events in a page, as `orders_up_to` takes them."""

    indexes: dict[str, int]
    texts: list[bytes]
    removed: dict[str, str | None]


_POSITIONS_OF_EVENTS = "SELECT DISTINCT position FROM events WHERE sequence BETWEEN ? AND ?"
_ORDERS_OF_EVENTS = (  # CROSS keeps SQLite from starting at `orders` and scanning all of it
    f"SELECT orders.id >> 32, uuid, text FROM ({_POSITIONS_OF_EVENTS}) CROSS JOIN orders"  # noqa: S608
    " ON orders.id BETWEEN position << 32 AND (position + 1 << 32) - 1 ORDER BY orders.id"
)
_REMOVED_OF_EVENTS = (
    "SELECT position, uuid, before FROM removed_orders"  # noqa: S608 - a constant
    f" WHERE position IN ({_POSITIONS_OF_EVENTS})"
)


def _lists_of_events(db: sqlite3.Connection, first: int, last: int) -> dict[int, _EventLists]:
    """The lists of the positions with events from `first` to `last`, by position id: two queries in total."""
    lists: dict[int, _EventLists] = defaultdict(lambda: _EventLists({}, [], {}))
    for position_id, uuid, text in db.execute(_ORDERS_OF_EVENTS, (first, last)):
        orders = lists[position_id]
        orders.indexes.setdefault(uuid, len(orders.texts))
        orders.texts.append(text)
    for position_id, uuid, before in db.execute(_REMOVED_OF_EVENTS, (first, last)):
        lists[position_id].removed[uuid] = before
    return lists


# --- pruning ----------------------------------------------------------------------------------------------

_BATCH = 1_000
"""Rows deleted per transaction, so that orders can be written in between."""


def prune_events(db: sqlite3.Connection, state: LogState, *, oldest_ms: int, retention_bytes: int) -> bool:
    """Deletes at most a batch of the oldest events; returns whether more may have to go."""
    rows = db.execute(
        "SELECT sequence, timestamp_ms, length(order_text) + length(header) + length(extra) + ?"
        " FROM events ORDER BY sequence LIMIT ?",
        (EVENT_OVERHEAD, _BATCH),
    ).fetchall()
    # From the oldest on, so that the remaining sequences have no gap.
    last, deleted = 0, 0
    for sequence, timestamp_ms, size in rows:
        if state.event_bytes <= retention_bytes and timestamp_ms >= oldest_ms:
            break
        state.event_bytes -= size
        last, deleted = sequence, deleted + 1
    db.execute("DELETE FROM events WHERE sequence <= ?", (last,))
    state.pruned += deleted
    return deleted == _BATCH


def prune_tombstones(db: sqlite3.Connection, state: LogState, *, oldest_ms: int) -> bool:
    """Deletes at most a batch of old tombstones, with their orders unless an event still needs them."""
    # `last_sequence` is the position's last event: below the oldest one kept, no event needs the orders.
    rows = db.execute(
        "SELECT id, revision FROM positions WHERE removed_ms < ?"
        " AND last_sequence < coalesce((SELECT min(sequence) FROM events), last_sequence + 1) LIMIT ?",
        (oldest_ms, _BATCH),
    ).fetchall()
    for position_id, revision in rows:
        db.execute("DELETE FROM orders WHERE id BETWEEN ? AND ?", _order_span(position_id))
        db.execute("DELETE FROM removed_orders WHERE position = ?", (position_id,))
        db.execute("DELETE FROM positions WHERE id = ?", (position_id,))
        state.tombstone_floor = max(state.tombstone_floor, revision)
    return len(rows) == _BATCH


def prune_removed_orders(db: sqlite3.Connection, *, oldest_ms: int) -> None:
    """Forgets orders removed before then: they were announced earlier still, so their events are gone."""
    db.execute("DELETE FROM removed_orders WHERE removed_ms < ?", (oldest_ms,))
