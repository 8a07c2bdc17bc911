"""A paper trader that copies every position at a tenth of its leverage, and may be killed at any time.

After a crash the client delivers messages again that may have been traded before. The fills are therefore the
record: an order is identified by (hotkey, order_uuid), and one transaction looks it up and writes its fill.
Each fill is the difference between the position's target and what has been filled so far, so a skipped order
is made up for by the next one.

Paper orders are filled at the miner's price, however late. A trader with real money should skip old orders:
`max_age_ms=5_000`.
"""

from __future__ import annotations

import os
import sqlite3
from urllib.parse import urlsplit

from ptn_api.websocket_client import PTNWebSocketClient, PTNWebSocketMessage

SHARE = 0.1

database = sqlite3.connect(os.environ.get("PTN_TRADES", "paper_trades.sqlite3"))
database.execute(
    """
    CREATE TABLE IF NOT EXISTS fills (
        miner_hotkey TEXT, order_uuid TEXT, sequence INTEGER, position_uuid TEXT,
        trade_pair TEXT, leverage REAL, price REAL, processed_ms INTEGER,
        PRIMARY KEY (miner_hotkey, order_uuid)
    ) STRICT
    """
)
database.execute("CREATE INDEX IF NOT EXISTS by_position ON fills (miner_hotkey, position_uuid)")


def trade(messages: list[PTNWebSocketMessage]) -> None:
    with database:  # one transaction for all of them
        for message in messages:
            fill(message)


def fill(message: PTNWebSocketMessage) -> None:
    order, position = message.new_order, message.position
    filled, newest_ms = database.execute(
        "SELECT TOTAL(leverage), MAX(processed_ms) FROM fills WHERE miner_hotkey = ? AND position_uuid = ?",
        (position.miner_hotkey, position.position_uuid),
    ).fetchone()
    if newest_ms is not None and order.processed_ms < newest_ms:
        return  # inserted before an order that has been filled, which brought the position to its target
    target = 0.0 if position.is_closed_position else SHARE * position.net_leverage
    inserted = database.execute(
        "INSERT OR IGNORE INTO fills VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            position.miner_hotkey,
            order.order_uuid,
            message.sequence,
            position.position_uuid,
            str(order.trade_pair),
            target - filled,
            order.price,
            order.processed_ms,
        ),
    )
    if inserted.rowcount:
        print(f"{order.trade_pair} {target - filled:+.4f} @ {order.price:g}", flush=True)


server = urlsplit(os.environ.get("PTN_WS_URL", "ws://localhost:8765"))
PTNWebSocketClient(
    host=server.hostname or "localhost",
    port=server.port or 443,
    secure=server.scheme == "wss",
    name="paper-copy-trader",
    state_dir=os.environ.get("PTN_STATE_DIR"),
).run(trade)
