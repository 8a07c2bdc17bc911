"""All positions in a database, SQLite or PostgreSQL, kept up to date; may be killed at any time.

The first response has every position, each later one what has changed since its cursor. Positions and cursor
are written in one transaction, so the database always holds one state of the server, and the next run
continues from it. If the server no longer has the cursor (status 410), everything is loaded again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterable
from typing import Any

from ptn_api.client import PTNClient
from ptn_api.errors import APIStatusError, ServerUnreachableError
from ptn_api.model.position import Position

DATABASE = os.environ.get("PTN_DATABASE", "positions.sqlite3")
INTERVAL_S = float(os.environ.get("PTN_INTERVAL_S", "2"))

database: Any
if DATABASE.startswith(("postgresql://", "postgres://")):
    import psycopg  # pip install 'psycopg[binary]'

    database, mark = psycopg.connect(DATABASE), "%s"
else:
    database, mark = sqlite3.connect(DATABASE), "?"

cursor = database.cursor()
cursor.execute(
    """
    CREATE TABLE IF NOT EXISTS positions (
        miner_hotkey TEXT, position_uuid TEXT, trade_pair TEXT, opened_ms BIGINT, closed_ms BIGINT,
        net_leverage DOUBLE PRECISION, current_return DOUBLE PRECISION, orders BIGINT,
        PRIMARY KEY (miner_hotkey, position_uuid)
    )
    """
)
cursor.execute("CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY, cursor TEXT)")
database.commit()

UPSERT = f"""
    INSERT INTO positions VALUES ({", ".join([mark] * 8)})
    ON CONFLICT (miner_hotkey, position_uuid) DO UPDATE SET
        trade_pair = excluded.trade_pair, opened_ms = excluded.opened_ms, closed_ms = excluded.closed_ms,
        net_leverage = excluded.net_leverage, current_return = excluded.current_return,
        orders = excluded.orders
"""
REMOVE = f"DELETE FROM positions WHERE miner_hotkey = {mark} AND position_uuid = {mark}"
MOVE = f"INSERT INTO place VALUES (1, {mark}) ON CONFLICT (one) DO UPDATE SET cursor = excluded.cursor"


def write(positions: Iterable[Position], place: str | None) -> None:
    rows = [
        (
            position.miner_hotkey,
            position.position_uuid,
            position.trade_pair_id,
            position.open_ms,
            position.close_ms or None,
            position.net_leverage,
            position.current_return,
            len(position.orders),
        )
        for position in positions
    ]
    if rows:
        cursor.executemany(UPSERT, rows)
    cursor.execute(MOVE, (place,))
    database.commit()
    if rows:
        print(f"{len(rows)} positions, up to {place}", flush=True)


def update(api: PTNClient) -> None:
    cursor.execute("SELECT cursor FROM place")
    stored = cursor.fetchone()
    if stored is not None:
        try:
            changes = api.miner_positions(since=stored[0])
        except APIStatusError as error:
            if error.status != 410:
                raise
        else:
            if changes.removed:
                cursor.executemany(REMOVE, changes.removed)
            write((p for changed in changes.positions.values() for p in changed), changes.cursor)
            return
    everything = api.miner_positions()
    cursor.execute("DELETE FROM positions")
    write(everything.positions(), everything.cursor)


with (
    contextlib.suppress(KeyboardInterrupt),
    PTNClient(os.environ.get("PTN_REST_URL", "http://localhost:48888")) as api,
):
    while True:
        try:
            update(api)
        except (APIStatusError, ServerUnreachableError) as error:
            if isinstance(error, APIStatusError) and error.status < 500 and error.status != 429:
                raise
            database.rollback()  # the server restarts, for example
            print(error, file=sys.stderr)
        time.sleep(INTERVAL_S)
