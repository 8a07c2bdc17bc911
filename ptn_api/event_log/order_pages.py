"""All orders by time: pages of them, newest first.

They are found by the index `orders_by_time`, or, where the chosen miners have few orders, by their positions.
"""

# ruff: noqa: S608 - the names in the statements are constants

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Any

from ptn_api.event_log.contract import LoggedOrder, OrderKey
from ptn_api.event_log.damage import CHECKED_COLUMNS, DamagedRows, intact

__all__ = ["orders_before"]

_COLUMNS = ", ".join(f"o.{name.strip()}" for name in CHECKED_COLUMNS["orders"].split(","))
_KEY = "o.processed_ms, o.uuid, o.trade_pair, o.id"
_NEWEST_FIRST = "ORDER BY o.processed_ms DESC, o.uuid DESC, o.trade_pair DESC, o.id DESC"
_SEEN = f"SELECT {CHECKED_COLUMNS['seen']}, crc FROM seen WHERE miner = ? AND uuid = ?"
_OF_POSITIONS = (
    "positions AS p CROSS JOIN orders AS o ON o.id BETWEEN p.id << 32 AND (p.id << 32) + 4294967295"
)
"""A position's orders are a range of ids. CROSS makes SQLite begin with the positions."""
_EXAMINED = 20_000
"""Orders that are compared with filters at a time: a few milliseconds."""


def orders_before(
    db: sqlite3.Connection,
    before: OrderKey | None,
    limit: int,
    damaged: DamagedRows,
    *,
    miners: Collection[str],
    trade_pairs: Collection[str],
) -> tuple[list[LoggedOrder], OrderKey | None]:
    """See `EventLog.orders_before`."""
    orders_of, where, values, end = "orders AS o", "1", list[Any](), None
    if before is not None:
        where, values = f"({_KEY}) < (?, ?, ?, ?)", [*before]
    if miners and _n_orders(db, miners) <= _EXAMINED:
        orders_of = _OF_POSITIONS
        where, values = f"{where} AND p.miner IN ({_places(miners)})", [*values, *miners]
    elif miners or trade_pairs:
        query = f"SELECT {_KEY} FROM orders AS o WHERE {where} {_NEWEST_FIRST} LIMIT 1 OFFSET ?"
        if (row := db.execute(query, (*values, _EXAMINED - 1)).fetchone()) is not None:
            end = OrderKey(*row)
            where, values = f"{where} AND ({_KEY}) >= (?, ?, ?, ?)", [*values, *end]
        if miners:
            of_miners = f"SELECT id FROM positions WHERE miner IN ({_places(miners)})"
            where, values = f"{where} AND o.id >> 32 IN ({of_miners})", [*values, *miners]
    if trade_pairs:
        where, values = f"{where} AND o.trade_pair IN ({_places(trade_pairs)})", [*values, *trade_pairs]
    query = f"SELECT {_COLUMNS}, o.crc FROM {orders_of} WHERE {where} {_NEWEST_FIRST} LIMIT ?"
    rows = db.execute(query, (*values, limit)).fetchall()
    if len(rows) == limit:
        order_id, uuid, _, _, processed_ms, trade_pair, _ = rows[-1]
        end = OrderKey(processed_ms, uuid, trade_pair, order_id)
    if before is not None and end is not None and end >= before:
        end = None  # the index is damaged, and there would be no end
    positions = _positions(db, {row[0] >> 32 for row in rows}, damaged)
    orders = []
    for row in rows:
        position = positions.get(row[0] >> 32)
        if position is None:  # removed, or damaged
            continue
        miner, position_uuid = position
        if not intact(row):
            damaged.add("orders", row[0] >> 32, miner, position_uuid)
        elif (not miners or miner in miners) and (not trade_pairs or row[5] in trade_pairs):
            seen = db.execute(_SEEN, (miner, row[1])).fetchone()
            if seen is not None and not intact(seen):
                damaged.add("seen", miner, row[1])
                seen = None
            order = LoggedOrder(
                miner_hotkey=miner,
                position_uuid=position_uuid,
                trade_pair=row[5],
                order_uuid=row[1],
                processed_ms=row[4],
                sequence=None if seen is None else seen[4],
                text=row[3],
            )
            orders.append(order)
    return orders, end


def _n_orders(db: sqlite3.Connection, miners: Collection[str]) -> int:
    query = f"SELECT SUM(n_orders) FROM positions WHERE miner IN ({_places(miners)})"
    n_orders: int | None = db.execute(query, (*miners,)).fetchone()[0]
    return n_orders or 0


def _positions(
    db: sqlite3.Connection, position_ids: set[int], damaged: DamagedRows
) -> dict[int, tuple[str, str]]:
    """Miner and uuid of those of the positions that are present."""
    query = f"SELECT {CHECKED_COLUMNS['positions']}, crc FROM positions WHERE id IN ({_places(position_ids)})"
    positions = {}
    for row in db.execute(query, (*position_ids,)):
        if not intact(row):
            damaged.add("positions", *row[:3])
        elif row[6] is None:
            positions[row[0]] = row[1:3]
    return positions


def _places(values: Collection[Any]) -> str:
    return ", ".join("?" * len(values))
