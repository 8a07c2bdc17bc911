"""Miners' accounts: ledgers, snapshots, collateral, and the entities that subaccounts belong to."""

from __future__ import annotations

from datetime import datetime, timezone
from math import isfinite
from typing import Annotated

import msgspec
from msgspec import Meta

from ptn_api.event_log.contract import Document
from ptn_api.http.body import Body, body_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.response import Response
from ptn_api.model.documents import AccountSnapshot, AccountSnapshots
from ptn_api.rest.context import AppContext, Heavy, RequestContext, freshness_headers
from ptn_api.tasks import TimeSlice

__all__ = [
    "CollateralQuery",
    "EndpointQuery",
    "SnapshotsQuery",
    "account_snapshots",
    "collateral",
    "debt_ledger",
    "debt_ledgers",
    "emissions_ledger",
    "entities",
    "entity",
    "entity_endpoint",
    "penalty_ledger",
    "perf_ledger",
]

_MOST_SNAPSHOTS = 2_160


class SnapshotsQuery(msgspec.Struct, kw_only=True):
    limit: Annotated[
        int,
        Meta(
            description="how many of the newest snapshots, at most 2160",
            extra={"error": "limit must be an integer"},
            extra_json_schema={"minimum": 1},
        ),
    ] = 720


class CollateralQuery(msgspec.Struct, kw_only=True):
    hotkey: Annotated[str, Meta(description="only this miner")] = ""
    most_recent: Annotated[bool, Meta(description="`true`: only the last record of each miner")] = False


class EndpointQuery(msgspec.Struct, kw_only=True):
    hl_address: Annotated[str, Meta(description="the Hyperliquid address of a subaccount, in any case")] = ""
    subaccount: Annotated[str, Meta(description="the synthetic hotkey of a subaccount")] = ""


# --- ledgers ----------------------------------------------------------------------------------------------


def perf_ledger(app: AppContext, request: RequestContext) -> Response:
    headers = freshness_headers(app, request.tier)
    hotkey = request.hotkey
    ledger = app.documents.portfolio_ledgers().get(hotkey)
    if ledger is None:
        raise HTTPError("not_found", "Miner ID not found")
    return Response(body_of(msgspec.json.encode({hotkey: ledger})), headers)


def debt_ledgers(app: AppContext, request: RequestContext) -> Response:
    headers = freshness_headers(app, request.tier)
    body = app.documents.debt_summaries()
    if body is None:
        raise HTTPError("not_found", "Debt ledger data not found")
    return Response(body, headers)


def debt_ledger(app: AppContext, request: RequestContext) -> Response:
    return _ledger(app, request, Document.DEBT_LEDGERS, "Debt")


def emissions_ledger(app: AppContext, request: RequestContext) -> Response:
    return _ledger(app, request, Document.EMISSIONS_LEDGERS, "Emissions")


def penalty_ledger(app: AppContext, request: RequestContext) -> Response:
    return _ledger(app, request, Document.PENALTY_LEDGERS, "Penalty")


def _ledger(app: AppContext, request: RequestContext, document: Document, name: str) -> Response:
    headers = freshness_headers(app, request.tier)
    ledger = app.documents.ledgers(document).get(request.hotkey)
    if ledger is None:
        raise HTTPError("not_found", f"{name} ledger data not found")
    return Response(body_of(bytes(ledger)), headers)


# --- accounts ---------------------------------------------------------------------------------------------


class _Snapshot(msgspec.Struct):
    account_size: float
    balance: float
    equity: float
    snapshot_ms: float | None = None
    day_open_ms: float | None = None


def account_snapshots(app: AppContext, request: RequestContext) -> Heavy:
    headers = freshness_headers(app, request.tier)
    query: SnapshotsQuery = request.query
    if query.limit < 1:
        raise HTTPError("bad_parameter", "limit must be >= 1", parameter="limit")
    hotkey, limit = request.hotkey, min(query.limit, _MOST_SNAPSHOTS)
    revision = app.documents.revisions_by_miner(Document.SNAPSHOTS).get(hotkey)

    def make() -> Body:
        content = app.documents.of_miner(Document.SNAPSHOTS, hotkey) if revision is not None else None
        snapshots = []
        for line in msgspec.json.decode(content or b"[]", type=list[msgspec.Raw]):
            try:
                read = msgspec.json.decode(line, type=_Snapshot)
                time_ms = read.day_open_ms if read.snapshot_ms is None else read.snapshot_ms
                date = datetime.fromtimestamp((time_ms or 0) / 1000, timezone.utc)
            except (msgspec.ValidationError, OverflowError, ValueError, OSError):
                continue
            size = read.account_size
            equity_return = read.equity / size if size else 1.0
            if time_ms is None or not isfinite(equity_return):
                continue
            snapshots.append(
                AccountSnapshot(
                    snapshot_ms=int(time_ms),
                    snapshot_date=date.strftime("%Y-%m-%d %H:%M:%S"),
                    account_size=size,
                    balance=read.balance,
                    equity=read.equity,
                    equity_return=equity_return,
                )
            )
        snapshots = snapshots[-limit:]
        if not snapshots:
            raise HTTPError("not_found", f"No snapshots found for miner {hotkey}")
        result = AccountSnapshots(hotkey=hotkey, count=len(snapshots), snapshots=snapshots)
        return body_of(msgspec.json.encode(result))

    async def made(_: TimeSlice) -> Response:
        return Response(app.answer(("account-snapshots", hotkey, limit), revision, make), headers)

    return Heavy(made)


def collateral(app: AppContext, request: RequestContext) -> Response:
    headers = freshness_headers(app, request.tier)
    query: CollateralQuery = request.query

    version, collateral_records = app.documents.collateral_records()

    def make() -> Body:
        data = {
            hotkey: records[-1:] if query.most_recent else records
            for hotkey, records in collateral_records.items()
            if query.hotkey in ("", hotkey)
        }
        total = sum(len(records) for records in data.values())
        counts = {"miner_count": len(data), "total_records": total}
        return app.stamped({"status": "success", "data": data} | counts)

    return Response(app.answer(("collateral", query.hotkey, query.most_recent), version, make), headers)


# --- entities ---------------------------------------------------------------------------------------------


def entities(app: AppContext, request: RequestContext) -> Response:
    headers = freshness_headers(app, request.tier)

    def make() -> Body:
        listed = app.documents.elements(Document.ENTITIES)
        return app.stamped({"status": "success", "entities": listed, "entity_count": len(listed)})

    version = app.documents.revisions_of(Document.ENTITIES)
    return Response(app.answer("entities", version, make), headers)


def entity(app: AppContext, request: RequestContext) -> Response:
    headers = freshness_headers(app, request.tier)
    element = app.documents.elements(Document.ENTITIES).get(request.hotkey)
    if element is None:
        raise HTTPError("not_found", f"Entity {request.hotkey} not found")
    return Response(body_of(msgspec.json.encode({"status": "success", "entity": element})), headers)


def entity_endpoint(app: AppContext, request: RequestContext) -> Response:
    query: EndpointQuery = request.query
    if not (query.hl_address or query.subaccount):
        raise HTTPError("bad_parameter", "hl_address or subaccount is required", parameter="hl_address")
    endpoints = app.documents.endpoints()
    found = endpoints.get(("hl_address", query.hl_address.lower()))
    found = found or endpoints.get(("subaccount", query.subaccount))
    if found is None:
        raise HTTPError("not_found", "No endpoint found")
    return Response(body_of(msgspec.json.encode(found)))
