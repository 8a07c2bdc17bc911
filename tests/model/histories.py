"""Order histories for property tests, in the validator's JSON shape."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import strategies as st

from ptn_api.model.order import Order
from ptn_api.model.position import Position, PositionText, parse_position
from tests.model import literal
from tests.model.literal import HOUR
from tests.model.make_data import DAY, ERAS, PAIRS
from tests.properties import tries

ACCOUNT_SIZE = 100_000.0
"""USD."""
SINCE_2026 = {
    *("fee_history", "is_hl", "is_pro", "last_stock_split_date", "dividend_history", "last_price_source"),
    "last_quote_usd_conversion",
}
"""Keys that generation 3 lacks."""


@st.composite
def orders(
    draw: st.DrawFn,
    *,
    earliest: int | None = None,
    latest: int | None = None,
    min_size: int = 1,
    first_id: int = 1,
) -> list[dict[str, Any]]:
    """Draws a list of orders within [earliest, latest] (any era by default), mostly in time order."""
    start = draw(st.sampled_from(list(ERAS.values()))) if earliest is None else earliest
    end = start + 45 * DAY if latest is None else latest
    # Full hours meet the boundaries of fee intervals and each other.
    moments = st.integers(start, end) | st.integers(0, (end - start) // HOUR).map(lambda h: start + h * HOUR)
    times = draw(st.lists(moments, min_size=min_size, max_size=6))
    if draw(st.integers(0, 3)):
        times.sort()
    return [draw(one_order(t, str(UUID(int=first_id + place)))) for place, t in enumerate(times)]


@st.composite
def one_order(draw: st.DrawFn, at: int, uuid: str) -> dict[str, Any]:
    """Draws an order. Leverages repeat: positions also close at exactly 0, and sums leave residues."""
    leverage = draw(st.sampled_from([0.1, -0.1, 0.2, -0.2, 0.3, -0.3, 1.5, -1.5]))
    kind = "FLAT" if draw(st.integers(0, 9)) == 0 else "LONG" if leverage > 0 else "SHORT"
    src = draw(st.sampled_from([0] * 10 + [1, 2]))
    return make_order(at, kind, leverage, draw(st.floats(5, 500)), uuid, src)


def make_order(at: int, kind: str, leverage: float, price: float, uuid: str, src: int = 0) -> dict[str, Any]:
    return {
        "order_type": kind,
        "leverage": leverage,
        "price": price,
        "bid": price,
        "ask": price,
        "slippage": 2e-05,
        "processed_ms": at,
        "order_uuid": uuid,
        "price_sources": [{"source": "Polygon_rest", "lag_ms": 7}],
        "src": src,
    }


def typed(bodies: list[dict[str, Any]]) -> list[Order]:
    return msgspec.convert(bodies, list[Order])


def position_of(orders: list[Order], pair: Any, uuid: str, **keys: Any) -> Position:
    """Returns a position with these orders whose state is not computed."""
    return Position(miner_hotkey="5Miner", position_uuid=uuid, trade_pair=pair, orders=orders, **keys)


def written(
    listed: list[dict[str, Any]], *, pair: str = "BTCUSD", uuid: str = str(UUID(int=99)), **extra: Any
) -> tuple[Position, PositionText]:
    """Returns the position as a validator would write it: state and appended FLAT by the accounting."""
    state, appended = literal.state_of(listed, *PAIRS[pair], uuid)
    del state["initial_entry_price"]
    body = {
        "miner_hotkey": "5Miner",
        "position_uuid": uuid,
        "open_ms": 0,
        "trade_pair": [pair, pair, 0.003, 0.1, 5],
    }
    return parse_position(json.dumps(body | {"orders": listed + appended} | state | extra).encode())


def in_usd(order: dict[str, Any]) -> dict[str, Any]:
    """Returns an order with the keys of today's validators, in an account of 100,000 USD."""
    value = order["leverage"] * ACCOUNT_SIZE
    sizes = {"value": value, "quantity": value / order["price"], "execution_type": "MARKET"}
    rates = {"quote_usd_rate": 1.0, "usd_base_rate": 1 / order["price"]}
    return order | sizes | rates | {"realized_pnl": order.get("realized_pnl", 0.0), "margin_loan": 0.0}


def written_in_usd(
    listed: list[dict[str, Any]], generation: int = 4, **extra: Any
) -> tuple[Position, PositionText]:
    """Returns a position of these orders as validators of today write it, with a state that is made up."""
    state: dict[str, Any] = {
        "miner_hotkey": "5Miner",
        "position_uuid": str(UUID(int=99)),
        "open_ms": listed[0]["processed_ms"],
        "trade_pair": ["ETHUSDC", "ETH/USDC", 0.001, 0.01, 1.0],
        "position_type": "LONG",
        "orders": list(map(in_usd, listed)),
        "current_return": 1.0 + len(listed),
        "close_ms": None,
        "net_leverage": 0.5,
        "net_value": 50_000.0,
        "net_quantity": len(listed) / 3,
        "return_at_close": 1.0 + len(listed),
        "average_entry_price": 100.0,
        "cumulative_entry_value": 50_000.0,
        "account_size": ACCOUNT_SIZE,
        "realized_pnl": 0.0,
        "unrealized_pnl": float(len(listed)),
        "is_closed_position": False,
        "fee_history": [],
        "is_hl": False,
        "is_pro": False,
        "last_stock_split_date": None,
        "dividend_history": [],
        "last_price_source": {"source": f"mark {len(listed)}"},
        "last_quote_usd_conversion": len(listed) / 7,
    }
    if generation == 3:
        state = {key: value for key, value in state.items() if key not in SINCE_2026}
    return parse_position(json.dumps(state | extra).encode())


@st.composite
def fees(draw: st.DrawFn, earliest: int, latest: int) -> list[dict[str, Any]]:
    """Draws a fee history, by time."""
    times = draw(st.lists(st.integers(earliest, latest), max_size=4))
    return [{"fee_type": "carry", "amount": at % 97 / 8, "time_ms": at} for at in sorted(times)]


@st.composite
def dividends(draw: st.DrawFn, earliest: int, latest: int) -> list[dict[str, Any]]:
    """Draws dividends, by time; each is paid some days later, and applied if that is past at the end."""
    drawn = []
    for at in sorted(draw(st.lists(st.integers(earliest, latest), max_size=3))):
        paid_ms = at + draw(st.integers(0, 12)) * DAY
        dates = {"ex_date": date(at), "payment_date": date(paid_ms)}
        applied = date(paid_ms) <= date(latest)
        drawn.append({"type": "long_credit", "amount": 2.5, "time_ms": at} | dates | {"applied": applied})
    return drawn


def date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, tz=timezone.utc).date().isoformat()


patient = tries(200)
