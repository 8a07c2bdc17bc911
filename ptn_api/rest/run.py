"""Runs the REST server: keeps the views current and serves them."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
from collections.abc import Callable

import structlog

from ptn_api.access.key_ring import KeyRing
from ptn_api.access.usage import Usage
from ptn_api.clock import Clock, ClockStart, Monotonic, SteadyClock, monotonic_ms, wall_ms
from ptn_api.event_log.contract import EventLog
from ptn_api.fanout.hub import Hub
from ptn_api.fanout.options import StreamOptions
from ptn_api.fanout.presence import Peers
from ptn_api.http.connection import Connection
from ptn_api.http.connection_limit import ConnectionLimit
from ptn_api.http.request import Limits
from ptn_api.http.server import Server
from ptn_api.problems import OtherProcesses, ProblemRegister, Recent
from ptn_api.rest.app import App
from ptn_api.rest.auth import ConnectLimit
from ptn_api.rest.context import AppContext
from ptn_api.rest.counters import RestCounters
from ptn_api.rest.options import RestOptions
from ptn_api.rest.routes import ASSETS, ROUTES
from ptn_api.tasks import cancel_and_wait
from ptn_api.wire.close_codes import SHUTTING_DOWN

__all__ = ["RestOptions", "run_rest"]

logger = structlog.get_logger()

_DRAIN_SHARE = 0.8
"""Share of the process's stop timeout spent on draining, so that it exits before it is killed."""


async def run_rest(
    *,
    log: EventLog,
    keys: KeyRing,
    sock: socket.socket,
    options: RestOptions,
    stop: asyncio.Event,
    ready: Callable[[], None],
    clock: Clock | None = None,
    wall: Clock = wall_ms,
    clock_start: ClockStart | None = None,
    monotonic: Monotonic = monotonic_ms,
    tls: ssl.SSLContext | None = None,
    counters: RestCounters | None = None,
    usage: Usage | None = None,
    problems: ProblemRegister | None = None,
    others: OtherProcesses | None = None,
    stream_options: StreamOptions | None = None,
    peers: Peers | None = None,
) -> None:
    """Serves on the listening socket until `stop`, then drains.

    `ready` is called when the views are built; until then requests are answered with 503. Raises
    LogReplacedError if the log was replaced: start again. Without `clock`, the time is that of a steady
    clock over `wall`, which continues `clock_start`. Event streams follow `stream_options` and count together
    with the connections of `peers`.
    """
    counters = counters or RestCounters()
    clock = clock or SteadyClock(
        jump_ms=options.clock_jump_ms,
        settle_ms=options.clock_settle_ms,
        on_jump=lambda ms: logger.warning("clock_jumped", by_ms=ms),
        wall=wall,
        start=clock_start,
    )
    problems = problems or ProblemRegister(clock)
    if isinstance(clock, SteadyClock):
        is_untrusted = clock.is_untrusted
        problems.watch(lambda: {"clock_untrusted": is_untrusted()})
    pauses = counters.accept_pauses
    problems.watch(lambda: {"accept_paused": pauses.lasting})
    context = AppContext.over(log, clock, options, counters.views, keys, problems, others)
    hub = Hub(
        log,
        keys,
        options=stream_options or StreamOptions(),
        counters=counters.events,
        clock=wall,
        problems=problems,
        usage=usage,
        outage=context.follower.outage,
        others=others,
        peers=peers,
    )
    context = dataclasses.replace(context, hub=hub, tls=tls is not None)

    evictions = Recent(options.overload_ms, monotonic)
    problems.watch(lambda: {"connections_at_limit": evictions.total})

    def count_evictions() -> None:
        counters.limited["connections"] += 1
        evictions.note()

    connections: ConnectionLimit[Connection] = ConnectionLimit(options.max_rest_connections, count_evictions)
    server = Server(
        App(context, keys, (*ROUTES, ASSETS), counters=counters, usage=usage, monotonic=monotonic),
        sock,
        Limits(
            request_ms=options.header_timeout_ms,
            minimum_rate=options.minimum_rate,
            rate_window_ms=options.rate_window_ms,
            downloads=options.max_downloads_per_user,
            waiting_downloads=options.waiting_downloads,
            download_wait_ms=options.download_wait_ms,
        ),
        limiter=ConnectLimit(options, monotonic, counters),
        connections=connections,
        drain_ms=int(options.stop_timeout_ms * _DRAIN_SHARE),
        tls=tls,
        pauses=pauses,
    )
    async with server:
        following = asyncio.create_task(context.follower.run())
        fan_out = hub.start()
        stopping = asyncio.create_task(stop.wait())
        built = asyncio.create_task(context.follower.built.wait())
        try:
            ends = {following, stopping, *fan_out}
            await asyncio.wait({*ends, built}, return_when=asyncio.FIRST_COMPLETED)
            if built.done():
                ready()
            ended, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in ended - {stopping}:
                task.result()  # raises: these end only by an error
        finally:
            hub.close_all(SHUTTING_DOWN)
            await cancel_and_wait([following, stopping, built, *fan_out])
