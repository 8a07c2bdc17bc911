"""The validator's documents: statistics, eliminations, challenge periods, selections and the checkpoint."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ptn_api.event_log.contract import Document
from ptn_api.http.body import Body, body_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.response import Response
from ptn_api.rest.context import AppContext, Heavy, RequestContext, freshness_headers
from ptn_api.tasks import TimeSlice

__all__ = [
    "ChallengePeriodQuery",
    "StatisticsQuery",
    "challenge_period",
    "checkpoint",
    "eliminations",
    "hotkeys",
    "miner_selections",
    "statistics",
    "statistics_of",
]


_TEST_HOTKEY = "DEVELOPMENT"


class ChallengePeriodQuery(msgspec.Struct, kw_only=True):
    history: Annotated[bool, Meta(description="`true` adds all buckets, oldest first")] = False


class StatisticsQuery(msgspec.Struct, kw_only=True):
    checkpoints: Annotated[bool, Meta(description="`false` leaves out each miner's `checkpoints`")] = True


def statistics(app: AppContext, request: RequestContext) -> Response:
    headers = freshness_headers(app, request.tier)
    query: StatisticsQuery = request.query
    if query.checkpoints:
        body = app.documents.snapshot(Document.STATISTICS)
    else:
        body = app.documents.statistics_without_checkpoints()
    return _document(body, "Statistics", headers)


def statistics_of(app: AppContext, request: RequestContext) -> Response:
    headers = freshness_headers(app, request.tier)
    if app.documents.snapshot(Document.STATISTICS) is None:
        raise HTTPError("not_found", "Statistics data not found")
    query: StatisticsQuery = request.query
    element = app.documents.statistics_of(request.hotkey, checkpoints=query.checkpoints)
    if element is None:
        raise HTTPError("not_found", "Miner ID not found")
    return Response(body_of(element), headers)


def eliminations(app: AppContext, request: RequestContext) -> Response:
    headers = freshness_headers(app, request.tier)
    return _document(app.documents.snapshot(Document.ELIMINATIONS), "Eliminations", headers)


def challenge_period(app: AppContext, request: RequestContext) -> Response:
    headers = freshness_headers(app, request.tier)
    query: ChallengePeriodQuery = request.query
    hotkey, documents = request.hotkey, app.documents
    listed = documents.challenge_periods().get(hotkey)
    if listed is None:
        raise HTTPError("not_found", f"Miner ID {hotkey} not found")

    def make() -> Body:
        elimination = documents.eliminated().get(hotkey)
        reason = None if elimination is None else elimination.reason
        history = [
            msgspec.structs.replace(period, reason=period.reason or reason)
            if period.bucket == "ELIMINATED"
            else period
            for period in listed
        ]
        fields = {"status": "success", "hotkey": hotkey, "challenge_period": history[-1]}
        return app.stamped(fields | {"history": history} if query.history else fields)

    version = documents.revisions_of(Document.CHALLENGEPERIOD, Document.ELIMINATIONS)
    return Response(app.answer(("challenge-period", hotkey, query.history), version, make), headers)


def miner_selections(app: AppContext, request: RequestContext) -> Response:
    headers = freshness_headers(app, request.tier)

    def make() -> Body:
        selections = app.documents.elements(Document.ASSET_SELECTIONS)
        return app.stamped({"miner_selections": selections, "total_miners": len(selections)})

    version = app.documents.revisions_of(Document.ASSET_SELECTIONS)
    return Response(app.answer("miner-selections", version, make), headers)


def hotkeys(app: AppContext, request: RequestContext) -> Response:
    """Returns the miners that have a directory; without the validator's directory, those with positions.

    Below tier 100, only the miners of which the tier shows a position.
    """
    headers = freshness_headers(app, request.tier)
    listed = app.documents.miners() if request.tier == 100 else None
    if listed is None:
        listed = app.views.hotkeys(request.tier)
    return Response(body_of(msgspec.json.encode([key for key in listed if key != _TEST_HOTKEY])), headers)


def checkpoint(app: AppContext, request: RequestContext) -> Heavy:
    async def joined(_: TimeSlice) -> Response:
        headers = freshness_headers(app, request.tier)
        return _document(await app.checkpoint.snapshot(), "Checkpoint", headers)

    return Heavy(joined)


def _document(body: Body | None, name: str, headers: bytes) -> Response:
    if body is None:
        raise HTTPError("not_found", f"{name} data not found")
    return Response(body, headers)
