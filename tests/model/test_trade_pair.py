"""The table of pairs and the rules for unknown ones (docs/accounting.md, 1)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ptn_api.errors import InvalidInputError
from ptn_api.model.documents import trade_pairs_answer
from ptn_api.model.trade_pair import (
    base_and_quote,
    category_and_rate,
    display_of,
    lot_size,
    pair_id,
    trade_pairs,
)
from tests.model.expected import shared

NOW = 1_795_610_096_789


def test_the_table_is_the_published_one() -> None:
    """All 1,150 pairs, in order, with their values."""
    published = shared("newest/trade_pairs.json")["pairs"]
    table = [
        {
            "trade_pair_id": pair.id,
            "trade_pair": pair.display,
            "category": pair.category,
            "source": pair.source,
            "display_fee": pair.fee_rate,
            "min_leverage": pair.min_leverage,
            "max_leverage": pair.max_leverage,
            "lot_size": pair.lot_size,
            "instrument": pair.instrument,
            "hl_coin": pair.hl_coin,
            "subaccount_tier_base_leverage": pair.tier_leverage,
            "disabled": pair.disabled,
        }
        for pair in trade_pairs().values()
    ]
    assert table == [{key: row[key] for key in row if key != "pro"} for row in published]


def test_the_older_pairs_keep_their_fees() -> None:
    """The 49 pairs of 2025, with the category and rate by which their fees were charged."""
    for row in shared("golden/trade_pairs.json")["rows"]:
        assert category_and_rate(row[0]) == (row[5], row[2])


def test_the_table_has_every_category() -> None:
    """Gold and silver count as forex, and shares have no slash; ids are those of the network."""
    pairs = trade_pairs()
    assert len(pairs) == 1150
    assert pairs["XAUUSD"].category == "forex"
    assert pairs["NVDA"].display == "NVDA"
    assert pairs["BRK_B"].display == "BRK.B"
    assert pairs["kPEPEUSDC"].hl_coin == "kPEPE"
    assert {p.category for p in pairs.values()} == {"crypto", "forex", "equities", "indices", "commodities"}


@pytest.mark.parametrize(
    ("trade_pair", "name", "display"),
    [
        (["BTCUSD", "BTC/USD", 0.003, 0.01, 0.5], "BTCUSD", "BTC/USD"),
        (("BTCUSD",), "BTCUSD", "BTC/USD"),
        ("BTCUSD", "BTCUSD", "BTC/USD"),
        ("NEWUSD", "NEWUSD", "NEWUSD"),
        (["NEWUSD", "NEW/USD"], "NEWUSD", "NEW/USD"),
        ({"trade_pair_id": "NEWUSD", "trade_pair": "NEW/USD", "fees": 7e-05}, "NEWUSD", "NEW/USD"),
        ([], "", ""),
        ([7, "x"], "", "x"),
        (None, "", ""),
        ({"id": "BTCUSD"}, "", ""),
        (12.5, "", ""),
    ],
)
def test_a_pairs_id_is_found_in_any_shape(trade_pair: Any, name: str, display: str) -> None:
    """A list, an object or the id itself; anything else has none, and nothing raises."""
    assert (pair_id(trade_pair), display_of(trade_pair)) == (name, display)


@pytest.mark.parametrize(
    ("trade_pair", "currencies"),
    [
        ("EURGBP", ("EUR", "GBP")),
        ("NVDA", ("NVDA", "USD")),
        ("BTCUSDC", ("BTC", "USDC")),
        (["NEWEUR", "NEW/EUR"], ("NEW", "EUR")),
        ("NEWEUR", ("NEWEUR", "USD")),
    ],
)
def test_a_pairs_currencies(trade_pair: Any, currencies: tuple[str, str]) -> None:
    """By the display; without a slash the quote is USD."""
    assert base_and_quote(trade_pair) == currencies


@pytest.mark.parametrize(
    ("trade_pair", "terms", "lot"),
    [
        ("BTCUSD", ("crypto", 0.001), 1),
        (["BTCUSD", "BTC/USD", 0.003, 0.01, 0.5], ("crypto", 0.001), 1),
        (["XAGUSD", "XAG/USD", 0.003, 0.01, 0.5], ("forex", 0.00007), 5000),
        ("XAUUSD", ("forex", 0.00007), 100),
        (["NVDA"], ("equities", 0.00009), 1),
        (["SPX", "SPX", 9e-05, 0.1, 5], ("indices", 0.00009), 1),
        ("NVDAUSDC", ("perpetual", 0.001), 1),
        ("GOLDUSDC", ("perpetual", 0.001), 1),
        (["NEWUSDC", "NEW/USDC", 0.001, 0.01, 1.0], ("perpetual", 0.001), 1),
        (["NEWUSD", "NEW/USD", 0.001, 0.01, 0.5], ("crypto", 0.001), 1),
        (["NEWUSD", "NEW/USD", 0.003, 0.01, 0.5], ("crypto", 0.001), 1),
        (["NEWUSD", "NEW/USD", 1], ("crypto", 0.001), 1),
        (["EURXXX", "EUR/XXX", 7e-05, 0.1, 5], ("forex", 0.00007), 100_000),
        ({"trade_pair_id": "EURXXX", "trade_pair": "EUR/XXX", "fees": 7e-05}, ("forex", 0.00007), 100_000),
        (["NEWCO", "NEWCO", 9e-05, 0.1, 3], ("equities", 0.00009), 1),
        (["NEWUSD", "NEW/USD", 0.0009, 0.01, 0.5], None, None),
        (["NEWUSD", "NEW/USD", 0, 0.01, 0.5], None, None),
        (["NEWUSD", "NEW/USD", "0.001", 0.01, 0.5], None, None),
        (["NEWUSD", "NEW/USD", True, 0.01, 0.5], None, None),
        (["NEWUSD", "NEW/USD"], None, None),
        ("NEWUSD", None, None),
        (None, None, None),
    ],
)
def test_fees_and_lots(trade_pair: Any, terms: tuple[str, float] | None, lot: int | None) -> None:
    """The table decides, the displayed fee only for an unknown pair; otherwise the result is None."""
    assert category_and_rate(trade_pair) == terms
    assert lot_size(trade_pair) == lot


def ids(asset_class: str | None) -> set[str]:
    answer = trade_pairs_answer(asset_class, NOW)
    assert (answer.total_allowed, answer.total_disabled) == (len(answer.allowed), len(answer.disabled))
    return {pair.trade_pair_id for pair in answer.allowed + answer.disabled}


def test_the_classes_of_pairs() -> None:
    """In any case of letters; crypto and commodities are perpetuals, forex and equities spot."""
    assert len(ids(None)) == 1150
    assert ids("CRYPTO") == {p.id for p in trade_pairs().values() if p.category == "crypto" and p.hl_coin}
    assert {"GOLDUSDC"} < ids("commodities") < ids("hl_all")
    assert {"XAUUSD", "EURUSD"} < ids("Forex")
    assert ids("equities") & ids("hl_all") == set()
    everything = ids("hl_all") | ids("forex") | ids("equities")
    assert ids("all_markets") == everything - {"XAUUSD", "XAGUSD"}


@pytest.mark.parametrize("asset_class", ["", "indices", "metals"])
def test_another_class_is_refused(asset_class: str) -> None:
    """With the text that the network's server answers."""
    with pytest.raises(InvalidInputError, match=f"^Invalid asset class: {asset_class}$") as refused:
        trade_pairs_answer(asset_class, NOW)
    assert refused.value.code == "bad_parameter"


def test_a_listed_pair() -> None:
    """Leverage by a subaccount's tier, at most 2 for shares; a lot size for some commodities only."""
    answer = trade_pairs_answer(None, NOW)
    listed = {pair.trade_pair_id: pair for pair in answer.allowed}
    assert msgspec.to_builtins(listed["GOLDUSDC"]) == {
        "trade_pair_id": "GOLDUSDC",
        "hl_coin": "xyz:GOLD",
        "trade_pair": "GOLD/USDC",
        "trade_pair_category": "commodities",
        "trade_pair_source": "hyperliquid",
        "min_leverage": 0.01,
        "max_leverage": 1.0,
        "subaccount_positional_leverage_by_tier": {"1": 1.0, "2": 2.0, "3": 3.0, "4": 4.0},
        "lot_size": 100,
    }
    assert "lot_size" not in msgspec.to_builtins(listed["EURUSD"])
    shares = listed["NVDA"].subaccount_positional_leverage_by_tier
    assert shares == {"1": 0.5, "2": 1.0, "3": 1.5, "4": 2.0}
    assert answer.timestamp == NOW
    assert "BTCUSD" in {pair.trade_pair_id for pair in answer.disabled}
