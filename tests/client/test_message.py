"""The message that a client receives."""

from __future__ import annotations

import enum
import json
import pickle
from typing import Any

import pytest

from ptn_api.client.message import NewOrder, OrderType, PTNWebSocketMessage
from ptn_api.errors import InvalidInputError
from ptn_api.model.order import Order, PriceSource
from tests.factories import T0, order, position

DOCUMENTED = """\
PTNWebSocketMessage(seq=237)
Position Summary:
{
  "miner_hotkey": "5CUUWxGzf4qU5DCgLcL65qAKsQF1ezUTvBzfD548zPEDzxmR",
  "position_uuid": "0c2aa350-2bea-4ccd-8cce-6da220d5bae6",
  "open_ms": 1745897174103,
  "trade_pair": [
    "USDJPY",
    "USD/JPY",
    7e-05,
    0.1,
    5
  ],
  "current_return": 1.0,
  "close_ms": null,
  "net_leverage": -0.3000000000000007,
  "return_at_close": 1.0,
  "average_entry_price": 142.37951594322527,
  "cumulative_entry_value": -42.71385478296768,
  "realized_pnl": 0.0,
  "position_type": "SHORT",
  "is_closed_position": false
}
New Order:
{
  "trade_pair_id": "USDJPY",
  "order_type": "SHORT",
  "leverage": -0.3000000000000007,
  "price": 142.386,
  "bid": 142.386,
  "ask": 142.399,
  "slippage": 4.553858367205138e-05,
  "processed_ms": 1745897174103,
  "price_sources": [
    {
      "source": "Polygon_rest",
      "timespan_ms": 1000,
      "open": 142.39249999999998,
      "close": 142.39249999999998,
      "vwap": null,
      "high": 142.39249999999998,
      "low": 142.39249999999998,
      "start_ms": 1745897173000,
      "websocket": false,
      "lag_ms": 104,
      "bid": 142.386,
      "ask": 142.399
    }
  ],
  "order_uuid": "0c2aa350-2bea-4ccd-8cce-6da220d5bae6",
  "src": 0
}
Approx Timelag (ms): from_queue=49, from_order=1111"""
"""The network's documentation shows a message like this."""


def documented() -> dict[str, Any]:
    """Returns the documented message as sent: the order in the position, without a trade pair."""
    parts = DOCUMENTED.split("\n{")
    summary = json.loads("{" + parts[1].partition("\n}")[0] + "}")
    new_order = json.loads("{" + parts[2].partition("\n}")[0] + "}")
    del new_order["trade_pair_id"]
    shuffled = dict(sorted(new_order.items()))
    return {
        "sequence": 237,
        "timestamp": 1745897174103 + 1062,
        "data": {"position": summary | {"orders": [shuffled]}},
    }


def message(*, offset_ms: int = 0, now: int = T0, **fields: Any) -> PTNWebSocketMessage:
    raw = {
        "sequence": 1,
        "timestamp": T0 + 400,
        "data": {"position": position(1, [order(0), order(1, -0.2, at=T0)])},
    }
    return PTNWebSocketMessage(raw | fields, offset_ms, clock=lambda: now)


def test_it_prints_as_documented() -> None:
    """Exactly, for any order of the fields."""
    created = PTNWebSocketMessage(documented(), clock=lambda: 1745897174103 + 1111)
    assert str(created) == DOCUMENTED
    assert f"Received message {created}" == f"Received message {DOCUMENTED}"


def test_the_documented_example_works_as_written() -> None:
    """The order has its trade pair, and both print as words."""
    msg = message()
    assert msg.new_order.trade_pair == "BTCUSD"
    assert f"{msg.new_order.trade_pair}: Spread" == "BTCUSD: Spread"
    assert f"BTC: ${msg.new_order.price:.2f} ({msg.new_order.order_type})" == "BTC: $101.00 (SHORT)"
    assert msg.new_order.bid
    assert msg.new_order.ask
    assert msg.new_order.trade_pair.definition == msg.position.trade_pair


def test_the_new_order_is_the_last_one() -> None:
    """The position is complete."""
    msg = message()
    assert msg.new_order.order_uuid == msg.position.orders[-1].order_uuid
    assert len(msg.position.orders) == 2


def test_the_new_order_has_every_field_of_the_order() -> None:
    """And the trade pair."""
    source = {"source": "x", "bid": 1.5}
    complete = order(1, src=2, slippage=0.5, price_sources=[source])
    msg = message(data={"position": position(1, [complete])})
    last = msg.position.orders[-1]
    assert {name: getattr(msg.new_order, name) for name in Order.__struct_fields__} == {
        name: getattr(last, name) for name in Order.__struct_fields__
    }
    assert last.price_sources == [PriceSource(source="x", bid=1.5)]
    assert set(NewOrder.__struct_fields__) - set(Order.__struct_fields__) == {"trade_pair"}


@pytest.mark.parametrize("offset", [-5_000, 0, 5_000])
def test_lags_are_by_the_servers_clock(offset: int) -> None:
    """The offset (server minus client) has a sign: a clock that is 5 s ahead adds no lag."""
    msg = message(offset_ms=offset, now=T0 + 1_000 - offset)
    assert (msg.timelag_from_order, msg.timelag_from_queue) == (1_000, 600)
    assert msg.age_ms == 1_000


