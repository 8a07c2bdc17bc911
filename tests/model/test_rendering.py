"""What a tier shows of a position, when that changes, and its JSON (docs/accounting.md, 4)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ptn_api.model.position import Position, PositionText, parse_position
from ptn_api.model.rendering import (
    AS_IS,
    PRICE_SOURCES_SHOWN_MS,
    Hidden,
    Rebuilt,
    appearance,
    headers_after,
    next_change_ms,
    next_price_source_change_ms,
    render_position,
)
from ptn_api.model.tiers import TIER_LAG_MS, TIERS
from tests import factories
from tests.model import histories
from tests.model.expected import golden, own, same, shared
from tests.model.histories import make_order, written
from tests.model.make_data import DAY, NOW, PAIRS

UNKNOWN = {
    "source": "unknown",
    "timespan_ms": 0,
    "open": None,
    "close": None,
    "vwap": None,
    "high": None,
    "low": None,
    "start_ms": 0,
    "websocket": False,
    "lag_ms": 0,
    "bid": 0.0,
    "ask": 0.0,
}
"""The price source that a validator writes where it has none."""


def parse(body: dict[str, Any]) -> tuple[Position, PositionText]:
    return parse_position(json.dumps(body).encode())


def shown(position: Position, text: PositionText, tier: int, now_ms: int) -> bytes | None:
    what = appearance(position, tier, now_ms - TIER_LAG_MS)
    return None if isinstance(what, Hidden) else render_position(text, position, what, now_ms)


def rendered(position: Position, text: PositionText, cutoff_ms: int) -> bytes | None:
    """Returns what tier 0 shows at a cutoff, with all price sources."""
    what = appearance(position, 0, cutoff_ms)
    return None if isinstance(what, Hidden) else render_position(text, position, what, NOW)


def shown_body(body: dict[str, Any], tier: int, now_ms: int) -> dict[str, Any] | None:
    answer = shown(*parse(body), tier, now_ms)
    if answer is None:
        return None
    decoded: dict[str, Any] = json.loads(answer)
    return decoded


def with_orders_at(*times: int, **extra: Any) -> Any:
    """Returns a position with one order at each time: the first LONG 0.5, each further one LONG 0.1."""
    listed = [make_order(t, "LONG", 0.1 if i else 0.5, 100.0 + i, f"order-{i}") for i, t in enumerate(times)]
    return written(listed, **extra)[0]


def test_an_order_shows_from_one_millisecond_after() -> None:
    """Strictly before the cutoff."""
    position = with_orders_at(NOW)
    assert appearance(position, 0, NOW) == Hidden("not_yet")
    assert isinstance(appearance(position, 0, NOW + 1), Rebuilt)


def test_only_orders_before_the_cutoff_count() -> None:
    """At any place in the list: the second of three is too young, the state is that of the other two."""
    shown = appearance(with_orders_at(NOW, NOW + 9, NOW + 5), 0, NOW + 9)
    assert isinstance(shown, Rebuilt)
    assert shown.indexes == (0, 2)
    assert shown.position.state.net_leverage == pytest.approx(0.6)


def test_an_untouched_open_position_is_rebuilt_too() -> None:
    """The validator refreshes its returns every minute, which a lagging tier must not see."""
    position = with_orders_at(NOW, current_return=1.5)
    shown = appearance(position, 0, NOW + 9 * DAY)
    assert isinstance(shown, Rebuilt)
    assert shown.position.state.current_return == 1.0


def test_a_position_closed_before_the_cutoff_is_shown_as_is() -> None:
    """From one millisecond after its close; at the cutoff itself it was still open."""
    listed = [make_order(NOW, "LONG", 0.5, 100.0, "a"), make_order(NOW + 5, "FLAT", -0.5, 101.0, "b")]
    position, _ = written(listed)
    at_close = appearance(position, 0, NOW + 5)
    assert isinstance(at_close, Rebuilt)
    assert at_close.position.state.is_closed_position is False
    assert appearance(position, 0, NOW + 6) == AS_IS


@pytest.mark.parametrize("close_ms", [None, 0])
def test_a_close_without_a_time_is_not_before_the_cutoff(close_ms: int | None) -> None:
    """A position that is closed without a time is rebuilt."""
    assert isinstance(
        appearance(with_orders_at(NOW, is_closed_position=True, close_ms=close_ms), 0, NOW + 1), Rebuilt
    )


def test_an_open_position_with_a_time_of_close_is_open() -> None:
    """is_closed_position decides; some files have close_ms 0 or more while open."""
    assert isinstance(
        appearance(with_orders_at(NOW, is_closed_position=False, close_ms=NOW), 0, NOW + 1), Rebuilt
    )


def test_a_position_that_cannot_be_rebuilt_is_hidden() -> None:
    """An unknown pair with an unknown fee, or no orders; tier 100 shows it as is."""
    unknown = with_orders_at(NOW, trade_pair=["NEW", "NEW", 0.5e-3, 0.1, 5])
    empty = parse_position(json.dumps(factories.position(1, [])).encode())[0]
    for position in (unknown, empty):
        assert appearance(position, 0, NOW + 1) == Hidden("not_rebuildable")
        assert appearance(position, 100, NOW + 1) == AS_IS


def test_an_unknown_pair_that_closed_before_the_cutoff_needs_no_rebuild() -> None:
    """The pair matters only for a rebuild."""
    position = with_orders_at(NOW, trade_pair="NEW", is_closed_position=True, close_ms=NOW + 1)
    assert appearance(position, 0, NOW + 2) == AS_IS


def test_when_a_view_changes() -> None:
    """One millisecond after each order and the close, then never; never for a live position."""
    position = with_orders_at(NOW, NOW + 10, is_closed_position=True, close_ms=NOW + 20)
    assert next_change_ms(position, 0, 0) == NOW + 1
    assert next_change_ms(position, 0, NOW) == NOW + 1
    assert next_change_ms(position, 0, NOW + 1) == NOW + 11
    assert next_change_ms(position, 0, NOW + 11) == NOW + 21
    assert next_change_ms(position, 0, NOW + 21) is None
    assert next_change_ms(position, 100, 0) is None


@histories.patient
@given(histories.orders(earliest=NOW, latest=NOW + 40), st.integers(NOW - 2, NOW + 44))
def test_a_view_is_constant_between_its_changes(bodies: list[dict[str, Any]], cutoff: int) -> None:
    """Going from change to change meets every appearance that any cutoff has."""
    position, text = written(bodies)
    at = NOW - 2
    while (following := next_change_ms(position, 0, at)) is not None and following <= cutoff:
        assert following > at
        at = following
    assert rendered(position, text, cutoff) == rendered(position, text, at)


@histories.patient
@given(histories.orders(earliest=NOW, latest=NOW + 40), st.integers(NOW, NOW + 41))
def test_a_tier_includes_all_that_a_lower_one_shows(bodies: list[dict[str, Any]], cutoff: int) -> None:
    """A higher tier shows it in the same way, or live."""
    position, _ = written(bodies)
    appearances = [appearance(position, tier, cutoff) for tier in TIERS]
    for lower, higher in itertools.pairwise(appearances):
        assert higher in (AS_IS, lower)


@pytest.mark.parametrize("scenario", [0, 1, 2])
def test_the_published_tiers(scenario: int) -> None:
    """Every position of a validator, as every tier shows it."""
    case = shared("golden/tiers.json.gz")["scenarios"][scenario]
    for tier, miners in case["expected"]["tiers"].items():
        for hotkey, bodies in case["input"]["positions_on_disk"].items():
            wanted = {p["position_uuid"]: p for p in miners[hotkey]["positions"]}
            for body in bodies:
                answer = shown_body(body, int(tier), case["now_ms"])
                assert same(answer, wanted.get(body["position_uuid"])), (tier, body["position_uuid"])


@pytest.mark.parametrize("name", ["tiers", "tiers_dec2025"])
def test_the_networks_positions_a_day_later(name: str) -> None:
    """Every position in today's files and in those of December 2025, as tier 0 shows it."""
    case = golden(name)
    replayed = case["replayed"]
    for body in itertools.chain.from_iterable(case["files"].values()):
        answer = shown_body(body, 0, case["now_ms"])
        wanted = replayed.get(body["position_uuid"], without_aged_sources(body, case["now_ms"]))
        if wanted is not None:
            wanted = wanted | {"close_ms": wanted["close_ms"] or 0}
            assert answer is not None
            assert list(answer) == list(body)
        assert same(answer, wanted), (case.get("kind", {}).get(body["position_uuid"]), body["position_uuid"])


