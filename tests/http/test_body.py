"""Segments of any content join to valid streams."""

from __future__ import annotations

import gzip
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.http.body import (
    Body,
    EncodedBody,
    Segment,
    SegmentRun,
    StreamedBody,
    body_of,
    gzip_parts,
    tag_of,
)

contents = st.lists(st.one_of(st.binary(max_size=200), st.binary(min_size=1).map(lambda b: b * 99)))


@given(contents)
def test_joined_deflate_segments_are_one_gzip_stream(parts: list[bytes]) -> None:
    """One member only, which every decoder reads to the end; the checksum is right."""
    stream = b"".join(gzip_parts([Segment(part) for part in parts]))
    decoder = zlib.decompressobj(31)
    assert decoder.decompress(stream) == b"".join(parts)
    assert decoder.eof
    assert decoder.unused_data == b""
    assert gzip.decompress(stream) == b"".join(parts)


@given(contents, contents)
def test_runs_join_like_their_segments(one: list[bytes], other: list[bytes]) -> None:
    """Grouping segments into runs does not change the stream, and a run's form is made once."""
    segments = [Segment(part) for part in [*one, *other]]
    runs = [SegmentRun(*segments[: len(one)]), SegmentRun(*segments[len(one) :])]
    assert b"".join(gzip_parts(runs)) == b"".join(gzip_parts(segments))
    for coding in ("identity", "gzip"):
        assert runs[0].encoded_parts(coding) is runs[0].encoded_parts(coding)
        assert [*runs[0].encoded_parts(coding), *runs[1].encoded_parts(coding)] == [
            b.encoded(coding) for b in segments
        ]
    assert [len(run) for run in runs] == [sum(map(len, one)), sum(map(len, other))]
    nested = SegmentRun(*runs)
    assert b"".join(gzip_parts([nested])) == b"".join(gzip_parts(segments))
    assert (len(nested), Body([nested], "tag").segments) == (sum(map(len, runs)), segments)


@given(contents)
def test_zstd_is_offered_for_one_frame_only(parts: list[bytes]) -> None:
    """A one-shot decoder returns the first frame of several and no error."""
    body = Body([Segment(part) for part in parts], "tag")
    assert ("zstd" in body.codings) == (len(parts) == 1)
    assert "zstd" not in Body([SegmentRun(*body.segments)], "tag").codings
    if len(parts) == 1:
        encoded = body.encode("zstd")
        assert encoded is not None
        assert zstandard.ZstdDecompressor().decompressobj().decompress(b"".join(encoded.parts)) == parts[0]


def test_a_form_is_made_once() -> None:
    """A second request returns the same object."""
    segment = Segment(b"positions" * 100)
    assert not segment.is_encoded("gzip")
    assert not segment.is_encoded("zstd")
    assert segment.is_encoded("identity")
    for coding in ("gzip", "zstd"):
        assert segment.encoded(coding) is segment.encoded(coding)
        assert segment.is_encoded(coding)


def test_small_parts_are_joined_and_large_ones_cut_without_a_copy() -> None:
    """All bytes in order, in chunks of a size that a socket takes."""
    large = b"L" * 700_000
    parts = [b"a" * 10, b"b" * 20, large, b"c", b"d" * 240_000, b"e" * 240_000, b""]
    chunks = list(EncodedBody(parts).chunks())
    assert b"".join(chunks) == b"".join(parts)
    assert max(map(len, chunks)) <= 262_144
    assert len(chunks) == 1 + 3 + 2
    assert all(chunk.obj is large for chunk in chunks if isinstance(chunk, memoryview))


async def test_a_body_is_encoded_once_and_has_its_length() -> None:
    """A second call returns the same parts; the length is that of all parts."""
    body = Body([Segment(b"x" * 5000), Segment(b"y")], "tag")
    for coding in body.codings:
        encoded = body.encode(coding)
        assert encoded is not None
        assert encoded is body.encode(coding)
        assert encoded.length == len(b"".join(encoded.parts))


def test_compression_stops_after_a_time_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call compresses at least one segment, in runs of runs too; the last one returns the body."""
    monkeypatch.setattr("ptn_api.tasks.SLICE_S", -1)
    inner = SegmentRun(Segment(b"b"), Segment(b"c"))
    body = Body([Segment(b"a"), SegmentRun(inner, Segment(b"d"))], "tag")
    results = [body.encode("gzip")]
    while results[-1] is None:
        results.append(body.encode("gzip"))
    assert len(results) > 4
    assert gzip.decompress(b"".join(results[-1].parts)) == b"abcd"


async def test_a_large_document_is_cut_into_segments() -> None:
    """So that compressing it never blocks the loop for long. The content and its tag stay the same."""
    content = bytes(range(256)) * 10_000
    body = body_of(content)
    assert len(body.segments) == 3
    assert b"".join(body.encode("identity").parts) == content
    assert body.tag == tag_of([content[:5], content[5:]])


@given(contents, st.sampled_from(["identity", "gzip"]), st.booleans())
def test_a_streamed_body_is_its_parts(parts: list[bytes], coding: str, known: bool) -> None:
    """With or without a length; an empty part is an empty write, which must not end the chunks."""
    length = sum(map(len, parts)) if known else None
    stream = StreamedBody(lambda: iter(parts), length, "tag").encode(coding)  # type: ignore[arg-type]
    writes = [bytes(chunk) for chunk in stream.chunks()]
    assert writes.count(b"") == parts.count(b"")
    body = b"".join(writes)
    if stream.length is None:
        *chunks, end = [write for write in writes if write]
        assert end == b"0\r\n\r\n"
        body = b"".join(chunk.partition(b"\r\n")[2][:-2] for chunk in chunks)
    assert (gzip.decompress(body) if coding == "gzip" else body) == b"".join(parts)
