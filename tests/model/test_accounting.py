"""Positions rebuilt from orders (docs/accounting.md, 2): published and own cases, and properties."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.model import accounting
from ptn_api.model.accounting import Generation, RebuiltPosition
from ptn_api.model.fees import carry_fee, spread_fee_by_category
from ptn_api.model.order import SLIPPAGE_STARTS_MS, Order
from ptn_api.model.position import parse_position
from ptn_api.model.trade_pair import category_and_rate
from tests.model import histories, literal
from tests.model.expected import golden, own, same, shared
from tests.model.histories import make_order, position_of, typed
from tests.model.make_data import NOW, PAIRS
from tests.model.make_data import orders as listed

IN_USD = ("unrealized_pnl", "net_value", "net_quantity")
UUID = "0b5c1d7e-0000-4000-8000-00000000abcd"


def rebuild(orders: list[Order], pair: Any, uuid: str) -> RebuiltPosition | None:
    return accounting.rebuild(position_of(orders, pair, uuid))


def rebuild_each(
    orders: list[Order], pair: Any, uuid: str, lengths: Sequence[int]
) -> Iterator[RebuiltPosition | None]:
    return accounting.rebuild_each(position_of(orders, pair, uuid), lengths)


def values(rebuilt: RebuiltPosition | None) -> dict[str, Any]:
    assert rebuilt is not None
    state = msgspec.structs.asdict(rebuilt.state)
    state = {key: value for key, value in state.items() if key not in IN_USD}
    return state | {"initial_entry_price": rebuilt.initial_entry_price}


def rows(*entries: tuple[Any, ...]) -> list[Order]:
    return typed(listed(list(entries)))


def test_the_published_cases() -> None:
    """The state after each of 1493 orders, and whether a FLAT was appended."""
    for case in shared("golden/accounting.json.gz")["positions"]:
        orders = typed(case["orders"])
        lengths = range(1, len(orders) + 1)
        for length, wanted, rebuilt in zip(
            lengths,
            case["after_order"],
            rebuild_each(orders, case["trade_pair"], case["position_uuid"], lengths),
            strict=True,
        ):
            n_orders = length + (rebuilt is not None and rebuilt.appended is not None)
            assert same(values(rebuilt) | {"n_orders": n_orders}, wanted), (case["name"], length)


@pytest.mark.parametrize(
    ("name", "key", "generation"),
    [
        ("accounting_nov2025", "states", Generation.ACCOUNT_SIZE),
        ("accounting_dec2025", "states", Generation.USD),
        ("accounting_usd", "states_rebuilt", Generation.FEE_HISTORY),
    ],
)
def test_the_networks_own_states(name: str, key: str, generation: Generation) -> None:
    """After every order of every case, as the validators of that generation computed them."""
    for case in golden(name)["cases"]:
        file = case["file"]
        position, _ = parse_position(
            json.dumps(file | {"orders": case.get("orders", file["orders"])}).encode()
        )
        assert accounting.generation_of(position) == generation
        lengths = range(1, len(case[key]) + 1)
        for length, wanted, rebuilt in zip(
            lengths, case[key], accounting.rebuild_each(position, lengths), strict=True
        ):
            assert rebuilt is not None, (case["case"], length)
            state = msgspec.structs.asdict(rebuilt.state) | {
                "n_orders": length + (rebuilt.appended is not None),
                "last_order": {k: getattr(rebuilt.orders[-1], k) for k in wanted.get("last_order", ())},
            }
            assert same({k: state[k] for k in wanted}, wanted), (case["case"], length)


@pytest.mark.parametrize("name", ["accounting_nov2025", "accounting_dec2025"])
def test_the_networks_own_fees(name: str) -> None:
    """The carry factor, its next change and the spread factor of each file at some times."""
    for case in golden(name)["cases"]:
        position, _ = parse_position(json.dumps(case["file"]).encode())
        terms = category_and_rate(position.trade_pair)
        assert terms is not None
        for wanted in case["factors"]:
            at, orders = wanted["at"], position.orders
            carry = carry_fee(at, orders, terms[0], position.open_ms, position.closed_at)
            assert same(carry.factor, wanted["carry"]), (case["case"], at)
            assert carry.next_change_ms - wanted["next_ms"] in (0, 1), (case["case"], at)
            assert same(spread_fee_by_category(orders, terms[0]), wanted["spread"]), (case["case"], at)


def test_a_replay_that_differs_is_noticed() -> None:
    """By a millionth of average price or pnl; a position that cannot be rebuilt is not compared."""
    for case in golden("accounting_usd")["cases"]:
        position, _ = parse_position(json.dumps(case["file"]).encode())
        assert accounting.replay_differs(position) is False, case["case"]
        position.average_entry_price = position.average_entry_price * 1.00001 or 1e-5
        assert accounting.replay_differs(position) is True, case["case"]
        position.account_size, position.trade_pair, position.orders[0].quantity = 0.0, "NEW", None
        assert accounting.replay_differs(position) is False


@pytest.mark.parametrize(
    ("keys", "quantity", "generation"),
    [
        ({}, None, Generation.LEVERAGE),
        ({"account_size": 5e4}, None, Generation.ACCOUNT_SIZE),
        ({"account_size": 5e4, "net_quantity": 1.0}, None, Generation.USD),
        ({"account_size": 5e4, "net_quantity": 1.0, "fee_history": []}, None, Generation.FEE_HISTORY),
        ({"account_size": 5e4, "fee_history": []}, 1.0, Generation.FEE_HISTORY),
        ({"account_size": 5e4, "fee_history": []}, None, Generation.ACCOUNT_SIZE),
        ({"account_size": 0.0, "net_quantity": 1.0, "fee_history": []}, 1.0, Generation.ACCOUNT_SIZE),
        ({"net_quantity": 1.0, "fee_history": []}, 1.0, Generation.LEVERAGE),
    ],
)
def test_the_keys_tell_the_generation(
    keys: dict[str, Any], quantity: float | None, generation: Generation
) -> None:
    """A newer validator's keys around the numbers of an older one change nothing."""
    order = typed([make_order(NOW, "LONG", 0.1, 100.0, "a") | {"quantity": quantity}])
    assert accounting.generation_of(position_of(order, "BTCUSD", UUID, **keys)) == generation


