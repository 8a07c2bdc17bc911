"""Every attack of `python -m benchmarks attacks`, for a moment: it runs, and the victim notices nothing."""

from __future__ import annotations

import asyncio
import time

import pytest
import requests

from benchmarks.attackers import ATTACKS, Target
from ptn_api.access import add_key
from tests.hostile.fortress import Fortress
from tests.waiting import PATIENCE_S, until

SECONDS = 0.1
SHARE = 0.05
NAMES = [name for name, attack in ATTACKS.items() if not (attack.tls or attack.files)]


@pytest.mark.parametrize("name", NAMES)
def test_others_are_served_meanwhile(fortress: Fortress, name: str) -> None:
    """One kept connection survives the attack, besides what the fortress checks."""
    attack, head = ATTACKS[name], fortress.call("/miner-positions")
    key = add_key(fortress.key_file, f"attacker-{name}", attack.tier)
    until(lambda: _status(fortress, key) == 200, what="the attacker's key is valid")
    target = Target(
        rest=fortress.server.rest,
        stream=fortress.server.stream,
        authority="",
        keys=[],
        epoch=head.headers["x-ptn-epoch"],
        oldest=1,
        key_file=str(fortress.key_file),
        validator=str(fortress.validator.root),
        seconds=SECONDS,
        share=SHARE,
        key=key,
        began=time.monotonic(),
    )
    with requests.Session() as victim:
        address = fortress.server.rest + "/health"
        assert victim.get(address, timeout=PATIENCE_S).ok
        asyncio.run(attack.run(target))  # type: ignore[arg-type]
        assert victim.get(address, timeout=PATIENCE_S).ok
    assert "500" not in target.outcomes


def _status(fortress: Fortress, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return requests.get(fortress.server.rest + "/me", headers=headers, timeout=PATIENCE_S).status_code
