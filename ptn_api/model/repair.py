"""JSON that a validator wrote in an unusual way, made to fit: NaN, half characters, whole floats, odd values.

Older validators write NaN and Infinity, which are not JSON; today's write some integers as `1764410400000.0`.
Only what does not fit is changed, everything else stays as it was written.
"""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

__all__ = ["fitting", "repair_list", "repair_object", "sound_json"]

_OUTLINE = bytes.maketrans(b"123456789E+", b"000000000e0")
_SUSPECTS = (b"NaN", b"Infinity", b"e000", b"0" * 309)
"""What a value beyond JSON or beyond a float contains, after `_OUTLINE`; `1e+16` does as well."""
_SUSPECT = re.compile(rb"NaN|Infinity|e000|0{309}")
_WORD = re.compile(rb"[-+.0-9A-Za-z]+")
_NOT_A_NUMBER = re.compile(rb"-?(?:NaN|Infinity)")
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_HALVES = (b"\\ud", b"\\uD")
"""How an escape of a surrogate begins."""
_HEX = rb"[0-9a-fA-F]"
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB]%b{2}\\u[dD][c-fC-F]%b{2}|(u[dD][89a-fA-F]%b{2})|.)" % (_HEX, _HEX, _HEX), re.DOTALL
)
"""An escape in a string: a pair of surrogates, half of one (group 1), or another."""
_SLICE = 4 << 20
"""Bytes that are searched at a time, so that other threads get a turn."""
_LONGEST_SUSPECT = 309
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_NULL = b"null"


def sound_json(text: bytes) -> bytes:
    """Returns JSON with null in place of NaN, infinities and numbers beyond a float, and U+FFFD in place of
    half surrogate pairs.

    Older validators write the former; Python passes on the latter as a miner sent them. Any other fault
    stays, for a decoder to refuse. If nothing is to be replaced, returns the same object, quickly: content of
    60 MB is common.
    """
    if any(
        text.find(mark, at, at + _SLICE + 2) >= 0 for mark in _HALVES for at in range(0, len(text), _SLICE)
    ):
        text = _ESCAPE.sub(lambda escape: b"\\ufffd" if escape[1] else escape[0], text)
    sound, view = io.BytesIO(), memoryview(text)  # which copy the text once, not once per word
    copied = seen = 0
    in_string = False
    for start, end in _suspects(text):
        # An even number of quotes before it, apart from escaped ones: not in a string.
        quotes = text.count(b'"', seen, start)
        if text.find(b"\\", seen, start) >= 0:
            before = text[seen:start].replace(b"\\\\", b"")
            quotes = before.count(b'"') - before.count(b'\\"')
        in_string ^= quotes % 2 == 1
        seen = end
        word = text[start:end]
        is_value = _NOT_A_NUMBER.fullmatch(word) or (_NUMBER.fullmatch(word) and math.isinf(float(word)))
        if is_value and not in_string:
            sound.write(view[copied:start])
            sound.write(_NULL)
            copied = end
    if not copied:
        return text
    sound.write(view[copied:])
    return sound.getvalue()


def _suspects(text: bytes) -> Iterator[tuple[int, int]]:
    """Yields the words that may have to be replaced, by their bounds."""
    done = 0
    for at in range(0, len(text), _SLICE):
        # The slices overlap: a suspect may lie across their border.
        outline = text[at : at + _SLICE + _LONGEST_SUSPECT].translate(_OUTLINE)
        if not any(suspect in outline for suspect in _SUSPECTS):
            continue
        for match in _SUSPECT.finditer(outline):
            start = at + match.start()
            if start < done:
                continue
            while start > done and _WORD.match(text, start - 1):
                start -= 1
            word = _WORD.match(text, start)
            if word:
                done = word.end()
                yield start, done


def repair_object(text: bytes, kind: type[msgspec.Struct], problems: list[str]) -> dict[str, msgspec.Raw]:
    """Returns a JSON object's keys with values that fit the struct; unknown keys are kept.

    A whole float becomes an int. Another value that does not fit becomes null, or the field's default where
    null does not fit either, and is named in `problems`. Raises msgspec.ValidationError if it is required.
    """
    fields = _raw_object.decode(text)
    for field in _fields(kind):
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
            _decoder(field.type).decode(value)  # raises
        problems.append(name)
        default = None if _fits(_NULL, field.type) else field.default
        fields[name] = msgspec.Raw(msgspec.json.encode(default))
    return fields


def repair_list(
    text: bytes,
    kind: type[msgspec.Struct],
    problems: list[str],
    *,
    name: str,
    most_left_out: int = sys.maxsize,
) -> list[bytes]:
    """Returns the elements of a JSON list that fit the struct, repaired if need be.

    The others are left out and named in `problems`. Raises msgspec.ValidationError if it is not a list, or if
    these are more than `most_left_out`: a million of them would take seconds.
    """
    repaired: list[bytes] = []
    left_out = 0
    for index, element in enumerate(_raw_list.decode(text)):
        odd: list[str] = []
        try:
            if not _fits(element, kind):
                element = msgspec.Raw(msgspec.json.encode(repair_object(element, kind, odd)))
                _decoder(kind).decode(element)
            msgspec.json.decode(element)  # unknown keys too
        except msgspec.ValidationError as error:
            problems.append(f"{name}[{index}] was left out: {error}")
            left_out += 1
            if left_out > most_left_out:
                raise msgspec.ValidationError(f"more than {most_left_out:,} malformed {name}") from None
            continue
        problems += [f"{name}[{index}].{key} has an odd value" for key in odd]
        repaired.append(bytes(element))
    return repaired


def fitting(text: bytes | msgspec.Raw, kind: Any) -> msgspec.Raw:
    """Returns the JSON without the fields, elements and members that do not fit the type.

    For decoders that are not strict. Raises msgspec.ValidationError if nothing of it fits, or something that
    is required does not.
    """
    try:
        msgspec.json.decode(text, type=kind, strict=False)
        return msgspec.Raw(text)
    except msgspec.ValidationError as found:
        error = found
    while get_origin(kind) in (UnionType, Union):  # or null
        kind = get_args(kind)[0]
    if get_origin(kind) is list:
        elements = (_fitting_or_none(element, get_args(kind)[0]) for element in _raw_list.decode(text))
        return msgspec.Raw(msgspec.json.encode([element for element in elements if element is not None]))
    if get_origin(kind) is dict:
        types = dict.fromkeys(_raw_object.decode(text), get_args(kind)[1])
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        types = {field.encode_name: field.type for field in _fields(kind)}
    else:
        raise error
    members = {
        name: _fitting_or_none(value, types.get(name, Any))
        for name, value in _raw_object.decode(text).items()
    }
    result = msgspec.json.encode({name: value for name, value in members.items() if value is not None})
    msgspec.json.decode(result, type=kind, strict=False)
    return msgspec.Raw(result)


def _fitting_or_none(text: msgspec.Raw, kind: Any) -> msgspec.Raw | None:
    try:
        return fitting(text, kind)
    except msgspec.ValidationError:
        return None


# Both are slow to make, and a list may have a million odd elements.
_fields = cache(msgspec.structs.fields)
_decoder = cache(msgspec.json.Decoder)


def _fits(value: bytes | msgspec.Raw, kind: Any) -> bool:
    try:
        _decoder(kind).decode(value)
    except msgspec.ValidationError:
        return False
    return True
