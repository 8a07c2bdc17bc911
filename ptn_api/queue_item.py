"""Items of a validator's queue as JSON lines, the format of the pipe from the validator to intake.

Imported in the validator's process: needs nothing but the standard library and msgspec.
"""

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


def encode_item(item: Any) -> bytes:
    """Returns one line of JSON with its newline: `{"position": {...}, ...}`, enum members as their values.

    The position and everything in it may be mappings, sequences, dataclasses, or objects with `model_dump()`
    or `to_dict()`; numbers may be NumPy's. Raises InvalidInputError with code `not_a_position` for an item
    without a position and for a value without a JSON form, `bad_value` for a number that JSON cannot hold.
    """
    try:
        plain = _plain(item)
    except InvalidInputError:
        raise
    except RecursionError:
        raise InvalidInputError("nested too deeply", code="not_a_position") from None
    except Exception as error:  # the item's own methods may raise anything; the pump must go on
        problem = f"its content cannot be read: {type(error).__name__}"
        raise InvalidInputError(problem, code="not_a_position") from error
    if not isinstance(plain, dict) or not isinstance(plain.get("position"), dict):
        raise InvalidInputError("no position in the item", code="not_a_position", field="position")
    if not isinstance(plain["position"].get("orders"), list):
        raise InvalidInputError("no list of orders", code="not_a_position", field="orders")
    try:
        return msgspec.json.encode(plain) + b"\n"
    except (OverflowError, UnicodeEncodeError, ValueError) as error:
        raise InvalidInputError(f"not JSON: {error}", code="bad_value") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):  # first: an enum member may be a str or an int as well
        return _plain(value.value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(value):
            raise InvalidInputError("a number that is not finite", code="bad_value")
        return float(value)
    if isinstance(value, Mapping):
        names = ((_plain(key), member) for key, member in value.items())
        return {name if isinstance(name, str) else str(name): _plain(member) for name, member in names}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(member) for member in value]
    return _plain_object(value)


def _plain_object(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    for name in ("model_dump", "to_dict"):
        if callable(dump := getattr(value, name, None)):
            return _plain(dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if callable(scalar := getattr(value, "item", None)):  # NumPy's numbers
        return _plain(scalar())
    raise InvalidInputError(f"no JSON form for {type(value).__name__}", code="not_a_position")
