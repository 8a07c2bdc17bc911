"""The validator's documents: statistics, eliminations, perf ledgers, miner hotkeys and the checkpoint."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ptn_api.event_log.contract import Document
from ptn_api.http.body import Body, body_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.response import Response
from ptn_api.rest.context import AppContext, RequestContext, freshness

__all__ = [
    "StatisticsQuery",
    "checkpoint",
    "eliminations",
    "hotkeys",
    "perf_ledger",
    "statistics",
    "statistics_of",
]


class StatisticsQuery(msgspec.Struct, kw_only=True):
    checkpoints: Annotated[bool, Meta(description="`false` leaves out each miner's `checkpoints`")] = True


def statistics(app: AppContext, request: RequestContext) -> Response:
    headers = freshness(app, request.tier)
    query: StatisticsQuery = request.query
    if query.checkpoints:
        body = app.documents.snapshot(Document.STATISTICS)
    else:
        body = app.documents.statistics_without_checkpoints()
    return _document(body, "Statistics", headers)


def statistics_of(app: AppContext, request: RequestContext) -> Response:
    headers = freshness(app, request.tier)
    if app.documents.snapshot(Document.STATISTICS) is None:
        raise HTTPError("not_found", "Statistics data not found")
    query: StatisticsQuery = request.query
    return _element(app.documents.statistics_of(request.hotkey, checkpoints=query.checkpoints), headers)


def eliminations(app: AppContext, request: RequestContext) -> Response:
    headers = freshness(app, request.tier)
    return _document(app.documents.snapshot(Document.ELIMINATIONS), "Eliminations", headers)


def perf_ledger(app: AppContext, request: RequestContext) -> Response:
    headers = freshness(app, request.tier)
    return _element(app.documents.perf_ledger_of(request.hotkey), headers)


def hotkeys(app: AppContext, request: RequestContext) -> Response:
    """The miners that have a directory; without the validator's directory, those that have positions."""
    headers = freshness(app, request.tier)
    body = app.documents.snapshot(Document.MINERS)
    return Response(body or body_of(msgspec.json.encode(app.views.hotkeys())), headers)


def checkpoint(app: AppContext, request: RequestContext) -> Response:
    headers = freshness(app, request.tier)
    return _document(app.checkpoint.snapshot(), "Checkpoint", headers)


def _document(body: Body | None, name: str, headers: bytes) -> Response:
    if body is None:
        raise HTTPError("not_found", f"{name} data not found")
    return Response(body, headers)


def _element(element: bytes | None, headers: bytes) -> Response:
    """Returns one miner's part of a document."""
    if element is None:
        raise HTTPError("not_found", "Miner ID not found")
    return Response(body_of(element), headers)
