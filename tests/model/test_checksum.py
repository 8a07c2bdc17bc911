"""The checksum by which a mirror knows that it equals the server's state (docs/protocol.md, 4)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.model.checksum import CHECKSUM_MODULUS, position_checksum
from ptn_api.model.position import parse_position
from ptn_api.model.rendering import AS_IS, render_position
from tests.factories import T0, order, position
from tests.model.histories import patient
from tests.model.test_position import json_values


def first_eight_bytes(canonical: str) -> int:
    return int(hashlib.sha256(canonical.encode()).hexdigest()[:16], 16)


def checksum(body: dict[str, Any]) -> int:
    return position_checksum(json.dumps(body).encode())


def test_by_hand() -> None:
    """Keys sorted at every depth, no white space, no escapes, floats as Python writes them."""
    body = (
        '{"trade_pair": ["é", 7e-05, 1E2], "position_uuid": "u", "miner_hotkey": "m", "close_ms": 0, '
        '"is_closed_position": false, "orders": [{"src": 0, "leverage": 0.10, "price_sources": [{}]}]}'
    )
    assert position_checksum(body.encode()) == first_eight_bytes(
        '{"close_ms":null,"is_closed_position":false,"miner_hotkey":"m","orders":[{"leverage":0.1,"src":0}],'
        '"position_uuid":"u","trade_pair":["é",7e-05,100.0]}'
    )


@patient
@given(st.dictionaries(st.text(), json_values, max_size=3), st.booleans())
def test_it_is_that_of_the_json_modules_text(extra: dict[str, Any], closed: bool) -> None:
    """For any other keys of a position."""
    body = extra | position(1, [order(1) | {"note": extra}], closed=closed)
    canonical = json.loads(json.dumps(body))
    for each in canonical["orders"]:
        del each["price_sources"]
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert checksum(body) == first_eight_bytes(text) < CHECKSUM_MODULUS


def test_bytes_and_text_agree() -> None:
    """A file, and the text that it was cut into."""
    file = json.dumps(position(1, [order(1), order(2)])).encode()
    assert position_checksum(file) == position_checksum(parse_position(file)[1])


@pytest.mark.parametrize("closed", [False, True])
def test_a_rest_answer_has_the_same_checksum(closed: bool) -> None:
    """A mirror that began with a snapshot agrees: close_ms 0 counts as null, price sources are ignored."""
    body = position(1, [order(1, price_sources=[{"source": "x"}])], closed=closed)
    parsed, text = parse_position(json.dumps(body).encode())
    answer = render_position(text, parsed, AS_IS, T0 + 10**10)
    assert b'"source"' not in answer
    assert position_checksum(answer) == position_checksum(text)


@pytest.mark.parametrize(
    "change", [{"current_return": 1.0100001}, {"note": None}, {"orders": []}, {"close_ms": T0 + 1}]
)
def test_any_other_difference_shows(change: dict[str, Any]) -> None:
    """Values, keys and orders."""
    body = position(1, [order(1)], closed=True)
    assert checksum(body | change) != checksum(body)
