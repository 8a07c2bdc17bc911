"""JSON that a validator wrote in an unusual way, made to fit: NaN, whole floats for integers, odd values.

Older validators write NaN and Infinity, which are not JSON; today's write some integers as `1764410400000.0`.
Only what does not fit is changed, everything else stays as it was written.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

__all__ = ["null_for_nan", "repair_list", "repair_object"]

_STRING_OR_NAN = re.compile(rb'"(?:[^"\\]+|\\.)*"|-?\b(?:NaN|Infinity)\b')
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_NULL = b"null"


def null_for_nan(text: bytes) -> bytes:
    """Returns the text with null for NaN and infinities; text without them is returned as it is."""
    if b"NaN" not in text and b"Infinity" not in text:
        return text
    return _STRING_OR_NAN.sub(lambda token: token[0] if token[0][:1] == b'"' else b"null", text)


def repair_object(text: bytes, kind: type[msgspec.Struct], problems: list[str]) -> dict[str, msgspec.Raw]:
    """Returns a JSON object's keys with values that fit the struct; unknown keys are kept.

    A whole float becomes an int. Another value that does not fit becomes null, or the field's default where
    null does not fit either, and is named in `problems`. Raises msgspec.ValidationError if it is required.
    """
    fields = _raw_object.decode(text)
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        if name not in fields:
            continue
        value = fields[name]
        if _fits(value, field.type):
            continue
        plain = msgspec.json.decode(value)
        if isinstance(plain, float) and plain.is_integer():
            fields[name] = msgspec.Raw(b"%d" % int(plain))
            if _fits(fields[name], field.type):
                continue
        if field.required:
            msgspec.json.decode(value, type=field.type)  # raises
        problems.append(name)
        default = None if _fits(_NULL, field.type) else field.default
        fields[name] = msgspec.Raw(msgspec.json.encode(default))
    return fields


def repair_list(
    text: bytes, kind: type[msgspec.Struct], problems: list[str], *, name: str = ""
) -> list[bytes]:
    """Returns the elements of a JSON list that fit the struct, repaired if need be.

    The others are left out and named in `problems`. Raises msgspec.ValidationError if it is not a list.
    """
    repaired: list[bytes] = []
    for index, element in enumerate(_raw_list.decode(text)):
        odd: list[str] = []
        try:
            if not _fits(element, kind):
                element = msgspec.Raw(msgspec.json.encode(repair_object(element, kind, odd)))
                msgspec.json.decode(element, type=kind)
            msgspec.json.decode(element)  # unknown keys too
        except msgspec.ValidationError as error:
            problems.append(f"{name}[{index}] was left out: {error}")
            continue
        problems += [f"{name}[{index}].{key} has an odd value" for key in odd]
        repaired.append(bytes(element))
    return repaired


def _fits(value: bytes | msgspec.Raw, kind: Any) -> bool:
    try:
        msgspec.json.decode(value, type=kind)
    except msgspec.ValidationError:
        return False
    return True