@pytest.mark.parametrize(
    ("pair", "value", "quantity", "price", "net_value"),
    [
        ("XAUUSD", 20_000.0, 0.1, 2000.0, 20_000.0),
        (["NEW", "NEW/EUR", 0.5e-3, 0.1, 5], 20_000.0, 0.5, 2000.0, 20_000.0),
        ("NVDA", 20_000.0, 1.0, 10.0, 10.0),
        ("SPX", 20_000.0, 1.0, 10.0, 10.0),
    ],
    ids=["by the table", "by the first order", "shares after a split", "an index"],
)
def test_the_lot_size(pair: Any, value: float, quantity: float, price: float, net_value: float) -> None:
    """The first order's sizes tell it, also for unknown pairs; shares have lots of 1 whatever a split did."""
    listed = [
        make_order(NOW, "LONG", 0.2, price, "a")
        | {"value": value, "quantity": quantity, "quote_usd_rate": 1.0, "usd_base_rate": 1 / 2000.0}
    ]
    keys = {"account_size": 1e5, "net_quantity": quantity, "fee_history": []}
    rebuilt = accounting.rebuild(position_of(typed(listed), pair, UUID, **keys))
    assert rebuilt is not None
    assert same(rebuilt.state.net_value, net_value)


@pytest.mark.parametrize(
    ("pair", "price", "rates"),
    [("BTCUSD", 50_000.0, (1.0, 1 / 50_000.0)), ("USDJPY", 160.0, (1 / 160.0, 1.0))],
)
def test_missing_rates_are_derived(pair: str, price: float, rates: tuple[float, float]) -> None:
    """Where one of the pair's two currencies is USD (docs/accounting.md, 2.4)."""

    def state(**stated: float) -> dict[str, Any]:
        first = make_order(NOW, "LONG", 0.1, price, "a") | {"value": 10_000.0} | stated
        keys = {"account_size": 1e5, "net_quantity": 1.0, "fee_history": []}
        rebuilt = accounting.rebuild(position_of(typed([first]), pair, UUID, **keys))
        assert rebuilt is not None
        return msgspec.structs.asdict(rebuilt.state)

    assert state()["net_quantity"] > 0
    assert same(state(), state(quote_usd_rate=rates[0], usd_base_rate=rates[1]))


