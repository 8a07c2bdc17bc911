"""Reading positions, and their text, cut at the orders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.errors import InvalidInputError
from ptn_api.model.order import Order
from ptn_api.model.position import FeeEvent, Position, parse_position
from tests.factories import T0, order, position
from tests.model.expected import shared
from tests.model.histories import patient

floats = st.floats(allow_nan=False, allow_infinity=False)
names = st.text().filter(lambda name: name not in Position.__struct_fields__)
"""Hypothesis also draws names from the code under test; a field's name needs a value of the field's type."""
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | floats | st.text()
json_values = st.recursive(
    scalars,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)


FAULTS = Path(__file__).parent / "data" / "faults"
FEE = {"fee_type": "carry", "amount": 2.0, "time_ms": 4244}


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


@patient
@given(st.dictionaries(names, json_values, max_size=3), st.integers(0, 3), st.permutations(range(17)))
def test_the_text_is_the_file(extra: dict[str, Any], n_orders: int, layout: list[int]) -> None:
    """With any extra keys in any key order, the joined text equals the file."""
    body = extra | position(1, [order(i, note='"orders":[]') for i in range(n_orders)])
    items = list(body.items())
    body = dict(items[i] for i in [*(i for i in layout if i < len(items)), *range(17, len(items))])
    _, text = parse_position(encoded(body))
    assert list(json.loads(text.json()).items()) == list(body.items())
    assert [json.loads(o) for o in text.orders] == body["orders"]
    summary = {key: value for key, value in body.items() if key != "orders"}
    assert list(json.loads(text.summary()).items()) == list(summary.items())


def test_a_text_decodes_to_the_parsed_position() -> None:
    """Decoding the text gives the position read from the file."""
    parsed, text = parse_position(encoded(position(1, [order(0), order(1)], closed=True, remark={"a": []})))
    assert text.position() == parsed


@pytest.mark.parametrize(
    ("close_ms", "closed", "expected"),
    [(5, True, 5), (None, True, None), (None, False, None), (0, False, None), (5, False, None)],
)
def test_when_a_position_closed(close_ms: int | None, closed: bool, expected: int | None) -> None:
    """None while open, however that is written, and for a closed position without a time."""
    body = position(1, [order(1)], close_ms=close_ms, is_closed_position=closed)
    assert parse_position(encoded(body))[0].closed_at == expected


def test_an_older_position_is_read() -> None:
    """With initial_entry_price, without cumulative_entry_value and realized_pnl."""
    body = position(1, [order(0)], initial_entry_price=0.9773)
    del body["cumulative_entry_value"], body["realized_pnl"]
    parsed, text = parse_position(encoded(body))
    assert parsed.initial_entry_price == 0.9773
    assert b"realized_pnl" not in text.json()


@pytest.mark.parametrize("trade_pair", ["NEWUSD", ["NEWUSD", "NEW/USD", 1, 2, 3, 4], None, {"id": 1}])
def test_any_trade_pair_is_kept(trade_pair: Any) -> None:
    """An unknown pair is never an error."""
    parsed, text = parse_position(encoded(position(1, [order(0)], trade_pair=trade_pair)))
    assert parsed.trade_pair == trade_pair
    assert json.loads(text.summary())["trade_pair"] == trade_pair


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b'{"miner_hotkey":', "not_json"),
        (b"\xff\xfe", "not_json"),
        (encoded(position(1, [order(0)]))[:-40], "not_json"),
        (encoded(position(1, [order(0)], miner_hotkey=float("nan"))), "not_a_position"),
        (b'{"deep":' + b"[" * 100_000, "not_json"),
        (b"[]", "not_a_position"),
        (b"{}", "not_a_position"),
        (encoded({k: v for k, v in position(1, []).items() if k != "orders"}), "not_a_position"),
        (encoded(position(1, [], close_ms="x")).replace(b'"orders"', b'"others"'), "not_a_position"),
        (encoded(position(1, [order(0)], open_ms="x"))[:-40], "not_json"),
        (encoded(position(1, [order(0)], open_ms="x", note="y")).replace(b'"y"', b'"\xff"'), "not_json"),
        (encoded(position(1, []) | {"orders": {}}), "not_a_position"),
        (encoded(position(1, [order(0, order_type="BUY")])), "not_a_position"),
        (encoded(position(1, [order(0, at=-1)])), "bad_value"),
        (encoded(position(1, [order(0, at=1 << 53)])), "bad_value"),
        (encoded(position(1, [order(0)], open_ms=-T0)), "bad_value"),
        (encoded(position(1, [order(0, order_uuid="")])), "bad_value"),
        (encoded(position(1, [order(0)], position_uuid="")), "bad_value"),
        (b"\xef\xbb\xbf" + encoded(position(1, [order(0)])), "not_json"),
        (encoded(position(1, [order(0, at=4242)])).replace(b"4242", b'"4242"'), "not_a_position"),
        (encoded(position(1, [order(0)])) * 2, "not_json"),
    ],
)
def test_a_malformed_position_is_refused(body: bytes, code: str) -> None:
    """With a code that says why."""
    with pytest.raises(InvalidInputError) as refused:
        parse_position(body)
    assert refused.value.code == code


@pytest.mark.parametrize("path", sorted(FAULTS.glob("*.json")), ids=lambda path: path.stem)
def test_odd_values_hide_no_order(path: Path) -> None:
    """Whole floats, nulls among price sources, a null leverage: everything is there, nothing is named."""
    problems: list[str] = []
    body = json.loads(path.read_bytes())
    parsed, text = parse_position(path.read_bytes(), problems)
    assert problems == []
    assert json.loads(text.json()) == body
    assert [o.order_uuid for o in parsed.orders] == [o["order_uuid"] for o in body["orders"]]
    assert [o.leverage for o in parsed.orders] == [o["leverage"] for o in body["orders"]]
    assert text.position() == parsed


def test_a_whole_float_passes_as_an_int_everywhere() -> None:
    """In the served text as well, so that a client's decoder takes it; a value that fits is not rewritten."""
    body = position(1, [order(1, at=4242, src=7, price=1.50)], open_ms=4243, fee_history=[FEE], note=5.0)
    file = (
        encoded(body)
        .replace(b"4242", b"4242.0")
        .replace(b"4243", b"4.243e3")
        .replace(b'"src": 7', b'"src": 7.0')
    )
    parsed, text = parse_position(file, [])
    assert (parsed.open_ms, parsed.orders[0].processed_ms, parsed.orders[0].src) == (4243, 4242, 7)
    assert parsed.fee_history == [FeeEvent(time_ms=4244, fee_type="carry", amount=2.0)]
    assert b'"processed_ms":4242,' in text.json()
    assert b'"open_ms":4243,' in text.json()
    assert b'"note":5.0' in text.json()


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "-Infinity"])
def test_nan_becomes_null(odd: str) -> None:
    """Wherever it is but in strings; a state that may not be null has its default."""
    body = position(1, [order(1, note=odd, x=1.75)], note={"x": [1.75]}, average_entry_price=1.75)
    parsed, text = parse_position(encoded(body).replace(b"1.75", odd.encode()), [])
    served = json.loads(text.json())
    assert (served["orders"][0]["note"], served["orders"][0]["x"], served["note"]) == (
        odd,
        None,
        {"x": [None]},
    )
    assert served["average_entry_price"] == parsed.average_entry_price == 0.0
    assert text.position() == parsed


