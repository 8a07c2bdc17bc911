"""The WebSocket server: the one home of picows.

Frames go straight to the connection's transport, made before, since picows would frame each copy anew. What
picows is left to do: the handshake, parsing what clients send, closing.
"""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
import ssl
import traceback
from collections.abc import Callable
from typing import cast

import picows
import structlog
from picows import WSCloseCode, WSMsgType

from ptn_api.access.address import ClientAddress, Proxies
from ptn_api.errors import InvalidInputError
from ptn_api.stream.connection import Connection
from ptn_api.stream.counters import StreamCounters
from ptn_api.stream.deflate import negotiate
from ptn_api.stream.framing import PONG, frame
from ptn_api.stream.hub import Hub
from ptn_api.stream.inbound import MessageReader
from ptn_api.stream.newcomers import Newcomers
from ptn_api.stream.options import StreamOptions
from ptn_api.tasks import wait_for_event
from ptn_api.wire.close_codes import (
    BAD_PAYLOAD,
    INTERNAL_ERROR,
    MESSAGE_TOO_BIG,
    PROTOCOL_ERROR,
    CloseCode,
)

__all__ = ["StreamServer"]

HIGH_WATER_BYTES = 256 * 1024
"""A connection that keeps more unsent is congested: its replay waits, its buffer is watched."""

_BACKLOG = 1024
"""How many may knock at the same moment: a thousand clients that come back at once."""

_LARGEST_CODE = 4_999
"""Of those that a close frame may carry (RFC 6455, 7.4.2)."""
_UNREADABLE = {"too_big": MESSAGE_TOO_BIG, "bad_fragment": PROTOCOL_ERROR, "not_deflated": BAD_PAYLOAD}

logger = structlog.get_logger()

Accept = Callable[[picows.WSUpgradeRequest], picows.WSUpgradeResponseWithListener]

# Strangers' broken frames are no errors of this program: picows' own lines go nowhere.
_silence = logging.Logger("picows", logging.CRITICAL)


class StreamServer:
    """Listens on a socket that the caller owns and hands connections to the hub."""

    def __init__(self, hub: Hub, options: StreamOptions, counters: StreamCounters) -> None:
        self._hub = hub
        self._options = options
        self._server: asyncio.Server | None = None
        self._clients = _Clients()
        self._newcomers = Newcomers(options.max_waiting_connections, counters)
        self._proxies = Proxies(options.trusted_proxies)

    async def start(self, sock: sockets.socket, tls: ssl.SSLContext | None = None) -> None:
        sock.setblocking(False)
        # What picows makes for each connection: it offers no other way in.
        picows.api.WSProtocol = _Protocol  # type: ignore[attr-defined]
        self._server = await picows.ws_create_server(
            _Reception(self._accept, self._newcomers),
            sock=sock,
            backlog=_BACKLOG,
            enable_auto_pong=False,  # a flood of unread pongs must count as unsent
            max_frame_size=self._options.message_limit_bytes,
            websocket_handshake_timeout=self._options.auth_timeout_ms / 1000,
            read_buffer_init_size=4 * 1024,
            logger_name=_silence,
            ssl=tls,
            use_aiofastnet=None if tls is None else False,  # its TLS dies of a context's sni_callback
            ssl_handshake_timeout=None if tls is None else self._options.auth_timeout_ms / 1000,
        )

    async def stop(self) -> None:
        """Takes no more connections; waits until those that are closing are gone, and aborts what stays."""
        if self._server is not None:
            self._server.close()
        if not await self._clients.gone(self._options.unread_close_ms):
            for client in self._clients.all():
                client.abort()
            await self._clients.gone(self._options.unread_close_ms)

    def _accept(self, request: picows.WSUpgradeRequest) -> picows.WSUpgradeResponseWithListener:
        """Any path and any origin will do: the key decides."""
        headers = request.headers
        if headers.get("Upgrade", "").lower() != "websocket":
            return _refusal()
        if "upgrade" in (token.strip() for token in headers.get("Connection", "").lower().split(",")):
            headers["Connection"] = "upgrade"  # browsers say "keep-alive, Upgrade", which picows refuses
        extension = negotiate(",".join(headers.getall("Sec-WebSocket-Extensions", [])))
        answer = {"Sec-WebSocket-Extensions": extension} if extension else {}
        client = _Client(
            self._hub, self._clients, self._newcomers, self._options, deflate=extension is not None
        )
        forwarded = headers.getall("X-Forwarded-For", [])
        client.located = lambda peer: self._proxies.client(peer, forwarded)
        response = picows.WSUpgradeResponse.create_101_response(answer)
        return picows.WSUpgradeResponseWithListener(response, client)


def _refusal() -> picows.WSUpgradeResponseWithListener:
    response = picows.WSUpgradeResponse.create_error_response(
        426,
        b'{"error": "This port speaks WebSocket only", "code": "websocket_only"}',
        {"Content-Type": "application/json", "Upgrade": "websocket"},
    )
    return picows.WSUpgradeResponseWithListener(response, None)


class _Reception:
    """What picows calls when a client wants to upgrade; `newcomers` are those who have not logged in."""

    def __init__(self, accept: Accept, newcomers: Newcomers) -> None:
        self._accept = accept
        self.newcomers = newcomers

    def __call__(self, request: picows.WSUpgradeRequest) -> picows.WSUpgradeResponseWithListener:
        return self._accept(request)


