"""One HTTP connection: requests are queued as they arrive (request.py) and answered in order.

Most responses need no waiting. They are written before the next bytes are parsed, without a task: a task
costs more than the whole response. A response that has to wait, for its handler or for a client that reads
slowly, is sent by a task.

- Each request must arrive within a timeout, counted from its first byte; a new connection's first request,
  from the start. The time starts again after the server itself has kept the client from sending.
- While requests are queued or the client does not read its responses, the connection is not read from.
- After an error the client may read the response before the connection closes, for a short while.
- The number of open connections is limited (connection_limit.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol, cast

import structlog

from ptn_api.http.body import EncodedBody, EncodedStream, LiveBody
from ptn_api.http.connection_limit import ConnectionLimit, DownloadLimit
from ptn_api.http.errors import HTTPError
from ptn_api.http.request import ConnectionInfo, Limits, Request, RequestReader
from ptn_api.http.response import Exchange, error_message

__all__ = ["Connection", "Handler", "Limiter"]

logger = structlog.get_logger()

_KEEP_ALIVE_S = 75
"""Longer than a minute, the interval at which many clients poll."""
_SMALL_BODY_BYTES = 262_144
"""Bodies up to this size, the largest chunk of any, are written together with the head."""
_LINGER_S = 2
"""How long a client may go on sending after an error, so that it receives the response."""
_LINGER_BYTES = 1_048_576
"""How much it may send then; it is discarded."""
_MAX_CREDIT_BYTES = 2 << 20
"""How far a client may be ahead of the minimum rate, and then stall: more than a proxy reads in one lump."""
_ACKNOWLEDGED = slice(120, 128)
"""Linux: `tcpi_bytes_acked` in `struct tcp_info`."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Handler(Protocol):
    """Answers requests."""

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """Sets the response, or returns a coroutine that does; the connection runs it as a task."""
        ...

    def finished(self, exchange: Exchange) -> None:
        """Called once per exchange, when the response was sent or could not be sent."""
        ...


class Limiter(Protocol):
    """Decides which connections are served."""

    def opened(self, connection: ConnectionInfo) -> HTTPError | None:
        """Called for each new connection. An error is sent to the client, and the connection closed."""
        ...

    def refused(self, connection: ConnectionInfo, cause: str) -> None:
        """Called for input that is not a request and for a large download that is refused, with the error's
        code, and for one that is too slow, with `slow_download`.
        """
        ...

    def closed(self, connection: ConnectionInfo, reason: str) -> None:
        """Called when the connection has closed."""
        ...


