"""Freshness tiers: how much of a validator's positions a key sees live (docs/accounting.md, 4)."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Literal

__all__ = ["TIERS", "TIER_LAG_MS", "Tier", "data_tier", "is_live"]

Tier = Literal[0, 30, 50, 100]
TIERS: tuple[Tier, ...] = (0, 30, 50, 100)
"""0: everything 24 h late; 30, 50: that percentage live; 100: everything live, and the stream."""
TIER_LAG_MS = 86_400_000


@lru_cache
def data_tier(key_tier: float) -> Tier:
    """Returns the tier whose data a key of this tier sees: the largest of TIERS that is not above it.

    A key file may grant any number; validators grant 200 and more for rights beyond positions.
    """
    return max((tier for tier in TIERS if tier <= key_tier), default=0)


def is_live(position_uuid: str, tier: Tier) -> bool:
    """Returns whether the tier shows this position without delay.

    The sample is the same on every validator, and each tier's sample includes those of lower tiers.
    """
    if tier <= 0 or tier >= 100:
        return tier >= 100
    digest = hashlib.sha256(position_uuid.encode()).digest()
    return int.from_bytes(digest, "big") % 100 < tier