def without_aged_sources(body: dict[str, Any], now_ms: int) -> dict[str, Any]:
    oldest = now_ms - PRICE_SOURCES_SHOWN_MS
    orders = [o | ({"price_sources": []} if o["processed_ms"] < oldest else {}) for o in body["orders"]]
    return body | {"orders": orders}


@pytest.mark.parametrize("case", own("tiers"), ids=lambda case: case["name"])
def test_own_cases(case: dict[str, Any]) -> None:
    """What tier 0 shows, and from which tier on the position is shown as the validator has it."""
    body = case["body"]
    as_it_is = body | ({} if body["is_closed_position"] else {"close_ms": 0})
    for tier in (0, 30, 50, 100):
        wanted = as_it_is if tier >= case["live_from"] else case["lagging"]
        assert same(shown_body(body, tier, NOW), wanted), tier


def test_a_closed_position_is_the_validators_own_text() -> None:
    """Byte for byte except for white space: the file's key order, number format and extra keys."""
    order = json.dumps(factories.order(1)).replace("101.0", "101.0000")
    file = (
        '{"z": 1.50, "close_ms": 1760000001000, "orders": [' + order + '], "is_closed_position": true, '
        '"open_ms": 1, "miner_hotkey": "a", "position_uuid": "b", "trade_pair": ["X", "X", 7E-5], '
        '"note": {"close_ms": null}}'
    )
    position, text = parse_position(file.encode())
    assert render_position(text, position, AS_IS, NOW).decode() == file.replace(" ", "")


