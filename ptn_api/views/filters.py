"""Choosing positions out of the miners' pieces, as a tier shows them."""

from __future__ import annotations

import msgspec

from ptn_api.http.body import Body, Segment, tag_of
from ptn_api.model.tiers import Tier
from ptn_api.model.trade_pair import pair_id
from ptn_api.tasks import TimeSlice
from ptn_api.views.miner_view import TAILS, MinerView
from ptn_api.views.positions import PositionViews

__all__ = ["filtered"]


class _Entry(msgspec.Struct):
    positions: list[msgspec.Raw]


class _Traits(msgspec.Struct):
    """What a position is chosen by."""

    trade_pair: msgspec.Raw
    is_closed_position: bool = False


_entry = msgspec.json.Decoder(_Entry)
_traits = msgspec.json.Decoder(_Traits)


async def filtered(
    views: PositionViews,
    tier: Tier,
    *,
    miners: frozenset[str],
    trade_pairs: frozenset[str],
    statuses: frozenset[str],
) -> Body:
    """The document with the positions that pass all filters (an empty one passes everything).

    Miners without a match are left out; aggregates stay those of the whole entry.
    """
    pieces = [piece for piece in views.ranked(tier) if not miners or piece.hotkey in miners]
    if not trade_pairs and not statuses:
        return views.joined(tier, pieces)
    time_slice = TimeSlice()
    blocks: list[Segment] = []
    for piece in pieces:
        entry = _filtered_entry(piece, tier, trade_pairs, statuses)
        if entry:
            blocks += (piece.names[bool(blocks)], Segment(entry))
        await time_slice.yield_if_due()
    blocks.append(Segment(b"}" if blocks else b"{}"))
    return Body(blocks, tag_of(block.identity for block in blocks))


def _filtered_entry(
    piece: MinerView, tier: Tier, trade_pairs: frozenset[str], statuses: frozenset[str]
) -> bytes:
    rest = piece.tiers[tier]
    text = b"".join(block.identity for block in (*rest.blocks, TAILS[tier]))
    chosen = [raw for raw in _entry.decode(text).positions if _passes(raw, trade_pairs, statuses)]
    if not chosen:
        return b""
    sums = msgspec.json.encode(rest.aggregates)[1:-1]
    return b'{"positions":[' + b",".join(map(bytes, chosen)) + b"]," + sums + TAILS[tier].identity


def _passes(position: msgspec.Raw, trade_pairs: frozenset[str], statuses: frozenset[str]) -> bool:
    traits = _traits.decode(position)
    if statuses and ("closed" if traits.is_closed_position else "open") not in statuses:
        return False
    return not trade_pairs or pair_id(msgspec.json.decode(traits.trade_pair)) in trade_pairs
