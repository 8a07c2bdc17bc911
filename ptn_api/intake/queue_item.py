"""Items of a validator's queue as plain JSON lines: what travels from the validator to intake."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec

from ptn_api.errors import InvalidInputError

__all__ = ["encode_item"]

_DUMPS = ("model_dump", "to_dict")


def encode_item(item: Any) -> bytes:
    """One line of JSON, its newline included: `{"position": {...}, ...}` with enum members as their values.

    The position, and what is in it, may be mappings, sequences, dataclasses, or objects that offer
    `model_dump()` or `to_dict()`; numbers may be NumPy's. Raises InvalidInputError with code
    `not_a_position` for an item that holds no position and for a value that has no plain form, and
    `bad_value` for a number that JSON cannot hold.
    """
    try:
        plain = _plain(item)
    except InvalidInputError:
        raise
    except RecursionError:
        raise InvalidInputError("nested too deeply", code="not_a_position") from None
    except Exception as error:  # protects the pump from what an item's own methods raise
        problem = f"its content cannot be had: {type(error).__name__}"
        raise InvalidInputError(problem, code="not_a_position") from error
    if not isinstance(plain, dict) or not isinstance(plain.get("position"), dict):
        raise InvalidInputError("no position in it", code="not_a_position", field="position")
    if not isinstance(plain["position"].get("orders"), list):
        raise InvalidInputError("no list of orders", code="not_a_position", field="orders")
    return _encode(plain)


def _encode(plain: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(plain) + b"\n"
    except (OverflowError, UnicodeEncodeError, ValueError) as error:
        raise InvalidInputError(f"no JSON: {error}", code="bad_value") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):  # before str and int, which an enum member may be as well
        return _plain(value.value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float, Decimal)):
        return _number(value)
    if isinstance(value, Mapping):
        return {_name(key): _plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(member) for member in value]
    return _plain_object(value)


def _number(value: int | float | Decimal) -> int | float:
    if isinstance(value, int):
        return int(value)
    if not math.isfinite(value):
        raise InvalidInputError("a number that is not finite", code="bad_value")
    return float(value)


def _name(key: Any) -> str:
    plain = _plain(key)
    return plain if isinstance(plain, str) else str(plain)


def _plain_object(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    for name in _DUMPS:
        if callable(dump := getattr(value, name, None)):
            return _plain(dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if callable(scalar := getattr(value, "item", None)):  # NumPy's numbers
        return _plain(scalar())
    raise InvalidInputError(f"no plain form for {type(value).__name__}", code="not_a_position")
