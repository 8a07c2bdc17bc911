"""The service's description of itself: OpenAPI and AsyncAPI, and each as a page for people."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ptn_api.http.answer import JSON, Answer
from ptn_api.http.body import Body, body_of
from ptn_api.rest.asyncapi import described_stream
from ptn_api.rest.docs_page import page, stream_page
from ptn_api.rest.openapi import description
from ptn_api.rest.room import Ask, Handler, Room
from ptn_api.rest.route import Route

__all__ = ["page_routes"]

_HTML = "text/html; charset=utf-8"


def page_routes(described: Sequence[Route]) -> tuple[Route, ...]:
    """The routes of the pages, which describe those given and themselves; made when first asked for."""

    async def openapi(room: Room, ask: Ask) -> Answer:
        return Answer(snapshot=as_json())

    async def docs(room: Room, ask: Ask) -> Answer:
        return Answer(snapshot=as_page(), media_type=_HTML)

    @lru_cache(maxsize=1)
    def as_json() -> Body:
        return body_of(msgspec.json.encode(description([*described, *pages])))

    @lru_cache(maxsize=1)
    def as_page() -> Body:
        return body_of(page(description([*described, *pages])).encode())

    pages = (
        _open("/openapi.json", openapi, "This description", dict[str, Any]),
        _open("/asyncapi.json", asyncapi, "The WebSocket's description: AsyncAPI 3", dict[str, Any]),
        _open("/docs", docs, "This description, for people", str, _HTML),
        _open("/docs/stream", stream_docs, "The WebSocket's description, for people", str, _HTML),
    )
    return pages


def _open(path: str, handler: Handler, summary: str, answer: Any, media_type: str = JSON) -> Route:
    return Route(path, handler, summary, answer, access="anyone", media_type=media_type)


async def asyncapi(room: Room, ask: Ask) -> Answer:
    return Answer(snapshot=_stream_as_json())


async def stream_docs(room: Room, ask: Ask) -> Answer:
    return Answer(snapshot=_stream_as_page(), media_type=_HTML)


@lru_cache(maxsize=1)
def _stream_as_json() -> Body:
    return body_of(msgspec.json.encode(described_stream()))


@lru_cache(maxsize=1)
def _stream_as_page() -> Body:
    return body_of(stream_page(described_stream()).encode())
