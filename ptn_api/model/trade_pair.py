"""Trade pairs: the table of the network's pairs, and the rule for pairs that are not in it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["TRADE_PAIRS", "Category", "TradePair", "category_and_rate", "pair_id"]

Category = Literal["crypto", "forex", "equities", "indices"]


class TradePair(msgspec.Struct, frozen=True, kw_only=True):
    """A trade pair. `fee_rate` is the fraction of the traded leverage that is charged.

    It may differ from the third element of a position's `trade_pair`, which is for display only. Leverages
    are multiples of the account.
    """

    id: str
    display: str
    fee_rate: float
    min_leverage: float
    max_leverage: float
    category: Category


def _pairs(
    category: Category, fee_rate: float, leverages: tuple[float, float], displays: str
) -> list[TradePair]:
    low, high = leverages
    return [
        TradePair(
            id=display.replace("/", ""),
            display=display,
            fee_rate=fee_rate,
            min_leverage=low,
            max_leverage=high,
            category=category,
        )
        for display in displays.split()
    ]


_CRYPTO_RATE = 0.001
_FOREX_RATE = 0.00007
_EQUITIES_RATE = 0.00009

TRADE_PAIRS: dict[str, TradePair] = {
    pair.id: pair
    for pair in [
        *_pairs("crypto", _CRYPTO_RATE, (0.01, 0.5), "BTC/USD ETH/USD SOL/USD XRP/USD DOGE/USD"),
        *_pairs(
            "forex",
            _FOREX_RATE,
            (0.1, 5.0),
            "AUD/CAD AUD/CHF AUD/USD AUD/JPY AUD/NZD CAD/CHF CAD/JPY CHF/JPY EUR/AUD EUR/CAD EUR/USD EUR/CHF "
            "EUR/GBP EUR/JPY EUR/NZD NZD/CAD NZD/CHF NZD/JPY NZD/USD GBP/AUD GBP/CAD GBP/CHF GBP/JPY GBP/NZD "
            "GBP/USD USD/CAD USD/CHF USD/JPY USD/MXN XAU/USD XAG/USD",
        ),
        *_pairs("equities", _EQUITIES_RATE, (0.1, 3.0), "NVDA AAPL TSLA AMZN MSFT GOOG META"),
        *_pairs("indices", _EQUITIES_RATE, (0.1, 5.0), "SPX DJI NDX VIX FTSE GDAXI"),
    ]
}
"""Every known pair by its id."""


def pair_id(trade_pair: Any) -> str:
    """Returns the id in a position's `trade_pair`: its first element, or all of it if it is a string."""
    name = trade_pair[0] if isinstance(trade_pair, list | tuple) and trade_pair else trade_pair
    return name if isinstance(name, str) else ""


def category_and_rate(trade_pair: Any) -> tuple[Category, float] | None:
    """Returns the category and fee rate for a position's accounting (docs/accounting.md, 1).

    The table decides; for an unknown pair, the third element of its list. None if neither does: the position
    cannot be rebuilt.
    """
    known = TRADE_PAIRS.get(pair_id(trade_pair))
    if known is not None:
        return known.category, known.fee_rate
    fee = trade_pair[2] if isinstance(trade_pair, list | tuple) and len(trade_pair) > 2 else None
    if not isinstance(fee, int | float) or isinstance(fee, bool):
        return None
    if fee >= _CRYPTO_RATE:
        return "crypto", _CRYPTO_RATE
    if fee == _FOREX_RATE:
        return "forex", _FOREX_RATE
    return ("equities", _EQUITIES_RATE) if fee == _EQUITIES_RATE else None
