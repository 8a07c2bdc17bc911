"""A positions document restricted by miner, trade pair and status."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from ptn_api.http.body import Body, Segment, tag_of
from ptn_api.http.errors import HTTPError
from ptn_api.model.tiers import Tier
from ptn_api.model.trade_pair import pair_id, resolve_pair, unknown_pair
from ptn_api.tasks import TimeSlice
from ptn_api.views.miner_view import TAILS, MinerView
from ptn_api.views.positions import PositionViews

__all__ = ["chosen_pairs", "filtered"]


class _Positions(msgspec.Struct):
    positions: list[msgspec.Raw]


class _Traits(msgspec.Struct):
    """The fields of a position that filters look at."""

    trade_pair: msgspec.Raw
    is_closed_position: bool = False


_positions = msgspec.json.Decoder(_Positions)
_traits = msgspec.json.Decoder(_Traits)


async def chosen_pairs(views: PositionViews, tier: Tier, names: Iterable[str]) -> frozenset[str]:
    """Returns the ids of these trade pairs, which may be written in any usual way.

    A pair that the network's table lacks is accepted by its id, if the tier shows a position in it. Any other
    name raises HTTPError `bad_parameter`: a misspelt pair must not look like one without positions.
    """
    ids = set()
    for name in names:
        known = resolve_pair(name)
        if known is None and not await _is_traded(views, tier, name):
            raise HTTPError("bad_parameter", unknown_pair(name), parameter="trade_pair")
        ids.add(known or name)
    return frozenset(ids)


async def _is_traded(views: PositionViews, tier: Tier, pair: str) -> bool:
    """Whether the tier shows a position in the pair, by a search in the text that is served."""
    text = re.escape(msgspec.json.encode(pair))
    search = re.compile(rb'"trade_pair":(?:\[|\{[^{}]*?"trade_pair_id":)?' + text).search
    time_slice = TimeSlice()
    for view in views.ranked(tier):
        if any(search(block.identity) for block in view.entries[tier].blocks):
            return True
        await time_slice.yield_if_due()
    return False


async def filtered(
    views: PositionViews,
    tier: Tier,
    *,
    miners: frozenset[str],
    trade_pairs: frozenset[str],
    statuses: frozenset[str],
) -> Body:
    """The tier's document with the positions that pass all filters; an empty filter passes everything.

    Miners without a match are left out. Aggregates remain those of the miner's whole entry.
    """
    chosen = [view for view in views.ranked(tier) if not miners or view.hotkey in miners]
    if not trade_pairs and not statuses:
        return views.joined(tier, chosen)
    time_slice = TimeSlice()
    blocks: list[Segment] = []
    for view in chosen:
        entry = _filtered_entry(view, tier, trade_pairs, statuses)
        if entry:
            name = view.name_segments[1] if blocks else view.name_segments[0]
            blocks += (name, Segment(entry))
        await time_slice.yield_if_due()
    blocks.append(Segment(b"}" if blocks else b"{}"))
    return Body(blocks, tag_of(block.identity for block in blocks))


def _filtered_entry(
    view: MinerView, tier: Tier, trade_pairs: frozenset[str], statuses: frozenset[str]
) -> bytes:
    """The entry with the matching positions; empty without a match."""
    whole = view.entries[tier]
    # The blocks are fragments of one JSON object: only joined with the tail they can be decoded.
    text = b"".join(block.identity for block in (*whole.blocks, TAILS[tier]))
    matches = []
    for position in _positions.decode(text).positions:
        traits = _traits.decode(position)
        if statuses and ("closed" if traits.is_closed_position else "open") not in statuses:
            continue
        if not trade_pairs or pair_id(msgspec.json.decode(traits.trade_pair)) in trade_pairs:
            matches.append(bytes(position))
    if not matches:
        return b""
    sums = msgspec.json.encode(whole.aggregates)[1:-1]
    return b'{"positions":[' + b",".join(matches) + b"]," + sums + TAILS[tier].identity
