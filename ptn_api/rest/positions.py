"""Positions: all miners' or one's, whole, filtered, or only what changed."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ptn_api.http.answer import Answer
from ptn_api.http.errors import HTTPError
from ptn_api.model.tiers import Tier
from ptn_api.rest.changes import changes_since
from ptn_api.rest.room import Ask, Room, standing
from ptn_api.views.filters import filtered

__all__ = ["PositionsQuery", "positions", "positions_of"]


class PositionsQuery(msgspec.Struct, kw_only=True):
    """Filters choose positions; a miner's aggregates stay those of the whole entry."""

    tier: Annotated[Tier, Meta(description="what that tier shows; above the key's own: 403")] = 100
    miner: Annotated[list[str], Meta(description="only these hotkeys (repeatable)")] = []
    trade_pair: Annotated[list[str], Meta(description="only these trade pairs, by id (repeatable)")] = []
    status: Annotated[
        list[Literal["open", "closed"]], Meta(description="only open or closed positions (repeatable)")
    ] = []
    since: Annotated[
        str,
        Meta(description="only what changed since this cursor, `<epoch>:<revision>` (tier 100, no filters)"),
    ] = ""


async def positions(room: Room, ask: Ask) -> Answer:
    query: PositionsQuery = ask.query
    if query.tier > ask.tier:
        raise HTTPError("insufficient_tier", f"Your API key does not have access to tier {query.tier} data")
    headers = standing(room, query.tier)
    if query.since:
        if query.tier < 100:
            raise HTTPError("bad_parameter", "Changes since a cursor are there in tier 100 only")
        return Answer(snapshot=await changes_since(room, query.since, ask.head), headers=headers)
    if query.miner or query.trade_pair or query.status:
        chosen = await filtered(
            room.views,
            query.tier,
            miners=frozenset(query.miner),
            trade_pairs=frozenset(query.trade_pair),
            statuses=frozenset(query.status),
        )
        return Answer(snapshot=chosen, headers=headers)
    return Answer(snapshot=room.views.snapshot(query.tier), headers=headers)


async def positions_of(room: Room, ask: Ask) -> Answer:
    headers = standing(room, ask.tier)
    snapshot = room.views.entry(ask.hotkey, ask.tier)
    if snapshot is None:
        raise HTTPError("not_found", "Miner ID not found")
    return Answer(snapshot=snapshot, headers=headers)
