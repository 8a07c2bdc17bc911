"""Positions and orders for tests, in the validator's JSON shape."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ptn_api.model.position import parse_position

if TYPE_CHECKING:
    from ptn_api.event_log.contract import PositionWritten

MINER = "5GhCxfBcA7Ur5iiAS343xwvrYHTUfBjBi4JimiL5LhujRT9t"
OTHER_MINER = "5GpFBT3CivTBMZek6XMWrFtxNn8sMR5viqt8fM4di3zVNWv3"
BTCUSD = ["BTCUSD", "BTC/USD", 0.003, 0.01, 0.5]
EURUSD = ["EURUSD", "EUR/USD", 7e-05, 0.1, 5]
T0 = 1_760_000_000_000
"""A moment after every change of the fee rules, epoch ms."""


def uuid(n: int) -> str:
    return str(UUID(int=n))


def order(n: int, leverage: float = 0.1, *, at: int | None = None, **fields: Any) -> dict[str, Any]:
    """Returns order number n of a test, one second after the previous one unless `at` (ms) is given."""
    kind = "LONG" if leverage > 0 else "SHORT" if leverage < 0 else "FLAT"
    return {
        "order_type": kind,
        "leverage": leverage,
        "price": 100.0 + n,
        "bid": 99.9 + n,
        "ask": 100.1 + n,
        "slippage": 1e-05,
        "processed_ms": T0 + n * 1000 if at is None else at,
        "order_uuid": uuid(1000 + n),
        "price_sources": [],
        "src": 0,
    } | fields


def position(
    n: int, orders: Sequence[dict[str, Any]], *, miner: str = MINER, closed: bool = False, **fields: Any
) -> dict[str, Any]:
    """Returns position number n of a test as the validator writes it; its sums are plausible, not exact."""
    times = [o["processed_ms"] for o in orders] or [T0]
    leverage = sum(o["leverage"] for o in orders)
    return {
        "miner_hotkey": miner,
        "position_uuid": uuid(n),
        "open_ms": times[0],
        "trade_pair": BTCUSD,
        "orders": list(orders),
        "current_return": 1.01,
        "close_ms": times[-1] if closed else None,
        "net_leverage": 0.0 if closed else leverage,
        "return_at_close": 1.009,
        "average_entry_price": 100.0,
        "cumulative_entry_value": 10.0,
        "realized_pnl": 0.0,
        "position_type": "FLAT" if closed else "LONG" if leverage >= 0 else "SHORT",
        "is_closed_position": closed,
    } | fields


def written(body: dict[str, Any], **fields: Any) -> PositionWritten:
    """Returns the change that intake delivers after reading this position."""
    from ptn_api.event_log.contract import PositionWritten  # the server's: `make test-client` lacks it

    parsed, text = parse_position(json.dumps(body).encode())
    return PositionWritten(position=parsed, text=text, **fields)