@pytest.mark.parametrize("in_file", [{"close_ms": None}, {"close_ms": 0}, {"close_ms": 5}])
def test_close_ms_is_0_while_open(in_file: dict[str, Any]) -> None:
    """In its place, for any value in the file; the same key in nested objects is unchanged."""
    body = factories.position(1, [factories.order(1)], note={"close_ms": None}) | in_file
    position, text = parse(body)
    answer = json.loads(render_position(text, position, AS_IS, NOW))
    assert list(answer.items()) == list((body | {"close_ms": 0}).items())


def test_an_open_file_without_close_ms_is_shown_with_it() -> None:
    """Clients rely on the key."""
    body = factories.position(1, [factories.order(1)])
    del body["close_ms"]
    position, text = parse(body)
    assert json.loads(render_position(text, position, AS_IS, NOW)) == body | {"close_ms": 0}


def test_price_sources_are_shown_for_seven_days() -> None:
    """Up to 7 days after their order, to the millisecond, then []; the rest of the order stays."""
    sources = [{"source": "Polygon_rest]", "lag_ms": 7}]
    order = factories.order(1, at=NOW, price_sources=sources, note={"price_sources": [1]})
    position, text = parse(factories.position(1, [order], closed=True))
    edge = NOW + PRICE_SOURCES_SHOWN_MS
    before = json.loads(render_position(text, position, AS_IS, edge))["orders"]
    after = json.loads(render_position(text, position, AS_IS, edge + 1))["orders"]
    assert before == [order]
    assert list(after[0].items()) == list((order | {"price_sources": []}).items())


def test_when_price_sources_age_out() -> None:
    """The next time at which the text changes; orders without price sources are ignored."""
    some = [{"source": "x"}]
    listed = [
        factories.order(1, at=NOW, price_sources=some),
        factories.order(2, at=NOW + 5, price_sources=[]),
        factories.order(3, at=NOW + 9, price_sources=some),
    ]
    position, text = parse(factories.position(1, listed, closed=True))
    first = NOW + PRICE_SOURCES_SHOWN_MS + 1
    assert next_price_source_change_ms(position, NOW) == first
    assert next_price_source_change_ms(position, first - 1) == first
    assert next_price_source_change_ms(position, first) == first + 9
    assert next_price_source_change_ms(position, first + 9) is None
    changes = [render_position(text, position, AS_IS, t) for t in (first - 1, first, first + 8, first + 9)]
    assert changes[0] != changes[1] == changes[2] != changes[3]


def test_a_rebuilt_position_has_the_known_keys_only() -> None:
    """In the file's order, also in its orders; their values verbatim."""
    listed = [factories.order(1, at=NOW) | {"price": 100.50}, factories.order(2, at=NOW + 5)]
    body = factories.position(1, [listed[0] | {"best_price": 1.5}, listed[1]], live_price=1.5)
    position, text = parse(dict(reversed(body.items())))
    answer = shown(position, text, 0, NOW + 5 + TIER_LAG_MS)
    assert answer is not None
    decoded = json.loads(answer)
    assert list(decoded) == [key for key in reversed(body) if key != "live_price"]
    assert decoded["orders"] == listed[:1]
    assert text.orders[0].replace(b',"best_price":1.5', b"") in answer
    assert b'"trade_pair":["BTCUSD","BTC/USD",0.003,0.01,0.5]' in answer
    assert (decoded["close_ms"], decoded["current_return"]) == (0, 1.0)


