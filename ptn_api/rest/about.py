"""The service about itself: its health, the request's API key, the known trade pairs."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ptn_api import __version__
from ptn_api.errors import InvalidInputError, LogError
from ptn_api.event_log.contract import SourceStatus
from ptn_api.http.body import Body, body_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.response import Response
from ptn_api.model.documents import ASSET_CLASSES, ServiceHealth, trade_pairs_answer
from ptn_api.problems import merged, severity_of
from ptn_api.rest.context import AppContext, RequestContext
from ptn_api.wire.about import (
    ClusterHealth,
    Health,
    KeyFileHealth,
    KeyLimits,
    LogHealth,
    Me,
    Ready,
    SourceHealth,
)

__all__ = ["HealthQuery", "TradePairsQuery", "health", "me", "ready", "service_health", "trade_pairs"]


class TradePairsQuery(msgspec.Struct, kw_only=True):
    asset_class: Annotated[
        str,
        Meta(
            description=f"only this class: {', '.join(ASSET_CLASSES)}",
            extra_json_schema={"enum": ["", *ASSET_CLASSES]},
        ),
    ] = ""


class HealthQuery(msgspec.Struct, kw_only=True):
    epoch: Annotated[str, Meta(description="an epoch, to learn whether it is that of the server's log")] = ""


def me(app: AppContext, request: RequestContext) -> Response:
    holder, options = request.holder, app.options
    assert holder is not None
    connections = holder.connection_limit(options.max_connections_per_key)
    result = Me(
        alias=holder.alias,
        tier=holder.tier,
        expires_ms=holder.expires_ms,
        limits=KeyLimits(
            websocket_connections=connections if holder.tier >= 100 else 0,
            requests_per_minute=holder.requests_per_minute or options.requests_per_minute or None,
        ),
        version=__version__,
    )
    return Response(body_of(msgspec.json.encode(result)))


def trade_pairs(app: AppContext, request: RequestContext) -> Response:
    query: TradePairsQuery = request.query
    asset_class = query.asset_class.lower() or None

    def make() -> Body:
        try:
            answer = trade_pairs_answer(asset_class, app.clock())
        except InvalidInputError:
            sentence = (
                f"Invalid asset class: {query.asset_class}. Allowed values are {', '.join(ASSET_CLASSES)}"
            )
            raise HTTPError("bad_parameter", sentence, parameter="asset_class") from None
        return body_of(msgspec.json.encode(answer))

    return Response(app.answer(("trade-pairs", asset_class), None, make))


def health(app: AppContext, request: RequestContext) -> Response:
    result = _health(app, request.query.epoch)
    return Response(body_of(msgspec.json.encode(result)), status=_status_code(result))


def service_health(app: AppContext, request: RequestContext) -> Response:
    """Returns the health in the form that the network's clients read."""
    status = _status_code(_health(app))
    result = ServiceHealth(
        status="healthy" if status == 200 else "unhealthy",
        service="ValidatorRestServer",
        timestamp_ms=app.clock(),
    )
    return Response(body_of(msgspec.json.encode(result)), status=status)


def ready(app: AppContext, request: RequestContext) -> Response:
    """Returns whether a load balancer should send clients here.

    A copy that is behind is a reason only while other machines may have newer data. Without a leader, no
    machine can have any, and if all of them were taken out, nothing would be served.
    """
    problems = merged(app.problems.look(), app.others.problems())
    reasons: list[str] = ["stopping"] if app.others.stopping() else []
    reasons += [code for code in ("starting", "log_unreadable", "cluster_forked") if code in problems]
    if "cluster_behind" in problems and "cluster_leaderless" not in problems:
        reasons.append("cluster_behind")
    if not all(up for name, up in app.others.processes().items() if name.startswith("stream")):
        reasons.append("process_down")
    result = Ready(ready=not reasons, reason=reasons[0] if reasons else "")
    return Response(body_of(msgspec.json.encode(result)), status=503 if reasons else 200)


def _status_code(result: Health) -> int:
    return 200 if result.status in ("ok", "degraded") else 503


def _health(app: AppContext, asked: str = "") -> Health:
    problems = merged(app.problems.look(), app.others.problems())
    try:
        source, ready, epoch = app.log.source(), app.log.ready(), app.log.epoch
        copy = app.log.copy_status()
    except LogError:
        source, ready, epoch, copy = SourceStatus(), False, None, None
    severity = severity_of(problems)
    return Health(
        status="failing" if severity == "unavailable" else severity,
        problems=[*problems],
        details=dict(problems.items()),
        processes={name: "up" if up else "down" for name, up in app.others.processes().items()},
        source=SourceHealth(
            swept_ms=source.swept_ms, stale=source.stale, reason=source.reason, watching=source.watching
        ),
        log=LogHealth(
            ready=ready,
            writable="log_unwritable" not in problems,
            epoch_matches=epoch == asked if asked else None,
        ),
        key_file=KeyFileHealth(left_out=app.keys.left_out),
        cluster=None
        if copy is None
        else ClusterHealth(
            index=copy.index,
            term=copy.term,
            writes=copy.active,
            behind_ms=copy.behind_ms,
            node=app.options.node_name,
        ),
    )
