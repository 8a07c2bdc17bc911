"""Serving an ASGI application on a listening socket until told to stop.

Uvicorn's protocol without its server: no signal handlers, no tick ten times a second.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from ptn_api.rest.connection import Connection, Limits
from ptn_api.rest.crowd import Crowd
from ptn_api.rest.gate import Door

__all__ = ["Server"]

_KEEP_ALIVE_S = 75
"""Longer than the minute at which many clients poll."""

_BACKLOG = 1024


class Server:
    """`async with Server(app, sock, limits): ...` serves meanwhile; leaving it drains, at most `drain_ms`."""

    def __init__(
        self,
        app: Any,
        sock: socket.socket,
        limits: Limits,
        *,
        door: Door,
        crowd: Crowd,
        drain_ms: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._sock = sock
        self._limits = limits
        self._door = door
        self._crowd = crowd
        self._drain_s = drain_ms / 1000
        self._tls = tls
        self._state = ServerState()
        self._config = uvicorn.Config(
            app,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",  # strangers' malformed requests are no news
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> None:
        self._config.load()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection,
            sock=self._sock,
            backlog=_BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else self._limits.request_ms / 1000,
        )

    def _connection(self) -> Connection:
        return Connection(self._config, self._state, limits=self._limits, door=self._door, crowd=self._crowd)

    async def __aexit__(self, *_: object) -> None:
        """Takes no more; lets answers that were begun end; cuts off what is left after the time."""
        assert self._server is not None
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        deadline = asyncio.get_running_loop().time() + self._drain_s
        # Uvicorn keeps the connections in a set that tells nobody when it is empty.
        while self._state.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for connection in list(self._state.connections):
            connection.transport.abort()
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
