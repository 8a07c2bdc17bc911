"""A document at one moment: references to blocks, never a joined copy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from ptn_api.http.block import Block, Coding, Run, gzip_parts
from ptn_api.http.breather import Breather

__all__ = ["Body", "Snapshot", "snapshot_of", "tag_of"]

_JOIN = 65_536
_SMALL = 4_096
_BLOCK = 1 << 20
"""Large documents are compressed in pieces of this size, so that none holds up the loop."""


class Body:
    """A document in one coding: parts to be sent one after the other, and their length together."""

    __slots__ = ("length", "parts")

    def __init__(self, parts: Sequence[bytes]) -> None:
        self.parts = parts
        self.length = sum(map(len, parts))

    def chunks(self) -> Iterator[bytes | memoryview]:
        """What to hand to the socket at a time: small parts joined, large ones cut, none copied before."""
        small: list[bytes] = []
        size = 0
        for part in self.parts:
            if size and size + len(part) > _JOIN:
                yield b"".join(small)
                small, size = [], 0
            if len(part) < _JOIN:
                small.append(part)
                size += len(part)
            else:
                yield from _cut(part)
        if small:
            yield b"".join(small)


def _cut(part: bytes) -> Iterator[memoryview]:
    view = memoryview(part)
    for start in range(0, len(view), 4 * _JOIN):
        yield view[start : start + 4 * _JOIN]


class Snapshot:
    """Runs of blocks in their order, and `tag`: a hash of what they say, however it is cut into blocks."""

    __slots__ = ("_bodies", "runs", "tag")

    def __init__(self, runs: Sequence[Run | Block], tag: str) -> None:
        self.runs = runs
        self.tag = tag
        self._bodies: dict[Coding, Body] = {}

    @property
    def blocks(self) -> list[Block]:
        return [block for run in self.runs for block in (run.blocks if isinstance(run, Run) else (run,))]

    async def body(self, coding: Coding) -> Body:
        """The document in that coding. What was not yet compressed is, in slices: the loop stays free."""
        body = self._bodies.get(coding)
        if body is None:
            breather = Breather()
            for run in self.runs:
                if not run.has(coding):
                    run.forms(coding)
                    await breather()
            body = self._bodies[coding] = Body(self._parts(coding))
        return body

    def _parts(self, coding: Coding) -> list[bytes]:
        if coding == "gzip":
            return gzip_parts(self.runs)
        return [form for run in self.runs for form in run.forms(coding)]


def snapshot_of(content: bytes) -> Snapshot:
    """A document that is there as a whole. Small ones, asked for again and again, are kept."""
    return _kept(content) if len(content) <= _SMALL else _made(content)


def _made(content: bytes) -> Snapshot:
    blocks = [Block(content[at : at + _BLOCK]) for at in range(0, len(content), _BLOCK)]
    return Snapshot(blocks, tag_of([content]))


_kept = lru_cache(256)(_made)


def tag_of(parts: Iterable[bytes]) -> str:
    """32 hex digits that say whether two documents are the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:32]
