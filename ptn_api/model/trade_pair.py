"""Trade pairs: the table of the network's pairs, and the rules for pairs that are not in it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec

__all__ = [
    "FOREX_LOT",
    "Category",
    "FeeCategory",
    "Source",
    "TradePair",
    "base_and_quote",
    "category_and_rate",
    "display_of",
    "lot_size",
    "pair_id",
    "resolve_pair",
    "split_names",
    "trade_pairs",
    "unknown_pair",
]

Category = Literal["crypto", "forex", "equities", "indices", "commodities"]
FeeCategory = Literal["crypto", "forex", "equities", "indices", "perpetual"]
"""Decides the fees of generations 1 to 3; perpetuals (Hyperliquid pairs) have no carry fee."""
Source = Literal["vanta", "hyperliquid"]


class TradePair(msgspec.Struct, frozen=True, kw_only=True):
    """A trade pair of the table.

    `fee_rate` is the fraction of the traded leverage that was charged until 2025; it may differ from the
    third element of a position's `trade_pair`, which is for display only. Leverages are multiples of the
    account. `lot_size` is how many base units a `quantity` of 1 stands for. `tier_leverage` times 1 to 4 is
    the largest leverage of a subaccount's position, by its tier. Disabled pairs can no longer be traded.
    """

    id: str
    display: str
    category: Category
    source: Source
    instrument: Literal["spot", "perp"]
    fee_rate: float
    min_leverage: float
    max_leverage: float
    lot_size: int
    tier_leverage: float
    hl_coin: str | None = None
    disabled: bool = False


class _Group(msgspec.Struct):
    """A row of trade_pairs.json: pairs that differ in name only, each list separated by spaces."""

    category: Category
    source: Source
    instrument: Literal["spot", "perp"]
    fee: float
    min_leverage: float
    max_leverage: float
    lot_size: int
    tier_leverage: float
    pairs: str
    hl_coins: str = ""
    disabled: str = ""


@lru_cache(maxsize=1)
def trade_pairs() -> dict[str, TradePair]:
    """Returns every known pair by its id, in the network's order. Read once, in about a millisecond."""
    groups = msgspec.json.decode(Path(__file__).with_name("trade_pairs.json").read_bytes(), type=list[_Group])
    found: dict[str, TradePair] = {}
    for group in groups:
        displays, disabled = group.pairs.split(), set(group.disabled.split())
        coins: list[str | None] = [*group.hl_coins.split()] or [None] * len(displays)
        for display, coin in zip(displays, coins, strict=True):
            pair = TradePair(
                id=display.replace("/", "").replace(".", "_"),
                display=display,
                category=group.category,
                source=group.source,
                instrument=group.instrument,
                fee_rate=group.fee,
                min_leverage=group.min_leverage,
                max_leverage=group.max_leverage,
                lot_size=group.lot_size,
                tier_leverage=group.tier_leverage,
                hl_coin=coin,
                disabled=display in disabled,
            )
            found[pair.id] = pair
    return found


# --- pairs as people write them ---------------------------------------------------------------------------


def split_names(texts: Iterable[str]) -> list[str]:
    """Returns the names in these texts, each of which may hold several, separated by commas.

    Empty ones are ignored: proxies join repeated parameters with commas and may add empty ones.
    """
    return [name for text in texts for part in text.split(",") if (name := part.strip())]


def resolve_pair(name: str) -> str | None:
    """Returns the id of a known pair in any usual spelling, such as btcusd or BTC/USD; None if unknown."""
    return _ids_by_letters().get(_letters(name))


def unknown_pair(name: str) -> str:
    """Returns the sentence for an unknown name; it suggests up to three similar pairs, the nearest first."""
    from difflib import get_close_matches

    shown = name if len(name) <= 40 else f"{name[:40]}..."
    similar = get_close_matches(_letters(shown), _ids_by_letters(), n=3)
    hint = f"; did you mean {' or '.join(_ids_by_letters()[near] for near in similar)}?" if similar else ""
    return f"Unknown trade pair: {shown}{hint} (/trade-pairs lists all)"


@lru_cache(maxsize=1)
def _ids_by_letters() -> dict[str, str]:
    return {_letters(pair): pair for pair in trade_pairs()}


def _letters(name: str) -> str:
    return (name if name.isalnum() else "".join(filter(str.isalnum, name))).casefold()


# --- a position's `trade_pair` ----------------------------------------------------------------------------

_CRYPTO_RATE = 0.001
_FOREX_RATE = 0.00007
_EQUITIES_RATE = 0.00009
FOREX_LOT = 100_000


def pair_id(trade_pair: Any) -> str:
    """Returns the id in a `trade_pair`, which may be the id, a list or an object; "" without one."""
    if isinstance(trade_pair, list | tuple):
        trade_pair = trade_pair[0] if trade_pair else None
    elif isinstance(trade_pair, dict):
        trade_pair = trade_pair.get("trade_pair_id")
    return trade_pair if isinstance(trade_pair, str) else ""


def base_and_quote(trade_pair: Any) -> tuple[str, str]:
    """Returns the pair's currencies as its display names them; the quote is USD without a slash."""
    base, _, quote = display_of(trade_pair).partition("/")
    return base, quote or "USD"


def display_of(trade_pair: Any) -> str:
    """Returns the display of the table, else of the `trade_pair` itself, else the id."""
    pair = trade_pairs().get(pair_id(trade_pair))
    if pair is not None:
        return pair.display
    if isinstance(trade_pair, dict):
        display = trade_pair.get("trade_pair")
    else:
        display = trade_pair[1] if isinstance(trade_pair, list | tuple) and len(trade_pair) > 1 else None
    return display if isinstance(display, str) else pair_id(trade_pair)


def category_and_rate(trade_pair: Any) -> tuple[FeeCategory, float] | None:
    """Returns what the fees of generations 1 to 3 depend on (docs/accounting.md, 1).

    The table decides; for an unknown pair, the fee in its `trade_pair`. None if neither does: the position
    cannot be rebuilt.
    """
    name = pair_id(trade_pair)
    pair = trade_pairs().get(name)
    fee = _display_fee(trade_pair) if pair is None else pair.fee_rate
    if fee is None:
        return None
    if (pair.source == "hyperliquid" or pair.category == "commodities") if pair else name.endswith("USDC"):
        return "perpetual", _CRYPTO_RATE
    if pair is not None and pair.category != "commodities":
        return pair.category, pair.fee_rate
    if fee >= _CRYPTO_RATE:
        return "crypto", _CRYPTO_RATE
    if fee == _FOREX_RATE:
        return "forex", _FOREX_RATE
    return ("equities", _EQUITIES_RATE) if fee == _EQUITIES_RATE else None


def lot_size(trade_pair: Any) -> int | None:
    """Returns how many base units a quantity of 1 stands for, by the table or the fee; None if unknown."""
    pair = trade_pairs().get(pair_id(trade_pair))
    if pair is not None:
        return pair.lot_size
    fee = _display_fee(trade_pair)
    if fee is None:
        return None
    if fee == _FOREX_RATE:
        return FOREX_LOT
    return 1 if fee == _EQUITIES_RATE or fee >= _CRYPTO_RATE else None


def _display_fee(trade_pair: Any) -> float | None:
    if isinstance(trade_pair, dict):
        fee = trade_pair.get("fees")
    else:
        fee = trade_pair[2] if isinstance(trade_pair, list | tuple) and len(trade_pair) > 2 else None
    return fee if isinstance(fee, int | float) and not isinstance(fee, bool) else None
