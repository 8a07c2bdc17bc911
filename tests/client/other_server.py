"""A server of another implementation: version 1 without epochs, cursors and heartbeats, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any, Literal

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from ptn_api.loop_thread import LoopThread

__all__ = ["OtherServer"]

NO_KEY = {
    "header": "Authentication required. Provide API key in Authorization: Bearer header.",
    "frame": "Authentication required. Please provide an API key.",
}
LOW_TIER = "WebSocket connections require tier 100 access. Please upgrade your API key."
EVICTED = "Disconnected due to too many connections for this API key"
NOW = 1_795_600_000_000


class OtherServer:
    """For `with`, in a thread of its own.

    `login` "header" takes the key of the upgrade request, answers at once, ignores login frames, and counts
    each connection's messages from 0. "frame" waits for the login frame, ignores headers and `last_sequence`,
    and counts all messages in one sequence.
    """

    def __init__(self, login: Literal["header", "frame"], *, first_sequence: int = 0) -> None:
        self.login = login
        self.tiers = {"other-key": 100}
        self.frames: list[dict[str, Any]] = []
        """All frames of all clients."""
        self.headers: list[str] = []
        """The Authorization headers."""
        self.subscribed: dict[ServerConnection, bool] = {}
        self.connections = 0
        self.url = ""
        self._next = first_sequence
        self._sent: dict[ServerConnection, int] = {}
        self._thread = LoopThread("other-server")
        self._server: Server | None = None

    def __enter__(self) -> OtherServer:
        self._thread.run(self._start)
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.run(self._stop)
        self._thread.close()
        self._thread.join()

    def send(self, position: dict[str, Any], *, lost: bool = False) -> None:
        """Sends an order to every subscriber; a `lost` one only takes its number."""
        self.send_data({"position": position}, lost=lost)

    def send_data(self, data: dict[str, Any], *, lost: bool = False) -> None:

        async def send_to_all() -> None:
            for client in [client for client, subscribed in self.subscribed.items() if subscribed]:
                number = self._next if self.login == "frame" else self._sent[client]
                self._sent[client] += 1
                if not lost:
                    await _send(client, sequence=number, timestamp=NOW, data=data)
            self._next += 1

        self._thread.run(send_to_all)

    def cut(self) -> None:
        """Breaks every connection without a close frame."""

        async def abort_all() -> None:
            for client in list(self.subscribed):
                client.transport.abort()

        self._thread.run(abort_all)

    def evict(self) -> None:
        """Closes every connection as the oldest of too many."""

        async def evict_all() -> None:
            for client in list(self.subscribed):
                await _send(client, status="error", message=EVICTED, code="MAX_CONNECTIONS_EXCEEDED")
                await client.close()

        self._thread.run(evict_all)

    async def _start(self) -> None:
        quiet = logging.Logger("websockets.server", logging.CRITICAL + 1)
        self._server = await serve(self._serve, "127.0.0.1", 0, close_timeout=0.2, logger=quiet)
        self.url = f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, client: ServerConnection) -> None:
        self.connections += 1
        assert client.request is not None
        self.headers.append(client.request.headers.get("Authorization", ""))
        with contextlib.suppress(ConnectionClosed):
            key = self.headers[-1].removeprefix("Bearer ")
            if self.login == "frame":
                key = json.loads(await client.recv()).get("api_key", "")
            tier = self.tiers.get(key)
            if not key or tier is None or tier < 100:
                await self._refuse(client, key, tier)
                return
            self.subscribed[client], self._sent[client] = False, 0
            head = self._next if self.login == "frame" else 0
            await _send(
                client,
                status="success",
                message="Authentication successful.",
                current_sequence=head,
                tier=tier,
            )
            async for data in client:
                frame = json.loads(data)
                self.frames.append(frame)
                await self._answer(client, frame)
        self.subscribed.pop(client, None)

    async def _refuse(self, client: ServerConnection, key: str, tier: int | None) -> None:
        if tier is not None:
            await _send(client, status="error", message=LOW_TIER, code="INSUFFICIENT_TIER")
        else:
            text = "Invalid API key. Authentication failed." if key else NO_KEY[self.login]
            await _send(client, status="error", message=text)
        await client.close()

    async def _answer(self, client: ServerConnection, frame: dict[str, Any]) -> None:
        kind = frame.get("type")
        status = {"type": "subscription_status", "status": "success", "all": True, "action": kind}
        if kind == "ping":
            times = {"client_timestamp": frame["timestamp"], "server_timestamp": NOW, "timestamp": NOW}
            await _send(client, type="pong", **times)
        elif kind == "subscribe" and frame.get("all") is True:
            times = {"sender_timestamp": frame["sender_timestamp"], "received_timestamp": NOW}
            await _send(client, **status, **times)
            self.subscribed[client] = True
        elif kind == "unsubscribe" and frame.get("all") is True:
            self.subscribed[client] = False
            await _send(client, **status)


async def _send(client: ServerConnection, **frame: Any) -> None:
    with contextlib.suppress(ConnectionClosed, asyncio.CancelledError):
        await client.send(json.dumps(frame))
