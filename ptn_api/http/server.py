"""A server on a listening socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from typing import Any

from ptn_api.http.acceptor import Acceptor, AcceptPauses
from ptn_api.http.connection import Connection, Handler, Limiter
from ptn_api.http.connection_limit import ConnectionLimit, DownloadLimit
from ptn_api.http.request import Limits

__all__ = ["Server"]

_TLS_SHUTDOWN_S = 1.0
"""How long to wait for the peer's close_notify. Everything has been sent by then."""


class Server:
    """`async with Server(...)` serves inside the block; leaving it drains for at most `drain_ms`."""

    def __init__(
        self,
        handler: Handler,
        sock: socket.socket,
        limits: Limits,
        *,
        limiter: Limiter,
        connections: ConnectionLimit[Connection],
        drain_ms: int,
        tls: ssl.SSLContext | None = None,
        pauses: AcceptPauses | None = None,
    ) -> None:
        self._handler = handler
        self._sock = sock
        self._limits = limits
        self._limiter = limiter
        self._connections = connections
        self._downloads = DownloadLimit(
            limits.downloads, most_waiting=limits.waiting_downloads, wait_ms=limits.download_wait_ms
        )
        self._drain_s = drain_ms / 1000
        self._tls = tls
        self._acceptor = Acceptor(
            sock,
            self._connect,
            make_room=connections.evict,
            pauses=pauses or AcceptPauses(),
            tls=tls is not None,
        )

    async def __aenter__(self) -> None:
        self._acceptor.start()

    async def _connect(self, sock: socket.socket) -> None:
        loop, tls = asyncio.get_running_loop(), dict[str, Any]()
        if self._tls is not None:
            tls = {
                "ssl": self._tls,
                "ssl_handshake_timeout": self._limits.request_ms / 1000,
            }
            # asyncio's own loop knows it from Python 3.11 on; before, its TLS does not wait for the peer.
            if sys.version_info >= (3, 11) or not isinstance(loop, asyncio.BaseEventLoop):
                tls["ssl_shutdown_timeout"] = _TLS_SHUTDOWN_S
        await loop.connect_accepted_socket(
            lambda: Connection(
                self._handler,
                self._limits,
                limiter=self._limiter,
                connections=self._connections,
                downloads=self._downloads,
            ),
            sock,
            **tls,
        )

    async def __aexit__(self, *_: object) -> None:
        """Stops accepting, lets responses that have begun finish, and aborts the rest when time is up."""
        await self._acceptor.close()
        for connection in self._connections:
            connection.finish()
        # Server.wait_closed() does not wait for connections before Python 3.12.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._connections.wait_until_empty(), self._drain_s)
        for connection in self._connections:
            connection.abort()
        await self._connections.wait_until_empty()
