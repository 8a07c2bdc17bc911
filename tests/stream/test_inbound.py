"""Fragments become messages, whatever their cuts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.errors import InvalidInputError
from ptn_api.stream.deflate import compress
from ptn_api.stream.inbound import CONTINUATION, MessageReader

TEXT = 1


@given(st.binary(max_size=500), st.lists(st.integers(0, 500), max_size=5), st.booleans())
def test_a_message_is_the_same_however_it_is_cut(message: bytes, cuts: list[int], compressed: bool) -> None:
    """In one frame or many, compressed or not, one message after another."""
    reader = MessageReader(limit=2_000, deflate=True)
    wire = compress(message) if compressed else message
    bounds = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for _ in range(2):
        got = None
        for i in range(len(bounds) - 1):
            assert got is None
            got = reader.feed(
                TEXT if i == 0 else CONTINUATION,
                wire[bounds[i] : bounds[i + 1]],
                fin=i == len(bounds) - 2,
                compressed=compressed and i == 0,
            )
        assert got == message


def test_the_limit_holds_for_all_fragments_together() -> None:
    """Refused at the fragment that passes it."""
    reader = MessageReader(limit=10, deflate=False)
    assert reader.feed(TEXT, b"12345", fin=False, compressed=False) is None
    assert reader.feed(CONTINUATION, b"67890", fin=False, compressed=False) is None
    with pytest.raises(InvalidInputError) as caught:
        reader.feed(CONTINUATION, b"x", fin=True, compressed=False)
    assert caught.value.code == "too_big"
