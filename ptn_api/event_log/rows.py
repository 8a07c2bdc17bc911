"""Rows of the SQLite log: reading, writing and pruning them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, NamedTuple

import msgspec

from ptn_api.errors import LogDamagedError
from ptn_api.event_log.announcements import EVENT_OVERHEAD, FirstSeen
from ptn_api.event_log.contract import Event, LoggedPosition, PositionWritten
from ptn_api.event_log.damage import (
    CHECKED_COLUMNS,
    UNREPAIRED,
    Damage,
    DamagedRows,
    intact,
    row_checksum,
)
from ptn_api.event_log.documents import read_document
from ptn_api.model.position import Position, PositionText
from ptn_api.model.trade_pair import pair_id

__all__ = [
    "ORDER_COLUMNS",
    "POSITION_COLUMNS",
    "LogState",
    "OrderList",
    "StoredPosition",
    "delete_orders",
    "events_after",
    "find_position",
    "indexes",
    "insert_event",
    "is_damaged",
    "logged_position",
    "mark_positions",
    "number_orders",
    "orders_of",
    "orders_up_to",
    "prune_events",
    "prune_removed_orders",
    "prune_tombstones",
    "put_orders",
    "put_position",
    "put_removed_orders",
    "put_tombstone",
    "reindex",
    "remember_orders",
    "restore_names",
    "restore_seen",
    "seen_orders",
    "without_index_of_orders",
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
        """Raises LogDamagedError: without its counters a log can be neither read nor written."""
        row = db.execute(_LOAD_STATE).fetchone()
        if row is None or not intact(row):
            raise LogDamagedError("the log is damaged: the row with its counters")
        return cls(*row[1:-1])

    def save(self, db: sqlite3.Connection) -> None:
        values = [int(value) if isinstance(value, bool) else value for value in astuple(self)]
        db.execute(_SAVE_STATE, (*values, row_checksum(1, *values)))

    @property
    def floor(self) -> int:
        """The oldest sequence that can be read."""
        return self.sequence - (self.events - self.pruned) + 1

    def next_revision(self) -> int:
        self.revision += 1
        return self.revision


_LOAD_STATE = f"SELECT {CHECKED_COLUMNS['log']}, crc FROM log"  # noqa: S608 - constant column names
_SAVE_STATE = f"UPDATE log SET {', '.join(f'{field.name} = ?' for field in fields(LogState))}, crc = ?"  # noqa: S608


# --- positions --------------------------------------------------------------------------------------------

POSITION_COLUMNS = f"{CHECKED_COLUMNS['positions']}, crc"
"""The columns that `logged_position` takes."""
ORDER_COLUMNS = f"{CHECKED_COLUMNS['orders']}, crc"


class StoredPosition(NamedTuple):
    id: int
    removed: bool
    fingerprint: str
    close_ms: int | None
    orders_at: int
    header: bytes
    layout_revision: int
    n_orders: int
    intact: bool


def find_position(db: sqlite3.Connection, miner: str, uuid: str) -> StoredPosition | None:
    row = db.execute(
        f"SELECT fingerprint, {POSITION_COLUMNS} FROM positions WHERE miner = ? AND uuid = ?",  # noqa: S608
        (miner, uuid),
    ).fetchone()
    if row is None:
        return None
    (
        fingerprint,
        position_id,
        _,
        _,
        _,
        layout_revision,
        close_ms,
        removed_ms,
        orders_at,
        header,
        n_orders,
        _,
    ) = row
    return StoredPosition(
        id=position_id,
        removed=removed_ms is not None,
        fingerprint=fingerprint,
        close_ms=close_ms,
        orders_at=orders_at,
        header=header,
        layout_revision=layout_revision,
        n_orders=n_orders,
        intact=intact(row[1:]),
    )


def put_position(
    db: sqlite3.Connection,
    position_id: int | None,
    change: PositionWritten,
    revision: int,
    layout_revision: int,
) -> int:
    """Updates the row with that id, or inserts one without an id. Returns the id."""
    position, text = change.position, change.text
    key = (position.miner_hotkey, position.position_uuid)
    closed_ms, n_orders = position.closed_at, len(text.orders)
    values = (revision, layout_revision, closed_ms, None, text.orders_at, text.header, n_orders)
    if position_id is None:
        # Before the INSERT, since the checksum covers it.
        (position_id,) = db.execute("SELECT coalesce(max(id), 0) + 1 FROM positions").fetchone()
        db.execute(
            f"INSERT INTO positions ({POSITION_COLUMNS}, fingerprint, last_sequence)"  # noqa: S608
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (position_id, *key, *values, row_checksum(position_id, *key, *values), change.fingerprint),
        )
        return int(position_id)
    db.execute(
        "UPDATE positions SET revision = ?, layout_revision = ?, close_ms = ?, removed_ms = ?, orders_at = ?,"
        " header = ?, n_orders = ?, crc = ?, fingerprint = ? WHERE id = ?",
        (*values, row_checksum(position_id, *key, *values), change.fingerprint, position_id),
    )
    return position_id


def put_tombstone(
    db: sqlite3.Connection, stored: StoredPosition, miner: str, uuid: str, revision: int, now_ms: int
) -> None:
    """Marks the position as removed.

    The row remains with its header, for the past, and the orders also for the events that need them.
    """
    count = "SELECT count(*) FROM orders WHERE id BETWEEN ? AND ?"
    n_orders = stored.n_orders if stored.intact else db.execute(count, _order_span(stored.id)).fetchone()[0]
    text = (stored.close_ms, now_ms, stored.orders_at, stored.header)
    values = (revision, 0, *(text if stored.intact else (None, now_ms, 0, b"")), n_orders)
    db.execute(
        "UPDATE positions SET revision = ?, layout_revision = ?, close_ms = ?, removed_ms = ?, orders_at = ?,"
        " header = ?, n_orders = ?, crc = ?, fingerprint = '' WHERE id = ?",
        (*values, row_checksum(stored.id, miner, uuid, *values), stored.id),
    )


def logged_position(
    db: sqlite3.Connection, row: tuple[Any, ...], damaged: DamagedRows
) -> LoggedPosition | None:
    """`row` has the POSITION_COLUMNS. Returns None for a damaged position."""
    if not intact(row):
        damaged.add("positions", *row[:3])
        return None
    position_id, miner, uuid, revision, layout_revision, close_ms, _, orders_at, header, n_orders, _ = row
    query = f"SELECT {ORDER_COLUMNS} FROM orders WHERE id BETWEEN ? AND ?"  # noqa: S608 - constant column names
    orders = db.execute(query, _order_span(position_id)).fetchall()
    if len(orders) != n_orders or not all(map(intact, orders)):
        damaged.add("orders", *row[:3])
        return None
    _, _, revisions, texts, *_ = zip(*orders, strict=True) if orders else ((),) * 4
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
    which orders were last removed, moved or inserted before the end. `trade_pair` is stored with each.
    """

    trade_pair: str = ""
    uuids: tuple[str, ...] = ()
    texts: tuple[bytes, ...] = ()
    revisions: tuple[int, ...] = ()
    layout_revision: int = 0


