"""Every BTCUSDC order as it happens, across lost connections and restarts."""

import os
from urllib.parse import urlsplit

from ptn_api.websocket_client import PTNWebSocketClient, PTNWebSocketMessage

server = urlsplit(os.environ.get("PTN_WS_URL", "ws://localhost:8765"))
client = PTNWebSocketClient(  # the API key is read from PTN_API_KEY
    host=server.hostname or "localhost", port=server.port or 443, secure=server.scheme == "wss"
)


def handle_messages(messages: list[PTNWebSocketMessage]) -> None:
    for msg in messages:
        if msg.new_order.trade_pair == "BTCUSDC":
            # Missed while this was not running, or seen late by the server: the market has moved on.
            old = " (old: do not trade on it)" if msg.replay or msg.late else ""
            print(
                f"{msg.new_order.trade_pair}: ({msg.new_order.order_type}) {msg.new_order.leverage}{old}",
                flush=True,
            )


client.run(handle_messages)
