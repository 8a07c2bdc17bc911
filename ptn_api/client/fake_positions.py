"""Positions and orders for tests, in the validator's own JSON shape."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from typing import Any

from ptn_api.clock import wall_ms

__all__ = ["MINER", "fake_order", "fake_position"]

MINER = "5GhCxfBcA7Ur5iiAS343xwvrYHTUfBjBi4JimiL5LhujRT9t"
"""The hotkey of whoever trades, unless said otherwise."""

_numbers = itertools.count(1)


def fake_order(leverage: float = 0.1, price: float = 100.0, **fields: Any) -> dict[str, Any]:
    """An order filled now; FLAT for leverage 0. `fields` replace or add keys."""
    return {
        "order_type": "LONG" if leverage > 0 else "SHORT" if leverage < 0 else "FLAT",
        "leverage": leverage,
        "price": price,
        "bid": price,
        "ask": price,
        "slippage": 0.0,
        "processed_ms": wall_ms(),
        "price_sources": [],
        "order_uuid": str(uuid.UUID(int=1_000_000 + next(_numbers))),
        "src": 0,
    } | fields


def fake_position(
    trade_pair: str = "BTCUSD",
    orders: Sequence[dict[str, Any]] | None = None,
    *,
    miner: str = MINER,
    **fields: Any,
) -> dict[str, Any]:
    """An open position with these orders, by default one; its sums are plausible, not exact.

    `fields` replace or add keys. To add an order to a position, publish it again with a longer list.
    """
    held = list(orders) if orders is not None else [fake_order()]
    leverage = sum(order["leverage"] for order in held)
    price = held[0]["price"] if held else 0.0
    return {
        "miner_hotkey": miner,
        "position_uuid": str(uuid.UUID(int=next(_numbers))),
        "open_ms": held[0]["processed_ms"] if held else wall_ms(),
        "trade_pair": [trade_pair, trade_pair, 0.001, 0.01, 0.5],
        "orders": held,
        "current_return": 1.0,
        "close_ms": None,
        "net_leverage": leverage,
        "return_at_close": 1.0,
        "average_entry_price": price,
        "cumulative_entry_value": price * leverage,
        "realized_pnl": 0.0,
        "position_type": "LONG" if leverage >= 0 else "SHORT",
        "is_closed_position": False,
    } | fields
