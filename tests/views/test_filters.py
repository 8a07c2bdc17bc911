"""Filters choose positions as the tier shows them; aggregates stay the whole entry's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.factories import EURUSD, MINER, OTHER_MINER, order, position, written
from tests.rest.serving import DAY, HOUR, NOW, filled_log, serving


def changes() -> list[Any]:
    """The first miner: closed BTCUSD, open EURUSD, one closed an hour ago; the second: open BTCUSD."""
    closed = [order(1, at=NOW - 9 * DAY), order(2, -0.1, at=NOW - 8 * DAY)]
    fresh = [order(4, at=NOW - 3 * DAY), order(5, 0.0, at=NOW - HOUR, order_type="FLAT")]
    return [
        written(position(1, closed, closed=True)),
        written(position(2, [order(3, at=NOW - 2 * DAY)], trade_pair=EURUSD)),
        written(position(3, fresh, closed=True)),
        written(position(4, [order(6, at=NOW - 2 * DAY)], miner=OTHER_MINER)),
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("trade_pair=EURUSD", {MINER: [2]}),
        ("trade_pair=EURUSD&trade_pair=BTCUSD", {MINER: [1, 3, 2], OTHER_MINER: [4]}),
        ("trade_pair=NOPE", {}),
        ("status=closed", {MINER: [1, 3]}),
        ("status=open", {MINER: [2], OTHER_MINER: [4]}),
        ("status=open&status=closed", {MINER: [1, 3, 2], OTHER_MINER: [4]}),
        ("status=open&trade_pair=BTCUSD", {OTHER_MINER: [4]}),
        (f"miner={OTHER_MINER}", {OTHER_MINER: [4]}),
        (f"miner={OTHER_MINER}&miner={MINER}&status=closed", {MINER: [1, 3]}),
        ("miner=5Unknown", {}),
        # An hour ago is not yet seen in tier 0: there that position is still open.
        ("tier=0&status=closed", {MINER: [1]}),
        ("tier=0&status=open&trade_pair=BTCUSD", {MINER: [3], OTHER_MINER: [4]}),
    ],
)
async def test_what_is_chosen(query: str, expected: dict[str, list[int]]) -> None:
    """Filters are AND-ed, repeated values OR-ed; miners without a match are left out."""
    async with serving(filled_log(changes())) as served:
        tier = "?tier=0" if "tier=0" in query else ""
        whole = (await served.get(f"/miner-positions{tier}")).json()
        chosen = (await served.get(f"/miner-positions?{query}")).json()
        found = {
            hotkey: [int(p["position_uuid"][-2:], 16) for p in entry["positions"]]
            for hotkey, entry in chosen.items()
        }
        assert found == expected
        for hotkey, entry in chosen.items():
            sums = {key: value for key, value in whole[hotkey].items() if key != "positions"}
            assert {key: value for key, value in entry.items() if key != "positions"} == sums
            assert list(entry) == list(whole[hotkey])


async def test_the_whole_and_the_filtered_have_different_tags() -> None:
    """And the same filter asked twice has the same."""
    async with serving(filled_log(changes())) as served:
        paths = ["/miner-positions", "/miner-positions?status=open", "/miner-positions?status=open"]
        one, two, three = [(await served.get(path)).headers["etag"] for path in paths]
        assert one != two
        assert two == three
