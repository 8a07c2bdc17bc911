"""Which commits of the stream count: every copy decides it by itself, and all alike. Pure.

The stream may contain entries that must not be applied: of a writer that did not know of its successor, or of
one that had no acknowledgement, rolled back, and published the same changes again. Each commit therefore
names the one that it continues. It counts if that is the last one that counted, and if the writer is the
active one or takes over with a higher term; otherwise it is void. All copies read the same entries in the
same order, so a commit is void for all or for none.

A commit may come in several parts. It counts, or is void, when its last part is read. Its parts are in order,
because the writer waits for the acknowledgement of each, and abandons the commit if one does not come.
"""

from __future__ import annotations

import enum

import msgspec

__all__ = ["START", "Chain", "Link", "Tip", "Verdict", "advance", "start_at"]


class Link(msgspec.Struct, frozen=True, array_like=True):
    """Where a part of a commit belongs."""

    commit_id: bytes
    """Random; all parts of a commit have the same, and no other commit ever has."""
    previous: bytes
    """The id of the commit that this one continues."""
    base: int
    """The index of that commit, where its writer read it."""
    term: int
    writer: bytes
    """Random, for each time that a writer is opened."""
    number: int = 0
    """The number of the part, from 0."""
    last: bool = True


class Tip(msgspec.Struct, frozen=True):
    """The last commit that counted; `index` is that of its last part."""

    index: int
    commit_id: bytes
    term: int
    writer: bytes


START = Tip(0, b"", 0, b"")
"""What the first commit of a stream continues."""


class Chain(msgspec.Struct, frozen=True):
    """How far the stream was read, and what follows from it."""

    tip: Tip
    read: int
    """The last index that was read."""
    open_id: bytes = b""
    """The commit whose parts are arriving, if any."""
    open_parts: int = 0


class Verdict(enum.Enum):
    COUNTS = "counts"
    """The last part of a commit that counts."""
    PART = "part"
    """A part of a commit that may count."""
    VOID = "void"
    SUSPECT = "suspect"
    """Void, and its writer continued a commit that this copy should have: the copy may be of another stream.

    It is so if the stream has another commit at the tip's index. Otherwise the writer was mistaken about the
    index of its latest commit, which a broker may store twice.
    """


def start_at(tip: Tip) -> Chain:
    """The chain of a copy that contains everything up to the tip, and has read nothing after it.

    All parts of the next commit that counts are after the tip.
    """
    return Chain(tip, tip.index)


def advance(chain: Chain, index: int, link: Link) -> tuple[Chain, Verdict]:
    """Reads the entry at `index`, the next one. Returns the chain after it, and what the entry means."""
    tip = chain.tip
    chain = msgspec.structs.replace(chain, read=index)
    if link.previous != tip.commit_id:
        return chain, Verdict.SUSPECT if link.base >= tip.index else Verdict.VOID
    if not (link.term > tip.term or (link.term == tip.term and link.writer == tip.writer)):
        return chain, Verdict.VOID
    if link.number and (link.commit_id, link.number) != (chain.open_id, chain.open_parts):
        return chain, Verdict.VOID
    if not link.last:
        return Chain(tip, index, link.commit_id, link.number + 1), Verdict.PART
    return start_at(Tip(index, link.commit_id, link.term, link.writer)), Verdict.COUNTS
