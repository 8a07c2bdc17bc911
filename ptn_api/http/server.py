"""Serving on a listening socket until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

from ptn_api.http.connection import Connection
from ptn_api.http.crowd import Crowd
from ptn_api.http.reader import Limits
from ptn_api.rest.app import App
from ptn_api.rest.gate import Door

__all__ = ["Server"]

_BACKLOG = 1024
_GOODBYE_S = 1.0
"""How long a TLS connection waits for the other side's goodbye; it owes nothing any more."""


class Server:
    """`async with Server(app, sock, limits): ...` serves meanwhile; leaving it drains, at most `drain_ms`."""

    def __init__(
        self,
        app: App,
        sock: socket.socket,
        limits: Limits,
        *,
        door: Door,
        crowd: Crowd,
        drain_ms: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._app = app
        self._sock = sock
        self._limits = limits
        self._door = door
        self._crowd = crowd
        self._drain_s = drain_ms / 1000
        self._tls = tls
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {
                "ssl": self._tls,
                "ssl_handshake_timeout": self._limits.request_ms / 1000,
                "ssl_shutdown_timeout": _GOODBYE_S,
            }
        self._server = await loop.create_server(
            lambda: Connection(self._app, self._limits, door=self._door, crowd=self._crowd),
            sock=self._sock,
            backlog=_BACKLOG,
            **tls,
        )

    async def __aexit__(self, *_: object) -> None:
        """Takes no more; lets answers that were begun end; cuts off what is left after the time."""
        assert self._server is not None
        self._server.close()
        for connection in self._crowd:
            connection.finish()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._crowd.gone(), self._drain_s)
        for connection in self._crowd:
            connection.give_way()
        await self._crowd.gone()
