"""The stream's messages over plain GETs, for clients and proxies that cannot hold a WebSocket open."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta

from ptn_api.errors import LogPrunedError
from ptn_api.http.body import body_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.negotiation import prefers
from ptn_api.http.response import JSON, Response, header_lines
from ptn_api.rest.context import AppContext, Heavy, RequestContext, freshness_headers
from ptn_api.tasks import TimeSlice
from ptn_api.views.filters import chosen_pairs
from ptn_api.wire.codec import encode_message
from ptn_api.wire.frames import Format, Message
from ptn_api.wire.server_session import require_complete

__all__ = ["NDJSON", "Messages", "MessagesQuery", "messages"]

NDJSON = "application/x-ndjson"
_MAX_SCANNED = 10_000
"""Events read for one response, also if filters drop them."""
_NAMED_MINERS = 10
"""Unknown miners that the header of a response names."""
_READ_EVENTS = 50
"""Events read from the log at a time: a few milliseconds' work."""
_MAX_BYTES = 1 << 20
"""A response that exceeds this ends early; its `next` is where to continue."""


class MessagesQuery(msgspec.Struct, kw_only=True):
    after: Annotated[
        int, Meta(ge=-1, description="messages after this sequence; -1, the default: after the newest")
    ] = -1
    epoch: Annotated[str, Meta(description="epoch of the log that `after` refers to; 410 if it differs")] = ""
    limit: Annotated[int, Meta(ge=1, le=_MAX_SCANNED, description="at most this many messages")] = 1_000
    miner: Annotated[list[str], Meta(description="only these hotkeys")] = []
    trade_pair: Annotated[
        list[str], Meta(description="only these trade pairs, such as BTCUSD or btc/usd")
    ] = []
    format: Annotated[Format, Meta(description="`delta` leaves out the position's earlier orders")] = "full"


class Messages(msgspec.Struct, kw_only=True):
    """The stream's messages; continue with `after=<next>` until `next` is `head`."""

    messages: list[Message]
    next: int
    head: int
    epoch: str


class _Page(msgspec.Struct):
    """Encoded messages. `next` is the cursor to continue at, past messages that were filtered out too."""

    next: int
    head: int
    messages: list[bytes] = []
    scanned: int = 0
    size: int = 0


def messages(app: AppContext, request: RequestContext) -> Response | Heavy:
    query: MessagesQuery = request.query
    if query.trade_pair:
        with contextlib.suppress(HTTPError):  # an unknown pair is reported first
            _cursor(app, request, query)  # may wait, which the work must not
        return Heavy(partial(_filtered, app, request, query))
    return _messages(app, request, query)


async def _filtered(
    app: AppContext, request: RequestContext, query: MessagesQuery, time_slice: TimeSlice
) -> Response:
    pairs = await chosen_pairs(app.views, 100, query.trade_pair, time_slice)
    result = _messages(app, request, msgspec.structs.replace(query, trade_pair=[*pairs]))
    return await result.work(time_slice) if isinstance(result, Heavy) else result


def _messages(app: AppContext, request: RequestContext, query: MessagesQuery) -> Response | Heavy:
    headers = freshness_headers(app, 100)
    if query.miner:
        known = {*(app.documents.miners() or ()), *app.views.hotkeys()}
        # Quoted: what the client has sent must not become another header.
        unknown = [quote(miner, safe="") for miner in query.miner if miner not in known]
        if unknown:
            headers += header_lines({"x-ptn-unknown-miners": ",".join(unknown[:_NAMED_MINERS])})
    ndjson = prefers(request.accept, NDJSON, over=JSON)
    after, head = _cursor(app, request, query)
    if request.head:
        return Response(None, headers, vary="Accept", media_type=NDJSON if ndjson else JSON)
    page = _Page(after, head)
    if _read_events(app, query, page):
        return _response(app, page, headers, ndjson)
    return Heavy(partial(_read_more, app, query, page, headers, ndjson))


def _cursor(app: AppContext, request: RequestContext, query: MessagesQuery) -> tuple[int, int]:
    """Returns the sequence to start after, and the head. Raises HTTPError `gone`.

    Raises LogBehindError if the cursor is from a machine that has more.
    """
    floor, head = app.log.floor(), app.log.head().sequence
    if query.epoch and query.epoch != app.log.epoch:
        raise _gone(app, "That cursor is of another log")
    after = head if query.after < 0 else query.after
    if after > head:
        require_complete(app.log, request.waited_ms)
        raise _gone(app, "That cursor lies beyond the head")
    if after + 1 < floor:
        raise _gone(app, "That cursor is too old")
    return after, head


async def _read_more(
    app: AppContext, query: MessagesQuery, page: _Page, headers: bytes, ndjson: bool, time_slice: TimeSlice
) -> Response:
    while not _read_events(app, query, page):
        await time_slice.yield_if_due()
    return _response(app, page, headers, ndjson)


def _read_events(app: AppContext, query: MessagesQuery, page: _Page) -> bool:
    """Adds messages to the page, from one read of the log. Returns whether the page is complete."""
    limit = min(_READ_EVENTS, page.head - page.next)
    if limit == 0 or page.scanned >= _MAX_SCANNED:
        return True
    try:
        events = app.log.read(page.next, limit, orders=query.format == "full")
    except LogPrunedError:  # since the check of the cursor, or between two reads
        raise _gone(app, "That cursor is too old") from None
    last = page.next + limit  # also if damaged events are left out
    for event in events:
        page.scanned += 1
        page.next = event.sequence
        if query.miner and event.miner_hotkey not in query.miner:
            continue
        if query.trade_pair and event.trade_pair not in query.trade_pair:
            continue
        message = encode_message(
            sequence=event.sequence,
            timestamp_ms=event.timestamp_ms,
            text=event.text,
            order=event.order,
            n_orders=event.n_orders,
            format=query.format,
            late=event.late,
            extra=event.extra,
        )
        page.messages.append(message)
        page.size += len(message)
        if len(page.messages) >= query.limit or page.size >= _MAX_BYTES:
            return True
    page.next = last
    return page.next == page.head


def _response(app: AppContext, page: _Page, headers: bytes, ndjson: bool) -> Response:
    if ndjson:
        headers += header_lines({"x-ptn-next": str(page.next), "x-ptn-head": str(page.head)})
        content = b"".join(message + b"\n" for message in page.messages)
        return Response(body_of(content), headers, vary="Accept", media_type=NDJSON)
    epoch = msgspec.json.encode(app.log.epoch)
    content = b'{"messages":[%b],"next":%d,"head":%d,"epoch":%b}' % (
        b",".join(page.messages),
        page.next,
        page.head,
        epoch,
    )
    return Response(body_of(content), headers, vary="Accept")


def _gone(app: AppContext, sentence: str) -> HTTPError:
    return HTTPError(
        "gone",
        sentence,
        epoch=app.log.epoch,
        oldest_sequence=app.log.floor(),
        head=app.log.head().sequence,
    )
