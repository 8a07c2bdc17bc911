"""permessage-deflate by hand: what is agreed to, and what goes through it."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.errors import InvalidInputError
from ptn_api.stream.deflate import compress, inflate, negotiate

AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("", None),
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate", AGREED),
        ("permessage-deflate; client_max_window_bits", AGREED),
        ("Permessage-Deflate; client_max_window_bits=10", AGREED),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", AGREED),
        ('permessage-deflate; server_max_window_bits="15"', AGREED + "; server_max_window_bits=15"),
        ("permessage-deflate; server_max_window_bits=12", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; client_max_window_bits=99", None),
        ("permessage-deflate; unknown", None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("foo, permessage-deflate; server_max_window_bits=9, permessage-deflate", AGREED),
    ],
)
def test_an_offer_is_agreed_to_or_declined(offer: str, answer: str | None) -> None:
    """The first offer that can be kept; a smaller window of the server's cannot."""
    assert negotiate(offer) == answer


@given(st.binary(max_size=5_000))
def test_what_is_compressed_is_read_by_any_inflater(payload: bytes) -> None:
    """Without its last four bytes, as RFC 7692 has it, and without a context."""
    deflated = compress(payload)
    assert zlib.decompressobj(-15).decompress(deflated + b"\x00\x00\xff\xff") == payload
    assert inflate(deflated, max(1, len(payload))) == payload


@given(st.binary(max_size=300), st.integers(1, 200))
def test_whatever_comes_is_inflated_within_the_limit_or_invalid_input(data: bytes, limit: int) -> None:
    """Garbage, truncated streams, bombs."""
    try:
        size = len(inflate(data, limit))
    except InvalidInputError:
        return
    assert size <= limit


def test_one_byte_too_many_is_too_big() -> None:
    """The limit itself is allowed."""
    deflated = compress(b"x" * 1_000)
    assert len(inflate(deflated, 1_000)) == 1_000
    with pytest.raises(InvalidInputError) as caught:
        inflate(deflated, 999)
    assert caught.value.code == "too_big"
