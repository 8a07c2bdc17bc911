"""Order histories for property tests, in the validator's JSON shape."""

from __future__ import annotations

import json
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


patient = tries(200)