def test_nan_behind_a_value_that_does_not_fit() -> None:
    """The decoder stops at the first of the two."""
    body = position(1, [order(1, x=1.75)], close_ms="x")
    problems: list[str] = []
    _, text = parse_position(encoded(body).replace(b"1.75", b"NaN"), problems)
    served = json.loads(text.json())
    assert (served["close_ms"], served["orders"][0]["x"]) == (None, None)
    assert problems == ["close_ms has an odd value"]


@pytest.mark.parametrize("odd", ["1e400", "-1e999", "1" * 5000])
def test_a_number_beyond_a_float_costs_no_more_than_itself(odd: str) -> None:
    """It becomes null, in known and unknown keys, of the position and of an order."""
    body = position(1, [order(1, bid=1.75), order(2, note=1.75)], net_leverage=1.75, note=[1.75])
    problems: list[str] = []
    _, text = parse_position(encoded(body).replace(b"1.75", odd.encode()), problems)
    served = json.loads(text.json())
    assert (served["net_leverage"], served["note"]) == (0.0, [None])
    assert [o["order_uuid"] for o in served["orders"]] == [o["order_uuid"] for o in body["orders"]]
    assert served["orders"][1]["note"] is None
    assert problems == ["net_leverage has an odd value"]  # which may not be null


