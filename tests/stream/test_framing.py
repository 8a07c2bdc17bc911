"""Frames made by hand are read by the library that clients use."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.streams import StreamReader

from ptn_api.stream.framing import PONG, TEXT, frame, joined


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
@pytest.mark.parametrize("opcode", [TEXT, PONG])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_frame_of_any_size_is_read_back(size: int, opcode: int, compressed: bool) -> None:
    """Every form of the length, the opcode and the compression bit; the extension itself is not played."""
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
    """No write joins more than 64 KiB; one that is alone is handed on as it is, not copied."""
    writes = list(joined(frames))
    assert b"".join(writes) == b"".join(frames)
    for data in writes:
        assert len(data) <= 65_536 or any(data is one for one in frames)
    assert all(len(data) + len(following) > 65_536 for data, following in pairwise(writes))
