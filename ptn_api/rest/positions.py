"""Positions of all miners or of one: complete, filtered, as they were, as changes, or as a leaderboard."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ptn_api.clock import read_time, seems_seconds
from ptn_api.errors import LogPrunedError
from ptn_api.http.body import body_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.response import Response, header_lines
from ptn_api.model.miner import Aggregates
from ptn_api.model.position import Position
from ptn_api.model.tiers import Tier
from ptn_api.rest.context import AppContext, Heavy, RequestContext, freshness_headers, unknown_miners
from ptn_api.tasks import TimeSlice
from ptn_api.views.filters import changed_since, chosen_pairs, filtered
from ptn_api.views.miner_view import OPENING, TAILS, after_positions
from ptn_api.views.past import Choice
from ptn_api.wire.server_session import require_complete

__all__ = ["Changes", "MinerQuery", "PositionsQuery", "miners", "positions", "positions_of"]


_NO_POSITIONS = b'"positions":{}'
_AT = (
    "as they were at this time, by the orders before it: epoch ms or ISO 8601, UTC by default; below tier "
    "100 at most 24 hours ago"
)


class PositionsQuery(msgspec.Struct, kw_only=True):
    """Filters select positions; a miner's aggregates remain those of the complete entry."""

    tier: Annotated[
        Tier,
        Meta(
            description="show what this tier shows; 403 above the key's own",
            extra={"error": "Invalid tier value. Allowed values are 0, 30, 50, or 100"},
        ),
    ] = 100
    miner: Annotated[list[str], Meta(description="only these hotkeys")] = []
    trade_pair: Annotated[
        list[str], Meta(description="only these trade pairs, such as BTCUSD or btc/usd")
    ] = []
    status: Annotated[list[Literal["open", "closed"]], Meta(description="only open or closed positions")] = []
    since: Annotated[
        str,
        Meta(description="only changes since this cursor, `<epoch>:<revision>` (tier 100, no filters)"),
    ] = ""
    at: Annotated[str, Meta(description=_AT)] = ""


class MinerQuery(msgspec.Struct, kw_only=True):
    at: Annotated[str, Meta(description=_AT)] = ""


class Changes(msgspec.Struct, kw_only=True):
    """Changes since a cursor: everything up to the new `cursor`, possibly more. Apply `removed` first."""

    cursor: str
    """The next `since`: `<epoch>:<revision>`."""
    sequence: int
    """The response contains every order up to this sequence. Unit: sequence."""
    removed: list[tuple[str, str]]
    """Removed positions: [hotkey, position uuid]."""
    positions: dict[str, list[Position]]
    """By miner, the positions that changed, complete."""
    miners: dict[str, Aggregates]
    """By miner, the aggregates of all miners, which change with time."""


def positions(app: AppContext, request: RequestContext) -> Response | Heavy:
    query: PositionsQuery = request.query
    if query.tier > request.tier:
        raise HTTPError("insufficient_tier", f"Your API key does not have access to tier {query.tier} data")
    if query.since:
        return _changes(app, request)
    if query.at:
        at_ms, statuses = _past_ms(app, query.at, query.tier), frozenset[str](query.status)
        choice = Choice(at_ms, query.tier, frozenset(query.miner), statuses=statuses)
        if request.http is not None and not request.http.http_1_1:
            sentence = "The past of all miners is sent in chunks, which need HTTP/1.1"
            raise HTTPError("version_not_supported", sentence)
        return Heavy(partial(_past, app, choice, query.trade_pair))
    if query.miner or query.trade_pair or query.status:
        return Heavy(partial(_filtered, app, query))
    headers = freshness_headers(app, query.tier)
    return Response(app.views.snapshot(query.tier), headers)


def miners(app: AppContext, request: RequestContext) -> Response | Heavy:
    headers = freshness_headers(app, request.tier)
    body = app.leaderboards.current(request.tier)
    return Heavy(partial(_leaderboard, app, request)) if body is None else Response(body, headers)


async def _leaderboard(app: AppContext, request: RequestContext, time_slice: TimeSlice) -> Response:
    headers = freshness_headers(app, request.tier)
    return Response(await app.leaderboards.updated(request.tier, time_slice), headers)


def positions_of(app: AppContext, request: RequestContext) -> Response | Heavy:
    if request.query.at:
        choice = Choice(_past_ms(app, request.query.at, request.tier), request.tier)
        return Heavy(partial(_past_of, app, request.hotkey, choice))
    # Archived positions are shown here alone: neither the documents of all miners nor the stream have them.
    # Known from the views: most miners have no archive, and asking the log would cost more than the answer.
    if request.tier == 100 and request.hotkey in app.views.archived:
        return Heavy(partial(_with_archive, app, request))
    return _entry(app, request, freshness_headers(app, request.tier))


async def _with_archive(app: AppContext, request: RequestContext, _: TimeSlice) -> Response:
    headers = freshness_headers(app, request.tier)
    body = app.archive.joined(request.hotkey, app.views.view(request.hotkey))
    return _entry(app, request, headers) if body is None else Response(body, headers)


def _entry(app: AppContext, request: RequestContext, headers: bytes) -> Response:
    body = app.views.entry(request.hotkey, request.tier)
    if body is None:
        raise HTTPError("not_found", "Miner ID not found")
    return Response(body, headers)


