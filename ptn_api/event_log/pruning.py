"""Dropping what is too old or too much, a batch at a time, so that orders wait for none of it."""

from __future__ import annotations

import sqlite3

from ptn_api.event_log.rows import LogState, order_span
from ptn_api.event_log.scan import EVENT_OVERHEAD

__all__ = ["prune_departed", "prune_events", "prune_tombstones"]

_BATCH = 1_000


def prune_events(db: sqlite3.Connection, state: LogState, *, oldest_ms: int, retention_bytes: int) -> bool:
    """Drops at most a batch of the oldest events; returns whether more may have to go."""
    rows = db.execute(
        "SELECT sequence, timestamp_ms, length(order_text) + length(shell) + length(extra) + ?"
        " FROM events ORDER BY sequence LIMIT ?",
        (EVENT_OVERHEAD, _BATCH),
    ).fetchall()
    last, dropped = 0, 0
    for sequence, timestamp_ms, size in rows:
        if state.event_bytes <= retention_bytes and timestamp_ms >= oldest_ms:
            break
        state.event_bytes -= size
        last, dropped = sequence, dropped + 1
    db.execute("DELETE FROM events WHERE sequence <= ?", (last,))
    state.pruned += dropped
    return dropped == _BATCH


def prune_tombstones(db: sqlite3.Connection, state: LogState, *, oldest_ms: int) -> bool:
    """Drops at most a batch of old tombstones with their positions' orders, unless an event needs those."""
    rows = db.execute(
        "SELECT id, revision FROM positions WHERE removed_ms < ?"
        " AND last_sequence < coalesce((SELECT min(sequence) FROM events), last_sequence + 1) LIMIT ?",
        (oldest_ms, _BATCH),
    ).fetchall()
    for position_id, revision in rows:
        db.execute("DELETE FROM orders WHERE id BETWEEN ? AND ?", order_span(position_id))
        db.execute("DELETE FROM departed WHERE position = ?", (position_id,))
        db.execute("DELETE FROM positions WHERE id = ?", (position_id,))
        state.tombstone_floor = max(state.tombstone_floor, revision)
    return len(rows) == _BATCH


def prune_departed(db: sqlite3.Connection, *, oldest_ms: int) -> None:
    """An order that left its list before then was announced before then too: its event is gone."""
    db.execute("DELETE FROM departed WHERE departed_ms < ?", (oldest_ms,))
