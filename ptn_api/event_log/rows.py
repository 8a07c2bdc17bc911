"""Rows of the SQLite log, to values and back."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ptn_api.event_log.contract import Event, LoggedPosition, PositionWritten
from ptn_api.event_log.order_list import OrderList, up_to
from ptn_api.model.position import PositionText

__all__ = [
    "POSITION_COLUMNS",
    "LogState",
    "StoredPosition",
    "events_after",
    "find_position",
    "insert_events",
    "logged_position",
    "order_span",
    "orders_of",
    "put_orders",
    "put_position",
]


@dataclass
class LogState:
    """The log's single row: where it stands, and its counters. Loaded and saved within a transaction."""

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

    @classmethod
    def load(cls, db: sqlite3.Connection) -> LogState:
        return cls(*db.execute(_LOAD_STATE).fetchone())

    def save(self, db: sqlite3.Connection) -> None:
        db.execute(_SAVE_STATE, [getattr(self, name) for name in _CHANGING])

    def next_revision(self) -> int:
        self.revision += 1
        return self.revision


_COLUMNS = tuple(field.name for field in fields(LogState))
_CHANGING = _COLUMNS[2:]
_LOAD_STATE = f"SELECT {', '.join(_COLUMNS)} FROM log"  # noqa: S608 - the names above
_SAVE_STATE = f"UPDATE log SET {', '.join(f'{name} = ?' for name in _CHANGING)}"  # noqa: S608


# --- positions --------------------------------------------------------------------------------------------

POSITION_COLUMNS = "id, miner, uuid, revision, close_ms, shell, orders_at, layout_revision"
"""What `logged_position` reads."""


class StoredPosition(NamedTuple):
    id: int
    removed: bool
    fingerprint: str
    header: bytes
    layout_revision: int


def find_position(db: sqlite3.Connection, miner: str, uuid: str) -> StoredPosition | None:
    row = db.execute(
        "SELECT id, removed_ms IS NOT NULL, fingerprint, shell, layout_revision"
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
    """Inserts (without an id) or updates a position's row; returns its id."""
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
            " orders_at = ?, shell = ?, removed_ms = NULL WHERE id = ?",
            (*values, position_id),
        )
        return position_id
    cursor = db.execute(
        "INSERT INTO positions (fingerprint, revision, layout_revision, close_ms, orders_at, shell,"
        " miner, uuid, last_sequence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
        (*values, position.miner_hotkey, position.position_uuid),
    )
    assert cursor.lastrowid is not None  # an insert that did not raise has one
    return cursor.lastrowid


def logged_position(db: sqlite3.Connection, row: tuple[Any, ...]) -> LoggedPosition:
    """`row` holds POSITION_COLUMNS."""
    position_id, miner, uuid, revision, close_ms, header, orders_at, layout_revision = row
    orders = db.execute("SELECT text, revision FROM orders WHERE id BETWEEN ? AND ?", order_span(position_id))
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


def orders_of(db: sqlite3.Connection, position_id: int, layout_revision: int = 0) -> OrderList:
    rows = db.execute(
        "SELECT uuid, text, revision FROM orders WHERE id BETWEEN ? AND ?", order_span(position_id)
    )
    uuids, texts, revisions = _columns(rows.fetchall(), 3)
    return OrderList(uuids=uuids, texts=texts, revisions=revisions, layout_revision=layout_revision)


def put_orders(db: sqlite3.Connection, position_id: int, old: OrderList, new: OrderList) -> None:
    """Writes the rows that differ, place by place."""
    first = position_id << 32
    before = list(zip(old.uuids, old.revisions, old.texts, strict=True))
    after = list(zip(new.uuids, new.revisions, new.texts, strict=True))
    db.executemany(
        "INSERT OR REPLACE INTO orders (id, uuid, revision, text) VALUES (?, ?, ?, ?)",
        [
            (first + place, *row)
            for place, row in enumerate(after)
            if place >= len(before) or before[place] != row
        ],
    )
    if len(after) < len(before):
        db.execute(
            "DELETE FROM orders WHERE id BETWEEN ? AND ?", (first + len(after), order_span(position_id)[1])
        )


def order_span(position_id: int) -> tuple[int, int]:
    """The first and last id that the orders of a position can have."""
    return position_id << 32, (position_id + 1 << 32) - 1


def _columns(rows: list[tuple[Any, ...]], width: int) -> tuple[tuple[Any, ...], ...]:
    return tuple(zip(*rows, strict=True)) if rows else ((),) * width


# --- events -----------------------------------------------------------------------------------------------


def insert_events(db: sqlite3.Connection, events: list[tuple[int, Event]]) -> None:
    """Each with the id of its position."""
    db.executemany(
        "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
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
            )
            for position_id, event in events
        ],
    )
    db.executemany(
        "UPDATE positions SET last_sequence = ? WHERE id = ?",
        [(sequence, position_id) for position_id, sequence in _last_sequences(events).items()],
    )


def events_after(db: sqlite3.Connection, after: int, limit: int, *, orders: bool) -> list[Event]:
    rows = db.execute(
        "SELECT sequence, revision, timestamp_ms, position, miner, position_uuid, trade_pair, order_uuid,"
        " processed_ms, n_orders, late, orders_at, order_text, shell, extra"
        " FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
        (after, limit),
    ).fetchall()
    lists = _predecessors(db, rows[0][0], rows[-1][0]) if orders and rows else {}
    return [_event(row, _orders_up_to(lists[row[3]], row) if orders else ()) for row in rows]


def _last_sequences(events: list[tuple[int, Event]]) -> dict[int, int]:
    return {position_id: event.sequence for position_id, event in events}


class _Predecessors(NamedTuple):
    """What the orders of a position's events are put together from; read once per page of events."""

    places: dict[str, int]
    texts: list[bytes]
    departed: dict[str, str | None]


def _orders_up_to(known: _Predecessors, row: tuple[Any, ...]) -> tuple[bytes, ...]:
    return up_to(known.places, known.texts, known.departed, row[7], row[12])


def _predecessors(db: sqlite3.Connection, first: int, last: int) -> dict[int, _Predecessors]:
    """Of the positions that these events are of, by id: all in two queries, however many they are."""
    found: dict[int, _Predecessors] = defaultdict(lambda: _Predecessors({}, [], {}))
    for position_id, uuid, text in db.execute(_ORDERS_OF_EVENTS, (first, last)):
        known = found[position_id]
        known.places.setdefault(uuid, len(known.texts))
        known.texts.append(text)
    for position_id, uuid, before in db.execute(_DEPARTED_OF_EVENTS, (first, last)):
        found[position_id].departed[uuid] = before
    return found


_POSITIONS_OF_EVENTS = "SELECT DISTINCT position FROM events WHERE sequence BETWEEN ? AND ?"
_ORDERS_OF_EVENTS = (  # CROSS: in this order, or all orders there are would be gone through
    f"SELECT orders.id >> 32, uuid, text FROM ({_POSITIONS_OF_EVENTS}) CROSS JOIN orders"  # noqa: S608
    " ON orders.id BETWEEN position << 32 AND (position + 1 << 32) - 1 ORDER BY orders.id"
)
_DEPARTED_OF_EVENTS = (
    f"SELECT position, uuid, before FROM departed WHERE position IN ({_POSITIONS_OF_EVENTS})"  # noqa: S608
)


def _event(row: tuple[Any, ...], orders: tuple[bytes, ...]) -> Event:
    return Event(
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
        orders=orders,
    )
