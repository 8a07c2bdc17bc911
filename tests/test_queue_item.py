"""Any item of a validator's queue becomes plain JSON, or is refused."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from ptn_api.errors import InvalidInputError
from ptn_api.intake.queue import parse_item
from ptn_api.queue_item import encode_item
from tests.factories import BTCUSD, order, position


class OrderType(enum.Enum):
    LONG = "LONG"


class Word(str, enum.Enum):
    LONG = "LONG"


class TradePair(enum.Enum):
    BTCUSD = tuple(BTCUSD)


class Float64:
    """A number as NumPy has it."""

    def item(self) -> float:
        return 2.5


class Pydantic:
    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self._fields


class Position:
    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def to_dict(self) -> dict[str, Any]:
        return self._fields


@dataclass
class Note:
    text: str


def test_enum_members_become_their_values() -> None:
    """As values and as keys, plain and string enums, nested ones too."""
    body = position(1, [order(1, order_type=OrderType.LONG)], trade_pair=TradePair.BTCUSD)
    line = encode_item({"position": body | {"position_type": Word.LONG}, Word.LONG: {OrderType.LONG: 1}})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"position": position(1, [order(1)]), "LONG": {"LONG": 1}}


def test_objects_and_numbers_of_other_libraries_become_plain() -> None:
    """model_dump, to_dict, dataclasses, NumPy's numbers, decimals, times, uuids, tuples."""
    moment = datetime(2025, 1, 2, tzinfo=timezone.utc)
    body = position(1, []) | {"orders": [Pydantic(order(1, price=Float64()))]}
    body |= {"a": (1, Decimal("1.5")), "b": moment, "c": UUID(int=7), "d": Note("x"), "e": None}
    got = json.loads(encode_item({"position": Position(body)}))["position"]
    assert got["orders"] == [order(1, price=2.5)]
    assert (got["a"], got["b"], got["c"], got["d"], got["e"]) == (
        [1, 1.5],
        moment.isoformat(),
        str(UUID(int=7)),
        {"text": "x"},
        None,
    )


def test_intake_reads_the_encoded_line() -> None:
    """Newlines inside strings do not split it."""
    body = position(1, [order(1)], note="one\ntwo\u2028three")
    item = parse_item(encode_item({"position": body, "other": 1}).rstrip(b"\n"))
    assert json.loads(item.text.json()) == body


class Endless(dict[str, Any]):
    def items(self) -> Any:
        return [("again", self)]


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (None, "not_a_position"),
        ("text", "not_a_position"),
        ({}, "not_a_position"),
        ({"position": None}, "not_a_position"),
        ({"position": {"orders": None}}, "not_a_position"),
        ({"position": {"orders": [], "x": object()}}, "not_a_position"),
        ({"position": Endless()}, "not_a_position"),
        ({"position": {"orders": [{"price": float("nan")}]}}, "bad_value"),
        ({"position": {"orders": [], "x": "\ud800"}}, "bad_value"),
    ],
)
def test_a_malformed_item_is_refused(item: Any, code: str) -> None:
    """With a code, and never with another exception, so that the pump goes on."""
    with pytest.raises(InvalidInputError) as refused:
        encode_item(item)
    assert refused.value.code == code
