"""The service's description of itself: OpenAPI, and a page for people."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ptn_api.rest.answer import Answer
from ptn_api.rest.docs_page import page
from ptn_api.rest.openapi import description
from ptn_api.rest.room import Ask, Room
from ptn_api.rest.route import Route
from ptn_api.rest.snapshot import Snapshot, snapshot_of

__all__ = ["page_routes"]


def page_routes(described: Sequence[Route]) -> tuple[Route, ...]:
    """The routes of both pages, which describe those given and themselves; made when first asked for."""

    async def openapi(room: Room, ask: Ask) -> Answer:
        return Answer(snapshot=as_json())

    async def docs(room: Room, ask: Ask) -> Answer:
        return Answer(snapshot=as_page(), media_type="text/html; charset=utf-8")

    @lru_cache(maxsize=1)
    def as_json() -> Snapshot:
        return snapshot_of(msgspec.json.encode(description([*described, *pages])))

    @lru_cache(maxsize=1)
    def as_page() -> Snapshot:
        return snapshot_of(page(description([*described, *pages])).encode())

    pages = (
        Route("/openapi.json", openapi, "This description", dict[str, Any], access="anyone"),
        Route("/docs", docs, "This description, for people", str, access="anyone"),
    )
    return pages
