"""The WebSocket server; the only module that uses picows.

Frames are written directly to a connection's transport, encoded beforehand: picows would frame every copy
again. picows answers the handshake, parses the frames that clients send, and closes.
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
from typing import cast

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
from ptn_api.fanout.connection import Connection
from ptn_api.fanout.counters import StreamCounters
from ptn_api.fanout.hub import Hub
from ptn_api.fanout.options import StreamOptions
from ptn_api.fanout.presence import Peers
from ptn_api.http.acceptor import Acceptor
from ptn_api.http.connection_limit import ConnectionLimit
from ptn_api.problems import Findings, OtherProcesses, ProblemRegister, Recent
from ptn_api.stream.framing import PONG, MessageReader, SocketFraming, frame, negotiate
from ptn_api.stream.handshake import HandshakeReader
from ptn_api.tasks import cancel_and_wait, wait_for_event
from ptn_api.wire.client_frames import SMALL_FRAME_BYTES
from ptn_api.wire.close_codes import INTERNAL_ERROR, MESSAGE_TOO_BIG, SHUTTING_DOWN, CloseCode

__all__ = ["PICOWS_VERSIONS", "StreamServer", "check_picows", "run_stream"]

PICOWS_VERSIONS = ("2.3.1", "2.4")
"""From the first up to the second, exclusive. `_Protocol` relies on a class that picows does not document,
and 2.3.0 refuses the upgrade requests of browsers."""

HIGH_WATER_BYTES = 256 * 1024
"""A connection with more unsent bytes is congested: its catch-up pauses, its buffer is checked."""

_MAX_CLOSE_CODE = 4_999
"""The highest code allowed in a close frame (RFC 6455, 7.4.2)."""

_MOST_IGNORED_FRAMES = 100
"""How many frames are parsed after the close, in search of the client's close frame."""

_READ_BYTES = 4 * 1024
_PARSED_BYTES = 512
"""Of one connection in one turn of the loop: a hundred of the smallest frames."""
_DISCARDED = memoryview(bytearray(256 * 1024))
"""Where all connections write what is thrown away: large, so that a flood costs few reads."""
_DISCARD_PAUSE_S = 0.05
_LONGEST_HEADER = 14
"""A frame's header with the longest length and the mask (RFC 6455, section 5.2)."""

_Accept = Callable[[dict[str, str], tuple[str, int] | None], picows.WSUpgradeResponseWithListener]
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
    peers: Peers | None = None,
) -> None:
    """Serves the log's orders on `sock`, a bound socket, until `stop` is set.

    Calls `ready` once clients can connect; until the log is ready, logins are closed with a code that
    means "reconnect"; on stop, so is every connection. `keys` may be replaced at any time:
    connections whose key is no longer valid are closed at once. The limits of users and addresses are shared
    with `peers`. Raises the error that ended any of the tasks.
    """
    counters, problems = counters or StreamCounters(), problems or ProblemRegister(clock)
    hub = Hub(
        log,
        keys,
        options=options,
        counters=counters,
        clock=clock,
        usage=usage,
        problems=problems,
        others=others,
        peers=peers,
    )
    server = StreamServer(hub, options, counters)
    problems.watch(hub.log_problems)
    problems.watch(server.find_problems)
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

        self._evictions = Recent(options.overload_ms)

        def count_eviction() -> None:
            counters.limited["waiting_connections"] += 1
            self._evictions.note()

        self._limit: _LoginLimit = ConnectionLimit(options.max_waiting_connections, count_eviction)
        self._proxies = Proxies(options.trusted_proxies)

    def find_problems(self) -> Findings:
        return {
            "accept_paused": self._counters.accept_pauses.lasting,
            "connections_at_limit": self._evictions.total,
        }

    async def start(self, sock: sockets.socket, tls: ssl.SSLContext | None = None) -> None:
        check_picows(version("picows"))
        # Plain connections use the transports that picows is built for: uvloop's cost more CPU per delivery.
        # aiofastnet's TLS fails with a context that has an sni_callback.
        loop = asyncio.get_running_loop()
        connect = loop.connect_accepted_socket if tls else partial(aiofastnet.connect_accepted_socket, loop)
        protocol = partial(_Protocol, self._limit, self._accept, self._options, self._counters)
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
            await self._acceptor.close()
        if not await self._clients.wait_until_gone(self._options.unread_close_ms):
            for client in self._clients.all():
                client.abort()
            await self._clients.wait_until_gone(self._options.unread_close_ms)
        for transport in self._limit:  # no client: the handshake is incomplete or was refused
            transport.abort()

    def _accept(
        self, headers: dict[str, str], peer: tuple[str, int] | None
    ) -> picows.WSUpgradeResponseWithListener:
        """Answers a handshake. Any path and any origin is accepted: the key decides."""
        extension = negotiate(headers.get("sec-websocket-extensions", ""))
        response = picows.WSUpgradeResponse.create_101_response(
            {"Sec-WebSocket-Extensions": extension} if extension else {}
        )
        address = ClientAddress("", None)
        if peer is not None:
            address = self._proxies.client(peer[0], (headers.get("x-forwarded-for", ""),))
            if address.text == peer[0]:
                address = address._replace(text=f"{peer[0]}:{peer[1]}")
        # A client that names its protocol sends a login frame, which decides: its key may differ from the
        # header's.
        login_follows = "x-ptn-protocol" in headers
        client = _Client(
            self._hub,
            self._clients,
            self._limit,
            self._options,
            address=address,
            deflate=extension is not None,
            api_key=None if login_follows else key_in_header(headers.get("authorization", "")),
        )
        return picows.WSUpgradeResponseWithListener(response, client)