def test_an_older_position_keeps_its_entry_price_when_rebuilt() -> None:
    """From the rebuilt state, if the file has the key; keys that the older schema lacks are added."""
    body = factories.position(1, [factories.order(1, at=NOW, slippage=0.0)], initial_entry_price=7.0)
    del body["cumulative_entry_value"], body["realized_pnl"]
    answer = shown_body(body, 0, NOW + 2 * DAY)
    assert answer is not None
    assert set(answer) == {*factories.position(1, []), "initial_entry_price"}
    assert answer["initial_entry_price"] == 101.0


def test_a_liquidation_within_the_rebuild_shows_its_flat() -> None:
    """The order that the accounting appends is shown like one of the validator's."""
    listed = [make_order(NOW, "LONG", 2.0, 100.0, "a"), make_order(NOW + 1, "LONG", 1.0, 40.0, "b")]
    body = factories.position(1, listed)
    answer = shown_body(body, 0, NOW + 2 + TIER_LAG_MS)
    assert answer is not None
    assert answer["close_ms"] == NOW + 1
    assert answer["orders"][:2] == listed
    assert list(answer["orders"][2].items()) == list(
        {
            "order_type": "FLAT",
            "leverage": 0.0,
            "price": 0.0,
            "bid": 0.0,
            "ask": 0.0,
            "slippage": 0.0,
            "processed_ms": NOW + 1,
            "order_uuid": body["position_uuid"][::-1],
            "price_sources": [],
            "src": 1,
        }.items()
    )


CUTOFF = NOW


@st.composite
def two_futures(draw: st.DrawFn) -> Sequence[list[dict[str, Any]]]:
    """Draws two order lists that are equal before the cutoff; later orders are at any place."""
    past = draw(histories.orders(earliest=CUTOFF - 9 * DAY, latest=CUTOFF - 1))
    lists = []
    for first_id in (100, 200):
        listed = [dict(order) for order in past]
        future: st.SearchStrategy[Any] = st.just([]) | histories.orders(
            earliest=CUTOFF, latest=CUTOFF + DAY, first_id=first_id
        )
        for order in draw(future):
            listed.insert(draw(st.integers(0, len(listed))), order)
        lists.append(listed)
    return lists


@histories.patient
@given(two_futures(), st.sampled_from(sorted(PAIRS)), st.integers(0, 10 * DAY))
def test_later_orders_leave_no_trace(lists: Sequence[list[dict[str, Any]]], pair: str, passed: int) -> None:
    """Non-interference: histories that are equal before the cutoff give equal bytes, for any live values.

    A position that the validator closed before the cutoff takes no more orders and is left out.
    """
    now = CUTOFF + TIER_LAG_MS
    answers = []
    for listed in lists:
        position, text = written(listed, pair=pair, live_price=len(listed))
        assume(not position.is_closed_position or (position.close_ms or 0) >= CUTOFF)
        what = appearance(position, 0, CUTOFF)
        assert not isinstance(what, Hidden)
        answers.append(render_position(text, position, what, now + passed))
    assert answers[0] == answers[1]


