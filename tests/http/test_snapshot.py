"""Snapshots refer to blocks and are sent in chunks."""

from __future__ import annotations

from ptn_api.http.block import Block
from ptn_api.http.snapshot import Body, Snapshot, snapshot_of, tag_of


def test_small_parts_are_joined_and_large_ones_cut_without_a_copy() -> None:
    """Nothing is lost, the order stays, chunks are of a size that a socket takes."""
    large = b"L" * 700_000
    parts = [b"a" * 10, b"b" * 20, large, b"c", b"d" * 60_000, b"e" * 60_000, b""]
    chunks = list(Body(parts).chunks())
    assert b"".join(chunks) == b"".join(parts)
    assert max(map(len, chunks)) <= 262_144
    assert len(chunks) == 1 + 3 + 2
    assert all(chunk.obj is large for chunk in chunks if isinstance(chunk, memoryview))


async def test_a_body_is_made_once_and_says_its_length() -> None:
    """Asking again gives the same parts; the length is that of all parts together."""
    snapshot = Snapshot([Block(b"x" * 5000), Block(b"y")], "tag")
    for coding in ("identity", "gzip", "zstd"):
        body = await snapshot.body(coding)
        assert body is await snapshot.body(coding)
        assert body.length == len(b"".join(body.parts))


async def test_a_large_document_is_cut_into_blocks() -> None:
    """So that compressing it never holds up the loop for long; what it says stays."""
    content = bytes(range(256)) * 10_000
    snapshot = snapshot_of(content)
    assert len(snapshot.blocks) == 3
    assert b"".join((await snapshot.body("identity")).parts) == content
    assert snapshot.tag == tag_of([content[:5], content[5:]])
