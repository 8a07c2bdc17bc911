"""The table of pairs and the rule for unknown ones (docs/accounting.md, 1)."""

from __future__ import annotations

from typing import Any

import pytest

from ptn_api.model.trade_pair import TRADE_PAIRS, category_and_rate, pair_id
from tests.model.expected import shared


def test_the_table_is_the_published_one() -> None:
    """All 49 pairs, in order, with their values."""
    published = shared("golden/trade_pairs.json")["rows"]
    table = [
        [p.id, p.display, p.fee_rate, p.min_leverage, p.max_leverage, p.category]
        for p in TRADE_PAIRS.values()
    ]
    assert table == [row[:6] for row in published]


def test_the_table_has_every_category() -> None:
    """49 pairs; gold and silver count as forex, shares have no slash."""
    assert len(TRADE_PAIRS) == 49
    assert TRADE_PAIRS["XAUUSD"].category == "forex"
    assert TRADE_PAIRS["NVDA"].display == "NVDA"
    assert {p.category for p in TRADE_PAIRS.values()} == {"crypto", "forex", "equities", "indices"}


@pytest.mark.parametrize(
    ("trade_pair", "name"),
    [
        (["BTCUSD", "BTC/USD", 0.003, 0.01, 0.5], "BTCUSD"),
        (("BTCUSD",), "BTCUSD"),
        ("BTCUSD", "BTCUSD"),
        ("NEWUSD", "NEWUSD"),
        ([], ""),
        ([7, "x"], ""),
        (None, ""),
        ({"id": "BTCUSD"}, ""),
        (12.5, ""),
    ],
)
def test_a_pairs_id_is_found_in_any_shape(trade_pair: Any, name: str) -> None:
    """The first element of a list, or the string itself; anything else has no id, and nothing raises."""
    assert pair_id(trade_pair) == name


@pytest.mark.parametrize(
    ("trade_pair", "terms"),
    [
        ("BTCUSD", ("crypto", 0.001)),
        (["BTCUSD", "BTC/USD", 0.003, 0.01, 0.5], ("crypto", 0.001)),
        (["XAGUSD", "XAG/USD", 0.003, 0.01, 0.5], ("forex", 0.00007)),
        (["NVDA"], ("equities", 0.00009)),
        (["SPX", "SPX", 9e-05, 0.1, 5], ("indices", 0.00009)),
        (["NEWUSD", "NEW/USD", 0.001, 0.01, 0.5], ("crypto", 0.001)),
        (["NEWUSD", "NEW/USD", 0.003, 0.01, 0.5], ("crypto", 0.001)),
        (["NEWUSD", "NEW/USD", 1], ("crypto", 0.001)),
        (["EURXXX", "EUR/XXX", 7e-05, 0.1, 5], ("forex", 0.00007)),
        (["NEWCO", "NEWCO", 9e-05, 0.1, 3], ("equities", 0.00009)),
        (["NEWUSD", "NEW/USD", 0.0009, 0.01, 0.5], None),
        (["NEWUSD", "NEW/USD", 0, 0.01, 0.5], None),
        (["NEWUSD", "NEW/USD", "0.001", 0.01, 0.5], None),
        (["NEWUSD", "NEW/USD", True, 0.01, 0.5], None),
        (["NEWUSD", "NEW/USD"], None),
        ("NEWUSD", None),
        (None, None),
    ],
)
def test_category_and_rate(trade_pair: Any, terms: tuple[str, float] | None) -> None:
    """The table decides, the third element only for an unknown pair; otherwise the result is None."""
    assert category_and_rate(trade_pair) == terms
