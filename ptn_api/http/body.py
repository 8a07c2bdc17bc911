"""Response bodies made of segments: each segment is compressed once per coding, and bodies share segments.

A large document changes in few places at a time. It is kept as a list of segments, and its encoded forms are
those of the segments, joined:

- gzip: one stream. Each segment is raw deflate that ends with a full flush, so it is byte-aligned and refers
  to nothing before it. The checksum is combined from the segments' checksums (RFC 1952; crc32_combine).
- zstd: one frame, so only for bodies of one segment. Frames may follow each other (RFC 8878, 3.1), but some
  decoders, such as one-shot ones, return the first frame alone without an error.

A selection from such a document is a `StreamedBody`: it is encoded while it is sent, and not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

import zstandard
from isal import isal_zlib

from ptn_api.tasks import TimeSlice

__all__ = [
    "CODINGS",
    "Body",
    "Coding",
    "EncodedBody",
    "EncodedStream",
    "LiveBody",
    "Part",
    "Segment",
    "SegmentRun",
    "StreamedBody",
    "body_of",
    "gzip_parts",
    "tag_of",
]

Coding = Literal["identity", "gzip", "zstd"]
CODINGS: tuple[Coding, ...] = ("gzip", "zstd", "identity")
"""The codings on offer, in order of preference at equal weight: every client decodes gzip."""
_JOINABLE: tuple[Coding, ...] = ("gzip", "identity")

_LEVEL_DEFLATE = 2
_LEVEL_ZSTD = 3
_MIN_DEFLATE_BYTES = 48
"""Deflate makes fewer bytes than this larger; they go into a stored block."""
_SEGMENT_BYTES = 1 << 20
"""Large documents are cut into segments of this size, so that compressing one never blocks the loop long."""
_CACHED_BYTES = 4_096
_CHUNK_BYTES = 262_144
"""Size of writes. Each costs a turn of the event loop; a client that reads slowly holds one in memory."""
_STREAMED_BYTES = 65_536
"""The same for bodies that are encoded while they are sent."""
_COMPRESSED_BYTES = 131_072
"""About as much text is compressed at once while a body is sent: less compresses worse."""

# Magic number, deflate, no flags, no time, no extra flags, unknown system (RFC 1952, 2.3). Without a time,
# equal content has equal bytes, as its strong ETag promises.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
# The segments' blocks all lack the "last block" bit, so the stream ends with an empty block that has it.
_DEFLATE_END = b"\x03\x00"

_zstd = zstandard.ZstdCompressor(level=_LEVEL_ZSTD)


class Segment:
    """Immutable bytes (`identity`) and their compressed forms, each made when first needed."""

    __slots__ = ("_crc", "_deflate", "_zstd", "identity")

    def __init__(self, identity: bytes) -> None:
        self.identity = identity
        self._deflate: bytes | None = None
        self._zstd: bytes | None = None
        self._crc = 0

    def __len__(self) -> int:
        return len(self.identity)

    def is_encoded(self, coding: Coding) -> bool:
        """Whether that form exists already."""
        return coding == "identity" or (self._deflate if coding == "gzip" else self._zstd) is not None

    def encoded(self, coding: Coding) -> bytes:
        """Returns the form: for gzip raw deflate, to be joined with other segments'; for zstd a frame."""
        if coding == "identity":
            return self.identity
        if coding == "zstd":
            if self._zstd is None:
                self._zstd = _zstd.compress(self.identity)
            return self._zstd
        if self._deflate is None:
            self._deflate = _deflated(self.identity)
            self._crc = isal_zlib.crc32(self.identity)
        return self._deflate

    def encoded_parts(self, coding: Coding) -> tuple[bytes, ...]:
        """Returns the form as `SegmentRun` does."""
        return (self.encoded(coding),)

    def crc(self) -> int:
        """Returns the CRC-32 of the identity bytes."""
        self.encoded("gzip")
        return self._crc


class SegmentRun:
    """Consecutive segments, or runs of them, that several bodies share.

    Lengths, forms and checksum are computed once: a document of a thousand miners is joined after every
    order, from a few runs instead of thousands of segments.
    """

    __slots__ = ("_crc", "_encoded_parts", "_length", "members")

    def __init__(self, *members: Segment | SegmentRun) -> None:
        self.members = members
        self._length = sum(map(len, members))
        self._encoded_parts: dict[Coding, tuple[bytes, ...]] = {}
        self._crc: int | None = None

    def __len__(self) -> int:
        return self._length

    def is_encoded(self, coding: Coding) -> bool:
        """Whether that form exists already."""
        return coding in self._encoded_parts

    def encoded_parts(self, coding: Coding) -> tuple[bytes, ...]:
        """Returns the segments' forms, to be joined with other runs'."""
        parts = self._encoded_parts.get(coding)
        if parts is None:
            parts = tuple(part for member in self.members for part in member.encoded_parts(coding))
            self._encoded_parts[coding] = parts
        return parts

    def crc(self) -> int:
        """Returns the CRC-32 of the identity bytes."""
        if self._crc is None:
            self._crc = _combined_crc(self.members)
        return self._crc