async def _filtered(app: AppContext, query: PositionsQuery, time_slice: TimeSlice) -> Response:
    headers = freshness_headers(app, query.tier) + unknown_miners(app, query.tier, query.miner)
    body = await filtered(
        app.views,
        query.tier,
        miners=frozenset(query.miner),
        trade_pairs=await chosen_pairs(app.views, query.tier, query.trade_pair, time_slice),
        statuses=frozenset(query.status),
        time_slice=time_slice,
    )
    return Response(body, headers)


def _changes(app: AppContext, request: RequestContext) -> Response | Heavy:
    query: PositionsQuery = request.query
    if query.miner or query.trade_pair or query.status or query.at:
        sentence = "since cannot be combined with filters and at: it returns all changes"
        raise HTTPError("bad_parameter", sentence, parameter="since")
    if query.tier < 100:
        raise HTTPError("bad_parameter", "Changes since a cursor are available in tier 100 only")
    since = _revision(app, request, query.since)
    if request.head:
        return Response(None, freshness_headers(app, query.tier))
    return Heavy(partial(_changes_since, app, since))


async def _changes_since(app: AppContext, since: int, time_slice: TimeSlice) -> Response:
    headers = freshness_headers(app, 100)
    # The head is read first: changes that follow it are sent again from the cursor, which is harmless. It is
    # that of the views, which the positions are cut from and which may lag behind the client's cursor.
    head = app.views.head
    try:
        removed = app.log.removed(since)
    except LogPrunedError:
        raise _gone(app, "That cursor is too old; request the whole document, without since") from None
    changes = Changes(
        cursor=f"{app.log.epoch}:{max(since, head.revision)}",
        sequence=head.sequence,
        removed=[(position.miner_hotkey, position.position_uuid) for position in removed],
        positions={},
        miners={view.hotkey: view.entries[100].aggregates for view in app.views.ranked(100)},
    )
    before, after = msgspec.json.encode(changes).split(_NO_POSITIONS)
    key = _NO_POSITIONS[:-2]
    body = await changed_since(app.views, since, before + key, after, time_slice)
    return Response(body, headers)


def _revision(app: AppContext, request: RequestContext, cursor: str) -> int:
    """Returns the cursor's revision. Raises HTTPError `gone` if only a complete snapshot helps.

    Raises LogBehindError if the cursor is from a machine that has more.
    """
    epoch, colon, number = cursor.rpartition(":")
    if not (colon and number.isascii() and number.isdigit() and len(number) < 19):
        raise HTTPError("bad_parameter", "A cursor is <epoch>:<revision>", parameter="since")
    if epoch != app.log.epoch:
        raise _gone(app, "That cursor is of another log; request the whole document, without since")
    if int(number) > app.log.head().revision:
        require_complete(app.log, request.waited_ms)
        raise _gone(app, "That cursor lies beyond the head; request the whole document, without since")
    if int(number) < app.log.oldest_revision():
        raise _gone(app, "That cursor is too old; request the whole document, without since")
    return int(number)


def _gone(app: AppContext, sentence: str) -> HTTPError:
    oldest = f"{app.log.epoch}:{app.log.oldest_revision()}"
    return HTTPError("gone", sentence, oldest_cursor=oldest)


# --- the past ---------------------------------------------------------------------------------------------


def _past_ms(app: AppContext, text: str, tier: Tier) -> int:
    """Returns the time that is meant, if the tier may see all orders before it. Raises HTTPError."""
    at_ms = read_time(text)
    problem = None
    if at_ms is None:
        problem = "at is not a time: expected epoch milliseconds or a time like 2026-11-22T18:30Z"
    elif at_ms > app.clock():
        problem = "at lies in the future"
    elif seems_seconds(text):
        problem = "at seems to be in seconds: expected epoch milliseconds"
    elif tier < 100 and at_ms > app.views.as_of_ms():
        problem = "Below tier 100, at is at most 24 hours ago"
    if at_ms is None or problem is not None:
        raise HTTPError("bad_parameter", problem or "", parameter="at")
    return at_ms


async def _require_orders(app: AppContext, choice: Choice, time_slice: TimeSlice) -> bytes:
    """Returns the headers of a document of the past. Raises HTTPError if there were no orders at all."""
    if not await app.past.has_orders_before(choice.at_ms, choice.tier, time_slice):
        raise HTTPError("bad_parameter", "at is before the first order", parameter="at")
    return header_lines({"x-ptn-as-of": str(choice.at_ms)})


async def _past(app: AppContext, choice: Choice, names: list[str], time_slice: TimeSlice) -> Response:
    headers = await _require_orders(app, choice, time_slice)
    pairs = await chosen_pairs(app.views, choice.tier, names, time_slice)
    return Response(app.past.document(choice._replace(trade_pairs=pairs)), headers)


async def _past_of(app: AppContext, hotkey: str, choice: Choice, time_slice: TimeSlice) -> Response:
    headers = await _require_orders(app, choice, time_slice)
    parts = []
    removed_after_ms = app.past.removed_after_ms(choice.at_ms)
    for part in app.past.entry(hotkey, choice, removed_after_ms, TimeSlice()):
        parts.append(part)
        await time_slice.yield_if_due()
    text = b"".join(parts)
    if not text and choice.tier == 100 and app.views.view(hotkey) is not None:
        text = OPENING + after_positions(Aggregates()) + TAILS[100].identity
    if not text:
        raise HTTPError("not_found", "Miner ID not found")
    return Response(body_of(text), headers)
