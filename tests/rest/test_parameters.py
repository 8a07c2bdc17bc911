"""Parameters in any usual spelling mean the same; others are errors, never an empty response."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.factories import MINER, OTHER_MINER, order, position, written
from tests.rest.serving import HOUR, NOW, Served, filled_log, serving

LISTED = ["PAIR9USD", "Pair9/USD", 0.001, 0.01, 0.5]
"""The `trade_pair` of a position in a pair that the network's table lacks."""


def log() -> Any:
    pepe = ["kPEPEUSDC", "kPEPE/USDC", 0.001, 0.01, 0.5]
    changes = [
        written(position(1, [order(1, at=NOW - HOUR)])),
        written(position(2, [order(2, at=NOW - HOUR)], miner=OTHER_MINER, trade_pair=pepe)),
        written(position(3, [order(3, at=NOW - HOUR)], miner=OTHER_MINER, trade_pair=LISTED)),
    ]
    return filled_log(changes, created_ms=NOW - 2 * HOUR)


async def pairs_at(served: Served, query: str) -> list[str]:
    response = await served.get(f"/miner-positions?{query}")
    assert response.status_code == 200, response.text
    entries = response.json().values()
    pairs = sorted(p["trade_pair"][0] for entry in entries for p in entry["positions"])
    page = await served.get(f"/messages?after={served.log.floor() - 1}&{query}")
    assert page.status_code == 200, page.text
    messages = page.json()["messages"]
    assert sorted(m["data"]["position"]["trade_pair"][0] for m in messages) == pairs
    return pairs


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("trade_pair=BTCUSD&trade_pair=kPEPEUSDC", ["BTCUSD", "kPEPEUSDC"]),
        ("trade_pair=BTCUSD,kPEPEUSDC", ["BTCUSD", "kPEPEUSDC"]),
        ("trade_pair=%20btc%2Fusd%20,,kpepeusdc,", ["BTCUSD", "kPEPEUSDC"]),
        ("trade_pair=btc-usd", ["BTCUSD"]),
        ("trade_pair=KPEPE/USDC&trade_pair=", ["kPEPEUSDC"]),
        ("trade_pair=&miner=", ["BTCUSD", "PAIR9USD", "kPEPEUSDC"]),
        ("trade_pair=PAIR9USD", ["PAIR9USD"]),
        (f"miner={MINER},{OTHER_MINER}&trade_pair=BTCUSD", ["BTCUSD"]),
        (f"miner={OTHER_MINER},", ["PAIR9USD", "kPEPEUSDC"]),
        ("_=1&_cache=x", ["BTCUSD", "PAIR9USD", "kPEPEUSDC"]),
    ],
)
async def test_filters_in_any_spelling(query: str, expected: list[str]) -> None:
    """Repeated or with commas, as the Request Network's proxy joins them; empty ones are ignored."""
    async with serving(log()) as served:
        assert await pairs_at(served, query) == expected


@pytest.mark.parametrize(
    ("path", "parameter", "named"),
    [
        ("/miner-positions?trade_pair=BTCUSDX", "trade_pair", "BTCUSD"),
        ("/miner-positions?trade_pair=BTCUSD,nonsense", "trade_pair", "/trade-pairs"),
        ("/miner-positions?trade_pair=Polygon", "trade_pair", "/trade-pairs"),
        ("/miner-positions?trade_pair=" + quote("/[?]\u00e9" * 30), "trade_pair", "/trade-pairs"),
        ("/messages?after=0&trade_pair=BTCUSDX", "trade_pair", "BTCUSD"),
        ("/miner-positions?status=half", "status", "open, closed"),
        ("/miner-positions?status=open,half", "status", "open, closed"),
        ("/messages?format=xml", "format", "full, delta"),
        ("/messages?limit=0", "limit", "expected an integer of at least 1 and at most "),
        ("/messages?after=x", "after", "expected an integer of at least -1"),
        ("/trade-pairs?asset_class=fx", "asset_class", "crypto, forex"),
        ("/miner-positions?at=1796039316", "at", "at seems to be in seconds: expected epoch milliseconds"),
        ("/statistics?checkpoints=maybe", "checkpoints", "true, false"),
        (f"/orders/{MINER}?status=filed", "status", "unfilled, filled, cancelled"),
        ("/miner-positions?miners=x", "miners", "tier, miner, trade_pair, status, since"),
        ("/miner-positions?tradepair=BTCUSD", "tradepair", "trade_pair"),
        ("/messages?since=5", "since", "after, epoch, limit"),
        (f"/orders/{MINER}?state=filled", "state", "status"),
        (f"/limit-orders/{MINER}?state=filled", "state", "status"),
        (f"/miner-positions?since={'e' * 32}:0&miner={MINER}", "since", "filters"),
    ],
)
async def test_what_cannot_be_understood_is_named(path: str, parameter: str, named: str) -> None:
    """400 with the values or names that are allowed."""
    async with serving(log()) as served:
        response = await served.get(path)
        assert response.status_code == 400, response.text
        error = response.json()
        assert (error["code"], error["parameter"]) == ("bad_parameter", parameter)
        assert named in error["error"]
        assert len(error["error"]) < 250


async def test_routes_without_filters_ignore_unknown_parameters() -> None:
    """So that cache busters and tracking parameters of proxies do no harm."""
    async with serving() as served:
        for path in ("/eliminations", "/statistics", "/miner-hotkeys", f"/miner-positions/{MINER}"):
            plain = await served.get(path)
            response = await served.get(f"{path}?_=123&utm_source=x&%ff=%fe&&=")
            assert (response.status_code, response.headers["etag"]) == (200, plain.headers["etag"])


async def test_an_unlisted_pair_is_known_to_the_tiers_that_show_it() -> None:
    """A lower tier's error must not tell that a hidden position exists."""
    async with serving(log()) as served:
        shown = await served.get("/miner-positions?tier=0&trade_pair=BTCUSD", "k0")
        hidden = await served.get("/miner-positions?tier=0&trade_pair=PAIR9USD", "k0")
        assert (shown.status_code, shown.json()) == (200, {})
        assert hidden.status_code == 400
