"""What is served of the validator's files: statistics, eliminations, perf ledgers, hotkeys, checkpoint."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ptn_api.event_log.contract import Document
from ptn_api.http.answer import Answer
from ptn_api.http.body import Body, body_of
from ptn_api.http.errors import HTTPError
from ptn_api.rest.room import Ask, Room, standing

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
    checkpoints: Annotated[bool, Meta(description="false leaves out each miner's `checkpoints`")] = True


async def statistics(room: Room, ask: Ask) -> Answer:
    headers = standing(room, ask.tier)
    query: StatisticsQuery = ask.query
    document = room.documents.snapshot(Document.STATISTICS)
    if not query.checkpoints:
        document = room.documents.statistics_without_checkpoints()
    return _found(document, "Statistics", headers)


async def statistics_of(room: Room, ask: Ask) -> Answer:
    headers = standing(room, ask.tier)
    _found(room.documents.snapshot(Document.STATISTICS), "Statistics", headers)
    query: StatisticsQuery = ask.query
    return _of_miner(room.documents.statistics_of(ask.hotkey, checkpoints=query.checkpoints), headers)


async def eliminations(room: Room, ask: Ask) -> Answer:
    headers = standing(room, ask.tier)
    return _found(room.documents.snapshot(Document.ELIMINATIONS), "Eliminations", headers)


async def perf_ledger(room: Room, ask: Ask) -> Answer:
    headers = standing(room, ask.tier)
    return _of_miner(room.documents.perf_ledger_of(ask.hotkey), headers)


async def hotkeys(room: Room, ask: Ask) -> Answer:
    """The miners that have a directory; without a directory to read, those that have positions."""
    headers = standing(room, ask.tier)
    snapshot = room.documents.snapshot(Document.MINERS)
    return Answer(snapshot=snapshot or _encoded(room.views.hotkeys()), headers=headers)


async def checkpoint(room: Room, ask: Ask) -> Answer:
    headers = standing(room, ask.tier)
    return _found(room.checkpoint.snapshot(), "Checkpoint", headers)


def _found(snapshot: Body | None, name: str, headers: bytes) -> Answer:
    if snapshot is None:
        raise HTTPError("not_found", f"{name} data not found")
    return Answer(snapshot=snapshot, headers=headers)


def _of_miner(element: bytes | None, headers: bytes) -> Answer:
    if element is None:
        raise HTTPError("not_found", "Miner ID not found")
    return Answer(snapshot=body_of(element), headers=headers)


def _encoded(value: object) -> Body:
    return body_of(msgspec.json.encode(value))
