"""Blocks join to valid streams, whatever they hold."""

from __future__ import annotations

import gzip
import io
import zlib

import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.http.block import Block, Run, gzip_parts

contents = st.lists(st.one_of(st.binary(max_size=200), st.binary(min_size=1).map(lambda b: b * 99)))


@given(contents)
def test_joined_deflate_blocks_are_one_gzip_stream(parts: list[bytes]) -> None:
    """Decoders that know nothing of members after the first read everything, and the checksum holds."""
    stream = b"".join(gzip_parts([Block(part) for part in parts]))
    decoder = zlib.decompressobj(31)
    assert decoder.decompress(stream) == b"".join(parts)
    assert decoder.eof
    assert decoder.unused_data == b""
    assert gzip.decompress(stream) == b"".join(parts)


@given(contents, contents)
def test_runs_join_like_their_blocks(one: list[bytes], other: list[bytes]) -> None:
    """However blocks are put together in runs, the stream is the very same, and a run's form is made once."""
    blocks = [Block(part) for part in [*one, *other]]
    runs = [Run(*blocks[: len(one)]), Run(*blocks[len(one) :])]
    assert b"".join(gzip_parts(runs)) == b"".join(gzip_parts(blocks))
    for coding in ("identity", "gzip", "zstd"):
        assert runs[0].forms(coding) is runs[0].forms(coding)
        assert [*runs[0].forms(coding), *runs[1].forms(coding)] == [b.encoded(coding) for b in blocks]
    assert [len(run) for run in runs] == [sum(map(len, one)), sum(map(len, other))]


@given(contents)
def test_joined_zstd_frames_are_a_zstd_stream(parts: list[bytes]) -> None:
    """Frames may follow each other; empty blocks leave no trace."""
    stream = b"".join(Block(part).encoded("zstd") for part in parts)
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(stream), read_across_frames=True)
    assert reader.read() == b"".join(parts)


def test_a_form_is_made_once() -> None:
    """Asking again costs nothing: the very same bytes come back."""
    block = Block(b"positions" * 100)
    assert not block.has("gzip")
    assert not block.has("zstd")
    assert block.has("identity")
    for coding in ("gzip", "zstd"):
        assert block.encoded(coding) is block.encoded(coding)
        assert block.has(coding)