class EncodedBody:
    """A body in one coding: parts to be sent in order, and their total length."""

    __slots__ = ("length", "parts")

    def __init__(self, parts: Sequence[bytes]) -> None:
        self.parts = parts
        self.length = sum(map(len, parts))

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yields socket-sized writes: small parts joined, large ones cut without a copy."""
        return _chunks(self.parts, _CHUNK_BYTES)


class Body:
    """A document as runs of segments, never copied into one, and its `tag`: a hash of the content.

    The tag does not depend on where the content is cut into segments.
    """

    __slots__ = ("_encoded", "runs", "tag")

    def __init__(self, runs: Sequence[SegmentRun | Segment], tag: str) -> None:
        self.runs = runs
        self.tag = tag
        self._encoded: dict[Coding, EncodedBody] = {}

    @property
    def segments(self) -> list[Segment]:
        return [*_segments(self.runs)]

    @property
    def codings(self) -> tuple[Coding, ...]:
        """The codings on offer for this body."""
        return CODINGS if len(self.runs) == 1 and isinstance(self.runs[0], Segment) else _JOINABLE

    def is_encoded(self, coding: Coding) -> bool:
        """Whether that form exists already."""
        return all(run.is_encoded(coding) for run in self.runs)

    def encode(self, coding: Coding) -> EncodedBody | None:
        """Returns the body in that coding, one of `codings`, compressed for at most one time slice.

        None: there is more to compress. Let other tasks run and call again.
        """
        encoded = self._encoded.get(coding)
        if encoded is None:
            time_slice = None
            for one in _unencoded(self.runs, coding):
                if time_slice is None:
                    time_slice = TimeSlice()
                elif time_slice.due:
                    return None
                one.encoded_parts(coding)
            if coding == "gzip":
                parts = gzip_parts(self.runs)
            else:
                parts = [part for run in self.runs for part in run.encoded_parts(coding)]
            encoded = self._encoded[coding] = EncodedBody(parts)
        return encoded


def _segments(members: Iterable[Segment | SegmentRun]) -> Iterator[Segment]:
    for member in members:
        if isinstance(member, SegmentRun):
            yield from _segments(member.members)
        else:
            yield member


def _unencoded(members: Iterable[Segment | SegmentRun], coding: Coding) -> Iterator[Segment | SegmentRun]:
    """Yields what must still be encoded; each run after its members, so that little is left to do for it."""
    for member in members:
        if not member.is_encoded(coding):
            if isinstance(member, SegmentRun):
                yield from _unencoded(member.members, coding)
            yield member


Part = Segment | bytes | memoryview


class StreamedBody:
    """A document whose parts are found and encoded while it is sent. No copy of it is ever in memory.

    `parts` yields them, the same at each call: segments, whose compressed forms are kept anyway, and views of
    text that the caller keeps. An empty one ends a step of the work. `length` is their total, None if
    unknown.
    """

    __slots__ = ("length", "parts", "tag")

    codings = _JOINABLE

    def __init__(self, parts: Callable[[], Iterator[Part]], length: int | None, tag: str) -> None:
        self.parts = parts
        self.length = length
        self.tag = tag

    def encode(self, coding: Coding) -> EncodedStream:
        """Returns the body in that coding, one of `codings`."""
        return EncodedStream(self, coding)


class EncodedStream:
    """A streamed body in one coding. Compressed, its length is unknown until its end.

    A chunk may be empty: the work has taken long.
    """

    __slots__ = ("_body", "_coding", "length")

    def __init__(self, body: StreamedBody, coding: Coding) -> None:
        self._body = body
        self._coding = coding
        self.length = body.length if coding == "identity" else None

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yields writes, each encoded when it is requested; without a length, framed as HTTP/1.1's chunks."""
        parts = self._body.parts()
        texts = (part.identity if isinstance(part, Segment) else part for part in parts)
        if self.length is not None:
            yield from _chunks(texts, _STREAMED_BYTES, steps=True)
            return
        encoded = _gzip_stream(parts) if self._coding == "gzip" else texts
        for chunk in _chunks(encoded, _STREAMED_BYTES, steps=True):
            yield b"".join((b"%x\r\n" % len(chunk), chunk, b"\r\n")) if chunk else b""
        yield b"0\r\n\r\n"


