"""About the service itself: its health, the asking key, the trade pairs it knows."""

from __future__ import annotations

from typing import Literal

import msgspec

from ptn_api.errors import LogError
from ptn_api.event_log.contract import SourceStatus
from ptn_api.model.trade_pair import TRADE_PAIRS
from ptn_api.rest.answer import Answer
from ptn_api.rest.room import Ask, Room
from ptn_api.rest.snapshot import snapshot_of

__all__ = ["Health", "Me", "health", "me", "trade_pairs"]


class SourceHealth(msgspec.Struct, kw_only=True):
    """`swept_ms`: end of the last completed sweep of the validator's files; null without a directory."""

    swept_ms: int | None = None
    stale: bool = False
    reason: str = ""
    watching: bool = True


class LogHealth(msgspec.Struct, kw_only=True):
    """`ready`: the first scan of the validator's files is complete."""

    ready: bool = False


class Health(msgspec.Struct, kw_only=True):
    """Nothing here moves with live orders. `degraded`: all is served, a problem should be looked at."""

    status: Literal["ok", "degraded", "starting", "failing"]
    problems: list[str]
    source: SourceHealth
    log: LogHealth


class KeyLimits(msgspec.Struct, kw_only=True):
    websocket_connections: int


class Me(msgspec.Struct, kw_only=True):
    alias: str
    tier: int
    limits: KeyLimits


async def health(room: Room, ask: Ask) -> Answer:
    found = _examined(room)
    status = 200 if found.status in ("ok", "degraded") else 503
    return Answer(snapshot=snapshot_of(msgspec.json.encode(found)), status=status)


def _examined(room: Room) -> Health:
    try:
        source, ready = room.log.source(), room.log.ready()
    except LogError:
        return Health(status="failing", problems=["log_unreadable"], source=SourceHealth(), log=LogHealth())
    failures = _failures(room, source)
    degraded = [] if source.watching else ["not_watching"]
    starting = [] if ready and room.ready else ["starting"]
    status: Literal["ok", "degraded", "starting", "failing"] = (
        "failing" if failures else "starting" if starting else "degraded" if degraded else "ok"
    )
    return Health(
        status=status,
        problems=[*failures, *starting, *degraded],
        source=SourceHealth(
            swept_ms=source.swept_ms, stale=source.stale, reason=source.reason, watching=source.watching
        ),
        log=LogHealth(ready=ready),
    )


def _failures(room: Room, source: SourceStatus) -> list[str]:
    problems = []
    if room.follower.failing:
        problems.append("log_unreadable")
    if source.stale:
        problems.append("source_stale")
    if source.swept_ms is not None and room.clock() - source.swept_ms > room.options.silent_ms:
        problems.append("source_silent")
    return problems


async def me(room: Room, ask: Ask) -> Answer:
    assert ask.holder is not None
    connections = room.options.max_connections_per_key if ask.tier == 100 else 0
    answer = Me(alias=ask.holder.alias, tier=ask.tier, limits=KeyLimits(websocket_connections=connections))
    return Answer(snapshot=snapshot_of(msgspec.json.encode(answer)))


async def trade_pairs(room: Room, ask: Ask) -> Answer:
    return Answer(snapshot=snapshot_of(msgspec.json.encode(list(TRADE_PAIRS.values()))))