def orders_of(
    db: sqlite3.Connection, position_id: int, n_orders: int, layout_revision: int = 0
) -> OrderList | None:
    """Returns the position's orders as they are, or None if they are not as many as they should be.

    A writer compares them with the validator's text, and so need not check them.
    """
    query = "SELECT uuid, revision, text, trade_pair FROM orders WHERE id BETWEEN ? AND ?"
    rows = db.execute(query, _order_span(position_id)).fetchall()
    if len(rows) != n_orders:
        return None
    uuids, revisions, texts, pairs = zip(*rows, strict=True) if rows else ((),) * 4
    return OrderList(
        uuids=uuids,
        texts=texts,
        revisions=revisions,
        layout_revision=layout_revision,
        trade_pair=pairs[0] if pairs else "",
    )


def put_orders(
    db: sqlite3.Connection, position_id: int, position: Position, old: OrderList, new: OrderList
) -> None:
    """Writes the rows that differ at their index: one row for an appended order.

    `position` has the new list.
    """
    first, pair = position_id << 32, pair_id(position.trade_pair)
    before = list(zip(old.uuids, old.revisions, old.texts, strict=True)) if old.trade_pair == pair else []
    after = list(zip(new.uuids, new.revisions, new.texts, strict=True))
    differing = [
        (first + index, *row, position.orders[index].processed_ms, pair)
        for index, row in enumerate(after)
        if index >= len(before) or before[index] != row
    ]
    if differing:
        db.executemany(
            f"INSERT OR REPLACE INTO orders ({ORDER_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            [(*row, row_checksum(*row)) for row in differing],
        )
    if len(after) < len(old.uuids):
        delete_orders(db, position_id, first=len(after))


