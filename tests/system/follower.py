"""An existing client: version 1 frames only, written against the protocol and not our own client."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.waiting import PATIENCE_S, until


class Follower:
    """Logs in, subscribes and collects in a thread; reconnects with its last sequence until stopped."""

    def __init__(self, url: str, api_key: str, *, last_sequence: int = -1) -> None:
        self.messages: list[dict[str, Any]] = []
        self.received_ns: list[int] = []
        self.success: list[dict[str, Any]] = []
        self.last_sequence = last_sequence
        self.subscribed = threading.Event()
        self._url = url
        self._api_key = api_key
        self._stopping = threading.Event()
        self._connection: ClientConnection | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Follower:
        until(self.subscribed.is_set, what="subscribed")
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._connection is not None:
            self._connection.close()
        self._thread.join(PATIENCE_S)

    @property
    def order_uuids(self) -> list[str]:
        return [m["data"]["position"]["orders"][-1]["order_uuid"] for m in self.messages]

    @property
    def sequences(self) -> list[int]:
        return [m["sequence"] for m in self.messages]

    def wait_for(self, n: int, seconds: float = PATIENCE_S) -> None:
        until(
            lambda: len(self.messages) >= n, seconds=seconds, what=f"{n} messages, have {len(self.messages)}"
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                # No pings: they draw from `random`, which hypothesis takes for a test that does so by itself.
                with connect(
                    self._url, max_size=None, ping_interval=None, open_timeout=PATIENCE_S
                ) as connection:
                    self._connection = connection
                    self._follow(connection)
            except (ConnectionClosed, WebSocketException, OSError, EOFError):
                time.sleep(0.02)  # the server is restarting

    def _follow(self, connection: ClientConnection) -> None:
        connection.send(json.dumps({"api_key": self._api_key, "last_sequence": self.last_sequence}))
        success = json.loads(connection.recv())
        assert success["status"] == "success", success
        self.success.append(success)
        self.last_sequence = success["current_sequence"]
        connection.send(json.dumps({"type": "subscribe", "all": True, "sender_timestamp": 1}))
        for frame in connection:
            self._take(json.loads(frame))

    def _take(self, frame: dict[str, Any]) -> None:
        if frame.get("type") == "subscription_status":
            self.subscribed.set()
        for message in frame["messages"] if frame.get("type") == "batch" else [frame]:
            if "sequence" in message:
                self.last_sequence = message["sequence"]
                self.received_ns.append(time.time_ns())
                self.messages.append(message)  # last: it is what others wait for
