"""A tier's entries by rank, and the documents joined from them.

After every order, a client may request the whole document. Therefore entries are joined in groups of
neighbours, and a group is kept until one of its entries changes: what joining costs depends on the change,
hardly on the number of miners.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ptn_api.http.body import Body, Segment, SegmentRun, tag_of
from ptn_api.model.miner import miner_order
from ptn_api.model.tiers import Tier

if TYPE_CHECKING:
    from ptn_api.views.miner_view import EncodedEntry, MinerView

__all__ = ["CLOSE", "RankedEntries", "joined"]

CLOSE = Segment(b"}")
_NO_MINERS = Segment(b"{}")
_GROUP = 32
"""Entries per group. A change joins one group, and then all groups; with about as many groups as entries in
each (for 1,000 miners), the two cost least together."""

_Row = tuple[tuple[float, str], "EncodedEntry"]
"""An entry with its miner's place in the order (`miner_order`), which ends in the hotkey."""


class _Group(NamedTuple):
    rows: Sequence[_Row]
    run: SegmentRun
    digests: bytes


class RankedEntries:
    """The entries that a tier shows, by the returns that it shows, best first."""

    def __init__(self, tier: Tier) -> None:
        self._tier: Tier = tier
        self._rows: list[_Row] = []
        self._by_hotkey: dict[str, _Row] = {}
        self._groups: dict[Segment, list[_Group]] = {}
        """The groups of the last document, by the end of its entries."""

    def put(self, hotkey: str, entry: EncodedEntry | None) -> None:
        """Replaces the miner's entry; without one, the tier does not show the miner."""
        before = self._by_hotkey.pop(hotkey, None)
        if before is not None:
            self._rows.remove(before)
        if entry is not None:
            row = (miner_order(entry.aggregates.thirty_day_returns, hotkey), entry)
            insort(self._rows, row)
            self._by_hotkey[hotkey] = row

    def hotkeys(self) -> list[str]:
        return [order[1] for order, _ in self._rows]

    def document(self, tail: Segment, views: Mapping[str, MinerView]) -> Body:
        """Returns all entries as a document; `views` has the miners' views, `tail` ends each entry."""
        kept = self._groups.get(tail, [])
        groups: list[_Group] = []
        for start in range(0, len(self._rows), _GROUP):
            rows = self._rows[start : start + _GROUP]
            if len(groups) < len(kept) and kept[len(groups)].rows == rows:
                groups.append(kept[len(groups)])
            else:
                runs, digests = _runs(
                    self._tier, [views[order[1]] for order, _ in rows], tail, first=not groups
                )
                groups.append(_Group(rows, SegmentRun(*runs), digests))
        self._groups[tail] = groups
        return _body([group.run for group in groups], [group.digests for group in groups])


def joined(tier: Tier, views: Iterable[MinerView], tail: Segment) -> Body:
    """Returns a document of these miners' entries, each of which ends in `tail`."""
    runs, digests = _runs(tier, views, tail, first=True)
    return _body(runs, [digests])


def _runs(
    tier: Tier, views: Iterable[MinerView], tail: Segment, *, first: bool
) -> tuple[list[SegmentRun], bytes]:
    """Returns the entries' runs, and what they contribute to the document's tag.

    The tag hashes the entries' digests, not their texts: joining a document reads no text.
    """
    runs: list[SegmentRun] = []
    digests: list[bytes] = []
    for view in views:
        runs.append(view.run(tier, first=first and not runs, tail=tail))
        digests += (view.name_segments[0].identity, view.entries[tier].digest)
    return runs, b"".join(digests)


def _body(runs: Sequence[SegmentRun], digests: Iterable[bytes]) -> Body:
    return Body([*runs, CLOSE] if runs else [_NO_MINERS], tag_of(digests))
