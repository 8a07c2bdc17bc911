"""Orders as they are listed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ptn_api.model.limit_order import ListedOrder, order_answer, status_of
from ptn_api.model.order import OrderSource
from tests import factories
from tests.model.expected import golden

LISTED = golden("limit_orders")
"""What the network's code answers for the files of limit orders, and the files."""


@pytest.mark.parametrize("row", LISTED["orders"], ids=lambda row: row["file"]["order_uuid"])
def test_the_networks_own_answers(row: dict[str, Any]) -> None:
    """Keys in order, with the pair as a list, an object or the name of the folder."""
    answer = order_answer(json.dumps(row["file"]).encode(), row["trade_pair_id"])
    assert list(json.loads(answer).items()) == list(row["answer"].items())
    assert msgspec.json.decode(answer, type=ListedOrder).order_uuid == row["file"]["order_uuid"]


def test_an_order_of_a_position() -> None:
    """The position's pair counts; keys that an older order lacks have the network's defaults."""
    listed = json.loads(order_answer(json.dumps(factories.order(1)).encode(), "", factories.BTCUSD))
    assert (listed["trade_pair_id"], listed["trade_pair"]) == ("BTCUSD", ["BTCUSD", "BTC/USD"])
    assert (listed["execution_type"], listed["realized_pnl"], listed["value"]) == ("MARKET", 0.0, None)
    assert len(listed) == 26


@pytest.mark.parametrize(
    ("trade_pair", "wanted"),
    [
        (["NEWUSD", "NEW/USD"], ["NEWUSD", "NEW/USD"]),
        ({"trade_pair_id": "EURUSD"}, ["EURUSD", "EUR/USD"]),
        ("EURUSD", ["EURUSD", "EUR/USD"]),
        (None, ["BRK_B", "BRK.B"]),
        (7, ["BRK_B", "BRK.B"]),
    ],
)
def test_a_pair_in_any_shape(trade_pair: Any, wanted: list[str]) -> None:
    """The folder's name where the order names no pair."""
    order = factories.order(1, trade_pair=trade_pair)
    assert json.loads(order_answer(json.dumps(order).encode(), "BRK_B"))["trade_pair"] == wanted


def test_an_orders_status() -> None:
    """By its source, also of orders that an elimination cancelled; an unknown source is one of a trade."""
    status = {source: status_of(source) for source in (*OrderSource, 99, None)}
    assert [s for s, name in status.items() if name == "unfilled"] == [5, 8, 13]
    assert [s for s, name in status.items() if name == "cancelled"] == [7, 10, 15, 18]
    assert [s for s, name in status.items() if name == "filled"] == [
        *range(5),
        6,
        9,
        11,
        12,
        14,
        16,
        17,
        99,
        None,
    ]
