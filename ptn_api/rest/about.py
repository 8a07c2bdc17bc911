"""The service about itself: its health, the request's API key, the known trade pairs."""

from __future__ import annotations

import msgspec

from ptn_api.errors import LogError
from ptn_api.event_log.contract import SourceStatus
from ptn_api.http.body import body_of
from ptn_api.http.response import Response
from ptn_api.model.documents import trade_pairs_answer
from ptn_api.rest.context import AppContext, RequestContext
from ptn_api.wire.about import Health, KeyLimits, LogHealth, Me, Problem, SourceHealth, Status

__all__ = ["health", "me", "trade_pairs"]


def me(app: AppContext, request: RequestContext) -> Response:
    holder, options = request.holder, app.options
    assert holder is not None
    connections = holder.max_connections or options.max_connections_per_key
    result = Me(
        alias=holder.alias,
        tier=holder.tier,
        expires_ms=holder.expires_ms,
        limits=KeyLimits(
            websocket_connections=connections if holder.tier == 100 else 0,
            requests_per_minute=holder.requests_per_minute or options.requests_per_minute or None,
        ),
    )
    return Response(body_of(msgspec.json.encode(result)))


def trade_pairs(app: AppContext, request: RequestContext) -> Response:
    return Response(body_of(msgspec.json.encode(trade_pairs_answer(None, app.clock()))))


def health(app: AppContext, request: RequestContext) -> Response:
    alive, writable = app.health.processes(), app.health.log_writable()
    try:
        source, log_ready, unreadable = app.log.source(), app.log.ready(), bool(app.follower.outage.failing)
    except LogError:
        source, log_ready, unreadable = SourceStatus(), False, True
    now, swept_ms = app.clock(), source.swept_ms
    silent = swept_ms is not None and now - swept_ms > app.options.silent_ms
    failures: list[tuple[Problem, bool]] = [
        ("log_unwritable", not writable),
        ("process_down", not all(alive.values())),
        ("log_unreadable", unreadable),
        ("source_stale", source.stale),
        ("source_silent", silent),
    ]
    starting = not ((log_ready and app.views.built) or unreadable)
    problems = [name for name, present in failures if present]
    status: Status = "failing" if problems else "starting" if starting else "ok"
    problems += ["starting"] if starting else []
    if not source.watching:
        problems.append("not_watching")
        status = "degraded" if status == "ok" else status
    result = Health(
        status=status,
        problems=[*problems],
        processes={name: "up" if up else "down" for name, up in alive.items()},
        source=SourceHealth(
            swept_ms=swept_ms, stale=source.stale, reason=source.reason, watching=source.watching
        ),
        log=LogHealth(ready=log_ready, writable=writable),
    )
    return Response(body_of(msgspec.json.encode(result)), status=200 if status in ("ok", "degraded") else 503)
