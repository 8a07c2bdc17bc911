"""Filters apply to positions as the tier shows them; aggregates remain those of the whole entry."""

from __future__ import annotations

from typing import Any

import pytest

from tests.factories import EURUSD, MINER, OTHER_MINER, order, position, written
from tests.rest.serving import DAY, HOUR, NOW, filled_log, serving


def changes() -> list[Any]:
    """The first miner: closed BTCUSD, open EURUSD, one closed an hour ago; the second: open BTCUSD."""
    closed = [order(1, at=NOW - 9 * DAY), order(2, -0.1, at=NOW - 8 * DAY)]
    recent = [order(4, at=NOW - 3 * DAY), order(5, 0.0, at=NOW - HOUR, order_type="FLAT")]
    return [
        written(position(1, closed, closed=True)),
        written(position(2, [order(3, at=NOW - 2 * DAY)], trade_pair=EURUSD)),
        written(position(3, recent, closed=True)),
        written(position(4, [order(6, at=NOW - 2 * DAY)], miner=OTHER_MINER)),
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("trade_pair=EURUSD", {MINER: [2]}),
        ("trade_pair=EURUSD&trade_pair=BTCUSD", {MINER: [1, 3, 2], OTHER_MINER: [4]}),
        ("status=closed", {MINER: [1, 3]}),
        ("status=open", {MINER: [2], OTHER_MINER: [4]}),
        ("status=open&status=closed", {MINER: [1, 3, 2], OTHER_MINER: [4]}),
        ("status=open&trade_pair=BTCUSD", {OTHER_MINER: [4]}),
        (f"miner={OTHER_MINER}", {OTHER_MINER: [4]}),
        (f"miner={OTHER_MINER}&miner={MINER}&status=closed", {MINER: [1, 3]}),
        ("miner=5Unknown", {}),
        # Tier 0 does not show a close of an hour ago yet: the position is still open there.
        ("tier=0&status=closed", {MINER: [1]}),
        ("tier=0&status=open&trade_pair=BTCUSD", {MINER: [3], OTHER_MINER: [4]}),
    ],
)
async def test_filters_combine(query: str, expected: dict[str, list[int]]) -> None:
    """Filters are AND-ed, repeated values OR-ed; miners without a match are left out."""
    async with serving(filled_log(changes())) as served:
        tier = "?tier=0" if "tier=0" in query else ""
        unfiltered = (await served.get(f"/miner-positions{tier}")).json()
        filtered = (await served.get(f"/miner-positions?{query}")).json()
        numbers = {
            hotkey: [int(p["position_uuid"][-2:], 16) for p in entry["positions"]]
            for hotkey, entry in filtered.items()
        }
        assert numbers == expected
        for hotkey, entry in filtered.items():
            sums = {key: value for key, value in unfiltered[hotkey].items() if key != "positions"}
            assert {key: value for key, value in entry.items() if key != "positions"} == sums
            assert list(entry) == list(unfiltered[hotkey])


async def test_a_filtered_document_has_its_own_tag() -> None:
    """The same filter gives the same tag again."""
    async with serving(filled_log(changes())) as served:
        paths = ["/miner-positions", "/miner-positions?status=open", "/miner-positions?status=open"]
        one, two, three = [(await served.get(path)).headers["etag"] for path in paths]
        assert one != two
        assert two == three