def test_half_a_surrogate_pair_costs_no_more_than_itself() -> None:
    """U+FFFD takes its place; whole pairs stay."""
    body = position(1, [order(1, note="\ud83d\ud83d\ude00 \\ud800")], note="\udc00", close_ms="x")
    _, text = parse_position(encoded(body), [])
    served = json.loads(text.json())
    assert (served["note"], served["orders"][0]["note"]) == ("\ufffd", "\ufffd\U0001f600 \\ud800")


UNREADABLE: list[tuple[Any, str]] = [
    (None, "orders[1] was left out: Expected `object`, got `null`"),
    ({"order_uuid": None}, "orders[1] was left out: Expected `str`, got `null`"),
    ({"order_uuid": ""}, "orders[1] was left out: empty uuid"),
    ({"processed_ms": "5"}, "orders[1] was left out: Expected `int`, got `str`"),
    ({"processed_ms": 1.5}, "orders[1] was left out: Expected `int`, got `float`"),
    ({"processed_ms": -1}, "orders[1] was left out: time is negative or absurd"),
    ({"order_type": "BUY"}, "orders[1] was left out: Invalid enum value 'BUY'"),
]


@pytest.mark.parametrize(("change", "problem"), UNREADABLE)
def test_one_order_that_cannot_be_understood_hides_no_other(change: Any, problem: str) -> None:
    """It is left out and named. Without a list for the names the position is refused."""
    bad = change if change is None else order(2) | change
    body = position(1, [order(1), bad or order(2), order(3)])
    body["orders"][1] = bad
    problems: list[str] = []
    parsed, text = parse_position(encoded(body), problems)
    assert problems == [problem]
    assert [o.order_uuid for o in parsed.orders] == [order(1)["order_uuid"], order(3)["order_uuid"]]
    assert json.loads(text.json())["orders"] == [order(1), order(3)]
    with pytest.raises(InvalidInputError):
        parse_position(encoded(body))


@pytest.mark.parametrize(
    ("where", "key", "value", "shown"),
    [
        ("order", "price_sources", [None, 5, "x", {"bid": "high", "start_ms": 1.0}, [[]]], "unchanged"),
        ("order", "price_sources", "none", None),
        ("order", "limit_price", "high", None),
        ("order", "src", 2.5, None),
        ("order", "leverage", None, "unchanged"),
        ("order", "trailing_stop", [1], None),
        ("order", "novelty", [None, {}], "unchanged"),
        ("position", "last_price_source", [None, 5], "unchanged"),
        ("position", "trade_pair", {"trade_pair_id": "BTCUSD"}, "unchanged"),
        ("position", "last_stock_split_date", 20260101, None),
        ("position", "realized_pnl", "x", None),
        ("position", "fee_history", "x", None),
    ],
)
def test_a_value_of_a_wrong_type_becomes_null(where: str, key: str, value: Any, shown: Any) -> None:
    """Only what a client could not decode; nothing else of the position changes."""
    body = position(1, [order(1)], fee_history=[FEE])
    (body if where == "position" else body["orders"][0])[key] = value
    parsed, text = parse_position(encoded(body), [])
    served = json.loads(text.json())
    wanted = json.loads(encoded(body))
    (wanted if where == "position" else wanted["orders"][0])[key] = value if shown == "unchanged" else shown
    assert served == wanted
    assert text.position() == parsed


