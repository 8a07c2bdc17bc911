"""A run of a document's bytes with its compressed forms, each made once, when first asked for.

A document is a list of blocks. Whatever coding is asked for, its body is the blocks' forms joined:

- gzip: one stream. Each block is raw deflate that ends with a full flush: byte-aligned and referring to
  nothing before it. The checksum is combined from the blocks' (RFC 1952; crc32_combine).
- zstd: one frame per block (RFC 8878: frames may follow each other).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import zstandard
from isal import isal_zlib

__all__ = ["CODINGS", "Block", "Coding", "Run", "gzip_parts"]

Coding = Literal["identity", "gzip", "zstd"]
CODINGS: tuple[Coding, ...] = ("gzip", "zstd", "identity")
"""What is offered; of equally wanted ones the first: any client decodes gzip, joined or not."""

_LEVEL_DEFLATE = 2
_LEVEL_ZSTD = 3
_STORED = 48
"""Below this many bytes deflate only adds to them: they go as a stored block."""

_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_DEFLATE_END = b"\x03\x00"

_zstd = zstandard.ZstdCompressor(level=_LEVEL_ZSTD)


class Block:
    """Immutable bytes; `identity` is what they say."""

    __slots__ = ("_crc", "_deflate", "_zstd", "identity")

    def __init__(self, identity: bytes) -> None:
        self.identity = identity
        self._deflate: bytes | None = None
        self._zstd: bytes | None = None
        self._crc = 0

    def __len__(self) -> int:
        return len(self.identity)

    def has(self, coding: Coding) -> bool:
        """Whether that form is there without any work."""
        return coding == "identity" or (self._deflate if coding == "gzip" else self._zstd) is not None

    def encoded(self, coding: Coding) -> bytes:
        """The form to be joined with the other blocks' (for gzip: raw deflate)."""
        if coding == "identity":
            return self.identity
        if coding == "zstd":
            if self._zstd is None:
                self._zstd = _zstd.compress(self.identity) if self.identity else b""
            return self._zstd
        if self._deflate is None:
            self._deflate = _deflated(self.identity)
            self._crc = isal_zlib.crc32(self.identity)
        return self._deflate

    def forms(self, coding: Coding) -> tuple[bytes, ...]:
        """The form, as a run of one."""
        return (self.encoded(coding),)

    def crc(self) -> int:
        """CRC-32 of the identity bytes."""
        self.encoded("gzip")
        return self._crc


class Run:
    """Blocks that follow each other wherever they stand; what joining them takes is done once.

    A document of a thousand miners is joined after every order: of runs, one per miner, not of their blocks.
    """

    __slots__ = ("_crc", "_forms", "_length", "blocks")

    def __init__(self, *blocks: Block) -> None:
        self.blocks = blocks
        self._length = sum(map(len, blocks))
        self._forms: dict[Coding, tuple[bytes, ...]] = {}
        self._crc: int | None = None

    def __len__(self) -> int:
        return self._length

    def has(self, coding: Coding) -> bool:
        """Whether that form is there without any work."""
        return coding in self._forms

    def forms(self, coding: Coding) -> tuple[bytes, ...]:
        """The blocks' forms, to be joined with others'."""
        forms = self._forms.get(coding)
        if forms is None:
            forms = self._forms[coding] = tuple(block.encoded(coding) for block in self.blocks)
        return forms

    def crc(self) -> int:
        """CRC-32 of the identity bytes."""
        if self._crc is None:
            self._crc = _combined_crc(self.blocks)
        return self._crc


def gzip_parts(runs: Sequence[Run | Block]) -> list[bytes]:
    """The runs as one gzip stream, in parts to be sent one after the other."""
    parts = [_GZIP_HEADER]
    for run in runs:
        parts += run.forms("gzip")
    crc, size = _combined_crc(runs), sum(map(len, runs))
    parts.append(_DEFLATE_END + crc.to_bytes(4, "little") + (size & 0xFFFF_FFFF).to_bytes(4, "little"))
    return parts


def _combined_crc(runs: Sequence[Run | Block]) -> int:
    crc = 0
    for run in runs:
        crc = isal_zlib.crc32_combine(crc, run.crc(), len(run))
    return crc


def _deflated(data: bytes) -> bytes:
    if not data:
        return b""
    if len(data) <= _STORED:
        size = len(data)
        return b"\x00" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + data
    deflate = isal_zlib.compressobj(_LEVEL_DEFLATE, isal_zlib.DEFLATED, -15)
    compressed: bytes = deflate.compress(data) + deflate.flush(isal_zlib.Z_FULL_FLUSH)
    return compressed
