"""A TCP proxy that misbehaves on command: cuts, stalls, truncates, delays and duplicates.

It wraps the real thing: clients connect to the proxy's port instead of the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Coroutine
from typing import Any

__all__ = ["ChaosProxy"]

_CHUNK = 16_384


class _Link:
    """One proxied connection: two pumps."""

    def __init__(self, proxy: ChaosProxy, client: _Streams, server: _Streams) -> None:
        self._proxy = proxy
        self._writers = (client[1], server[1])
        self.truncate = False
        self._pumps = [
            asyncio.create_task(self._pump(client[0], server[1], from_server=False)),
            asyncio.create_task(self._pump(server[0], client[1], from_server=True)),
        ]

    async def run(self) -> None:
        await asyncio.wait(self._pumps, return_when=asyncio.FIRST_COMPLETED)
        self.cut()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def cut(self) -> None:
        """Both sides see a reset, as when a machine on the way vanishes."""
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers:
            writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_server: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                await self._proxy.flowing.wait()
                if self._proxy.delay_s:
                    await asyncio.sleep(self._proxy.random.uniform(0, self._proxy.delay_s))
                if from_server and self.truncate:
                    writer.write(data[: len(data) // 2])
                    return
                writer.write(data)
                if from_server and self._proxy.duplicate_next:
                    self._proxy.duplicate_next = False
                    writer.write(data)
                await writer.drain()


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ChaosProxy:
    """Runs in a thread with a loop of its own; every method may be called from the test's thread."""

    def __init__(self, target_port: int, *, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.delay_s = 0.0
        self.duplicate_next = False
        self.cuts = 0
        self._target_port = target_port
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def cut(self, share: float = 1.0) -> int:
        """Resets this share of the connections, chosen at random; returns how many."""
        return self._call(self._cut(share))

    def truncate(self) -> None:
        """Every connection gets half of the next piece, then the end."""
        self._call(self._truncate())

    def stall(self) -> None:
        """Connections stay open and mute until `flow()`."""
        self._call(self._set_flowing(False))

    def flow(self) -> None:
        self._call(self._set_flowing(True))

    def retarget(self, port: int) -> None:
        self._target_port = port

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _start(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._server = await asyncio.start_server(self._connected, sock=self._socket)

    async def _stop(self) -> None:
        self._server.close()
        self.flowing.set()
        for link in list(self._links):
            link.cut()
        while self._links:
            await asyncio.sleep(0.005)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), server)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def _cut(self, share: float) -> int:
        chosen = [link for link in list(self._links) if self.random.random() < share]
        for link in chosen:
            link.cut()
        self.cuts += len(chosen)
        return len(chosen)

    async def _truncate(self) -> None:
        for link in self._links:
            link.truncate = True

    async def _set_flowing(self, flowing: bool) -> None:
        if flowing:
            self.flowing.set()
        else:
            self.flowing.clear()