@st.composite
def two_futures_in_usd(draw: st.DrawFn) -> Sequence[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Draws the orders and other keys of two positions that are equal before the cutoff."""
    listed = draw(two_futures())
    start, end = CUTOFF - 9 * DAY, CUTOFF + DAY
    past_fees, past_dividends = draw(histories.fees(start, CUTOFF - 1)), draw(histories.dividends(start, end))
    split = draw(st.sampled_from([None, histories.date(CUTOFF - DAY), histories.date(CUTOFF)]))
    later_splits = st.sampled_from([None, histories.date(CUTOFF + DAY)])
    drawn = []
    for orders in listed:
        dividends = [dict(dividend) for dividend in past_dividends if dividend["time_ms"] < CUTOFF]
        for dividend in dividends:
            # Whether it has been applied since is known only later.
            if dividend["payment_date"] > histories.date(CUTOFF):
                dividend["applied"] = draw(st.booleans())
            dividend["novelty"] = len(orders)
        for order in orders:
            order |= {"novelty": len(orders), "realized_pnl": draw(st.floats(-9, 9))}
        keys = {
            "fee_history": [fee | {"novelty": len(orders)} for fee in past_fees]
            + draw(histories.fees(CUTOFF, end)),
            "dividend_history": dividends + draw(histories.dividends(CUTOFF, end)),
            "last_stock_split_date": split or draw(later_splits),
            "unfilled_orders": draw(st.just([]) | st.just([{"limit_price": 7.0}])),
            "novelty": len(orders),
        }
        if draw(st.booleans()):
            keys |= {"is_closed_position": True, "position_type": "FLAT", "close_ms": CUTOFF + 5}
        drawn.append((orders, keys))
    return drawn


@histories.patient
@given(two_futures_in_usd(), st.sampled_from([3, 4]), st.integers(0, 10 * DAY))
def test_later_events_leave_no_trace(
    futures: Sequence[tuple[list[dict[str, Any]], dict[str, Any]]], generation: int, passed: int
) -> None:
    """Non-interference of fees, dividends, splits, marks, realized pnl and unknown keys."""
    now = CUTOFF + TIER_LAG_MS
    answers = []
    for listed, keys in futures:
        if generation == 3:
            keys = {key: value for key, value in keys.items() if key not in histories.SINCE_2026}
        position, text = histories.written_in_usd(listed, generation, **keys)
        what = appearance(position, 0, CUTOFF)
        assert isinstance(what, Rebuilt)
        answers.append(render_position(text, position, what, now + passed))
    assert answers[0] == answers[1]


@histories.patient
@given(
    histories.orders(earliest=NOW, latest=NOW + 9 * DAY),
    histories.fees(NOW, NOW + 9 * DAY),
    histories.dividends(NOW, NOW + 9 * DAY),
    st.sampled_from([None, histories.date(NOW + 4 * DAY)]),
    st.integers(NOW, NOW + 12 * DAY),
)
def test_a_view_in_usd_is_constant_between_its_changes(
    bodies: list[dict[str, Any]],
    fees: list[dict[str, Any]],
    dividends: list[dict[str, Any]],
    split: str | None,
    cutoff: int,
) -> None:
    """Of fees, dividends, their payment at midnight, and stock splits as well."""
    keys = {"fee_history": fees, "dividend_history": dividends, "last_stock_split_date": split}
    position, text = histories.written_in_usd(bodies, **keys)
    at = NOW - 2
    while (following := next_change_ms(position, 0, at)) is not None and following <= cutoff:
        assert following > at
        at = following
    assert rendered(position, text, cutoff) == rendered(position, text, at)


def test_what_ages_into_a_view() -> None:
    """A fee and a dividend one millisecond after their times, a payment and a split at midnight."""
    midnight = NOW - NOW % DAY + DAY
    order = make_order(NOW, "LONG", 0.1, 100.0, "a")
    dividend = {
        "type": "long_credit",
        "time_ms": NOW + 7,
        "payment_date": histories.date(midnight),
        "applied": True,
    }
    position, text = histories.written_in_usd(
        [order],
        fee_history=[{"fee_type": "carry", "amount": 1.5, "time_ms": NOW + 5}],
        dividend_history=[dividend],
        last_stock_split_date=histories.date(midnight + DAY),
    )
    changes = [NOW + 1, NOW + 6, NOW + 8, midnight, midnight + DAY]
    at, met = 0, []
    while (following := next_change_ms(position, 0, at)) is not None:
        at = following
        met.append(at)
    assert met == changes

    def keys(cutoff: int) -> list[Any]:
        body = json.loads(rendered(position, text, cutoff) or b"{}")
        paid = [d["applied"] for d in body["dividend_history"]]
        return [len(body["fee_history"]), paid, body["last_stock_split_date"]]

    assert [keys(cutoff) for cutoff in changes] == [
        [0, [], None],
        [1, [], None],
        [1, [False], None],
        [1, [True], None],
        [1, [True], histories.date(midnight + DAY)],
    ]


@pytest.mark.parametrize(
    ("sources", "shown_source"),
    [
        ([{"source": "a", "lag_ms": 7.0}, {"source": "b"}], "a"),
        ([None, {"source": "b"}], "b"),
        ([], "unknown"),
        ([None, "x"], "unknown"),
        (None, "unknown"),
    ],
)
def test_the_mark_of_a_rebuilt_position(sources: list[Any], shown_source: str) -> None:
    """The first price source of its last order and that order's rate, even if the sources have aged out."""
    order = make_order(NOW, "LONG", 0.1, 100.0, "a") | {"price_sources": sources}
    position, text = histories.written_in_usd([order])
    what = appearance(position, 0, NOW + 1)
    assert isinstance(what, Rebuilt)
    answer = json.loads(render_position(text, position, what, NOW + 9 * DAY))
    assert answer["last_price_source"]["source"] == shown_source
    assert answer["last_quote_usd_conversion"] == 1.0
    assert not answer["orders"][0]["price_sources"]


@pytest.mark.parametrize("date", [None, "", "soon", "2025-10-09T12:00", "20251009", "9999-12-31"])
def test_an_odd_date_has_begun_or_not(date: str | None) -> None:
    """At one time, which is known in advance; a text that is no date never begins."""
    dividend = {"time_ms": NOW, "payment_date": date, "applied": True}
    keys = {"dividend_history": [dividend], "last_stock_split_date": date}
    position, text = histories.written_in_usd([make_order(NOW, "LONG", 0.1, 100.0, "a")], **keys)
    at = NOW + 1
    while (following := next_change_ms(position, 0, at)) is not None and following < NOW + 99 * DAY:
        assert rendered(position, text, at) == rendered(position, text, following - 1)
        at = following
    assert rendered(position, text, at) == rendered(position, text, NOW + 99 * DAY)


def test_an_absurd_time_breaks_no_header() -> None:
    """Beyond the last year of calendars."""
    listed = [make_order(NOW, "LONG", 0.1, 100.0, "a"), make_order((1 << 53) - 1, "LONG", 0.1, 100.0, "b")]
    position, text = histories.written_in_usd(listed)
    (header, _), _ = headers_after(text, position, [2, 2])
    assert json.loads(header)["net_leverage"] == 0.2
    assert next_change_ms(position, 0, NOW + 1) == 1 << 53


def test_a_rebuilt_order_has_the_sizes_and_pnl_of_that_time() -> None:
    """What a later correction of the file changed in them does not show."""
    long = make_order(NOW, "LONG", 0.1, 100.0, "a") | {"slippage": 0.0}
    flat = make_order(NOW + 1, "FLAT", -0.1, 110.0, "b") | {"slippage": 0.0}
    position, text = histories.written_in_usd([long, flat])
    answer = json.loads(rendered(position, text, NOW + 2) or b"{}")
    assert answer["close_ms"] == NOW + 1
    last = answer["orders"][1]
    wanted = {"leverage": -0.1, "value": -10_000.0, "quantity": -100.0, "realized_pnl": 1_000.0}
    assert same({key: last[key] for key in wanted}, wanted)
    assert list(last) == list(histories.in_usd(flat))


def test_headers_after_each_order() -> None:
    """In the file's units and with all its keys; fees up to the order's time, its mark as the latest."""
    for case in golden("accounting_usd")["cases"]:
        body, states = case["file"] | {"novelty": 1}, case["states_rebuilt"]
        position, text = parse(body)
        headers = headers_after(text, position, range(1, len(states) + 1))
        for length, wanted, (header, orders_at) in zip(itertools.count(1), states, headers, strict=False):
            listed = text.orders[:length]
            after = json.loads(PositionText(header=header, orders_at=orders_at, orders=listed).json())
            order = body["orders"][length - 1]
            assert list(after) == list(body)
            assert after["orders"] == body["orders"][:length]
            assert same(
                {key: after[key] for key in wanted if key != "last_order"}, without_last_order(wanted)
            )
            assert after["fee_history"] == [
                fee for fee in body["fee_history"] if fee["time_ms"] <= order["processed_ms"]
            ]
            assert after["last_price_source"] == [*order["price_sources"], UNKNOWN][0]
            assert (after["novelty"], after["account_size"]) == (1, body["account_size"])


def without_last_order(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != "last_order"}


@pytest.mark.parametrize("name", ["positions_2024", "miner_2025_ck", "miner_2025_tm"])
def test_positions_of_the_live_network(name: str) -> None:
    """Live, each equals the file except for aged price sources; lagging, it is shown at every order."""
    document = shared(f"real/{name}.json.gz")
    for body in document if isinstance(document, list) else document["positions"]:
        first = body["orders"][0]["processed_ms"]
        assert shown_body(body, 100, first) == body
        for order in body["orders"]:
            answer = shown_body(body, 0, order["processed_ms"] + TIER_LAG_MS + 1)
            assert answer is not None
            assert answer["orders"][0]["processed_ms"] == first
