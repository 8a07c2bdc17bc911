"""What a tier shows of a position: as the validator has it, or as it stood at the cutoff.

The cutoff is now - 24 h; orders strictly before it count (docs/accounting.md, 4). What is shown of a position
that is not live follows from those orders alone, so that a lower tier's answers tell nothing of later ones.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from ptn_api.model.accounting import Replay, replay
from ptn_api.model.position import Position

__all__ = [
    "AS_IS",
    "TIERS",
    "TIER_LAG_MS",
    "AsIs",
    "Hidden",
    "Replayed",
    "Tier",
    "View",
    "is_live",
    "next_change_ms",
    "view",
]

Tier = Literal[0, 30, 50, 100]
TIERS: tuple[Tier, ...] = (0, 30, 50, 100)
"""0 = everything 24 h late; 30, 50 = that share of positions live; 100 = everything live, and the stream."""
TIER_LAG_MS = 86_400_000


class AsIs(msgspec.Struct, frozen=True):
    """Shown as the validator has it."""


class Replayed(msgspec.Struct, frozen=True):
    """Shown with the orders at these places of its list only, and the state that follows from them."""

    places: tuple[int, ...]
    replay: Replay


class Hidden(msgspec.Struct, frozen=True):
    """Not shown: none of its orders is old enough yet, or it had to be replayed and cannot be."""

    reason: Literal["not_yet", "not_replayable"]


View = AsIs | Replayed | Hidden

AS_IS = AsIs()
_NOT_YET = Hidden("not_yet")
_NOT_REPLAYABLE = Hidden("not_replayable")


def is_live(position_uuid: str, tier: Tier) -> bool:
    """Whether the tier shows this position without delay.

    The sample is the same on every validator, and each tier's includes the lower ones'.
    """
    return tier >= 100 or (tier > 0 and _percentile(position_uuid) < tier)


def view(position: Position, tier: Tier, cutoff_ms: int) -> View:
    """What the tier shows of the position."""
    if is_live(position.position_uuid, tier) or _closed_before(position, cutoff_ms):
        return AS_IS
    orders = position.orders
    places = tuple(place for place, order in enumerate(orders) if order.processed_ms < cutoff_ms)
    if orders and not places:
        return _NOT_YET
    replayed = replay([orders[p] for p in places], position.trade_pair, position.position_uuid)
    return _NOT_REPLAYABLE if replayed is None else Replayed(places, replayed)


def next_change_ms(position: Position, tier: Tier, cutoff_ms: int) -> int | None:
    """The next cutoff at which `view` differs from what it is at this one; None if it never will."""
    if is_live(position.position_uuid, tier) or _closed_before(position, cutoff_ms):
        return None
    moments = [order.processed_ms for order in position.orders]
    if position.closed_at is not None:
        moments.append(position.closed_at)
    # Only what is strictly before the cutoff is seen: a moment counts from one millisecond after it.
    return min((moment + 1 for moment in moments if moment >= cutoff_ms), default=None)


def _closed_before(position: Position, cutoff_ms: int) -> bool:
    return position.closed_at is not None and position.closed_at < cutoff_ms


def _percentile(position_uuid: str) -> int:
    return int.from_bytes(hashlib.sha256(position_uuid.encode()).digest(), "big") % 100