class LiveBody:
    """A body without a known end, written as things happen; the connection closes after it.

    It is exempt from the minimum rate, so its writer has to bound what is unsent.
    """

    high_water_bytes = 262_144
    """`congested` is called when more than this is unsent, `drained` when a quarter of it is left."""

    async def run(self, transport: asyncio.Transport) -> None:
        """Writes to the transport until the body ends. Cancelled when the connection is lost."""
        raise NotImplementedError

    def congested(self) -> None:
        raise NotImplementedError

    def drained(self) -> None:
        raise NotImplementedError

    def ended(self) -> None:
        """Called when the connection has been lost or the body has ended, also if it was never run."""
        raise NotImplementedError


def _chunks(
    parts: Iterable[bytes | memoryview], size: int, *, steps: bool = False
) -> Iterator[bytes | memoryview]:
    """Yields writes of about this size; with `steps` also an empty one for an empty part."""
    small: list[bytes | memoryview] = []
    total = 0
    for part in parts:
        if steps and not part:
            yield b""
            continue
        if total and total + len(part) > size:
            yield b"".join(small)
            small, total = [], 0
        if len(part) < size:
            small.append(part)
            total += len(part)
        else:
            view = memoryview(part)
            for start in range(0, len(view), size):
                yield view[start : start + size]
    if small:
        yield b"".join(small)


def body_of(content: bytes) -> Body:
    """Returns the content as a body. Small bodies are cached: they are requested again and again."""
    return _cached_body(content) if len(content) <= _CACHED_BYTES else _new_body(content)


def _new_body(content: bytes) -> Body:
    segments = [Segment(content[at : at + _SEGMENT_BYTES]) for at in range(0, len(content), _SEGMENT_BYTES)]
    return Body(segments, tag_of([content]))


_cached_body = lru_cache(256)(_new_body)


def tag_of(parts: Iterable[bytes]) -> str:
    """Returns 32 hex digits of a hash of the joined parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:32]


def gzip_parts(runs: Sequence[SegmentRun | Segment]) -> list[bytes]:
    """Returns the runs as one gzip stream, in parts."""
    parts = [_GZIP_HEADER]
    for run in runs:
        parts += run.encoded_parts("gzip")
    parts.append(_gzip_end(_combined_crc(runs), sum(map(len, runs))))
    return parts


def _gzip_stream(parts: Iterator[Part]) -> Iterator[bytes]:
    """Yields the parts as one gzip stream; texts between two segments are compressed together."""
    yield _GZIP_HEADER
    crc = size = 0
    for segment in _as_segments(parts):
        yield segment.encoded("gzip")
        crc = isal_zlib.crc32_combine(crc, segment.crc(), len(segment))
        size += len(segment)
    yield _gzip_end(crc, size)


def _as_segments(parts: Iterator[Part]) -> Iterator[Segment]:
    texts: list[bytes | memoryview] = []
    size = 0
    for part in parts:
        if not part:
            yield Segment(b"")
            continue
        if texts and (size >= _COMPRESSED_BYTES or isinstance(part, Segment)):
            yield Segment(b"".join(texts))
            texts, size = [], 0
        if isinstance(part, Segment):
            yield part
        else:
            texts.append(part)
            size += len(part)
    if texts:
        yield Segment(b"".join(texts))


def _gzip_end(crc: int, size: int) -> bytes:
    """The last block, and the trailer: CRC-32 and the size modulo 2^32 (RFC 1952, 2.3.1)."""
    return _DEFLATE_END + crc.to_bytes(4, "little") + (size & 0xFFFF_FFFF).to_bytes(4, "little")


def _combined_crc(runs: Sequence[SegmentRun | Segment]) -> int:
    crc = 0
    for run in runs:
        crc = isal_zlib.crc32_combine(crc, run.crc(), len(run))
    return crc


def _deflated(data: bytes) -> bytes:
    if not data:
        return b""
    if len(data) <= _MIN_DEFLATE_BYTES:
        # A stored block, byte-aligned: its header, the length and the length's complement (RFC 1951, 3.2.4).
        size = len(data)
        return b"\x00" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + data
    deflate = isal_zlib.compressobj(_LEVEL_DEFLATE, isal_zlib.DEFLATED, -15)
    # A full flush resets the dictionary, so that any segment can follow.
    compressed: bytes = deflate.compress(data) + deflate.flush(isal_zlib.Z_FULL_FLUSH)
    return compressed