def in_usd(*changes: dict[str, Any]) -> RebuiltPosition | None:
    """Returns a position of 1,000 USD in 10 lots of NVDA, then one order for each change of that order."""
    first = make_order(NOW, "LONG", 0.01, 100.0, "a") | {
        "value": 1_000.0,
        "quantity": 10.0,
        "slippage": 0.0,
        "quote_usd_rate": 1.0,
        "usd_base_rate": 0.01,
    }
    orders = typed([first | change | {"order_uuid": str(i)} for i, change in enumerate([{}, *changes])])
    keys = {"account_size": 1e5, "net_quantity": 10.0, "fee_history": []}
    return accounting.rebuild(position_of(orders, "NVDA", UUID, **keys))


@pytest.mark.parametrize(
    "lacking",
    [("leverage",), ("leverage", "quantity"), ("leverage", "value"), ("value",), ("quantity", "value")],
)
def test_missing_sizes_are_derived(lacking: tuple[str, ...]) -> None:
    """From any one of leverage, value and quantity; the order itself keeps its null."""
    complete, rebuilt = in_usd({}), in_usd(dict.fromkeys(lacking))
    assert complete is not None
    assert rebuilt is not None
    assert same(msgspec.structs.asdict(rebuilt.state), msgspec.structs.asdict(complete.state))
    assert [getattr(rebuilt.orders[1], key) for key in lacking] == [None] * len(lacking)


def test_a_first_order_without_leverage_closes_at_once() -> None:
    """With its own sizes, and at no gain."""
    listed = [make_order(NOW, "LONG", 0.0, 100.0, "a") | {"value": 0.0, "quantity": 2.0}]
    keys = {"account_size": 1e5, "net_quantity": 0.0, "fee_history": []}
    rebuilt = accounting.rebuild(position_of(typed(listed), "NVDA", UUID, **keys))
    assert rebuilt is not None
    state = rebuilt.state
    assert (state.position_type, state.close_ms, state.current_return) == ("FLAT", NOW, 1.0)
    assert (rebuilt.orders[0].quantity, state.net_quantity) == (2.0, 0.0)


def test_a_null_leverage_by_the_older_rules() -> None:
    """It follows from value and account size; without these the position cannot be rebuilt."""
    listed = [make_order(NOW, "LONG", 0.1, 100.0, "a"), make_order(NOW + 1, "LONG", 0.2, 110.0, "b")]
    nulls = [listed[0], listed[1] | {"leverage": None, "value": 10_000.0}]
    wanted = accounting.rebuild(position_of(typed(listed), "BTCUSD", UUID, account_size=5e4))
    found = accounting.rebuild(position_of(typed(nulls), "BTCUSD", UUID, account_size=5e4))
    assert wanted is not None
    assert found is not None
    assert found.state == wanted.state
    assert found.orders[1].leverage is None
    assert rebuild(typed(nulls), "BTCUSD", UUID) is None


def test_an_order_without_any_size() -> None:
    """Cannot be replayed, unless it closes the position: then the sizes are minus the net ones."""
    nothing = dict.fromkeys(["leverage", "value", "quantity"])
    assert in_usd(nothing) is None
    closed = in_usd(nothing | {"order_type": "FLAT", "price": 110.0})
    assert closed is not None
    assert closed.state.realized_pnl == 100.0
    last = closed.orders[-1]
    assert (last.leverage, last.value, last.quantity, last.realized_pnl) == (-0.01, -1_000.0, -10.0, 100.0)


@pytest.mark.parametrize("case", own("rebuilds"), ids=lambda case: case["name"])
def test_own_cases(case: dict[str, Any]) -> None:
    """The project's own lists, in every era of the rules."""
    orders = rows(*case["orders"])
    for length, wanted in enumerate(case["after"], start=1):
        rebuilt = rebuild(orders[:length], case["pair"], case["uuid"])
        appended = rebuilt is not None and rebuilt.appended is not None
        assert same(values(rebuilt) | {"appended": int(appended)}, wanted)


