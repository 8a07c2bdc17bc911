"""The stream's messages without a WebSocket: page by page, or as Server-Sent Events."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta

from ptn_api.access.key_ring import key_in_header
from ptn_api.errors import InvalidInputError, LogPrunedError
from ptn_api.fanout.event_stream import EVENT_STREAM, EventCursor, EventStream, read_cursor
from ptn_api.http.body import body_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.negotiation import prefers
from ptn_api.http.response import JSON, Response, header_lines
from ptn_api.rest.context import AppContext, Heavy, RequestContext, freshness_headers, unknown_miners
from ptn_api.tasks import TimeSlice
from ptn_api.views.filters import chosen_pairs
from ptn_api.wire.client_frames import read_request
from ptn_api.wire.close_codes import INTERNAL_ERROR, KEY_REVOKED, TOO_MANY_REQUESTS
from ptn_api.wire.codec import encode, encode_message
from ptn_api.wire.frames import Format, Message, Subscribe
from ptn_api.wire.server_session import require_complete

__all__ = ["NDJSON", "Messages", "MessagesQuery", "StreamQuery", "messages", "stream"]

NDJSON = "application/x-ndjson"
_MAX_SCANNED = 10_000
"""Events read for one response, also if filters drop them."""
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
    """The messages, by sequence."""
    next: int
    """The next `after`. Unit: sequence."""
    head: int
    """Newest sequence of the log. Unit: sequence."""
    oldest: int
    """Oldest sequence that can be read; beyond `head` if there is none. Unit: sequence."""
    epoch: str
    """Epoch of the log."""


class _Page(msgspec.Struct):
    """Encoded messages. `next` is the cursor to continue at, past messages that were filtered out too."""

    next: int
    head: int
    oldest: int
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
    headers = freshness_headers(app, 100) + unknown_miners(app, 100, query.miner)
    ndjson = prefers(request.accept, NDJSON, over=JSON)
    page = _Page(*_cursor(app, request, query))
    if request.head:
        return Response(None, headers, vary="Accept", media_type=NDJSON if ndjson else JSON)
    if _read_events(app, query, page):
        return _response(app, page, headers, ndjson)
    return Heavy(partial(_read_more, app, query, page, headers, ndjson))


def _cursor(app: AppContext, request: RequestContext, query: MessagesQuery) -> tuple[int, int, int]:
    """Returns the sequence to start after, the head, and the oldest sequence. Raises HTTPError `gone`.

    Raises LogBehindError if the cursor is from a machine that has more.
    """
    floor, head = app.log.floor(), app.log.head().sequence
    if query.epoch and query.epoch != app.log.epoch:
        raise _gone(app, "That cursor is of another log; load the positions and go on from there")
    after = head if query.after < 0 else query.after
    if after > head:
        require_complete(app.log, request.waited_ms)
        raise _gone(app, "That cursor lies beyond the head; load the positions and go on from there")
    if after + 1 < floor:
        raise _too_old(app)
    return after, head, floor


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
        raise _too_old(app) from None
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
    content = b'{"messages":[%b],"next":%d,"head":%d,"oldest":%d,"epoch":%b}' % (
        b",".join(page.messages),
        page.next,
        page.head,
        page.oldest,
        epoch,
    )
    return Response(body_of(content), headers, vary="Accept")


def _too_old(app: AppContext) -> HTTPError:
    return _gone(app, f"That cursor is too old; the oldest that works is after={app.log.floor() - 1}")


def _gone(app: AppContext, sentence: str) -> HTTPError:
    return HTTPError(
        "gone",
        sentence,
        epoch=app.log.epoch,
        oldest_sequence=app.log.floor(),
        head=app.log.head().sequence,
    )


# --- Server-Sent Events -----------------------------------------------------------------------------------

_STREAM_HEADERS = header_lines({"x-accel-buffering": "no"})  # nginx passes each event on at once
_RETRY_AFTER = {"retry-after": "2"}
_BEARER = {"www-authenticate": "Bearer"}
_OTHER_LOG = EventCursor("", 0, 0)
"""The place of a client whose Last-Event-ID is not from here: it is told of a gap."""


class StreamQuery(msgspec.Struct, kw_only=True):
    after: Annotated[
        str,
        Meta(
            description="resume after this cursor, the `id` of an event: `<epoch>:<sequence>:<revision>`, or "
            "`<epoch>:<sequence>` without `updates`. The header `Last-Event-ID` wins"
        ),
    ] = ""
    miner: Annotated[list[str], Meta(description="only these hotkeys")] = []
    trade_pair: Annotated[
        list[str], Meta(description="only these trade pairs, such as BTCUSD or btc/usd")
    ] = []
    format: Annotated[Format, Meta(description="`delta` leaves out the position's earlier orders")] = "full"
    updates: Annotated[bool, Meta(description="also changes of positions that are no orders")] = False


async def stream(app: AppContext, request: RequestContext) -> Response:
    """Answers once the login is decided; from then on, a fault ends the stream."""
    query, http, hub = request.query, request.http, app.hub
    assert http is not None
    api_key = key_in_header(http.headers.get("authorization", ""))
    if api_key is None:
        raise HTTPError("unauthorized", "Send the key in the Authorization header", headers=_BEARER)
    cursor = _stream_cursor(query, http.headers.get("last-event-id", ""))
    subscribe = Subscribe(all=True, format=query.format, updates=query.updates)
    if query.miner:
        subscribe.miners = query.miner
    if query.trade_pair:
        subscribe.trade_pairs = sorted(await chosen_pairs(app.views, 100, query.trade_pair, TimeSlice()))
    if cursor is not None and query.updates:
        subscribe.revision = cursor.revision
    try:
        read_request(encode(subscribe), 2)
    except InvalidInputError as error:
        names = {"miners": "miner", "trade_pairs": "trade_pair"}
        raise HTTPError("bad_parameter", str(error), parameter=names.get(error.field or "", "")) from None
    if hub is None or hub.closed:
        raise HTTPError("starting", "The service is starting or stopping", headers=_RETRY_AFTER)
    headers = _STREAM_HEADERS + unknown_miners(app, 100, query.miner)
    if request.head:
        return Response(None, headers, media_type=EVENT_STREAM)
    events = EventStream(hub, app.log.epoch, http.connection.client.text)
    if await events.log_in(api_key, cursor, subscribe):
        return Response(events, headers, media_type=EVENT_STREAM)
    match events.refusal:
        case code if code == TOO_MANY_REQUESTS:
            raise HTTPError("too_many_requests", "Too many streams of this user wait", headers=_RETRY_AFTER)
        case code if code == KEY_REVOKED:
            raise HTTPError("unauthorized", "Unauthorized access", headers=_BEARER)
        case code if code == INTERNAL_ERROR:
            raise HTTPError("log_unreadable", "The data cannot be read at the moment", headers=_RETRY_AFTER)
    raise HTTPError(
        "behind", "This server is starting, or behind the one that the cursor is from", headers=_RETRY_AFTER
    )


def _stream_cursor(query: StreamQuery, last_event_id: str) -> EventCursor | None:
    """Returns where to resume, None for the head. Raises HTTPError `bad_parameter`.

    Browsers repeat an id by themselves, so one that cannot be read is a gap, not an error.
    """
    cursor = read_cursor(last_event_id or query.after)
    usable = cursor is not None and (cursor.revision is not None or not query.updates)
    if usable or not (last_event_id or query.after):
        return cursor
    if last_event_id:
        return _OTHER_LOG
    sentence = (
        "Invalid value of the parameter after: expected the id of an event, with a revision for updates"
    )
    raise HTTPError("bad_parameter", sentence, parameter="after")
