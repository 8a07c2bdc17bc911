"""A bot that follows two validators' servers and acts once on each order, from whichever server has it first.

    export PTN_WS_URLS="ws://localhost:8765 ws://localhost:8766" PTN_API_KEYS="key-a key-b"
    python examples/two_servers.py

Kill either server: the orders go on. Kill the bot: it continues where it was, and repeats none.
"""

from __future__ import annotations

import os
import sys

from ptn_api.client import Difference, Gap, PTNWebSocketMessage, ServerGap, StreamState
from ptn_api.websocket_client import PTNWebSocketClient

URLS = os.environ.get("PTN_WS_URLS", "ws://localhost:8765 ws://localhost:8766").split()
KEYS = (os.environ.get("PTN_API_KEYS") or os.environ.get("PTN_API_KEY") or "").split()
if not KEYS:
    sys.exit("no API key: set PTN_API_KEY, or PTN_API_KEYS with one for each server")


def show_state(state: StreamState) -> None:
    servers = ", ".join(f"{url} {known}" for url, known in state.servers.items())
    print(f"{state}: {servers}", file=sys.stderr)
    for problem in state.problems:
        print(f"  {problem.sentence}. {problem.remedy}", file=sys.stderr)


def show_gap(gap: Gap) -> None:
    server = gap.server if isinstance(gap, ServerGap) else ""
    print(f"no server has the orders between {gap.after} and {gap.next} of {server}", file=sys.stderr)


def show_difference(other: Difference) -> None:
    print(f"{other.order_uuid}: {other.price} instead of {other.delivered_price}", file=sys.stderr)


def trade(messages: list[PTNWebSocketMessage]) -> None:
    for message in messages:
        if message.replay or message.late:
            continue  # an old order: the market has moved on
        order = message.new_order
        shown = f"{order.order_uuid} {order.trade_pair} {order.order_type} {order.leverage}"
        print(shown, "from", message.server, flush=True)


client = PTNWebSocketClient(
    KEYS if len(KEYS) > 1 else KEYS[0],
    URLS,
    name="two-servers",
    max_age_ms=30_000,
    on_state=show_state,
    on_gap=show_gap,
    on_difference=show_difference,
)

if __name__ == "__main__":
    client.run(trade)
