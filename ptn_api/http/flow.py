"""Whether a client keeps up with what is written to it."""

from __future__ import annotations

import asyncio

import structlog

__all__ = ["Flow"]

logger = structlog.get_logger()


class Flow:
    """While the client is behind nothing more is written; who reads too slowly then is cut off.

    A client that reads nothing holds a socket and what was handed to it, no more; after a window not even
    that. Behind is who has not taken what was written last: the rate is looked at only then, so that an
    idle connection costs nothing.
    """

    def __init__(self, transport: asyncio.Transport, *, minimum_rate: int, window_ms: int) -> None:
        """`minimum_rate` in bytes per second (0 = none), over each window."""
        self._transport = transport
        self._window_s = window_ms / 1000
        self._least = minimum_rate * self._window_s
        self._timer: asyncio.TimerHandle | None = None
        self._caught_up = asyncio.Event()
        self.behind = False

    def fell_behind(self) -> None:
        self.behind = True
        self._caught_up.clear()
        if self._least:
            self._look_later()

    def caught_up(self) -> None:
        self.behind = False
        self._caught_up.set()
        self.stop()

    async def wait(self) -> None:
        """Until the client has caught up."""
        if self.behind:
            await self._caught_up.wait()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        loop, waiting = asyncio.get_running_loop(), self._transport.get_write_buffer_size()
        self._timer = loop.call_later(self._window_s, self._look, waiting)

    def _look(self, waiting_before: int) -> None:
        sent = waiting_before - self._transport.get_write_buffer_size()
        if sent < self._least:
            logger.info("slow_download_cut_off", sent=sent, window_ms=int(self._window_s * 1000))
            self._transport.abort()
        else:
            self._look_later()