class Connection(asyncio.Protocol):
    """The asyncio protocol of one connection."""

    def __init__(
        self,
        handler: Handler,
        limits: Limits,
        *,
        limiter: Limiter,
        connections: ConnectionLimit[Connection],
        downloads: DownloadLimit,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._limits = limits
        self._limiter = limiter
        self._connections = connections
        self._downloads = downloads
        self._task: asyncio.Task[None] | None = None
        """Sends the current response, if that has to wait."""
        self._live: LiveBody | None = None
        """The body that is being written by others."""
        self._timer: asyncio.TimerHandle | None = None
        self._reading = True
        self._lingering = False
        self._discarded_bytes = 0
        self._error = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        limits = self._limits
        peer = transport.get_extra_info("peername")
        self._info = ConnectionInfo(peer[0] if isinstance(peer, tuple) else "")
        self._backpressure = Backpressure(
            self._transport,
            minimum_rate=limits.minimum_rate,
            window_ms=limits.rate_window_ms,
            on_too_slow=partial(self._limiter.refused, self._info, "slow_download"),
        )
        self._reader = RequestReader(limits, self._info)
        # pause_writing is called for every write that the socket does not take at once. Under TLS it may be
        # called right here, so the backpressure must exist.
        self._transport.set_write_buffer_limits(high=1, low=0)
        logger.debug("connection_opened", address=self._info.peer)
        self._timed_request = 1
        """The request, by number, that the deadline is for."""
        self._set_deadline(limits.request_ms / 1000)
        error = self._limiter.opened(self._info)
        if error is not None:
            # Sent in answer to the first request: a client that has yet to send it would see a reset.
            self._reader.close(error)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._backpressure.stop()
        self._reader.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._connections.remove(self)
        self._limiter.closed(self._info, str(exc or self._error or "closed"))

    # --- requests and responses -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        if reader.queue:
            self._answer_queue()
            # Most connections are idle again by now, and need not be marked twice per request.
            if self._task is not None or reader.queue:
                self._connections.mark_busy(self, self._info.owner)
        elif reader.closed:
            # The input that follows the last request is discarded, up to a limit.
            self._discarded_bytes += len(data)
            if self._discarded_bytes > _LINGER_BYTES:
                if self._lingering:
                    self._close()
                else:
                    self._set_reading(False)
        elif reader.expects_continue and self._task is None:
            self._send_continue()
        if reader.incomplete and reader.started != self._timed_request:
            self._timed_request = reader.started
            self._set_deadline(self._limits.request_ms / 1000)

    def _answer_queue(self) -> None:
        """Answers a queued request, and others in later turns of the loop; then idles or closes."""
        reader, queue = self._reader, self._reader.queue
        if queue and self._task is None and not self._backpressure.paused:
            if self._transport.is_closing():
                return  # connection_lost follows
            item = queue.popleft()
            if isinstance(item, Request):
                self._answer(Exchange(item, self.abort))
            else:
                self._error = str(item)
                self._limiter.refused(self._info, item.code)
                self._transport.write(error_message(item))
            # One per turn: pipelined requests on many connections must not hold up all other clients.
            if self._task is None and queue:
                self._loop.call_soon(self._answer_queue)
        if queue:
            self._set_reading(False)
        elif self._task is not None:
            return
        elif reader.closed:
            self._close()
        else:
            self._connections.mark_idle(self, self._info.owner)
            self._set_reading(True)
            # Part of the next request may have arrived behind the last one.
            if reader.expects_continue:
                self._send_continue()
            elif not reader.incomplete:
                self._set_deadline(_KEEP_ALIVE_S)

    def _answer(self, exchange: Exchange) -> None:
        try:
            pending = self._handler.handle(exchange)
            body = exchange.body
            if pending is None and isinstance(body, EncodedBody) and body.length <= _SMALL_BODY_BYTES:
                self._transport.write(b"".join((self._head(exchange), *body.parts)))
                exchange.sent_bytes = body.length
            else:
                self._task = self._loop.create_task(self._answer_later(exchange, pending))
                self._task.add_done_callback(partial(self._task_done, exchange, pending))
                return
        except Exception:
            # Without this the client would wait for a response forever.
            logger.exception("response_failed", route=exchange.route)
            self._transport.abort()
        self._handler.finished(exchange)

    async def _answer_later(self, exchange: Exchange, pending: Coroutine[Any, Any, None] | None) -> None:
        try:
            if pending is not None:
                await pending
            if isinstance(exchange.body, LiveBody):
                await self._send_live(exchange, exchange.body)
                return
            length = exchange.body.length
            async with contextlib.AsyncExitStack() as stack:
                if length is None or length > _SMALL_BODY_BYTES:
                    try:
                        turn = self._downloads.turn(exchange.owner or self._info.peer)
                        await stack.enter_async_context(turn)
                    except HTTPError as error:
                        self._limiter.refused(self._info, error.code)
                        exchange.respond_with_error(error)
                await self._send(exchange, exchange.body)
        except Exception:  # the head may be out already: only a closed connection tells the client
            logger.exception("response_failed", route=exchange.route)
            self._transport.abort()

    async def _send_live(self, exchange: Exchange, body: LiveBody) -> None:
        """Sends a body that ends with the connection; what the client sends meanwhile is ignored."""
        await self._backpressure.wait()
        self._reader.close()
        self._reader.queue.clear()
        self._set_reading(True)  # to notice a client that leaves
        self._live, high = body, body.high_water_bytes
        self._transport.set_write_buffer_limits(high=high, low=high // 4)
        self._transport.write(self._head(exchange))
        try:
            await body.run(self._transport)
        finally:
            self._loop.call_later(_LINGER_S, self._transport.abort)

    async def _send(self, exchange: Exchange, body: EncodedBody | EncodedStream) -> None:
        self._transport.write(self._head(exchange))
        # Only one chunk at a time waits in memory for a client that reads slowly.
        chunks = body.chunks()
        while True:
            # One chunk per turn of the loop: many downloads must not hold up all other clients.
            if self._backpressure.paused:
                await self._backpressure.wait()
            else:
                await asyncio.sleep(0)
            async with exchange.pace or contextlib.nullcontext():
                chunk = next(chunks, None)
            if chunk is None or self._transport.is_closing():
                break
            self._transport.write(chunk)
            self._backpressure.written_bytes += len(chunk)
            exchange.sent_bytes += len(chunk)

    def _task_done(
        self, exchange: Exchange, pending: Coroutine[Any, Any, None] | None, _: asyncio.Task[None]
    ) -> None:
        if pending is not None:
            pending.close()  # for a task cancelled before its first step
        if isinstance(exchange.body, LiveBody):
            exchange.body.ended()
        self._handler.finished(exchange)
        self._task = None
        self._answer_queue()

    def _head(self, exchange: Exchange) -> bytes:
        return exchange.head(close=self._reader.closed and not self._reader.queue)

    def _send_continue(self) -> None:
        self._reader.expects_continue = False
        self._transport.write(_CONTINUE)
        self._set_deadline(self._limits.request_ms / 1000)

    # --- closing --------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Closes after the last response; at first only for writing if the client may still be sending.

        A socket that is closed with unread input is reset, and the client may lose the response (RFC 9112,
        9.6). Its input is therefore discarded for a while; meanwhile the connection may be evicted.
        """
        done = self._lingering or not self._reader.unread_input or self._discarded_bytes > _LINGER_BYTES
        # TLS cannot close for writing only.
        if done or self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._lingering = True
        with contextlib.suppress(OSError):  # reset by the client: connection_lost follows
            self._transport.write_eof()
        self._connections.mark_idle(self)
        self._set_reading(True)
        self._set_deadline(_LINGER_S)

    # --- backpressure ---------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        if self._live is None:
            self._backpressure.pause()
        else:
            self._live.congested()

    def resume_writing(self) -> None:
        if self._live is not None:
            self._live.drained()
            return
        self._backpressure.resume()
        if self._reader.queue:
            self._answer_queue()

    def _set_reading(self, reading: bool) -> None:
        if reading == self._reading or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
            if self._reader.incomplete:
                self._set_deadline(self._limits.request_ms / 1000)
        else:
            self._transport.pause_reading()

    # --- timeouts -------------------------------------------------------------------------------------------

    def _set_deadline(self, seconds: float) -> None:
        """Replaces the deadline for the next event.

        Deadlines mostly move later, on every request. The timer is left alone then, and re-armed when it
        fires early.
        """
        self._deadline = self._loop.time() + seconds
        # A request's deadline may be earlier than the keep-alive deadline that it replaces.
        if self._timer is None or self._fires_at > self._deadline:
            self._arm_timer()

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = self._deadline
        self._timer = self._loop.call_at(self._fires_at, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline:
            self._arm_timer()
        elif not self._reading or self._reader.expects_continue:
            pass  # The client waits for the server: the time starts again when that is ready.
        elif self._reader.incomplete:
            self._reader.close(HTTPError("request_timeout", "The request did not arrive in time"))
            self._answer_queue()
        elif self._reader.queue:
            self._answer_queue()  # the limiter's error, for a client that has sent nothing
        elif self._task is None:
            self._transport.close()  # idle for too long
        # Otherwise a response is in progress: the minimum rate bounds its time.

    # --- eviction and shutdown ------------------------------------------------------------------------------

    def abort(self) -> None:
        self._transport.abort()

    def finish(self) -> None:
        """Accepts no more requests, and closes once those that have arrived are answered."""
        self._reader.close()
        if self._task is None:
            self._answer_queue()


class Backpressure:
    """Whether the client keeps up. One that reads more slowly than the minimum rate is disconnected.

    The rate is measured only while a write is not fully taken, so an idle connection costs nothing. It is the
    rate of what the client's system has acknowledged: the server's own system may take megabytes and then
    nothing for minutes. The client's system acknowledges in lumps too, and a proxy in larger ones. A lump
    therefore counts for as long as a client at the minimum rate takes to read it.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        minimum_rate: int,
        window_ms: int,
        on_too_slow: Callable[[], None],
    ) -> None:
        """`minimum_rate` is in bytes per second; it is checked after each window; 0 = no minimum."""
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        self._on_too_slow = on_too_slow
        self._window_s = window_ms / 1000
        self._minimum_rate = minimum_rate
        self._timer: asyncio.TimerHandle | None = None
        self._resumed = asyncio.Event()
        self._credit_bytes = 0.0
        self._counted_bytes = 0
        self.paused = False
        self.written_bytes = 0
        """Bytes of chunks written, used where the system does not report what was acknowledged."""

    def pause(self) -> None:
        self.paused = True
        self._resumed.clear()
        if self._minimum_rate:
            self._start_window()

    def resume(self) -> None:
        self.paused = False
        self._resumed.set()
        self.stop()

    async def wait(self) -> None:
        """Waits until the client has read what was written."""
        if self.paused:
            await self._resumed.wait()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_window(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._window_s, self._check_rate, loop.time())

    def _check_rate(self, began: float) -> None:
        acknowledged = self._acknowledged_bytes()
        progress = acknowledged - self._counted_bytes
        self._counted_bytes = acknowledged
        self._credit_bytes = min(self._credit_bytes + progress, _MAX_CREDIT_BYTES)
        self._credit_bytes -= (asyncio.get_running_loop().time() - began) * self._minimum_rate
        if self._credit_bytes < 0:
            logger.debug("slow_download_aborted", sent=progress, window_ms=int(self._window_s * 1000))
            self._on_too_slow()
            with contextlib.suppress(OSError):  # reset: the system would go on sending what it holds
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._start_window()

    def _acknowledged_bytes(self) -> int:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # not TCP
                info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.stop)
                if len(info) == _ACKNOWLEDGED.stop:
                    return int.from_bytes(info[_ACKNOWLEDGED], sys.byteorder)
        return self.written_bytes - self._transport.get_write_buffer_size()