class _Protocol(WSProtocol):  # type: ignore[misc]  # it has no declared type
    """A connection from its first byte on, counted until it logs in.

    picows' own server reports a connection only after its upgrade, too late to cap silent ones. Its parser
    would also keep the handshake, and allocate as much as a frame announces.
    """

    def __init__(
        self, limit: _LoginLimit, accept: _Accept, options: StreamOptions, counters: StreamCounters
    ) -> None:
        # picows asks for the response that `buffer_updated` has put here. A bound method would be a cycle.
        self._response: list[picows.WSUpgradeResponseWithListener] = []
        super().__init__(
            host_port=None,
            ws_path=None,
            is_client_side=False,
            ws_listener_factory=partial(_take, self._response),
            logger=_discarding_logger,
            disconnect_on_exception=True,
            websocket_handshake_timeout=None,  # its own would wait for the client's side of TLS
            enable_auto_ping=False,
            auto_ping_idle_timeout=0,
            auto_ping_reply_timeout=0,
            auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
            enable_auto_pong=False,  # unread pongs must count as unsent bytes
            max_frame_size=max(options.message_limit_bytes, SMALL_FRAME_BYTES),
            extra_headers=None,
            read_buffer_init_size=_PARSED_BYTES,
        )
        self._limit = limit
        self._accept = accept
        self._counters = counters
        self._timeout_s = options.auth_timeout_ms / 1000
        self._unread_close_s = options.unread_close_ms / 1000
        self._handshake: HandshakeReader | None = HandshakeReader()
        self._discarding = False
        """Whether everything further is thrown away, until the connection's end."""
        self._buffer = memoryview(bytearray(_READ_BYTES))
        """What is read. asyncio's TLS writes to slices of it."""
        self._unparsed = b""
        """What the next turn of the loop parses first. TLS of asyncio on 3.10 delivers more in between."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._socket = transport

        def time_out() -> None:
            self._counters.refused_handshakes["timeout"] += 1
            transport.abort()

        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, time_out)
        super().connection_made(transport)
        self._limit.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._limit.remove(self._socket)
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._discarding:
            # Not as fast as the client sends: the loop would do little else.
            if not self._socket.is_closing():
                self._socket.pause_reading()
                asyncio.get_running_loop().call_later(_DISCARD_PAUSE_S, self.read_on)
            return
        data = bytes(self._buffer[:nbytes])
        if self._handshake is None:
            self._feed(data)
            return
        found = self._handshake.feed(data)
        if isinstance(found, bytes):
            self._refuse(found)
        elif found is not None:
            self._timer.cancel()
            peer = self._socket.get_extra_info("peername")
            peer = peer[:2] if isinstance(peer, tuple) and len(peer) >= 2 else None
            self._response.append(self._accept(found.headers, peer))
            self._handshake = None
            self._feed(found.for_picows() + found.rest)

    def _feed(self, data: bytes = b"") -> None:
        """Parses what was read; of many frames, some in each turn of the loop, and reads on after that."""
        data = self._unparsed + data
        part, self._unparsed = data[:_PARSED_BYTES], data[_PARSED_BYTES:]
        while part and not (self._discarding or self._socket.is_closing()):
            buffer = super().get_buffer(-1)
            size = min(len(part), len(buffer))
            buffer[:size] = part[:size]
            self._parse_frames(size)
            part = part[size:]
        if self._socket.is_closing():
            return
        if self._unparsed and not self._discarding:
            self._socket.pause_reading()
            asyncio.get_running_loop().call_soon(self._feed)
        else:
            self._socket.resume_reading()

    def _parse_frames(self, size: int) -> None:
        client: _Client | None = self.listener
        if client is not None:
            client.unparsed_bytes += size  # a complete frame sets it to 0
        super().buffer_updated(size)
        if client is None:
            return
        if client.unparsed_bytes > client.frame_limit:
            self._discard()
            client.refuse_large_frame()
        elif client.closed_by_picows:
            self._discard()  # its parser would find the same fault again
        elif client.ignored_frames > _MOST_IGNORED_FRAMES:
            self._discard()

    def _refuse(self, response: bytes) -> None:
        """Answers a malformed handshake and closes the connection, in time even if the client does not."""
        self._handshake = None
        self._counters.refused_handshakes[response.split(b" ", 2)[1].decode()] += 1
        self._discard()
        self._socket.write(response)
        # Closing at once would reset a connection with unread input, and the response would be lost.
        if self._socket.can_write_eof():
            self._socket.write_eof()
        else:
            self._socket.close()
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._unread_close_s, self._socket.abort)

    def read_on(self) -> None:
        if not self._socket.is_closing():
            self._socket.resume_reading()

    def _discard(self) -> None:
        self._discarding = True
        self._buffer = _DISCARDED
        self._unparsed = b""


def _take(
    responses: list[picows.WSUpgradeResponseWithListener], _: picows.WSUpgradeRequest
) -> picows.WSUpgradeResponseWithListener:
    return responses.pop()


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

    idle_heartbeats = True

    def __init__(
        self,
        hub: Hub,
        clients: _Clients,
        limit: _LoginLimit,
        options: StreamOptions,
        *,
        address: ClientAddress,
        deflate: bool,
        api_key: str | None,
    ) -> None:
        self.address, self.address_group = address
        self.framing = SocketFraming(deflate)
        self._hub = hub
        self._clients = clients
        self._limit = limit
        self._options = options
        self._api_key = api_key
        self.unparsed_bytes = 0
        """An upper bound of what the parser holds of an incomplete frame."""
        self._reader = MessageReader(limit=SMALL_FRAME_BYTES, deflate=deflate)
        self._connection: Connection | None = None
        self._closing = False
        self._aborting = False
        self._client_code = 0
        """The code of the client's close frame."""
        self.ignored_frames = 0
        """Frames that came after the close."""

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

    def authenticated(self, *, filters: bool) -> None:
        self._limit.remove(self._transport.underlying_transport)
        if filters:
            self._reader.limit = max(self._options.message_limit_bytes, SMALL_FRAME_BYTES)

    def logged_in(self) -> None:
        pass  # `authenticated` came before

    def abort_if_closing(self) -> None:
        if self.closed_by_picows:
            self._abort_later()

    def abort(self) -> None:
        self._transport.underlying_transport.abort()

    @property
    def frame_limit(self) -> int:
        """The most bytes that the parser may hold of a frame, with its header."""
        return self._reader.limit + _LONGEST_HEADER

    @property
    def closed_by_picows(self) -> bool:
        """Whether picows has sent a close frame, because of a frame that it could not parse."""
        return bool(self._transport.is_close_frame_sent) and not self._closing

    def refuse_large_frame(self) -> None:
        """Closes the connection before the frame is complete."""
        if self._connection is not None:
            self._connection.refuse_frame("too_big")

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
        high = min(HIGH_WATER_BYTES, self._options.send_buffer_bytes // 2)
        underlying.set_write_buffer_limits(high=high, low=high // 4)
        self._clients.add(self)
        self._connection = self._hub.connect(self)
        if self._api_key is not None:
            self._connection.authenticate(self._api_key)

    def on_ws_frame(self, transport: picows.WSTransport, ws_frame: picows.WSFrame) -> None:
        self.unparsed_bytes = 0
        connection = self._connection
        if connection is None:
            return
        try:
            self._handle_frame(connection, ws_frame)
        except InvalidInputError as error:
            connection.refuse_frame(error.code)
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
        if handshake is not None and handshake.sent is not None and self.closed_by_picows:
            why = CloseCode(int(cast(int, handshake.sent.code)), handshake.sent.reason)
            self._connection.count_bad_login("too_big" if why.code == MESSAGE_TOO_BIG.code else "not_a_frame")
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
        control = kind in (WSMsgType.CLOSE, WSMsgType.PING, WSMsgType.PONG)
        if not self._closing and (ws_frame.rsv2 or ws_frame.rsv3 or (ws_frame.rsv1 and control)):
            raise InvalidInputError("a reserved bit is set", code="not_a_frame")
        if kind == WSMsgType.CLOSE:
            self._handle_close(ws_frame)
        elif self._closing:
            self.ignored_frames += 1
        elif not connection.admits_frame():
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