def delete_orders(db: sqlite3.Connection, position_id: int, *, first: int = 0) -> None:
    """Deletes the position's orders from this index on."""
    start, end = _order_span(position_id)
    db.execute("DELETE FROM orders WHERE id BETWEEN ? AND ?", (start + first, end))


def put_removed_orders(
    db: sqlite3.Connection, position_id: int, removed: Mapping[str, str | None], now_ms: int
) -> None:
    """Remembers which orders a position lost, each with the nearest one before it that remained."""
    rows = [(position_id, uuid, before, now_ms) for uuid, before in removed.items()]
    db.executemany(
        "INSERT OR REPLACE INTO removed_orders VALUES (?, ?, ?, ?, ?)",
        [(*row, row_checksum(*row)) for row in rows],
    )


def _order_span(position_id: int) -> tuple[int, int]:
    """The smallest and the largest id that an order of the position can have."""
    return position_id << 32, ((position_id + 1) << 32) - 1


# --- seen orders ------------------------------------------------------------------------------------------


def seen_orders(db: sqlite3.Connection, miner: str, uuids: Iterable[str]) -> FirstSeen:
    """Returns those of the orders that were seen before, with processed_ms and leverage as first seen."""
    seen: dict[str, tuple[int, float | None]] = {}
    for uuid in uuids:
        row = db.execute(
            "SELECT processed_ms, leverage FROM seen WHERE miner = ? AND uuid = ?", (miner, uuid)
        ).fetchone()
        if row is not None:  # damaged values make a conflict at most: the order counts as seen
            seen[uuid] = row
    return seen


def remember_orders(db: sqlite3.Connection, miner: str, orders: FirstSeen) -> None:
    """Adds orders that were never seen before."""
    # As SQLite returns them: a REAL column has neither NaN nor -0.0.
    rows = [
        (
            miner,
            uuid,
            processed_ms,
            None if leverage is None or leverage != leverage else leverage + 0.0,
            None,
        )
        for uuid, (processed_ms, leverage) in orders.items()
    ]
    db.executemany(_REMEMBER, [(*row, row_checksum(*row)) for row in rows])


def number_orders(db: sqlite3.Connection, events: Iterable[Event]) -> None:
    """Adds the sequences of announced orders to the records of them."""
    rows = []
    for event in events:
        key = (event.miner_hotkey, event.order_uuid)
        query = "SELECT processed_ms, leverage FROM seen WHERE miner = ? AND uuid = ?"
        row = (*key, *db.execute(query, key).fetchone(), event.sequence)
        rows.append((event.sequence, row_checksum(*row), *key))
    db.executemany("UPDATE seen SET sequence = ?, crc = ? WHERE miner = ? AND uuid = ?", rows)