@histories.patient
@given(histories.orders(), st.sampled_from(sorted(PAIRS)))
def test_it_equals_the_formulas_word_by_word(bodies: list[dict[str, Any]], pair: str) -> None:
    """For any list, mostly in time order."""
    rebuilt = rebuild(typed(bodies), pair, UUID)
    state, appended = literal.state_of(bodies, *PAIRS[pair], UUID)
    assert same(values(rebuilt), state)
    assert [{key: getattr(o, key) for key in bodies[0]} for o in appended_by(rebuilt)] == appended


def appended_by(rebuilt: RebuiltPosition | None) -> list[Order]:
    return [rebuilt.appended] if rebuilt is not None and rebuilt.appended is not None else []


@histories.patient
@given(histories.orders(min_size=2), st.sampled_from(sorted(PAIRS)))
def test_one_pass_equals_separate_prefixes(bodies: list[dict[str, Any]], pair: str) -> None:
    """The state after k orders is that of a position with only these."""
    orders = typed(bodies)
    lengths = [1, *range(1, len(orders) + 1)]
    assert [*rebuild_each(orders, pair, UUID, lengths)] == [rebuild(orders[:n], pair, UUID) for n in lengths]


@histories.patient
@given(histories.orders(min_size=2), st.sampled_from([3, 4]))
def test_one_pass_in_usd_equals_separate_prefixes(bodies: list[dict[str, Any]], generation: int) -> None:
    """For both generations; the file's own state does not matter."""
    position, _ = histories.written_in_usd(bodies, generation)
    lengths = range(1, len(bodies) + 1)
    separate = [accounting.rebuild(position, position.orders[:n]) for n in lengths]
    assert [*accounting.rebuild_each(position, lengths)] == separate
    position.current_return, position.net_value, position.average_entry_price = 7.0, 1.0, 5.0
    assert accounting.rebuild(position) == separate[-1]


def test_without_orders_there_is_no_state() -> None:
    """A prefix of length 0 cannot be rebuilt, the ones after it can."""
    orders = rows((NOW, "LONG", 0.1, 100.0, 0.0, 0))
    assert [*rebuild_each(orders, "BTCUSD", UUID, [0, 1])] == [None, rebuild(orders, "BTCUSD", UUID)]


def test_growing_at_a_higher_price() -> None:
    """Long 0.1 at 100, again 0.1 at 110: 10 % gained on the first tenth, and no fees within the hour."""
    rebuilt = rebuild(
        rows((NOW, "LONG", 0.1, 100.0, 0.0, 0), (NOW + 60_000, "LONG", 0.1, 110.0, 0.0, 0)), "BTCUSD", UUID
    )
    wanted = {
        "position_type": "LONG",
        "is_closed_position": False,
        "open_ms": NOW,
        "close_ms": None,
        "net_leverage": 0.2,
        "average_entry_price": 105.0,
        "cumulative_entry_value": 21.0,
        "realized_pnl": 0.0,
        "current_return": 1.01,
        "return_at_close": 1.01,
        "initial_entry_price": 100.0,
    }
    assert same(values(rebuilt), wanted)


def test_slippage_makes_buying_dearer_and_selling_cheaper() -> None:
    """Bought at 100 + 1 %, sold at 110 - 1 %: realized 0.1 x (108.9 - 101), relative to the entry price."""
    rebuilt = rebuild(
        rows((NOW, "LONG", 0.1, 100.0, 0.01, 0), (NOW + 60_000, "FLAT", -0.1, 110.0, 0.01, 0)), "BTCUSD", UUID
    )
    state = values(rebuilt)
    assert same(state["realized_pnl"], 0.79)
    assert same(state["current_return"], 1 + 0.79 / 101)
    assert state["close_ms"] == NOW + 60_000


def test_slippage_counts_from_its_first_millisecond() -> None:
    """The entry price is the plain price one millisecond before, the effective one from then on."""
    before = rebuild(rows((SLIPPAGE_STARTS_MS - 1, "LONG", 0.1, 100.0, 0.01, 0)), "BTCUSD", UUID)
    after = rebuild(rows((SLIPPAGE_STARTS_MS, "LONG", 0.1, 100.0, 0.01, 0)), "BTCUSD", UUID)
    assert values(before)["initial_entry_price"] == 100.0
    assert values(after)["initial_entry_price"] == 101.0


