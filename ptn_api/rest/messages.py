"""The stream's messages over plain GETs: for those who cannot hold a socket, and for proxies."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ptn_api.errors import LogPrunedError
from ptn_api.event_log.contract import Event
from ptn_api.http.accept import prefers
from ptn_api.http.answer import JSON, Answer
from ptn_api.http.body import body_of
from ptn_api.http.errors import HTTPError
from ptn_api.http.reply import lines
from ptn_api.rest.room import Ask, Room, standing
from ptn_api.tasks import TimeSlice
from ptn_api.wire.codec import encode_message
from ptn_api.wire.frames import Format, Message

__all__ = ["NDJSON", "Messages", "MessagesQuery", "messages"]

NDJSON = "application/x-ndjson"
_MOST = 10_000
_PAGE = 100
_BODY_BYTES = 16 << 20
"""An answer that grows beyond this ends early; `next` says where to go on."""


class MessagesQuery(msgspec.Struct, kw_only=True):
    after: Annotated[int, Meta(ge=-1, description="sequence; absent or -1: from now on, nothing yet")] = -1
    epoch: Annotated[str, Meta(description="the log that `after` is of; another one: 410")] = ""
    limit: Annotated[int, Meta(ge=1, le=_MOST, description="at most this many messages")] = 1_000
    miner: Annotated[list[str], Meta(description="only these hotkeys (repeatable)")] = []
    trade_pair: Annotated[list[str], Meta(description="only these trade pairs, by id (repeatable)")] = []
    format: Annotated[Format, Meta(description="`delta`: the order without its position's others")] = "full"


class Messages(msgspec.Struct, kw_only=True):
    """The stream's messages; ask again with `after=<next>` until that is `head`."""

    messages: list[Message]
    next: int
    head: int
    epoch: str


class _Page(msgspec.Struct):
    """`next` is the cursor to go on from; messages that were filtered out lie before it too."""

    messages: list[bytes]
    next: int
    head: int


async def messages(room: Room, ask: Ask) -> Answer:
    query: MessagesQuery = ask.query
    headers = standing(room, 100)
    ndjson = prefers(ask.accept, NDJSON, over=JSON)
    media_type = NDJSON if ndjson else JSON
    after, head = _checked(room, query)
    if ask.head:
        return Answer(snapshot=None, headers=headers, vary="Accept", media_type=media_type)
    page = await _page(room, query, after, head)
    if ndjson:
        headers += lines({"x-ptn-next": str(page.next), "x-ptn-head": str(page.head)})
        body = b"".join(message + b"\n" for message in page.messages)
    else:
        body = b'{"messages":[%b],"next":%d,"head":%d,"epoch":%b}' % (
            b",".join(page.messages),
            page.next,
            page.head,
            msgspec.json.encode(room.log.epoch),
        )
    return Answer(snapshot=body_of(body), headers=headers, vary="Accept", media_type=media_type)


def _checked(room: Room, query: MessagesQuery) -> tuple[int, int]:
    """The cursor to begin at, and the head. Raises HTTPError `gone`."""
    floor, head = room.log.floor(), room.log.head().sequence
    if query.epoch and query.epoch != room.log.epoch:
        raise _gone(room, "That cursor is of another log", floor, head)
    after = head if query.after < 0 else query.after
    if after > head:
        raise _gone(room, "That cursor lies beyond the head", floor, head)
    if after + 1 < floor:
        raise _gone(room, "That cursor is too old", floor, head)
    return after, head


def _gone(room: Room, sentence: str, floor: int, head: int) -> HTTPError:
    return HTTPError("gone", sentence, epoch=room.log.epoch, oldest_sequence=floor, head=head)


async def _page(room: Room, query: MessagesQuery, after: int, head: int) -> _Page:
    page = _Page([], after, head)
    time_slice = TimeSlice()
    scanned = size = 0
    while page.next < head and len(page.messages) < query.limit and scanned < _MOST and size < _BODY_BYTES:
        for event in _read(room, query, page.next, min(_PAGE, head - page.next)):
            scanned += 1
            page.next = event.sequence
            if _matches(event, query):
                page.messages.append(_encoded(event, query.format))
                size += len(page.messages[-1])
            if len(page.messages) >= query.limit or size >= _BODY_BYTES:
                break
        await time_slice.yield_if_due()
    return page


def _read(room: Room, query: MessagesQuery, after: int, limit: int) -> list[Event]:
    try:
        return room.log.read(after, limit, orders=query.format == "full")
    except LogPrunedError:
        floor, head = room.log.floor(), room.log.head().sequence
        raise _gone(room, "That cursor is too old", floor, head) from None


def _matches(event: Event, query: MessagesQuery) -> bool:
    return (not query.miner or event.miner_hotkey in query.miner) and (
        not query.trade_pair or event.trade_pair in query.trade_pair
    )


def _encoded(event: Event, form: Format) -> bytes:
    return encode_message(
        sequence=event.sequence,
        timestamp_ms=event.timestamp_ms,
        text=event.text,
        order=event.order,
        n_orders=event.n_orders,
        format=form,
        late=event.late,
        extra=event.extra,
    )