_REMEMBER = f"INSERT INTO seen ({CHECKED_COLUMNS['seen']}, crc) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608


# --- events -----------------------------------------------------------------------------------------------


def insert_event(db: sqlite3.Connection, position_id: int, event: Event) -> None:
    row = (
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
        int(event.late),
        event.orders_at,
        event.order,
        event.header,
        event.extra,
    )
    db.execute(
        "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*row, row_checksum(*row)),
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


def events_after(
    db: sqlite3.Connection, after: int, last: int, damaged: DamagedRows, *, orders: bool
) -> list[Event]:
    """Returns the events after `after` up to `last`, which exist, without the damaged ones."""
    rows: dict[int, tuple[Any, ...]] = {
        row[0]: row
        for row in db.execute(
            f"SELECT {CHECKED_COLUMNS['events']}, crc FROM events"  # noqa: S608 - constant column names
            " WHERE sequence BETWEEN ? AND ? ORDER BY sequence",
            (after + 1, last),
        )
        if intact(row)
    }
    if len(rows) < last - after:
        for sequence in range(after + 1, last + 1):
            if sequence not in rows:
                damaged.add("events", sequence)
    lists = _lists_of_events(db, list(rows.values())) if orders and rows else {}
    events = []
    for row in rows.values():
        of_position = lists.get(row[3]) if orders else _NO_LIST
        if of_position is None:
            damaged.add("orders", row[3], row[4], row[5])
            continue
        if orders and not _has_predecessors(row[7], of_position):
            damaged.add("removed_orders", row[0])
            continue
        event = Event(
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
            orders=orders_up_to(row[7], row[12], *of_position) if orders else (),
        )
        events.append(event)
    return events


def _has_predecessors(order_uuid: str, lists: _EventLists) -> bool:
    """Returns whether the list has the order, or it is known which order before it remained."""
    uuid: str | None = order_uuid
    while uuid is not None and uuid not in lists.indexes:
        if uuid not in lists.removed:
            return False
        uuid = lists.removed[uuid]
    return True


class _EventLists(NamedTuple):
    """The orders of a position with events in a page, as `orders_up_to` takes them."""

    indexes: dict[str, int]
    texts: Sequence[bytes]
    removed: dict[str, str | None]


_NO_LIST = _EventLists({}, (), {})
_POSITIONS_OF_EVENTS = "SELECT DISTINCT position FROM events WHERE sequence BETWEEN ? AND ?"
_ORDERS_OF_EVENTS = (  # CROSS keeps SQLite from starting at `orders` and scanning all of it
    f"SELECT position, n_orders, orders.{ORDER_COLUMNS.replace(', ', ', orders.')}"  # noqa: S608 - constants
    f" FROM ({_POSITIONS_OF_EVENTS}) CROSS JOIN positions ON positions.id = position"
    " LEFT JOIN orders ON orders.id BETWEEN position << 32 AND (position + 1 << 32) - 1"
)
_REMOVED_OF_EVENTS = (
    "SELECT position, uuid, before, removed_ms, crc FROM removed_orders"  # noqa: S608 - a constant
    f" WHERE position IN ({_POSITIONS_OF_EVENTS})"
)


def _lists_of_events(
    db: sqlite3.Connection, events: Sequence[tuple[Any, ...]]
) -> dict[int, _EventLists | None]:
    """The lists of the positions of these events, by position id. None, or no entry: the list is damaged."""
    span = (events[0][0], events[-1][0])
    lists: dict[int, _EventLists | None] = {}
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in db.execute(_ORDERS_OF_EVENTS, span):
        found[row[0]].append(row)
    for position_id, rows in found.items():
        rows.sort()  # by the orders' ids, as they nearly always come; SQLite would copy their texts to sort
        n_orders = rows[0][1]
        if rows[0][2] is None:  # the position has none
            rows = []
        indexes: dict[str, int] = {}
        for index, row in enumerate(rows):
            if not intact(row, first=2):
                break
            indexes.setdefault(row[3], index)
        else:
            if len(rows) == n_orders:
                lists[position_id] = _EventLists(indexes, [row[5] for row in rows], {})
    needed = ((lists.get(event[3]), event[7]) for event in events)
    if all(of_position is None or uuid in of_position.indexes for of_position, uuid in needed):
        return lists  # nearly always
    for row in db.execute(_REMOVED_OF_EVENTS, span):
        of_position = lists.get(row[0])
        if of_position is not None and intact(row):
            of_position.removed[row[1]] = row[2]
        elif of_position is not None:
            lists[row[0]] = None
    return lists


def is_damaged(db: sqlite3.Connection, damage: Damage) -> bool:
    """Returns whether a row that was damaged still is; one that is gone is not."""
    found, key = DamagedRows(quiet=True), damage.key
    if damage.table == "removed_orders" and len(key) == 1:  # by the event that needs it
        return LogState.load(db).floor <= int(key[0])
    if damage.table == "events":
        state = LogState.load(db)
        return state.floor <= key[0] <= state.sequence and not _is_intact(db, "events", key[0])
    if damage.table in ("positions", "orders"):
        query = f"SELECT {POSITION_COLUMNS} FROM positions WHERE id = ?"  # noqa: S608 - constant column names
        row = db.execute(query, key[:1]).fetchone()
        return row is not None and logged_position(db, row, found) is None
    if damage.table == "documents":
        return read_document(db, key[0], key[1], found) is None and bool(found)
    return True  # until the next check of the whole log


def indexes(db: sqlite3.Connection) -> list[str]:
    return [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")]


def reindex(db: sqlite3.Connection, index: str) -> None:
    """Makes the index agree with its table again."""
    db.execute('REINDEX "{}"'.format(index.replace('"', '""')))


@contextlib.contextmanager
def without_index_of_orders(db: sqlite3.Connection) -> Iterator[None]:
    """Makes the index of orders after the block, in which many are added: sorted, that costs a tenth."""
    query = "SELECT sql FROM sqlite_master WHERE name = 'orders_by_time'"
    (statement,) = db.execute(query).fetchone()
    db.execute("DROP INDEX orders_by_time")
    yield
    db.execute(statement)


def restore_names(db: sqlite3.Connection, damaged_ids: Iterable[int]) -> None:
    """Gives damaged positions the miner and uuid that the index has, and makes the index anew.

    It takes one transaction: the new index no longer has those names.
    """
    names = {
        row[0]: row[1:]  # only the index is read
        for row in db.execute(f"SELECT id, miner, uuid FROM positions INDEXED BY {_NAMES}")  # noqa: S608
    }
    reindex(db, _NAMES)
    for position_id in set(damaged_ids) & names.keys():
        db.execute(
            "UPDATE OR IGNORE positions SET miner = ?, uuid = ? WHERE id = ?",
            (*names[position_id], position_id),
        )


_NAMES = "sqlite_autoindex_positions_1"


def mark_positions(db: sqlite3.Connection, position_ids: Iterable[int]) -> list[tuple[str, str]]:
    """Has these positions written again, all orders included. Returns miner and uuid of each that exists."""
    names = []
    for position_id in position_ids:
        name = db.execute("SELECT miner, uuid FROM positions WHERE id = ?", (position_id,)).fetchone()
        if name is not None:
            db.execute("UPDATE positions SET crc = ? WHERE id = ?", (UNREPAIRED, position_id))
            names.append(name)
    return names


def restore_seen(db: sqlite3.Connection) -> None:
    """Replaces the damaged records of seen orders by those of the orders that positions have now."""
    rows = db.execute(f"SELECT {CHECKED_COLUMNS['seen']}, crc FROM seen").fetchall()  # noqa: S608 - constants
    damaged = [row[:2] for row in rows if not intact(row)]
    db.executemany("DELETE FROM seen WHERE miner = ? AND uuid = ?", damaged)
    unseen = db.execute(
        "SELECT miner, orders.uuid, text FROM orders JOIN positions ON positions.id = orders.id >> 32"
        " WHERE NOT EXISTS (SELECT 1 FROM seen WHERE miner = positions.miner AND uuid = orders.uuid)"
    ).fetchall()
    for miner, uuid, text in unseen:
        try:
            order = msgspec.json.decode(text, type=_Seen)
        except (msgspec.MsgspecError, UnicodeDecodeError):  # damaged as well
            order = _Seen()
        remember_orders(db, miner, {uuid: (order.processed_ms, order.leverage)})


class _Seen(msgspec.Struct):
    processed_ms: int = 0
    leverage: float | None = None


# --- pruning ----------------------------------------------------------------------------------------------

_BATCH = 1_000
"""Rows deleted per transaction, so that orders can be written in between."""


def prune_events(db: sqlite3.Connection, state: LogState, *, oldest_ms: int, retention_bytes: int) -> bool:
    """Deletes at most a batch of the oldest events; returns whether more may have to go."""
    rows = db.execute(
        "SELECT sequence, timestamp_ms, length(order_text) + length(header) + length(extra) + ?"
        " FROM events WHERE sequence BETWEEN ? AND ? ORDER BY sequence LIMIT ?",
        (EVENT_OVERHEAD, state.floor, state.sequence, _BATCH),
    ).fetchall()
    # From the oldest on, so that the remaining sequences have no gap.
    last, deleted = state.floor - 1, 0
    for sequence, timestamp_ms, size in rows:
        if state.event_bytes <= retention_bytes and timestamp_ms >= oldest_ms:
            if _is_intact(db, "events", sequence):
                break
            continue  # whether it is young is unknown: it goes with the next one that is old
        state.event_bytes -= size
        last, deleted = sequence, deleted + 1
    db.execute("DELETE FROM events WHERE sequence <= ?", (last,))
    state.pruned += last - state.floor + 1
    return deleted == _BATCH


def _is_intact(db: sqlite3.Connection, table: str, key: int) -> bool:
    """Returns whether the row exists and is not damaged; `key` is that of a table with one integer as key."""
    columns = CHECKED_COLUMNS[table]
    row = db.execute(
        f"SELECT {columns}, crc FROM {table} WHERE {columns.partition(',')[0]} = ?",  # noqa: S608 - constants
        (key,),
    ).fetchone()
    return row is not None and intact(row)


def prune_tombstones(db: sqlite3.Connection, state: LogState, *, oldest_ms: int) -> bool:
    """Deletes at most a batch of old tombstones, with their orders unless an event still needs them."""
    # `last_sequence` is the position's last event: below the oldest one kept, no event needs the orders.
    rows = db.execute(
        f"SELECT {POSITION_COLUMNS} FROM positions WHERE removed_ms < ? AND last_sequence < ? LIMIT ?",  # noqa: S608
        (oldest_ms, state.floor, _BATCH),
    ).fetchall()
    for row in filter(intact, rows):
        db.execute("DELETE FROM removed_orders WHERE position = ?", (row[0],))
        delete_orders(db, row[0])
        db.execute("DELETE FROM positions WHERE id = ?", (row[0],))
        state.tombstone_floor = max(state.tombstone_floor, row[3])
    return len(rows) == _BATCH and all(map(intact, rows))


def prune_removed_orders(db: sqlite3.Connection, state: LogState, *, oldest_ms: int) -> None:
    """Forgets orders removed before then, except those of positions with events.

    They were announced earlier still, but if the clock was wrong meanwhile, their events may be left.
    """
    db.execute(
        "DELETE FROM removed_orders WHERE removed_ms < ? AND NOT EXISTS"
        " (SELECT 1 FROM positions WHERE id = position AND last_sequence >= ?)",
        (oldest_ms, state.floor),
    )
