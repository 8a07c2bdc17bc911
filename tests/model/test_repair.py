"""JSON that a validator wrote in an unusual way is made to fit, and nothing else is changed."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.model import repair
from ptn_api.model.repair import sound_json
from tests.properties import tries

_TEXTS = st.text('NaInfity-+e0139.,:[]{}\\"\u00e9 ', max_size=12)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=20,
)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_finite(element) for element in value]
    return {key: _finite(member) for key, member in value.items()} if isinstance(value, dict) else value


def _refuse(word: str) -> None:
    raise AssertionError(word)


@tries(400)
@given(_VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_null_takes_the_place_of_what_is_not_a_number(value: Any, is_ascii: bool, indent: int | None) -> None:
    """Strings that look like one stay, and so does everything else, byte for byte."""
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode()
    sound = sound_json(text)
    assert json.loads(sound, parse_constant=_refuse) == _finite(value)
    assert sound == json.dumps(_finite(value), ensure_ascii=is_ascii, indent=indent).encode()


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        (b"[1e999,-1E+400,1e5,1e-999]", b"[null,null,1e5,1e-999]"),
        (b"[" + b"1" * 400 + b"," + b"9" * 308 + b"]", b"[null," + b"9" * 308 + b"]"),
        (b'["1e999", "5Ge123NaN", "\\"", 1e999]', b'["1e999", "5Ge123NaN", "\\"", null]'),
        (b"[NaNs, xNaN, 1e9999x]", b"[NaNs, xNaN, 1e9999x]"),
        (b"[1e+16,1.5E+22,-1e+308,2e+308]", b"[1e+16,1.5E+22,-1e+308,null]"),
    ],
)
def test_numbers_beyond_a_float_are_none(text: bytes, sound: bytes) -> None:
    """They would be infinite to some readers and an error to others. Words that are wrong stay wrong."""
    assert sound_json(text) == sound


@given(st.text('\ud800\udfff\\u"d8\U0001f4a5', max_size=12))
def test_a_replacement_takes_the_place_of_half_a_surrogate_pair(value: str) -> None:
    """Pairs, and backslashes that are no escape of one, stay."""
    text = json.dumps({value: [value, math.nan]}).encode()
    whole = json.loads(json.dumps(value))  # two halves in a row are a pair
    expected = whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert msgspec.json.decode(sound_json(text)) == {expected: [expected, None]}


def test_sound_text_is_not_copied() -> None:
    """The same object is returned, however large."""
    text = b"[" + b"0.5," * 100_000 + b"1]"
    assert sound_json(text) is text


def test_unsound_text_is_copied_once() -> None:
    """Ledgers of 100 MB contain NaN, too."""
    text = b"[" + b"0.5," * 3_000_000 + b"NaN," * 3 + b"0.5," * 2_000_000 + b"1]"
    tracemalloc.start()
    try:
        sound = sound_json(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(sound) == len(text) + 3
    assert peak < 1.6 * len(text)


@pytest.mark.parametrize("offset", range(-12, 3))
def test_a_word_may_lie_anywhere(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across the border of two slices as well."""
    monkeypatch.setattr(repair, "_SLICE", 1_000)
    before = b"[" + b"0," * 499
    text = before[: 1_000 + offset].rstrip(b"0") + b"-Infinity,1e999,1]"
    assert json.loads(sound_json(text))[-3:] == [None, None, 1]
