"""The service's description of itself: OpenAPI, and a page for people."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from ptn_api.rest.answer import Answer
from ptn_api.rest.room import Ask, Room
from ptn_api.rest.snapshot import Snapshot, snapshot_of

__all__ = ["docs", "openapi"]


async def openapi(room: Room, ask: Ask) -> Answer:
    return Answer(snapshot=_openapi())


async def docs(room: Room, ask: Ask) -> Answer:
    return Answer(snapshot=_docs(), media_type="text/html; charset=utf-8")


# Imported when first asked for: both are made from the table of routes, which holds these handlers.


@lru_cache(maxsize=1)
def _openapi() -> Snapshot:
    from ptn_api.rest.openapi import description

    return snapshot_of(msgspec.json.encode(description()))


@lru_cache(maxsize=1)
def _docs() -> Snapshot:
    from ptn_api.rest.docs_page import page
    from ptn_api.rest.openapi import description

    return snapshot_of(page(description()).encode())
