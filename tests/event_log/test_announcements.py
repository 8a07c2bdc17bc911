"""Which orders become events, and how the position looks in each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ptn_api.event_log.announcements import AppendTime, announcements
from ptn_api.event_log.contract import Event
from tests.factories import T0, order, position, written

NOW = AppendTime(now_ms=T0 + 10_000, late_ms=60_000, created_ms=0)


def announce(body: dict[str, Any], unseen: list[int], time: AppendTime = NOW) -> list[Event]:
    return [event for _, event in announcements(written(body), unseen, time, revision=1)]


def test_state_keys_are_replaced_and_others_pass_through() -> None:
    """The header of an intermediate event has the file's keys in order, with the state of that time."""
    body = position(1, [order(1, 0.1), order(2, 0.1)], novelty={"a": 1}, initial_entry_price=101.0)
    del body["realized_pnl"]
    event, _ = announce(body, [0, 1])
    header = json.loads(event.header)
    assert list(header) == list(body)
    assert header["novelty"] == {"a": 1}
    assert header["initial_entry_price"] == 101.0
    assert header["net_leverage"] == 0.1
    assert event.header[event.orders_at - 1 : event.orders_at + 1] == b"[]"


def test_an_intermediate_event_of_a_closed_position_is_open() -> None:
    """The position was not closed before the FLAT: close_ms is null."""
    body = position(1, [order(1, 0.1), order(2, 0.0)], closed=True)
    opened, closed = (json.loads(event.header) for event in announce(body, [0, 1]))
    assert (opened["is_closed_position"], opened["close_ms"]) == (False, None)
    assert (closed["is_closed_position"], closed["close_ms"]) == (True, T0 + 2_000)


def test_several_new_orders_of_a_position_in_usd() -> None:
    """Each event has the units and keys of the file, with the nets and fees after its order."""
    sizes = {"value": 1_000.0, "quantity": 10.0, "quote_usd_rate": 1.0, "usd_base_rate": 0.01}
    listed = [order(n, 0.01, price=100.0, slippage=0.0, **sizes) for n in (1, 2, 3)]
    fees = [{"fee_type": "transaction", "amount": 0.1, "time_ms": o["processed_ms"]} for o in listed]
    state = {"net_quantity": 30.0, "net_value": 3_000.0, "account_size": 1e5, "fee_history": fees}
    headers = [json.loads(event.header) for event in announce(position(1, listed, **state), [0, 1, 2])]
    assert [header["net_quantity"] for header in headers] == [10.0, 20.0, 30.0]
    assert [header["net_value"] for header in headers] == [1_000.0, 2_000.0, 3_000.0]
    assert [header["fee_history"] for header in headers] == [fees[:1], fees[:2], fees]
    assert {header["account_size"] for header in headers} == {1e5}


def test_the_largest_time_includes_seen_orders() -> None:
    """Events are sorted by the largest time so far in the whole list."""
    body = position(1, [order(n, at=T0 + at) for n, at in enumerate((100, 900, 300, 950))])
    announced = announcements(written(body), [0, 2, 3], NOW, revision=1)
    assert [largest_ms - T0 for largest_ms, _ in announced] == [100, 900, 950]


def test_late_means_before_a_seen_order() -> None:
    """A repetition of an announced uuid is not a seen order."""
    body = position(1, [order(1), order(2), order(3)])
    assert [event.late for event in announce(body, [0, 2])] == [True, False]
    repeated = position(1, [order(1), order(2), order(1)])
    assert [event.late for event in announce(repeated, [1])] == [False]


def test_a_text_with_too_many_new_orders_has_the_files_summary_in_each_event() -> None:
    """Rebuilding the position for thousands of events at once would delay other orders."""

    def returns(n: int) -> set[float]:
        orders = [order(k, 0.001) for k in range(n)]
        events = announce(position(1, orders, current_return=7.5), list(range(n)))
        assert [event.n_orders for event in events] == list(range(1, n + 1))
        return {json.loads(event.header)["current_return"] for event in events[:-1]}

    assert 7.5 not in returns(100)
    assert returns(2_000) == {7.5}


def test_silent_orders_are_not_announced() -> None:
    """During the baseline only orders processed after the log's creation are."""
    time = AppendTime(now_ms=T0 + 10_000, late_ms=60_000, created_ms=T0 + 2_000)
    events = announce(position(1, [order(n) for n in (1, 2, 3)]), [0, 1, 2], time)
    assert [event.n_orders for event in events] == [3]


def test_positions_are_rebuilt_up_to_a_limit_of_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one list of new orders; one more, and every event has the file's own values."""
    body = position(1, [order(n, 0.1) for n in range(1, 5)], current_return=1.5)
    for limit, own_values in ((3, [False, False, False, True]), (2, [True] * 4)):  # 0 + 1 + 2 orders before
        monkeypatch.setattr("ptn_api.event_log.announcements._MAX_REBUILT_ORDERS", limit)
        headers = [json.loads(event.header) for event in announce(body, [0, 1, 2, 3])]
        assert [header["current_return"] == 1.5 for header in headers] == own_values
