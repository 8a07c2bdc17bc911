"""Running the REST room: the views are kept up with the log, and served."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

import structlog

from ptn_api.access.key_ring import KeyRing
from ptn_api.access.usage import Usage
from ptn_api.clock import Clock, SteadyClock
from ptn_api.event_log.contract import EventLog
from ptn_api.http.crowd import Crowd
from ptn_api.http.reader import Limits
from ptn_api.http.server import Server
from ptn_api.rest.app import App
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.gate import Door
from ptn_api.rest.options import RestOptions
from ptn_api.rest.room import Room, Surroundings
from ptn_api.tasks import cancel_and_wait

__all__ = ["RestOptions", "run_rest"]

_DRAIN_SHARE = 0.8
"""Of the time a process may take to stop, so that it stops by itself."""


async def run_rest(
    *,
    log: EventLog,
    keys: KeyRing,
    sock: socket.socket,
    options: RestOptions,
    stop: asyncio.Event,
    ready: Callable[[], None],
    clock: Clock | None = None,
    tls: ssl.SSLContext | None = None,
    counters: RestCounters | None = None,
    usage: Usage | None = None,
    surroundings: Surroundings | None = None,
) -> None:
    """Serves on the listening socket until `stop`, then lets answers that were begun end, for a while.

    `ready` is called when the views are built; requests are answered before, with 503. Raises
    LogReplacedError if the log was replaced: start again.
    """
    counters = counters or RestCounters()
    room = Room.over(log, clock or _steady_clock(options), options, counters, surroundings)
    limits = Limits(
        request_ms=options.header_timeout_ms,
        minimum_rate=options.minimum_rate,
        rate_window_ms=options.rate_window_ms,
    )
    drain_ms = int(options.stop_timeout_ms * _DRAIN_SHARE)
    door, crowd = Door(options, room.clock, counters), Crowd(options.max_rest_connections, counters)
    app = App(room, keys, counters=counters, usage=usage)
    async with Server(app, sock, limits, door=door, crowd=crowd, drain_ms=drain_ms, tls=tls):
        following = asyncio.create_task(room.follower.run())
        stopping = asyncio.create_task(stop.wait())
        built = asyncio.create_task(room.follower.built.wait())
        try:
            await asyncio.wait({following, stopping, built}, return_when=asyncio.FIRST_COMPLETED)
            if built.done():
                ready()
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()  # it ends only by an error
        finally:
            await cancel_and_wait([following, stopping, built])


def _steady_clock(options: RestOptions) -> SteadyClock:
    return SteadyClock(
        jump_ms=options.clock_jump_ms,
        settle_ms=options.clock_settle_ms,
        on_jump=lambda ms: structlog.get_logger().warning("clock_jumped", by_ms=ms),
    )