@pytest.mark.parametrize(("at", "realized"), [(SLIPPAGE_STARTS_MS - 1, 0.0), (SLIPPAGE_STARTS_MS, 0.5)])
def test_gains_are_realized_from_the_first_millisecond_of_slippage(at: int, realized: float) -> None:
    """Half of 0.1 sold 10 higher; before that time, nothing was ever realized."""
    orders = rows((at - 60_000, "LONG", 0.1, 100.0, 0.0, 0), (at, "SHORT", -0.05, 110.0, 0.0, 0))
    assert same(values(rebuild(orders, "BTCUSD", UUID))["realized_pnl"], realized)


def test_the_list_decides_not_the_time() -> None:
    """The same orders in another order make another position; open_ms is the first order's time."""
    orders = rows((NOW + 9, "LONG", 0.1, 100.0, 0.0, 0), (NOW, "LONG", 0.3, 120.0, 0.0, 0))
    forwards, backwards = rebuild(orders, "BTCUSD", UUID), rebuild(orders[::-1], "BTCUSD", UUID)
    assert values(forwards)["open_ms"] == NOW + 9
    assert values(forwards)["current_return"] != values(backwards)["current_return"]


def test_an_elimination_keeps_the_returns() -> None:
    """Its price of 0 is ignored: returns and pnl stay as before it; the position closes."""
    orders = rows(
        (NOW, "LONG", 0.1, 100.0, 0.0, 0),
        (NOW + 60_000, "LONG", 0.1, 110.0, 0.0, 0),
        (NOW + 120_000, "FLAT", -0.2, 0.0, 0.0, 1),
    )
    before, after = values(rebuild(orders[:2], "BTCUSD", UUID)), values(rebuild(orders, "BTCUSD", UUID))
    closed = {"position_type": "FLAT", "is_closed_position": True, "close_ms": NOW + 120_000}
    assert after == before | closed | {"net_leverage": 0.0}


LIQUIDATED = ((NOW, "LONG", 2.0, 100.0, 0.0, 0), (NOW + 60_000, "LONG", 1.0, 40.0, 0.0, 0))


def test_a_liquidation_appends_one_flat() -> None:
    """60 % lost twice: nothing is left, and a FLAT closes what the miner did not."""
    rebuilt = rebuild(rows(*LIQUIDATED), "BTCUSD", UUID)
    state = values(rebuilt)
    assert (state["current_return"], state["return_at_close"], state["close_ms"]) == (0.0, 0.0, NOW + 60_000)
    assert state["net_leverage"] == 2.0
    assert rebuilt is not None
    assert rebuilt.appended == Order(
        order_type="FLAT",
        leverage=0.0,
        price=0.0,
        processed_ms=NOW + 60_000,
        order_uuid=UUID[::-1],
        src=1,
        price_sources=[],
        quote_usd_rate=0.0,
        usd_base_rate=0.0,
        execution_type="MARKET",
    )


def test_a_list_with_the_flat_gets_no_second_one() -> None:
    """Rebuilding with the appended order gives the same state and appends nothing."""
    orders = rows(*LIQUIDATED)
    first = rebuild(orders, "BTCUSD", UUID)
    assert first is not None
    assert first.appended is not None
    again = rebuild([*orders, first.appended], "BTCUSD", UUID)
    assert again == msgspec.structs.replace(first, orders=(*orders, first.appended), appended=None)


@pytest.mark.parametrize("change", [{"src": 0}, {"order_uuid": UUID}])
def test_another_order_is_not_taken_for_the_flat(change: dict[str, Any]) -> None:
    """Only an order with src 1 and the reversed uuid counts as the appended one."""
    orders = rows(*LIQUIDATED)
    flat = make_order(NOW + 60_000, "FLAT", 0.0, 0.0, UUID[::-1], src=1) | change
    rebuilt = rebuild([*orders, *typed([flat])], "BTCUSD", UUID)
    assert rebuilt is not None
    assert rebuilt.appended is not None


