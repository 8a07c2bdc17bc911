"""One HTTP connection: what came stands in line (reader.py) and is answered, one after the other.

Most answers wait for nothing: they are written before the next bytes are looked at, without a task.

- A request must have arrived within a time, counted from its first byte or, on a new connection, from the
  start.
- While a client does not read its answers (flow.py), or requests wait in line, it is not read from.
- There are only so many connections at a time (crowd.py).
"""

from __future__ import annotations

import asyncio
from typing import cast

import structlog

from ptn_api.http.answer import refuse
from ptn_api.http.at_once import at_once
from ptn_api.http.crowd import Crowd
from ptn_api.http.errors import HTTPError
from ptn_api.http.flow import Flow
from ptn_api.http.reader import Limits, Reader
from ptn_api.http.reply import Reply
from ptn_api.http.request import Request
from ptn_api.http.visit import Visit
from ptn_api.rest.app import App
from ptn_api.rest.gate import Door
from ptn_api.tasks import TimeSlice

__all__ = ["Connection"]

logger = structlog.get_logger()

_KEEP_ALIVE_S = 75
"""Longer than the minute at which many clients poll."""
_AT_ONCE = 131_072
"""Bytes of a body that are written with its head."""
_GO_AHEAD = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.Protocol):
    """The protocol of one connection; made by the server for each."""

    def __init__(self, app: App, limits: Limits, *, door: Door, crowd: Crowd) -> None:
        self._loop = asyncio.get_running_loop()
        self._app = app
        self._limits = limits
        self._door = door
        self._crowd = crowd
        self._answering: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reading = True
        self._refused = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        limits = self._limits
        self._flow = Flow(self._transport, minimum_rate=limits.minimum_rate, window_ms=limits.rate_window_ms)
        self._visit = Visit(_peer(transport))
        self._reader = Reader(limits, self._visit)
        # To be told of each write that the socket does not take whole; under TLS it may be behind already.
        self._transport.set_write_buffer_limits(high=1, low=0)
        logger.debug("connection_opened", address=self._visit.peer)
        self._timed = 1
        """Which request the time is taken of."""
        self._expect_within(limits.request_ms / 1000)
        retry_s = self._door.opened(self._visit.peer)
        if retry_s:
            after = {"retry-after": str(retry_s)}
            sentence = "Too many connections from this address"
            self._reader.end(HTTPError("too_many_connections", sentence, headers=after))
        self._crowd.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._flow.stop()
        self._reader.end()
        if self._timer is not None:
            self._timer.cancel()
        if self._answering is not None:
            self._answering.cancel()
        self._crowd.closed(self)
        self._door.closed()
        self._say_goodbye(exc)

    def _say_goodbye(self, exc: Exception | None) -> None:
        """Many clients connect anew for each request: too much for any level but debug."""
        holder = self._visit.holder
        logger.debug(
            "connection_closed",
            alias=holder.alias if holder else "",
            fingerprint=holder.fingerprint if holder else "",
            address=self._visit.address,
            reason=str(exc or self._refused or "closed"),
            requests=self._visit.requests,
        )

    # --- requests and answers -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        if reader.line:
            self._answer_line()
            if self._busy:
                self._crowd.begins(self)
        elif reader.awaits_go_ahead:
            self._go_ahead()
        if reader.under_way and reader.begun != self._timed:
            self._timed = reader.begun
            self._expect_within(self._limits.request_ms / 1000)

    def _answer_line(self) -> None:
        """Answers what stands in line until something has to be waited for."""
        line = self._reader.line
        time_slice = TimeSlice() if len(line) > 1 else None
        while line and self._answering is None and not self._flow.behind:
            if self._transport.is_closing():
                return
            self._answering = at_once(self._answer(line.popleft()))
            if self._answering is not None:
                self._answering.add_done_callback(self._answered)
            elif line and time_slice is not None and time_slice.due:
                self._loop.call_soon(self._answer_line)
                break
        if line:
            self._read_on(False)
        elif self._answering is None:
            self._all_answered()

    def _answered(self, _: asyncio.Task[None]) -> None:
        self._answering = None
        self._answer_line()

    def _all_answered(self) -> None:
        reader = self._reader
        if reader.ended:
            self._transport.close()
            return
        self._crowd.rests(self)
        self._read_on(True)
        if reader.awaits_go_ahead:
            self._go_ahead()
        elif not reader.under_way:
            self._expect_within(_KEEP_ALIVE_S)

    async def _answer(self, asked: Request | HTTPError) -> None:
        reply = Reply()
        try:
            if isinstance(asked, HTTPError):
                self._refused = str(asked)
                refuse(reply, asked)
            else:
                await self._app.answer(asked, reply)
            await self._send(reply)
        except Exception:  # whatever it is, it must not leave a client waiting for ever
            logger.exception("answer_failed", route=reply.route)
            self._transport.abort()
        finally:
            if isinstance(asked, Request):
                self._app.count(asked, reply)

    async def _send(self, reply: Reply) -> None:
        """Chunk by chunk, so that no more than one waits in memory for a client that is behind."""
        head, body = reply.head(close=self._reader.ended and not self._reader.line), reply.body
        if body.length <= _AT_ONCE:
            self._transport.write(b"".join((head, *body.parts)))
            reply.sent_bytes = body.length
            return
        self._transport.write(head)
        time_slice = TimeSlice()
        for chunk in body.chunks():
            await self._flow.wait()
            await time_slice.yield_if_due()
            self._transport.write(chunk)
            reply.sent_bytes += len(chunk)

    def _go_ahead(self) -> None:
        self._reader.awaits_go_ahead = False
        self._transport.write(_GO_AHEAD)

    # --- as fast as the other side reads --------------------------------------------------------------------

    def pause_writing(self) -> None:
        self._flow.fell_behind()

    def resume_writing(self) -> None:
        self._flow.caught_up()
        if self._reader.line:
            self._answer_line()

    def _read_on(self, on: bool) -> None:
        if on == self._reading or self._transport.is_closing():
            return
        self._reading = on
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # --- time ---------------------------------------------------------------------------------------------

    def _expect_within(self, seconds: float) -> None:
        """Until then something must come; what was expected before is forgotten. The timer seldom moves."""
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._looks_at > self._deadline:
            self._look_later()

    def _look_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = self._deadline
        self._timer = self._loop.call_at(self._looks_at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline:
            self._look_later()
        elif self._reader.under_way:
            self._reader.end(HTTPError("request_timeout", "The request did not come in time"))
            self._answer_line()
        elif not self._busy:
            self._transport.close()

    # --- when there are too many, or the server stops -------------------------------------------------------

    @property
    def _busy(self) -> bool:
        return self._answering is not None or bool(self._reader.line)

    @property
    def stranger(self) -> bool:
        return self._visit.holder is None

    def give_way(self) -> None:
        self._transport.abort()

    def finish(self) -> None:
        """Takes no more requests; closes when those that came are answered."""
        self._reader.end()
        if not self._busy:
            self._transport.close()


def _peer(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return name[0] if isinstance(name, tuple) else ""