def test_the_format_delta_gives_the_same_order() -> None:
    """The order is sent separately from the position's summary."""
    body = position(1, [order(0), order(1)])
    summary = {key: value for key, value in body.items() if key != "orders"}
    msg = message(data={"order": order(1), "position": summary, "n_orders": 2})
    assert msg.new_order.order_uuid == order(1)["order_uuid"]
    assert msg.new_order.trade_pair == "BTCUSD"
    assert msg.position.orders == []
    assert '"order_uuid"' in str(msg)


def test_other_keys_of_the_data_are_kept() -> None:
    """And unknown keys of the position."""
    msg = message(data={"position": position(1, [order(0)], strange=[1, 2.0]), "source": "x"})
    assert msg.data["source"] == "x"
    assert msg.data["position"]["strange"] == [1, 2.0]


def test_marks_of_version_2_default_to_false() -> None:
    """An old server sends neither."""
    assert (message().late, message().replay) == (False, False)
    assert (message(late=True).late, message(replay=True).replay) == (True, True)


def test_it_can_be_made_from_text() -> None:
    """The same as from the decoded message."""
    text = json.dumps(documented())
    assert PTNWebSocketMessage(text).sequence == PTNWebSocketMessage(text.encode()).sequence == 237


@pytest.mark.parametrize(
    "raw",
    [
        "nonsense",
        {"sequence": 1},
        {"sequence": 1, "timestamp": 1, "data": {"position": position(1, [])}},
        {"sequence": 1, "timestamp": 1, "data": {"position": position(1, [order(0, price="?")])}},
    ],
)
def test_a_malformed_message_is_refused(raw: Any) -> None:
    """With InvalidInputError."""
    with pytest.raises(InvalidInputError):
        PTNWebSocketMessage(raw)


# --- the names of the network's own classes ---------------------------------------------------------------


class NetworksOrderType(enum.Enum):
    """As a bot that imports the network's package has it."""

    LONG = "LONG"
    SHORT = "SHORT"
    FLAT = "FLAT"


@pytest.mark.parametrize("delta", [False, True])
def test_the_objects_answer_to_the_networks_names(delta: bool) -> None:
    """What a bot written for the network's objects does with each message."""
    body = position(1, [order(1, 0.1), order(2, -0.05)])
    fields = {"position": body}
    if delta:
        last = body["orders"][-1]
        fields = {"position": {k: v for k, v in body.items() if k != "orders"}, "order": last, "n_orders": 2}
    message = PTNWebSocketMessage({"sequence": 1, "timestamp": T0, "data": fields})
    orders = [message.new_order, *message.position.orders[1:]]
    for one in orders:
        assert (one.order_type.name, one.order_type.value, f"{one.order_type:<6}|") == (
            "SHORT",
            "SHORT",
            "SHORT |",
        )
        assert one.order_type == NetworksOrderType.SHORT == one.order_type
        assert one.order_type == OrderType.SHORT == "SHORT" == str(one.order_type)
        assert one.order_type != NetworksOrderType.LONG != one.order_type
        assert one.order_type != OrderType.LONG != "SHORT"
        assert {NetworksOrderType.SHORT: 1, "LONG": 2}[one.order_type] == 1  # type: ignore[index]
        assert {"SHORT": 1}[one.order_type] == 1
        assert json.dumps(one.order_type) == '"SHORT"'
        assert one.to_dict()["order_type"] == "SHORT"
    pair = message.position.trade_pair
    assert (pair.trade_pair_id, pair.trade_pair) == ("BTCUSD", "BTC/USD")
    assert (pair.fees, pair.min_leverage, pair.max_leverage) == tuple(pair[2:5])
    assert pair == body["trade_pair"]
    assert message.position.position_type is OrderType.LONG
    assert message.position.is_open_position is True
    assert message.new_order.trade_pair.trade_pair == "BTC/USD"
    plain = message.position.to_dict()
    assert (plain["trade_pair"], plain["position_type"]) == (body["trade_pair"], "LONG")
    assert type(plain["trade_pair"]) is list
    assert json.loads(json.dumps(plain)) == plain
    assert pickle.loads(pickle.dumps(message)).position == message.position


@pytest.mark.parametrize(
    "pair", ["BTCUSD", {"trade_pair_id": "BTCUSD", "trade_pair": "BTC/USD", "fees": 0.001}]
)
def test_every_form_of_a_pair_has_its_names(pair: Any) -> None:
    """The id alone, or an object."""
    body = position(1, [order(1)], trade_pair=pair)
    message = PTNWebSocketMessage({"sequence": 1, "timestamp": T0, "data": {"position": body}})
    named = message.position.trade_pair
    assert (named.trade_pair_id, named.trade_pair, named) == ("BTCUSD", "BTC/USD", pair)
    assert message.new_order.trade_pair == "BTCUSD"


@pytest.mark.parametrize(
    "pair", [["AAPL", "AAPL", 0.00009, 0.01, 1], "AAPL", {"trade_pair_id": "AAPL", "trade_pair": "AAPL"}]
)
def test_a_positions_pair_as_a_string(pair: Any) -> None:
    """In every form that validators write."""
    made = position(1, [order(1)], trade_pair=pair)
    message = PTNWebSocketMessage({"sequence": 1, "timestamp": T0, "data": {"position": made}})
    assert message.position.trade_pair_id == message.new_order.trade_pair == "AAPL"
