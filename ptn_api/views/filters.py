"""A positions document restricted by miner, trade pair and status."""

from __future__ import annotations

import msgspec

from ptn_api.http.body import Body, Segment, tag_of
from ptn_api.model.tiers import Tier
from ptn_api.model.trade_pair import pair_id
from ptn_api.tasks import TimeSlice
from ptn_api.views.miner_view import TAILS, MinerView
from ptn_api.views.positions import PositionViews

__all__ = ["filtered"]


class _Positions(msgspec.Struct):
    positions: list[msgspec.Raw]


class _Traits(msgspec.Struct):
    """The fields of a position that filters look at."""

    trade_pair: msgspec.Raw
    is_closed_position: bool = False


_positions = msgspec.json.Decoder(_Positions)
_traits = msgspec.json.Decoder(_Traits)


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
