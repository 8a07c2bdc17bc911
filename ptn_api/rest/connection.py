"""One HTTP connection: Uvicorn's, with the limits that it lacks.

- A request (head and body) must have arrived within a time, counted from its first byte or, on a new
  connection, from the start.
- Its target and its headers may only be so long.
- A client that reads an answer too slowly, or not at all, is cut off.
- There are only so many connections at a time (crowd.py).
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools
import msgspec
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ptn_api.rest.crowd import Crowd
from ptn_api.rest.gate import Door, Visit
from ptn_api.rest.refusal import Refusal

__all__ = ["Connection", "Limits"]

log = structlog.get_logger()


_MOST_PIPELINED = 64
"""Requests that may wait for the answer to the one before."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Times in ms, sizes in bytes, `minimum_rate` in bytes per second (0 = none) over `rate_window_ms`."""

    request_ms: int = 10_000
    target_bytes: int = 8_192
    head_bytes: int = 32_768
    minimum_rate: int = 1_024
    rate_window_ms: int = 10_000


class Connection(HttpToolsProtocol):
    """The protocol of one connection; made by the server for each."""

    def __init__(
        self, config: Config, server_state: ServerState, *, limits: Limits, door: Door, crowd: Crowd
    ) -> None:
        self._visit = Visit()
        super().__init__(config=config, server_state=server_state, app_state={"visit": self._visit})
        self._limits = limits
        self._door = door
        self._crowd = crowd
        self._retry_s = 0
        self._head_bytes = 0
        self._in_head = True
        self._refusal: Refusal | None = None
        self._request_timer: asyncio.TimerHandle | None = None
        self._meter: _Meter | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._meter = _Meter(transport, self._limits)
        super().connection_made(cast(asyncio.Transport, self._meter))
        peer = self.client[0] if self.client else ""
        self._visit.address = peer
        self._retry_s = self._door.opened(peer)
        log.debug("connection_opened", address=peer)
        self._expect_request()
        self._crowd.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_came()
        self._crowd.closed(self)
        if self._meter is not None:
            self._meter.stop()
            self._door.closed()
            self._say_goodbye(exc)
        super().connection_lost(exc)

    def _say_goodbye(self, exc: Exception | None) -> None:
        """Many clients connect anew for each request: too much for any level but debug."""
        holder = self._visit.holder
        log.debug(
            "connection_closed",
            alias=holder.alias if holder else "",
            fingerprint=holder.fingerprint if holder else "",
            address=self._visit.address,
            reason=str(exc or self._refusal or "closed"),
            requests=self._visit.requests,
        )

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            self._expect_request()
        super().data_received(data)
        if self._in_head and self._head_bytes > self._limits.head_bytes and not self.transport.is_closing():
            self._refuse("headers_too_large", "Request headers too large")

    # --- what the parser calls ------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        if self._retry_s:
            after = {"retry-after": str(self._retry_s)}
            sentence = "Too many connections from this address"
            self._refusal = Refusal("too_many_connections", sentence, headers=after)
        elif len(self.pipeline) >= _MOST_PIPELINED:
            self.transport.abort()  # an answer now would be taken for that of an earlier request
            raise httptools.HttpParserError("too many requests at once")
        elif len(self.url) > self._limits.target_bytes:
            self._refusal = Refusal("uri_too_long", "Request target too long")
        elif sum(len(name) + len(value) for name, value in self.headers) > self._limits.head_bytes:
            self._refusal = Refusal("headers_too_large", "Request headers too large")
        if self._refusal is not None:
            raise httptools.HttpParserError(str(self._refusal))
        self._crowd.begins(self)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._request_came()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Called for whatever the parser does not understand, and for what was refused above."""
        refusal = self._refusal or Refusal("bad_request", "Invalid HTTP request")
        self._refuse(refusal.code, str(refusal), **refusal.headers)

    # --- when there are too many ---------------------------------------------------------------------------

    @property
    def stranger(self) -> bool:
        return self._visit.holder is None

    def give_way(self) -> None:
        self.transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:
            self._crowd.rests(self)

    # --- time ---------------------------------------------------------------------------------------------

    def _expect_request(self) -> None:
        if self._request_timer is None:
            self._request_timer = self.loop.call_later(self._limits.request_ms / 1000, self._request_overdue)

    def _request_came(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _request_overdue(self) -> None:
        self._request_timer = None
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self.cycle.response_started:
            self.cycle.keep_alive = False
        elif self._head_bytes or answering:
            self._refuse("request_timeout", "The request did not come in time")
        else:
            self.transport.close()

    def _refuse(self, code: str, sentence: str, **headers: str) -> None:
        if self.transport.is_closing():
            return
        refusal = Refusal(code, sentence)
        body = msgspec.json.encode(refusal.body())
        head = (
            f"HTTP/1.1 {refusal.status.value} {refusal.status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\ncache-control: no-store\r\nconnection: close\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            + "\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class _Meter:
    """The transport, watched while the client is behind: who reads too slowly is cut off.

    A client that reads nothing holds a socket and what was handed to it, no more; after two windows not even
    that. The rate is looked at only while bytes wait, so that an idle connection costs nothing.
    """

    def __init__(self, transport: asyncio.Transport, limits: Limits) -> None:
        self._transport = transport
        self._window_s = limits.rate_window_ms / 1000
        self._least = limits.minimum_rate * self._window_s
        self._written = 0
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)
        if self._timer is None and self._least and self._transport.get_write_buffer_size():
            self._look_later()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sent(self) -> int:
        return self._written - self._transport.get_write_buffer_size()

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._window_s, self._look, self._sent(), self._written)

    def _look(self, sent_before: int, written_before: int) -> None:
        """`written_before` not yet out means: bytes have waited during the whole window."""
        self._timer = None
        sent = self._sent()
        if sent < written_before and sent - sent_before < self._least:
            log.info("slow download cut off", sent=sent - sent_before, window_ms=int(self._window_s * 1000))
            self._transport.abort()
        elif sent < self._written:
            self._look_later()
