"""Freshness tiers: which positions each shows live (docs/accounting.md, 4)."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from ptn_api.model.tiers import TIERS, is_live
from tests.model.expected import shared


def test_the_published_sample() -> None:
    """Every position's percentile, and so the tiers that show it live."""
    for scenario in shared("golden/tiers.json.gz")["scenarios"]:
        for uuid, share in scenario["hash_mod_100"].items():
            assert [t for t in TIERS if is_live(uuid, t)] == [t for t in TIERS if share < t]


@given(st.text(min_size=1))
def test_tiers_nest(uuid: str) -> None:
    """Nothing is live for tier 0, everything for 100, and each tier's sample includes the lower ones'."""
    live = [is_live(uuid, tier) for tier in TIERS]
    share = int(hashlib.sha256(uuid.encode()).hexdigest(), 16) % 100
    assert live == [False, share < 30, share < 50, True]


def test_samples_have_about_their_size() -> None:
    """30 and 50 percent of 2000 uuids."""
    for tier in (30, 50):
        share = sum(is_live(f"position-{n}", tier) for n in range(2000)) / 2000
        assert abs(share - tier / 100) < 0.04
