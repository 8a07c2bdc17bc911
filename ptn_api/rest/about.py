"""About the service itself: its health, the asking key, the trade pairs it knows."""

from __future__ import annotations

from typing import Literal

import msgspec

from ptn_api.access.key_ring import KeyHolder
from ptn_api.errors import LogError
from ptn_api.event_log.contract import SourceStatus
from ptn_api.model.trade_pair import TRADE_PAIRS
from ptn_api.rest.answer import Answer
from ptn_api.rest.options import RestOptions
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
    """`ready`: the first scan of the validator's files is complete. `writable`: intake can add to the log."""

    ready: bool = False
    writable: bool = True


Problem = Literal[
    "log_unreadable",
    "log_unwritable",
    "process_down",
    "source_stale",
    "source_silent",
    "starting",
    "not_watching",
]


class Health(msgspec.Struct, kw_only=True):
    """Nothing here moves with live orders. `degraded`: all is served, a problem should be looked at.

    `processes` says which are `up` and which `down`; where they are not known it is empty.
    """

    status: Literal["ok", "degraded", "starting", "failing"]
    problems: list[Problem]
    processes: dict[str, Literal["up", "down"]] = {}
    source: SourceHealth
    log: LogHealth


class KeyLimits(msgspec.Struct, kw_only=True):
    """`requests_per_minute` null: without a limit."""

    websocket_connections: int
    requests_per_minute: int | None = None


class Me(msgspec.Struct, kw_only=True):
    alias: str
    tier: int
    expires_ms: int | None = None
    limits: KeyLimits


async def health(room: Room, ask: Ask) -> Answer:
    found = _examined(room)
    status = 200 if found.status in ("ok", "degraded") else 503
    return Answer(snapshot=snapshot_of(msgspec.json.encode(found)), status=status)


def _examined(room: Room) -> Health:
    alive, writable = room.surroundings.processes(), room.surroundings.log_writable()
    failures: list[Problem] = [] if writable else ["log_unwritable"]
    failures += [] if all(alive.values()) else ["process_down"]
    try:
        source, ready = room.log.source(), room.log.ready()
    except LogError:
        source, ready, unreadable = SourceStatus(), False, True
    else:
        unreadable = room.follower.failing
    failures += ["log_unreadable"] if unreadable else []
    failures += _failures_of(source, room)
    degraded: list[Problem] = [] if source.watching else ["not_watching"]
    starting: list[Problem] = [] if (ready and room.ready) or unreadable else ["starting"]
    status: Literal["ok", "degraded", "starting", "failing"] = (
        "failing" if failures else "starting" if starting else "degraded" if degraded else "ok"
    )
    return Health(
        status=status,
        problems=[*failures, *starting, *degraded],
        processes={name: "up" if lives else "down" for name, lives in alive.items()},
        source=SourceHealth(
            swept_ms=source.swept_ms, stale=source.stale, reason=source.reason, watching=source.watching
        ),
        log=LogHealth(ready=ready, writable=writable),
    )


def _failures_of(source: SourceStatus, room: Room) -> list[Problem]:
    problems: list[Problem] = []
    if source.stale:
        problems.append("source_stale")
    if source.swept_ms is not None and room.clock() - source.swept_ms > room.options.silent_ms:
        problems.append("source_silent")
    return problems


async def me(room: Room, ask: Ask) -> Answer:
    assert ask.holder is not None
    answer = Me(
        alias=ask.holder.alias,
        tier=ask.tier,
        expires_ms=ask.holder.expires_ms,
        limits=_limits_of(ask.holder, room.options),
    )
    return Answer(snapshot=snapshot_of(msgspec.json.encode(answer)))


def _limits_of(holder: KeyHolder, options: RestOptions) -> KeyLimits:
    connections = holder.max_connections or options.max_connections_per_key
    return KeyLimits(
        websocket_connections=connections if holder.tier == 100 else 0,
        requests_per_minute=holder.requests_per_minute or options.requests_per_minute or None,
    )


async def trade_pairs(room: Room, ask: Ask) -> Answer:
    return Answer(snapshot=snapshot_of(msgspec.json.encode(list(TRADE_PAIRS.values()))))