class _Protocol(picows.api.WSProtocol):  # type: ignore[misc, name-defined]  # it has no declared type
    """A connection from its first byte on; picows itself tells of those only that have upgraded."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        # picows makes its clients of this class too.
        self._newcomers = next((a.newcomers for a in arguments if isinstance(a, _Reception)), None)
        self._socket: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._socket = transport
        if self._newcomers is not None:
            self._newcomers.arrived(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._newcomers is not None and self._socket is not None:
            self._newcomers.leave(self._socket)
        super().connection_lost(exc)


class _Clients:
    """The connections that are open, be they closing."""

    def __init__(self) -> None:
        self._all: set[_Client] = set()
        self._none = asyncio.Event()
        self._none.set()

    def all(self) -> list[_Client]:
        return list(self._all)

    def add(self, client: _Client) -> None:
        self._all.add(client)
        self._none.clear()

    def discard(self, client: _Client) -> None:
        self._all.discard(client)
        if not self._all:
            self._none.set()

    async def gone(self, timeout_ms: int) -> bool:
        """Waits until there are none, at most so long; whether there are none."""
        await wait_for_event(self._none, timeout_ms)
        return not self._all


class _Client(picows.WSListener):
    """picows' side of one connection; the `Socket` of a `Connection`."""

    def __init__(
        self, hub: Hub, clients: _Clients, newcomers: Newcomers, options: StreamOptions, *, deflate: bool
    ) -> None:
        self.address = ""
        self.group: str | None = None
        self.located: Callable[[str], ClientAddress] = Proxies().client
        """Where the client is, by its peer."""
        self.deflate = deflate
        self._hub = hub
        self._clients = clients
        self._newcomers = newcomers
        self._options = options
        self._reader = MessageReader(limit=options.message_limit_bytes, deflate=deflate)
        self._connection: Connection | None = None
        self._closing = False
        self._aborting = False
        self._client_code = 0

    # --- Socket ---

    def unsent(self) -> int:
        size: int = self._transport.underlying_transport.get_write_buffer_size()
        return size

    def close(self, reason: CloseCode) -> None:
        if self._closing:
            return
        self._closing = True
        self._transport.send_close(cast(WSCloseCode, reason.code), reason.reason)
        self._abort_later()

    def settle(self) -> None:
        self._newcomers.leave(self._transport.underlying_transport)

    def tidy(self) -> None:
        if self._transport.is_close_frame_sent:
            self._abort_later()

    def abort(self) -> None:
        self._transport.underlying_transport.abort()

    def _abort_later(self) -> None:
        if self._aborting:
            return
        self._aborting = True
        asyncio.get_running_loop().call_later(self._options.unread_close_ms / 1000, self.abort)

    # --- WSListener ---

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        underlying = transport.underlying_transport
        self._transport = transport
        self.write = underlying.write
        self._locate(underlying.get_extra_info("peername"))
        high = min(HIGH_WATER_BYTES, self._options.send_buffer_bytes // 2)
        underlying.set_write_buffer_limits(high=high, low=high // 4)
        self._clients.add(self)
        self._connection = self._hub.connect(self)

    def _locate(self, peer: object) -> None:
        if isinstance(peer, tuple) and len(peer) >= 2:
            text, self.group = self.located(peer[0])
            self.address = f"{text}:{peer[1]}" if text == peer[0] else text

    def on_ws_frame(self, transport: picows.WSTransport, ws_frame: picows.WSFrame) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            self._frame(connection, ws_frame)
        except InvalidInputError as error:
            connection.close(_UNREADABLE[error.code])
        except Exception:  # noqa: BLE001 - protects the server from a frame that meets a fault: only its sender is closed
            # No frame locals in the log: one of them may be a login.
            logger.error("frame_failed", address=self.address, traceback=traceback.format_exc())
            connection.close(INTERNAL_ERROR)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self._clients.discard(self)
        if self._connection is not None:
            self._hub.disconnected(self._connection, self._why(transport))
            self._connection = None

    def _why(self, transport: picows.WSTransport) -> CloseCode:
        """Who ended this: picows, over a frame that it could not parse, or the client."""
        handshake = transport.close_handshake
        if handshake is not None and handshake.sent is not None and not self._closing:
            return CloseCode(int(cast(int, handshake.sent.code)), handshake.sent.reason)
        return CloseCode(self._client_code, "closed by the client")

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.congested()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.flowing()

    # --- frames ---

    def _frame(self, connection: Connection, ws_frame: picows.WSFrame) -> None:
        kind = ws_frame.msg_type
        if kind == WSMsgType.CLOSE:
            self._closed_by_client(ws_frame)
        elif self._closing or not connection.admits_frame():
            return
        elif kind == WSMsgType.PING:
            connection.pong(frame(ws_frame.get_payload_as_bytes(), opcode=PONG))
        elif kind != WSMsgType.PONG:
            message = self._reader.feed(
                cast(int, kind), ws_frame.get_payload_as_bytes(), fin=ws_frame.fin, compressed=ws_frame.rsv1
            )
            if message is not None:
                connection.received(message)

    def _closed_by_client(self, ws_frame: picows.WSFrame) -> None:
        """Either the answer to our close, or the client's own, which is answered."""
        code = ws_frame.get_close_code()
        self._client_code = int(cast(int, code))  # an enum only where picows knows it
        if not self._closing:
            self._closing = True
            if self._client_code > _LARGEST_CODE:
                code = WSCloseCode.PROTOCOL_ERROR
            self._transport.send_close(code if self._client_code else WSCloseCode.OK)
            self._abort_later()
        self._transport.disconnect()
