"""A real stream server on a free port, and WebSocket clients for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from ptn_api.access.key_ring import KeyRing
from ptn_api.access.usage import Usage
from ptn_api.event_log.contract import Change, EventLog, EventLogWriter, Head, PositionRemoved
from ptn_api.fanout.counters import StreamCounters
from ptn_api.fanout.options import StreamOptions
from ptn_api.fanout.presence import Peers
from ptn_api.stream.server import run_stream
from tests.factories import T0, order, position, written
from tests.memory_log import MemoryLog
from tests.waiting import PATIENCE_S

KEY = "key-of-alice"
_PERIODS = {"unread_close_ms": 300, "heartbeat_ms": 3_600_000, "auth_timeout_ms": 3_600_000}
"""What happens after a time happens only in the tests of it: a busy machine may be slow at anything."""


class LiveStream:
    """A log that the test writes, and the stream that serves it. `now_ms` moves with every append.

    `reader` is what the stream reads, if that is not the writer itself.
    """

    def __init__(
        self, *, log: EventLogWriter | None = None, reader: EventLog | None = None, ready: bool = True
    ) -> None:
        self.log = log or MemoryLog(created_ms=T0, epoch="epoch-1")
        self.reader = reader or self.log
        self.keys = KeyRing()
        self.keys.replace([("alice", KEY, 100), ("bob", "key-of-bob", 100), ("carl", "key-of-carl", 50)])
        self.counters = StreamCounters()
        self.port = 0
        self.now_ms = T0
        self._orders = 0
        if ready:
            self.log.baseline([], T0)

    def append(self, *changes: Change) -> Head:
        self.now_ms += 1
        return self.log.append(list(changes), self.now_ms)

    def trade(self, count: int = 1, **fields: Any) -> Head:
        """Appends `count` new positions with one order each, one by one."""
        for _ in range(count):
            self._orders += 1
            n = self._orders
            self.append(written(position(n, [order(n)], **fields)))
        return self.log.head()

    def remove(self, miner: str, position_uuid: str) -> Head:
        return self.append(PositionRemoved(miner_hotkey=miner, position_uuid=position_uuid))

    @contextlib.asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        options = {"open_timeout": PATIENCE_S} | options
        async with connect(f"ws://127.0.0.1:{self.port}/any/path", **options) as connection:
            yield Client(connection)


class Client:
    """A WebSocket client that sends and receives frames as dicts."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **frame: Any) -> None:
        await self.connection.send(json.dumps(frame))

    async def receive(self) -> dict[str, Any]:
        return json.loads(await asyncio.wait_for(self.connection.recv(), PATIENCE_S))

    async def login(self, api_key: str = KEY, **fields: Any) -> dict[str, Any]:
        await self.send(api_key=api_key, **fields)
        return await self.receive()

    async def subscribe(self, **fields: Any) -> dict[str, Any]:
        """Returns the server's reply; a heartbeat before it is skipped."""
        await self.send(**{"type": "subscribe", "all": True, "sender_timestamp": 5} | fields)
        while (frame := await self.receive()).get("type") == "heartbeat":
            pass
        return frame

    async def messages(self, count: int) -> list[dict[str, Any]]:
        """Returns at least `count` orders, from single messages or batches; heartbeats are skipped."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            frame = await self.receive()
            if frame.get("type") == "batch":
                assert frame["count"] == len(frame["messages"])
                found += frame["messages"]
            elif "sequence" in frame:
                found.append(frame)
            else:
                assert frame["type"] == "heartbeat", frame
        return found

    async def next(self, kind: str) -> dict[str, Any]:
        """Returns the next frame of this type; heartbeats before it are skipped."""
        while True:
            frame = await self.receive()
            if frame.get("type") == kind:
                return frame
            assert frame.get("type") == "heartbeat", frame

    async def close_code(self) -> int | None:
        """Waits for the server's close; frames before it are skipped."""
        with contextlib.suppress(Exception):
            while True:
                await asyncio.wait_for(self.connection.recv(), PATIENCE_S)
        return self.connection.close_code


@contextlib.asynccontextmanager
async def running(
    live: LiveStream | None = None,
    *,
    clock: Callable[[], int] | None = None,
    usage: Usage | None = None,
    tls: ssl.SSLContext | None = None,
    peers: Peers | None = None,
    **options: Any,
) -> AsyncIterator[LiveStream]:
    """Runs the stream of `live` on a free port until the block ends."""
    live = live or LiveStream()
    stop, is_ready = asyncio.Event(), asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        live.port = sock.getsockname()[1]
        task = asyncio.create_task(
            run_stream(
                log=live.reader,
                keys=live.keys,
                sock=sock,
                options=StreamOptions(**_PERIODS | options),
                stop=stop,
                ready=is_ready.set,
                counters=live.counters,
                clock=clock or (lambda: live.now_ms),
                usage=usage,
                tls=tls,
                peers=peers,
            )
        )
        waiting = asyncio.create_task(is_ready.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        try:
            yield live
        finally:
            stop.set()
            await asyncio.wait_for(task, PATIENCE_S)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "timed out"
        await asyncio.sleep(0.005)
