"""Runs the stream until told to stop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from ptn_api.access.key_ring import KeyRing
from ptn_api.access.usage import Usage
from ptn_api.clock import Clock, wall_ms
from ptn_api.event_log.contract import EventLog
from ptn_api.stream.counters import StreamCounters
from ptn_api.stream.hub import Hub
from ptn_api.stream.options import StreamOptions
from ptn_api.stream.server import StreamServer
from ptn_api.tasks import cancel_and_wait
from ptn_api.wire.close_codes import SHUTTING_DOWN

__all__ = ["StreamOptions", "run_stream"]


async def run_stream(
    *,
    log: EventLog,
    keys: KeyRing,
    sock: socket.socket,
    options: StreamOptions,
    stop: asyncio.Event,
    ready: Callable[[], None],
    counters: StreamCounters | None = None,
    clock: Clock = wall_ms,
    tls: ssl.SSLContext | None = None,
    usage: Usage | None = None,
) -> None:
    """Serves the log's orders on `sock`, a bound socket, until `stop` is set.

    Calls `ready` when clients can connect; before the log is ready they are told to come back. On stop
    everybody is told so with a code that means "come back". `keys` may be swapped at any time: connections
    of keys that are no longer good are closed at once. Raises what a task of its own died of.
    """
    counters = counters or StreamCounters()
    hub = Hub(log, keys, options=options, counters=counters, clock=clock, usage=usage)
    server = StreamServer(hub, options, counters)
    tasks = hub.tasks()
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
