"""Frames and permessage-deflate, read back by the libraries that clients use."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.streams import StreamReader

from ptn_api.errors import InvalidInputError
from ptn_api.fanout.encoding import join_frames
from ptn_api.stream.framing import (
    CONTINUATION,
    PONG,
    TEXT,
    MessageReader,
    compress,
    frame,
    inflate,
    negotiate,
)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
@pytest.mark.parametrize("opcode", [TEXT, PONG])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_frame_of_any_size_is_read_back(size: int, opcode: int, compressed: bool) -> None:
    """Every length format, both opcodes, with and without the compression bit."""
    data = frame(b"x" * size, opcode=opcode, compressed=compressed)
    assert (data[0] & 0x40 != 0) == compressed
    if size > 125 and opcode == PONG:
        return  # no control frame is that long
    reader = StreamReader()
    reader.feed_data(bytes([data[0] & ~0x40]) + data[1:])
    parsing = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    assert parsed.value.value == Frame(opcode, b"x" * size)  # type: ignore[arg-type]


@given(st.lists(st.binary(min_size=1, max_size=10).map(lambda some: some * 5_000), max_size=40))
def test_joined_frames_are_the_same_bytes_in_fewer_writes(frames: list[bytes]) -> None:
    """No write joins more than 64 KiB; a single frame is not copied."""
    writes = list(join_frames(frames))
    assert b"".join(writes) == b"".join(frames)
    for data in writes:
        assert len(data) <= 65_536 or any(data is one for one in frames)
    assert all(len(data) + len(following) > 65_536 for data, following in pairwise(writes))


@given(st.binary(max_size=500), st.lists(st.integers(0, 500), max_size=5), st.booleans())
def test_a_message_is_the_same_however_it_is_fragmented(
    message: bytes, cuts: list[int], compressed: bool
) -> None:
    """In one frame or several, compressed or not, one message after another."""
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
    """The fragment that exceeds it is refused."""
    reader = MessageReader(limit=10, deflate=False)
    assert reader.feed(TEXT, b"12345", fin=False, compressed=False) is None
    assert reader.feed(CONTINUATION, b"67890", fin=False, compressed=False) is None
    with pytest.raises(InvalidInputError) as caught:
        reader.feed(CONTINUATION, b"x", fin=True, compressed=False)
    assert caught.value.code == "too_big"


# --- permessage-deflate ---

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
def test_an_offer_is_accepted_or_declined(offer: str, answer: str | None) -> None:
    """The first acceptable offer counts; a smaller server window is not acceptable."""
    assert negotiate(offer) == answer


@given(st.binary(max_size=5_000))
def test_any_inflater_reads_the_compressed_payload(payload: bytes) -> None:
    """Without its last four bytes (RFC 7692), and without a context."""
    deflated = compress(payload)
    assert zlib.decompressobj(-15).decompress(deflated + b"\x00\x00\xff\xff") == payload
    assert inflate(deflated, max(1, len(payload))) == payload


@given(st.binary(max_size=300), st.integers(1, 200))
def test_any_input_is_inflated_within_the_limit_or_refused(data: bytes, limit: int) -> None:
    """Random bytes, truncated streams, bombs."""
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
