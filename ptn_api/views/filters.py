"""A positions document restricted by miner, trade pair and status, or to what changed since a revision.

Nothing is decoded or encoded for it: the positions are cut out of the text that the views keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import msgspec

from ptn_api.http.body import Body, Part, Segment, StreamedBody, tag_of
from ptn_api.http.errors import HTTPError
from ptn_api.model.tiers import Tier
from ptn_api.model.trade_pair import resolve_pair, unknown_pair
from ptn_api.tasks import TimeSlice
from ptn_api.views.miner_view import (
    OPENING,
    TAILS,
    BlockIndex,
    MinerView,
    PositionKind,
    after_positions,
)
from ptn_api.views.positions import PositionViews
from ptn_api.views.ranked_entries import joined

__all__ = ["changed_since", "chosen_pairs", "filtered"]

_SMALL_BYTES = 262_144
"""Documents up to this size are joined at once; larger ones are streamed."""


async def chosen_pairs(
    views: PositionViews, tier: Tier, names: Iterable[str], time_slice: TimeSlice
) -> frozenset[str]:
    """Returns the ids of these trade pairs, which may be written in any usual way.

    A pair that the network's table lacks is accepted by its id, if the tier shows a position in it. Any other
    name raises HTTPError `bad_parameter`: a misspelt pair must not look like one without positions.
    """
    ids = set()
    traded: set[str] | None = None
    for name in names:
        known = resolve_pair(name)
        if known is None:
            if traded is None:
                traded = await _traded_pairs(views, tier, time_slice)
            if name not in traded:
                raise HTTPError("bad_parameter", unknown_pair(name), parameter="trade_pair")
        ids.add(known or name)
    return frozenset(ids)


async def _traded_pairs(views: PositionViews, tier: Tier, time_slice: TimeSlice) -> set[str]:
    pairs: set[str] = set()
    for view in views.ranked(tier):
        pairs.update(pair for index in view.index_of(tier) for pair, _ in index.sums)
        await time_slice.yield_if_due()
    return pairs


async def filtered(
    views: PositionViews,
    tier: Tier,
    *,
    miners: frozenset[str],
    trade_pairs: frozenset[str],
    statuses: frozenset[str],
    time_slice: TimeSlice,
) -> Body | StreamedBody:
    """The tier's document with the positions that pass all filters; an empty filter passes everything.

    Miners without a match are left out. Aggregates remain those of the miner's whole entry.
    """
    chosen = [view for view in views.ranked(tier) if not miners or view.hotkey in miners]
    if not trade_pairs and not statuses:
        return joined(tier, chosen, TAILS[tier])
    entries: list[_Entry] = []
    # The tag hashes the filters and the digests of whole entries: the positions' text is not read for it.
    hashed = [msgspec.json.encode((sorted(trade_pairs), sorted(statuses)))]
    for view in chosen:
        entry = _Entry.of(view, tier, trade_pairs, statuses)
        if entry is not None:
            entries.append(entry)
            hashed += (view.name_segments[0].identity, view.entries[tier].digest)
        await time_slice.yield_if_due()

    def parts() -> Iterator[Part]:
        for n, entry in enumerate(entries):
            yield entry.view.name_segments[min(n, 1)].identity
            yield from entry.parts(tier)
        yield b"}" if entries else b"{}"

    length = 2 if not entries else 1 + sum(entry.length for entry in entries)
    return _body(parts, length, tag_of(hashed))


async def changed_since(
    views: PositionViews, revision: int, before: bytes, after: bytes, time_slice: TimeSlice
) -> Body | StreamedBody:
    """{hotkey: [position]} of the positions that changed after the revision, between two other texts."""
    changes: list[_Change] = []
    hashed = [b"%d" % revision, before, after]
    for view in views.ranked(100):
        if view.revision > revision:
            changes.append(_Change.of(view, revision))
            hashed += (view.name_segments[0].identity, view.entries[100].digest, b"%d" % view.revision)
        await time_slice.yield_if_due()

    def parts() -> Iterator[Part]:
        yield before
        yield b"" if changes else b"{"
        for n, change in enumerate(changes):
            yield change.view.name_segments[min(n, 1)].identity
            yield b"["
            yield from _separated(change.texts())
            yield b"]"
        yield b"}"
        yield after

    length = len(before) + len(after) + 1 + (sum(change.length for change in changes) if changes else 1)
    return _body(parts, length, tag_of(hashed))


def _body(parts: Callable[[], Iterator[Part]], length: int, tag: str) -> Body | StreamedBody:
    if length > _SMALL_BYTES:
        return StreamedBody(parts, length, tag)
    texts = (part.identity if isinstance(part, Segment) else part for part in parts())
    return Body([Segment(b"".join(texts))], tag)


class _Entry(NamedTuple):
    """The positions of some kinds of a miner's entry; `length` is that of the entry's text with its name."""

    view: MinerView
    blocks: tuple[Segment, Segment]
    indexes: tuple[BlockIndex, BlockIndex]
    kinds: frozenset[PositionKind]
    end: bytes
    length: int

    @classmethod
    def of(
        cls, view: MinerView, tier: Tier, trade_pairs: frozenset[str], statuses: frozenset[str]
    ) -> _Entry | None:
        """Returns the entry, None without such a position."""
        indexes, entry = view.index_of(tier), view.entries[tier]
        sums = [
            (kind, sums)
            for index in indexes
            for kind, sums in index.sums.items()
            if (not trade_pairs or kind[0] in trade_pairs)
            and (not statuses or ("closed" if kind[1] else "open") in statuses)
        ]
        if not sums:
            return None
        kinds = frozenset(kind for kind, _ in sums)
        end = after_positions(entry.aggregates) + TAILS[tier].identity
        # With a comma after each position but the last.
        texts = sum(count + size for _, (count, size) in sums) - 1
        length = len(view.name_segments[0]) + len(OPENING) + texts + len(end)
        return cls(view, entry.blocks, indexes, kinds, end, length)

    def parts(self, tier: Tier) -> Iterator[Part]:
        """Blocks all of whose positions are chosen come as segments, which are compressed already."""
        (first, second), (one, two) = self.blocks, self.indexes
        texts = self._cut_of(second, two)
        if not self.kinds >= one.sums.keys():
            yield OPENING
            yield from _separated(chain(self._cut_of(first, one), texts))
        elif self.kinds >= two.sums.keys():
            yield from (first, second, TAILS[tier].identity)
            return
        else:
            yield first
            yield from _separated(texts, after=len(one) > 0)
        yield self.end

    def _cut_of(self, block: Segment, index: BlockIndex) -> Iterator[Part]:
        if not self.kinds.isdisjoint(index.sums):
            yield from _cut(block, index, (kind in self.kinds for kind in index.kinds))


class _Change(NamedTuple):
    """A miner's changed positions; `length` is that of their text, as a list with the miner's name."""

    view: MinerView
    blocks: tuple[Segment, Segment]
    indexes: tuple[BlockIndex, BlockIndex]
    chosen: tuple[bytes, bytes]
    """For each position of each block 1 if it changed, else 0."""
    length: int

    @classmethod
    def of(cls, view: MinerView, revision: int) -> _Change:
        # Tier 100 lags behind nothing, so its first block is always the shared one.
        indexes = view.index_of(100)
        others = [view.revisions[uuid] for uuid in indexes[1].uuids]
        chosen = [bytes(newest > revision for newest in each) for each in (view.closed.revisions, others)]
        sizes = [
            size
            for index, flags in zip(indexes, chosen, strict=True)
            for size, flag in zip(index.sizes(), flags, strict=True)
            if flag
        ]
        length = len(view.name_segments[0]) + 2 + sum(sizes) + max(0, len(sizes) - 1)
        return cls(view, view.entries[100].blocks, indexes, (chosen[0], chosen[1]), length)

    def texts(self) -> Iterator[Part]:
        for block, index, chosen in zip(self.blocks, self.indexes, self.chosen, strict=True):
            yield from _cut(block, index, map(bool, chosen))


def _cut(block: Segment, index: BlockIndex, chosen: Iterable[bool]) -> Iterator[Part]:
    """Yields the text of the chosen positions; where they are adjacent, of several at once."""
    text = memoryview(block.identity)
    for start, end in index.runs(chosen):
        yield text[start:end]


def _separated(texts: Iterable[Part], *, after: bool = False) -> Iterator[Part]:
    """Yields the texts with commas between them, and `after` others also before the first."""
    for text in texts:
        if after:
            yield b","
        yield text
        after = True
