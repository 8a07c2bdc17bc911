"""The text of a position as a tier shows it (docs/accounting.md, 4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ptn_api.model.position import Position, PositionText, parse_position
from ptn_api.model.shown import PRICE_SOURCES_SHOWN_MS, next_price_source_change_ms, shown_text
from ptn_api.model.tiers import AS_IS, TIER_LAG_MS, Hidden, view
from tests import factories
from tests.model import histories
from tests.model.expected import own, same, shared
from tests.model.histories import make_order, written
from tests.model.make_data import DAY, NOW, PAIRS

CANONICAL = [
    *("miner_hotkey", "position_uuid", "open_ms", "trade_pair", "orders", "current_return", "close_ms"),
    *("net_leverage", "return_at_close", "average_entry_price", "cumulative_entry_value", "realized_pnl"),
    *("position_type", "is_closed_position"),
]


def parse(body: dict[str, Any]) -> tuple[Position, PositionText]:
    return parse_position(json.dumps(body).encode())


def shown(position: Position, text: PositionText, tier: int, now_ms: int) -> bytes | None:
    what = view(position, tier, now_ms - TIER_LAG_MS)
    return None if isinstance(what, Hidden) else shown_text(text, position, what, now_ms)


def shown_body(body: dict[str, Any], tier: int, now_ms: int) -> dict[str, Any] | None:
    answer = shown(*parse(body), tier, now_ms)
    if answer is None:
        return None
    decoded: dict[str, Any] = json.loads(answer)
    return decoded


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


@pytest.mark.parametrize("case", own("tiers"), ids=lambda case: case["name"])
def test_own_cases(case: dict[str, Any]) -> None:
    """What tier 0 shows, and from which tier on the position is shown as the validator has it."""
    body = case["body"]
    as_it_is = body | ({} if body["is_closed_position"] else {"close_ms": 0})
    for tier in (0, 30, 50, 100):
        wanted = as_it_is if tier >= case["live_from"] else case["lagging"]
        assert same(shown_body(body, tier, NOW), wanted), tier


def test_a_closed_position_is_the_validators_own_text() -> None:
    """Byte for byte but for white space: the file's key order, its way to write numbers, extra keys."""
    order = json.dumps(factories.order(1)).replace("101.0", "101.0000")
    file = (
        '{"z": 1.50, "close_ms": 1760000001000, "orders": [' + order + '], "is_closed_position": true, '
        '"open_ms": 1, "miner_hotkey": "a", "position_uuid": "b", "trade_pair": ["X", "X", 7E-5], '
        '"note": {"close_ms": null}}'
    )
    position, text = parse_position(file.encode())
    assert shown_text(text, position, AS_IS, NOW).decode() == file.replace(" ", "")


@pytest.mark.parametrize("in_file", [{"close_ms": None}, {"close_ms": 0}, {"close_ms": 5}])
def test_close_ms_is_0_while_open(in_file: dict[str, Any]) -> None:
    """In its place, whatever the file says; the same key deeper down is not touched."""
    body = factories.position(1, [factories.order(1)], note={"close_ms": None}) | in_file
    position, text = parse(body)
    answer = json.loads(shown_text(text, position, AS_IS, NOW))
    assert list(answer.items()) == list((body | {"close_ms": 0}).items())


def test_an_open_file_without_close_ms_is_shown_with_it() -> None:
    """Clients count on the key."""
    body = factories.position(1, [factories.order(1)])
    del body["close_ms"]
    position, text = parse(body)
    assert json.loads(shown_text(text, position, AS_IS, NOW)) == body | {"close_ms": 0}


def test_price_sources_are_shown_for_seven_days() -> None:
    """Still there 7 days after their order, to the millisecond, then []; the rest of the order stays."""
    sources = [{"source": "Polygon_rest]", "lag_ms": 7}]
    order = factories.order(1, at=NOW, price_sources=sources, note={"price_sources": [1]})
    position, text = parse(factories.position(1, [order], closed=True))
    edge = NOW + PRICE_SOURCES_SHOWN_MS
    before = json.loads(shown_text(text, position, AS_IS, edge))["orders"]
    after = json.loads(shown_text(text, position, AS_IS, edge + 1))["orders"]
    assert before == [order]
    assert list(after[0].items()) == list((order | {"price_sources": []}).items())