@pytest.mark.parametrize(("price", "left"), [(50.0, 0.0), (50.5, 0.01)])
def test_a_position_is_liquidated_when_all_is_lost(price: float, left: float) -> None:
    """Twice long at 100: at 50 nothing is left; just above, it goes on."""
    rebuilt = rebuild(
        rows((NOW, "LONG", 2.0, 100.0, 0.0, 0), (NOW + 1, "LONG", 1.0, price, 0.0, 0)), "BTCUSD", UUID
    )
    assert rebuilt is not None
    assert rebuilt.state.current_return == pytest.approx(left)
    assert rebuilt.state.is_closed_position is (left == 0.0)


def test_one_closed_at_a_total_loss_is_closed_by_its_own_order() -> None:
    """A miner's FLAT at ruinous prices: return 0, but no FLAT is appended."""
    rebuilt = rebuild(
        rows((NOW, "LONG", 2.0, 100.0, 0.0, 0), (NOW + 60_000, "FLAT", -2.0, 40.0, 0.0, 0)), "BTCUSD", UUID
    )
    assert rebuilt is not None
    assert (rebuilt.state.current_return, rebuilt.appended) == (0.0, None)


@pytest.mark.parametrize(
    "orders",
    [
        rows(),
        rows((NOW, "FLAT", 0.0, 100.0, 0.0, 0)),
        rows((NOW, "LONG", 0.1, 0.0, 0.0, 0)),
        rows((NOW, "LONG", 0.1, -3.0, 0.0, 0)),
        rows((NOW, "SHORT", -0.1, 100.0, 1.0, 0)),
        rows((NOW, "LONG", 1e308, 100.0, 0.0, 0), (NOW + 1, "LONG", 1e308, 1e300, 0.0, 0)),
    ],
    ids=["no orders", "leverage 0", "price 0", "negative price", "slippage takes all", "beyond floats"],
)
def test_positions_that_cannot_be_rebuilt(orders: list[Order]) -> None:
    """None, never an error or a NaN."""
    assert rebuild(orders, "BTCUSD", UUID) is None


def test_an_unknown_pair_is_rebuilt_by_its_displayed_fee() -> None:
    """Like the known pair of that fee; with any other fee, not at all."""
    orders = rows((NOW, "LONG", 0.1, 100.0, 0.0, 0), (NOW + 10**9, "LONG", 0.1, 110.0, 0.0, 0))
    for fee_rate, known in ((0.003, "BTCUSD"), (7e-05, "EURUSD"), (9e-05, "NVDA")):
        assert rebuild(orders, ["NEW", "NEW", fee_rate, 0.1, 5], UUID) == rebuild(orders, known, UUID)
    assert rebuild(orders, ["NEW", "NEW", 0.0005, 0.1, 5], UUID) is None
    assert rebuild(orders, "NEW", UUID) is None


def test_missing_fields_of_older_orders_count_as_zero() -> None:
    """No bid, ask, slippage and src, or null there."""
    bodies = listed([(NOW, "LONG", 0.1, 100.0, 0.0, 0), (NOW + 1, "FLAT", -0.1, 110.0, 0.0, 0)])
    lacking = ("bid", "ask", "slippage", "src")
    without = [{key: o[key] for key in o if key not in lacking} for o in bodies]
    nulls = [o | dict.fromkeys(lacking) for o in bodies]
    wanted = values(rebuild(typed(bodies), "BTCUSD", UUID))
    assert values(rebuild(typed(without), "BTCUSD", UUID)) == wanted
    assert values(rebuild(typed(nulls), "BTCUSD", UUID)) == wanted


@pytest.mark.parametrize("name", ["positions_2024", "miner_2025_ck", "miner_2025_tm"])
def test_positions_of_the_live_network(name: str) -> None:
    """The files' own numbers follow from their orders; an open one's returns follow the market price.

    Old files have open_ms slightly late; the first order's time counts.
    """
    document = shared(f"real/{name}.json.gz")
    for body in document if isinstance(document, list) else document["positions"]:
        position, _ = parse_position(json.dumps(body).encode())
        state = values(accounting.rebuild(position))
        ignored = set() if position.is_closed_position else {"current_return", "return_at_close", "close_ms"}
        known = (body.keys() & state.keys()) - ignored - {"open_ms"}
        assert same({k: state[k] for k in known}, {k: body[k] for k in known}), position.position_uuid
        assert 0 <= position.open_ms - state["open_ms"] < 5_000
        assert math.isclose(state["current_return"], position.current_return, rel_tol=0.01)
