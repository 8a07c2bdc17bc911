"""The WebSocket server; the only module that uses picows.

Frames are written directly to a connection's transport, encoded beforehand: picows would frame every copy
again. picows does the handshake, parses the frames that clients send, and closes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket as sockets
import ssl
import traceback
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any, cast

import aiofastnet
import picows
import structlog
from picows import WSAutoPingStrategy, WSCloseCode, WSMsgType
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # its stub leaves it out

from ptn_api.access.address import ClientAddress, Proxies
from ptn_api.access.key_ring import KeyRing, key_in_header
from ptn_api.access.usage import Usage
from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import InvalidInputError, SettingsError
from ptn_api.event_log.contract import EventLog
from ptn_api.http.acceptor import Acceptor
from ptn_api.http.connection_limit import ConnectionLimit
from ptn_api.problems import OtherProcesses, ProblemRegister
from ptn_api.stream.connection import Connection
from ptn_api.stream.counters import StreamCounters
from ptn_api.stream.framing import PONG, MessageReader, frame, negotiate
from ptn_api.stream.hub import Hub
from ptn_api.stream.options import StreamOptions
from ptn_api.tasks import cancel_and_wait, wait_for_event
from ptn_api.wire.close_codes import (
    BAD_PAYLOAD,
    INTERNAL_ERROR,
    MESSAGE_TOO_BIG,
    PROTOCOL_ERROR,
    SHUTTING_DOWN,
    CloseCode,
)

__all__ = ["PICOWS_VERSIONS", "StreamServer", "check_picows", "run_stream"]

PICOWS_VERSIONS = ("2.3.1", "2.4")
"""From the first up to the second, exclusive. `_Protocol` relies on a class that picows does not document,
and 2.3.0 refuses the upgrade requests of browsers."""

HIGH_WATER_BYTES = 256 * 1024
"""A connection with more unsent bytes is congested: its catch-up pauses, its buffer is checked."""

_MAX_CLOSE_CODE = 4_999
"""The highest code allowed in a close frame (RFC 6455, 7.4.2)."""

_CLOSE_CODES = {"too_big": MESSAGE_TOO_BIG, "bad_fragment": PROTOCOL_ERROR, "not_deflated": BAD_PAYLOAD}

_LoginLimit = ConnectionLimit[asyncio.Transport]
"""The connections that have not logged in: all idle to the limit, so one more evicts the oldest."""

logger = structlog.get_logger()

# A client's malformed frame is not an error of the server: picows' own log lines are dropped.
_discarding_logger = logging.Logger("picows", logging.CRITICAL)


async def run_stream(
    *,
    log: EventLog,
    keys: KeyRing,
    sock: sockets.socket,
    options: StreamOptions,
    stop: asyncio.Event,
    ready: Callable[[], None],
    counters: StreamCounters | None = None,
    clock: Clock = wall_ms,
    tls: ssl.SSLContext | None = None,
    usage: Usage | None = None,
    problems: ProblemRegister | None = None,
    others: OtherProcesses | None = None,
) -> None:
    """Serves the log's orders on `sock`, a bound socket, until `stop` is set.

    Calls `ready` once clients can connect; until the log is ready, logins are closed with a code that
    means "reconnect"; on stop, so is every connection. `keys` may be replaced at any time:
    connections whose key is no longer valid are closed at once. Raises the error that ended any of the tasks.
    """
    counters = counters or StreamCounters()
    hub = Hub(
        log,
        keys,
        options=options,
        counters=counters,
        clock=clock,
        usage=usage,
        problems=problems,
        others=others,
    )
    server = StreamServer(hub, options, counters)
    tasks = hub.start()
    stopping = asyncio.create_task(stop.wait())
    try:
        await server.start(sock, tls)
        ready()
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()
    finally:
        hub.close_all(SHUTTING_DOWN)
        await cancel_and_wait([stopping, *tasks])
        await server.stop()


def check_picows(installed: str) -> None:
    """Raises SettingsError if this version of picows is not one that the server is tested with."""
    lowest, number, beyond = (
        [int(part) for part in re.findall(r"\d+", text)[:3]]
        for text in (PICOWS_VERSIONS[0], installed, PICOWS_VERSIONS[1])
    )
    if not lowest <= number < beyond:
        needed = ">={},<{}".format(*PICOWS_VERSIONS)
        raise SettingsError(
            f"picows {installed} is not supported: needs {needed} (pip install 'picows{needed}')",
            code="unsupported_library",
        )


class StreamServer:
    """A listener on a socket that the caller owns; connections are handed to the hub."""

    def __init__(self, hub: Hub, options: StreamOptions, counters: StreamCounters) -> None:
        self._hub = hub
        self._options = options
        self._acceptor: Acceptor | None = None
        self._clients = _Clients()
        self._counters = counters
        self._limit: _LoginLimit = ConnectionLimit(options.max_waiting_connections, self._count_eviction)
        self._proxies = Proxies(options.trusted_proxies)

    async def start(self, sock: sockets.socket, tls: ssl.SSLContext | None = None) -> None:
        check_picows(version("picows"))
        # Plain connections use the transports that picows is built for: uvloop's cost more CPU per delivery.
        # aiofastnet's TLS fails with a context that has an sni_callback.
        loop = asyncio.get_running_loop()
        connect = loop.connect_accepted_socket if tls else partial(aiofastnet.connect_accepted_socket, loop)
        protocol = partial(
            _Protocol,
            self._limit,
            ws_listener_factory=self._accept,
            websocket_handshake_timeout=self._options.auth_timeout_ms / 1000,
            max_frame_size=self._options.message_limit_bytes,
        )
        self._acceptor = Acceptor(
            sock,
            partial(
                connect,
                protocol,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else self._options.auth_timeout_ms / 1000,
            ),
            make_room=self._limit.evict,
            pauses=self._counters.accept_pauses,
            tls=tls is not None,
        )
        self._acceptor.start()

    async def stop(self) -> None:
        """Stops listening; waits for closing connections to end, and aborts those that do not."""
        if self._acceptor is not None:
            self._acceptor.close()
        if not await self._clients.wait_until_gone(self._options.unread_close_ms):
            for client in self._clients.all():
                client.abort()
            await self._clients.wait_until_gone(self._options.unread_close_ms)

    def _count_eviction(self) -> None:
        self._counters.limited["waiting_connections"] += 1

    def _accept(self, request: picows.WSUpgradeRequest) -> picows.WSUpgradeResponseWithListener:
        """Answers an upgrade request. Any path and any origin is accepted: the key decides."""
        headers = request.headers
        if headers.get("Upgrade", "").lower() != "websocket":
            response = picows.WSUpgradeResponse.create_error_response(
                426,
                b'{"error": "This port speaks WebSocket only", "code": "websocket_only"}',
                {"Content-Type": "application/json", "Upgrade": "websocket"},
            )
            return picows.WSUpgradeResponseWithListener(response, None)
        if "upgrade" in (token.strip() for token in headers.get("Connection", "").lower().split(",")):
            headers["Connection"] = "upgrade"  # picows refuses the "keep-alive, Upgrade" of browsers
        extension = negotiate(",".join(headers.getall("Sec-WebSocket-Extensions", [])))
        response = picows.WSUpgradeResponse.create_101_response(
            {"Sec-WebSocket-Extensions": extension} if extension else {}
        )
        # A client that names its protocol sends a login frame, which decides: its key may differ from the
        # header's.
        login_follows = "X-PTN-Protocol" in headers
        forwarded = headers.getall("X-Forwarded-For", [])
        client = _Client(
            self._hub,
            self._clients,
            self._limit,
            self._options,
            locate=lambda peer: self._proxies.client(peer, forwarded),
            deflate=extension is not None,
            api_key=None if login_follows else key_in_header(headers.get("Authorization", "")),
        )
        return picows.WSUpgradeResponseWithListener(response, client)


class _Protocol(WSProtocol):  # type: ignore[misc]  # it has no declared type
    """A connection from its first byte on, counted until it logs in.

    picows' own server reports a connection only after its upgrade, too late to cap silent ones.
    """

    def __init__(self, limit: _LoginLimit, **arguments: Any) -> None:
        super().__init__(
            host_port=None,
            ws_path=None,
            is_client_side=False,
            logger=_discarding_logger,
            disconnect_on_exception=True,
            enable_auto_ping=False,
            auto_ping_idle_timeout=0,
            auto_ping_reply_timeout=0,
            auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
            enable_auto_pong=False,  # unread pongs must count as unsent bytes
            extra_headers=None,
            read_buffer_init_size=4 * 1024,
            **arguments,
        )
        self._limit = limit
        self._socket: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._socket = transport
        self._limit.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._socket is not None:
            self._limit.remove(self._socket)
        super().connection_lost(exc)


class _Clients:
    """The open connections, closing ones included."""

    def __init__(self) -> None:
        self._clients: set[_Client] = set()
        self._all_gone = asyncio.Event()
        self._all_gone.set()

    def all(self) -> list[_Client]:
        return list(self._clients)

    def add(self, client: _Client) -> None:
        self._clients.add(client)
        self._all_gone.clear()

    def discard(self, client: _Client) -> None:
        self._clients.discard(client)
        if not self._clients:
            self._all_gone.set()

    async def wait_until_gone(self, timeout_ms: int) -> bool:
        return await wait_for_event(self._all_gone, timeout_ms)


class _Client(picows.WSListener):
    """picows' listener of one connection, and the `Socket` of a `Connection`."""

    def __init__(
        self,
        hub: Hub,
        clients: _Clients,
        limit: _LoginLimit,
        options: StreamOptions,
        *,
        locate: Callable[[str], ClientAddress],
        deflate: bool,
        api_key: str | None,
    ) -> None:
        self.address = ""
        self.address_group: str | None = None
        self.deflate = deflate
        self._hub = hub
        self._clients = clients
        self._limit = limit
        self._options = options
        self._locate = locate
        self._api_key = api_key
        self._reader = MessageReader(limit=options.message_limit_bytes, deflate=deflate)
        self._connection: Connection | None = None
        self._closing = False
        self._aborting = False
        self._client_code = 0
        """The code of the client's close frame."""

    # --- Socket ---

    def unsent_bytes(self) -> int:
        size: int = self._transport.underlying_transport.get_write_buffer_size()
        return size

    def close(self, reason: CloseCode) -> None:
        if self._closing:
            return
        self._closing = True
        self._transport.send_close(cast(WSCloseCode, reason.code), reason.reason)
        self._abort_later()

    def authenticated(self) -> None:
        self._limit.remove(self._transport.underlying_transport)

    def abort_if_closing(self) -> None:
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
        peer = underlying.get_extra_info("peername")
        if isinstance(peer, tuple) and len(peer) >= 2:
            text, self.address_group = self._locate(peer[0])
            self.address = f"{text}:{peer[1]}" if text == peer[0] else text
        high = min(HIGH_WATER_BYTES, self._options.send_buffer_bytes // 2)
        underlying.set_write_buffer_limits(high=high, low=high // 4)
        self._clients.add(self)
        self._connection = self._hub.connect(self)
        if self._api_key is not None:
            self._connection.authenticate(self._api_key)

    def on_ws_frame(self, transport: picows.WSTransport, ws_frame: picows.WSFrame) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            self._handle_frame(connection, ws_frame)
        except InvalidInputError as error:
            connection.close(_CLOSE_CODES[error.code])
        except Exception:  # noqa: BLE001 - a frame that triggers a fault costs its sender the connection, no more
            # The traceback without local variables: one of them may be a login.
            logger.error("frame_failed", address=self.address, traceback=traceback.format_exc())
            connection.close(INTERNAL_ERROR)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self._clients.discard(self)
        if self._connection is None:
            return
        handshake = transport.close_handshake
        why = CloseCode(self._client_code, "closed by the client")
        if handshake is not None and handshake.sent is not None and not self._closing:
            # Closed by picows, because of a frame that it could not parse.
            why = CloseCode(int(cast(int, handshake.sent.code)), handshake.sent.reason)
        self._hub.disconnected(self._connection, why)
        self._connection = None

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.congested()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.drained()

    # --- frames ---

    def _handle_frame(self, connection: Connection, ws_frame: picows.WSFrame) -> None:
        kind = ws_frame.msg_type
        if kind == WSMsgType.CLOSE:
            self._handle_close(ws_frame)
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

    def _handle_close(self, ws_frame: picows.WSFrame) -> None:
        """Ends the connection; the client's own close frame, unless it is a reply to ours, gets a reply."""
        code = ws_frame.get_close_code()
        self._client_code = int(cast(int, code))  # picows has an enum member only for the codes it knows
        if not self._closing:
            self._closing = True
            if self._client_code > _MAX_CLOSE_CODE:
                code = WSCloseCode.PROTOCOL_ERROR
            self._transport.send_close(code if self._client_code else WSCloseCode.OK)
            self._abort_later()
        self._transport.disconnect()
