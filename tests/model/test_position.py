"""Reading positions, and their text, cut at the orders."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.errors import InvalidInputError
from ptn_api.model.position import Position, parse_position
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
        (encoded(position(1, [order(0)], current_return=float("nan"))), "not_json"),
        (b'{"deep":' + b"[" * 100_000, "not_json"),
        (b"[]", "not_a_position"),
        (b"{}", "not_a_position"),
        (encoded({k: v for k, v in position(1, []).items() if k != "orders"}), "not_a_position"),
        (encoded(position(1, []) | {"orders": {}}), "not_a_position"),
        (encoded(position(1, [order(0, order_type="BUY")])), "not_a_position"),
        (encoded(position(1, [order(0, at=-1)])), "bad_value"),
        (encoded(position(1, [order(0, at=1 << 53)])), "bad_value"),
        (encoded(position(1, [order(0)], open_ms=-T0)), "bad_value"),
        (encoded(position(1, [order(0, order_uuid="")])), "bad_value"),
        (encoded(position(1, [order(0)], position_uuid="")), "bad_value"),
        (encoded(position(1, [order(0)], note=4242)).replace(b"4242", b"1e400"), "not_a_position"),
        (encoded(position(1, [order(0, note=4242)])).replace(b"4242", b"-1e999"), "not_a_position"),
        (encoded(position(1, [order(0)], note=4242)).replace(b"4242", b"1" * 5000), "not_a_position"),
        (encoded(position(1, [order(0)], note="x")).replace(b'"x"', b'"\\ud800"'), "not_json"),
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
