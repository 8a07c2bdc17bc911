"""About the service itself: its health, the asking key, the trade pairs it knows."""

from __future__ import annotations

import msgspec

from ptn_api.access.key_ring import KeyHolder
from ptn_api.errors import LogError
from ptn_api.event_log.contract import SourceStatus
from ptn_api.http.answer import Answer
from ptn_api.http.body import body_of
from ptn_api.model.trade_pair import TRADE_PAIRS
from ptn_api.rest.options import RestOptions
from ptn_api.rest.room import Ask, Room
from ptn_api.wire.about import Health, KeyLimits, LogHealth, Me, Problem, SourceHealth, Status

__all__ = ["health", "me", "trade_pairs"]


async def health(room: Room, ask: Ask) -> Answer:
    found = _examined(room)
    status = 200 if found.status in ("ok", "degraded") else 503
    return Answer(snapshot=body_of(msgspec.json.encode(found)), status=status)


def _examined(room: Room) -> Health:
    alive, writable = room.surroundings.processes(), room.surroundings.log_writable()
    failures: list[Problem] = [] if writable else ["log_unwritable"]
    failures += [] if all(alive.values()) else ["process_down"]
    try:
        source, ready = room.log.source(), room.log.ready()
    except LogError:
        source, ready, unreadable = SourceStatus(), False, True
    else:
        unreadable = room.follower.outage.failing
    failures += ["log_unreadable"] if unreadable else []
    failures += _failures_of(source, room)
    degraded: list[Problem] = [] if source.watching else ["not_watching"]
    starting: list[Problem] = [] if (ready and room.ready) or unreadable else ["starting"]
    status: Status = "failing" if failures else "starting" if starting else "degraded" if degraded else "ok"
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
    return Answer(snapshot=body_of(msgspec.json.encode(answer)))


def _limits_of(holder: KeyHolder, options: RestOptions) -> KeyLimits:
    connections = holder.max_connections or options.max_connections_per_key
    return KeyLimits(
        websocket_connections=connections if holder.tier == 100 else 0,
        requests_per_minute=holder.requests_per_minute or options.requests_per_minute or None,
    )


async def trade_pairs(room: Room, ask: Ask) -> Answer:
    return Answer(snapshot=body_of(msgspec.json.encode(list(TRADE_PAIRS.values()))))