@patient
@given(
    st.dictionaries(
        st.sampled_from(sorted({*Position.__struct_fields__} - {"orders"})), json_values, max_size=3
    ),
    st.dictionaries(st.sampled_from(sorted(Order.__struct_fields__)), json_values, max_size=3),
)
def test_any_values(position_keys: dict[str, Any], order_keys: dict[str, Any]) -> None:
    """Either the position is refused, or its text decodes again, with every order that is sound."""
    body = position(1, [order(1), order(2), order(3)], fee_history=[FEE]) | position_keys
    body["orders"][1] |= order_keys
    try:
        parsed, text = parse_position(encoded(body), [])
    except InvalidInputError:
        decisive = {"miner_hotkey", "position_uuid", "open_ms", "close_ms"}
        assert decisive & position_keys.keys() or b"\\ud" in encoded(body)  # or half a character
        return
    assert text.position() == parsed
    assert json.loads(text.json()).keys() == body.keys()
    assert {order(1)["order_uuid"], order(3)["order_uuid"]} <= {o.order_uuid for o in parsed.orders}
    assert parse_position(text.json()) == (parsed, text)


def test_a_position_of_malformed_orders_is_refused_early() -> None:
    """A file of 3 MB may have a million of them, and other positions wait meanwhile."""
    body = encoded(position(1, [])).replace(b"[]", b"[" + b"{}," * 10_001 + b"{}]")
    problems: list[str] = []
    with pytest.raises(InvalidInputError, match="more than 10,000 malformed orders"):
        parse_position(body, problems)
    assert problems == []


def test_an_order_without_a_price() -> None:
    """Has the price 0, as one of the validator that was forced without a price."""
    problems: list[str] = []
    parsed, text = parse_position(encoded(position(1, [order(1, price=None)])), problems)
    assert parsed.orders[0].price == 0.0
    assert json.loads(text.json())["orders"][0]["price"] == 0.0
    assert problems == ["orders[0].price has an odd value"]


def test_a_malformed_event_hides_no_other() -> None:
    """A fee or a dividend without a time cannot be delayed, and is left out."""
    fees, paid = [FEE, None, {"fee_type": "carry"}], {"time_ms": 5.0, "type": "long_credit"}
    problems: list[str] = []
    body = position(1, [order(1)], fee_history=fees, dividend_history=[paid, 7])
    parsed, text = parse_position(encoded(body), problems)
    served = json.loads(text.json())
    assert (served["fee_history"], served["dividend_history"]) == ([FEE], [paid])
    assert [len(parsed.fee_history or []), len(parsed.dividend_history or [])] == [1, 1]
    assert [problem.partition(":")[0] for problem in problems] == [
        "fee_history[1] was left out",
        "fee_history[2] was left out",
        "dividend_history[1] was left out",
    ]


@pytest.mark.parametrize("name", ["positions_2024", "miner_2025_ck", "miner_2025_tm"])
def test_positions_of_the_live_network(name: str) -> None:
    """Both schemas are read, and the texts equal the files."""
    document = shared(f"real/{name}.json.gz")
    for body in document if isinstance(document, list) else document["positions"]:
        parsed, text = parse_position(encoded(body))
        assert json.loads(text.json()) == body
        assert len(parsed.orders) == len(text.orders) == len(body["orders"])


@pytest.mark.parametrize("where", ["position", "order"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused(where: str, opening: str, closing: str) -> None:
    """Unknown keys are passed on unchanged, so their depth must not break a client's parser."""

    def nested(depth: int) -> bytes:
        body = position(1, [order(1, **({"x": 0} if where == "order" else {}))])
        body |= {"x": 0} if where == "position" else {}
        deep = opening * depth + ("1" if opening != "[" else "") + closing * depth
        return encoded(body).replace(b'"x": 0', b'"x": ' + deep.encode())

    parse_position(nested(40))
    with pytest.raises(InvalidInputError, match="deeply") as refused:
        parse_position(nested(60))
    assert refused.value.code == "bad_value"


def test_brackets_in_strings_and_in_sequence_are_not_nesting() -> None:
    """Only brackets inside brackets count."""
    text = "[{" * 500 + '"' + "\\"
    _, parsed = parse_position(encoded(position(1, [order(1, note=text, flat=[[{}]] * 500)], note=text)))
    assert json.loads(parsed.json())["note"] == text
