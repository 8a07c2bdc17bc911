"""Copies every position on paper, at a tenth of its leverage; kill it whenever you like.

What the client hands over again after a crash was, perhaps, traded before. So the fills themselves are the
memory: an order is (hotkey, order_uuid), and one transaction asks for it and writes its fill. What is traded
is the difference between what the position should be by now and what was filled of it, so an order that was
passed over is made up for by the next.

Paper is filled at the miner's price, however late. A trader with real money passes over what is old:
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
    with database:  # one transaction: all of these, or none
        for message in messages:
            if not message.late:  # it belongs before orders that we have seen: nothing to act on
                fill(message)


def fill(message: PTNWebSocketMessage) -> None:
    order, position = message.new_order, message.position
    held = database.execute(
        "SELECT TOTAL(leverage) FROM fills WHERE miner_hotkey = ? AND position_uuid = ?",
        (position.miner_hotkey, position.position_uuid),
    ).fetchone()[0]
    wanted = 0.0 if position.is_closed_position else SHARE * position.net_leverage
    done = database.execute(
        "INSERT OR IGNORE INTO fills VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            position.miner_hotkey,
            order.order_uuid,
            message.sequence,
            position.position_uuid,
            str(order.trade_pair),
            wanted - held,
            order.price,
            order.processed_ms,
        ),
    )
    if done.rowcount:
        print(f"{order.trade_pair} {wanted - held:+.4f} @ {order.price:g}", flush=True)


server = urlsplit(os.environ.get("PTN_WS_URL", "ws://localhost:8765"))
PTNWebSocketClient(
    host=server.hostname or "localhost",
    port=server.port or 443,
    secure=server.scheme == "wss",
    name="paper-copy-trader",
    state_dir=os.environ.get("PTN_STATE_DIR"),
).run(trade)
