"""A TCP proxy that misbehaves on command: cuts, stalls, truncates, delays and duplicates.

It wraps the real thing: clients connect to the proxy's port instead of the server's.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from typing import Any

import uvloop

from tests.waiting import PATIENCE_S

__all__ = ["ChaosProxy"]

_RESET = struct.pack("ii", 1, 0)
_MOST_UNSENT = 64 * 1024


class _End(asyncio.Protocol):
    """One of a connection's two sockets; forwards what it receives to the other one.

    It does not read while it has a reason to hold.
    """

    def __init__(self, proxy: ChaosProxy, link: _Link, *, from_server: bool) -> None:
        self.transport: asyncio.Transport | None = None
        self._proxy = proxy
        self._link = link
        self._from_server = from_server
        self._reasons: set[str] = set()
        self._kept = b""

    def hold(self, reason: str) -> None:
        self._reasons.add(reason)
        if self.transport is not None:
            self.transport.pause_reading()

    def release(self, reason: str) -> None:
        self._reasons.discard(reason)
        if self._reasons or self.transport is None or self.transport.is_closing():
            return
        self.transport.resume_reading()
        kept, self._kept = self._kept, b""
        if kept:
            self.data_received(kept)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.set_write_buffer_limits(high=_MOST_UNSENT)
        if self._reasons:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self._reasons:
            self._kept += data  # uvloop still delivers for a moment
        elif self._proxy.delay_s:
            self.hold("delayed")
            delay_s = self._proxy.random.uniform(0, self._proxy.delay_s)
            asyncio.get_running_loop().call_later(delay_s, self._late, data)
        else:
            self._link.forward(data, from_server=self._from_server)

    def _late(self, data: bytes) -> None:
        self._link.forward(data, from_server=self._from_server)
        self.release("delayed")

    def pause_writing(self) -> None:
        self._link.other(self).hold("full")

    def resume_writing(self) -> None:
        self._link.other(self).release("full")

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.end()

    def reset(self) -> None:
        if self.transport is not None:
            sock = self.transport.get_extra_info("socket")
            if sock is not None and not self.transport.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()


class _Link:
    """One proxied connection."""

    def __init__(self, proxy: ChaosProxy) -> None:
        self.truncate = False
        self._proxy = proxy
        self.client = _End(proxy, self, from_server=False)
        self.server = _End(proxy, self, from_server=True)
        self.client.hold("not connected")

    def other(self, end: _End) -> _End:
        return self.client if end is self.server else self.server

    def forward(self, data: bytes, *, from_server: bool) -> None:
        target = (self.client if from_server else self.server).transport
        if target is None or target.is_closing():
            return
        if from_server and self.truncate:
            target.write(data[: len(data) // 2])
            self.end()
            return
        target.write(data)
        if from_server and self._proxy.duplicate_next:
            self._proxy.duplicate_next = False
            target.write(data)

    def end(self) -> None:
        """Closes both sides after the data in transit."""
        self._proxy.links.discard(self)
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.close()

    def cut(self) -> None:
        """Resets both sides, as if a machine in between vanished."""
        self._proxy.links.discard(self)
        self.client.reset()
        self.server.reset()


class ChaosProxy:
    """Runs in a thread with its own loop; call its methods from the test's thread."""

    def __init__(self, target_port: int, *, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.delay_s = 0.0
        self.duplicate_next = False
        self.cuts = 0
        self.links: set[_Link] = set()
        self._targets: tuple[int, ...] = (target_port,)
        self._stalled = False
        self._loop = uvloop.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """The processor time of the proxy so far."""
        return self._call(self._cpu_s())

    def cut(self, share: float = 1.0) -> int:
        """Resets this share of the connections, chosen at random; returns how many."""
        return self._call(self._cut(share))

    def truncate(self) -> None:
        """Ends every connection after half of its next chunk."""
        self._call(self._truncate())

    def stall(self) -> None:
        """Keeps connections open and silent until `flow()`."""
        self._call(self._stall())

    def flow(self) -> None:
        self._call(self._flow())

    def retarget(self, *ports: int) -> None:
        """Leads new connections to these ports, each to one of them at random."""
        self._targets = ports

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _start(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await self._loop.create_server(self._accept, sock=self._socket, backlog=1024)

    async def _stop(self) -> None:
        self._server.close()
        for link in list(self.links):
            link.cut()
        await asyncio.gather(*self._tasks)
        await self._server.wait_closed()

    def _accept(self) -> _End:
        link = _Link(self)
        self.links.add(link)
        if self._stalled:
            self._hold(link)
        task = self._loop.create_task(self._connect(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return link.client

    async def _connect(self, link: _Link) -> None:
        try:
            port = self.random.choice(self._targets)
            await self._loop.create_connection(lambda: link.server, "127.0.0.1", port)
        except OSError:
            link.cut()
            return
        if link in self.links:
            link.client.release("not connected")
        else:
            link.cut()

    async def _cpu_s(self) -> float:
        return time.thread_time()

    async def _cut(self, share: float) -> int:
        chosen = [link for link in list(self.links) if self.random.random() < share]
        for link in chosen:
            link.cut()
        self.cuts += len(chosen)
        return len(chosen)

    async def _truncate(self) -> None:
        for link in self.links:
            link.truncate = True

    async def _stall(self) -> None:
        self._stalled = True
        for link in self.links:
            self._hold(link)

    async def _flow(self) -> None:
        self._stalled = False
        for link in list(self.links):
            link.client.release("stalled")
            link.server.release("stalled")

    def _hold(self, link: _Link) -> None:
        link.client.hold("stalled")
        link.server.hold("stalled")