def test_when_price_sources_age_out() -> None:
    """The next moment at which the text changes; orders without any don't count."""
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
    changes = [shown_text(text, position, AS_IS, t) for t in (first - 1, first, first + 8, first + 9)]
    assert changes[0] != changes[1] == changes[2] != changes[3]


def test_a_replayed_position_has_the_known_keys_only() -> None:
    """In the canonical order, also where the file's is another; the orders in the validator's words."""
    listed = [factories.order(1, at=NOW, price=100.50, note="kept"), factories.order(2, at=NOW + 5)]
    body = factories.position(1, listed, live_price=1.5)
    position, text = parse(dict(reversed(body.items())))
    answer = shown(position, text, 0, NOW + 5 + TIER_LAG_MS)
    assert answer is not None
    decoded = json.loads(answer)
    assert list(decoded) == CANONICAL
    assert decoded["orders"] == listed[:1]
    assert text.orders[0] in answer
    assert b'"trade_pair":["BTCUSD","BTC/USD",0.003,0.01,0.5]' in answer
    assert (decoded["close_ms"], decoded["current_return"]) == (0, 1.0)


def test_an_older_position_keeps_its_entry_price_when_replayed() -> None:
    """From the replay, where the file has the key; what the older schema lacks is there, too."""
    body = factories.position(1, [factories.order(1, at=NOW, slippage=0.0)], initial_entry_price=7.0)
    del body["cumulative_entry_value"], body["realized_pnl"]
    answer = shown_body(body, 0, NOW + 2 * DAY)
    assert answer is not None
    assert set(answer) == {*CANONICAL, "initial_entry_price"}
    assert answer["initial_entry_price"] == 101.0


def test_a_liquidation_within_the_replay_shows_its_flat() -> None:
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
    """Two order lists that are the same before the cutoff; later orders stand anywhere after the first."""
    past = draw(histories.orders(earliest=CUTOFF - 9 * DAY, latest=CUTOFF - 1))
    lists = []
    for first_id in (100, 200):
        listed = list(past)
        future: st.SearchStrategy[Any] = st.just([]) | histories.orders(
            earliest=CUTOFF, latest=CUTOFF + DAY, first_id=first_id
        )
        for order in draw(future):
            listed.insert(draw(st.integers(1, len(listed))), order)
        lists.append(listed)
    return lists


@histories.patient
@given(two_futures(), st.sampled_from(sorted(PAIRS)), st.integers(0, 10 * DAY))
def test_later_orders_leave_no_trace(lists: Sequence[list[dict[str, Any]]], pair: str, passed: int) -> None:
    """Non-interference: histories equal before the cutoff give equal bytes, whatever the files say of live
    values. A position that the validator closed before the cutoff takes no more orders; left out.
    """
    now = CUTOFF + TIER_LAG_MS
    answers = []
    for listed in lists:
        position, text = written(listed, pair=pair, live_price=len(listed))
        assume(not position.is_closed_position or (position.close_ms or 0) >= CUTOFF)
        what = view(position, 0, CUTOFF)
        assert not isinstance(what, Hidden)
        answers.append(shown_text(text, position, what, now + passed))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("name", ["positions_2024", "miner_2025_ck", "miner_2025_tm"])
def test_positions_of_the_live_network(name: str) -> None:
    """Live, each is shown as it came but for aged price sources; lagging, at any order, it is shown too."""
    document = shared(f"real/{name}.json.gz")
    for body in document if isinstance(document, list) else document["positions"]:
        first = body["orders"][0]["processed_ms"]
        assert shown_body(body, 100, first) == body
        for order in body["orders"]:
            answer = shown_body(body, 0, order["processed_ms"] + TIER_LAG_MS + 1)
            assert answer is not None
            assert answer["orders"][0]["processed_ms"] == first
