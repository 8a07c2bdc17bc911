"""A miner's piece of the positions documents: two blocks per tier, built when that miner changes.

The first block, what closed long ago, is the same for all tiers and for the checkpoint, and rarely changes.
The second is the rest, as each tier shows it, with the aggregates. Where the first ends follows from the
time alone (`settled_before`), so that nothing about later orders can be told from how a body is cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ptn_api.event_log.contract import LoggedPosition
from ptn_api.http.body import Body, Segment, SegmentRun
from ptn_api.model.miner import (
    Aggregates,
    Outcome,
    aggregates,
    next_aggregate_change_ms,
    position_order,
)
from ptn_api.model.position import Position, PositionState
from ptn_api.model.rendering import (
    AS_IS,
    AsIs,
    Hidden,
    next_change_ms,
    next_price_source_change_ms,
    render_position,
    view,
)
from ptn_api.model.tiers import TIER_LAG_MS, TIERS, Tier, is_live

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["TAILS", "ClosedBlock", "MinerView", "Moment", "TierEntry", "settled_before"]

_GRID_MS = 3_600_000
_OPENING = b'{"positions":['

TAILS: dict[Tier, Segment] = {tier: Segment(b',"tier":%d}' % tier) for tier in TIERS}
"""What ends an entry after its second block; the checkpoint's entries end with a brace."""


def settled_before(now_ms: int) -> int:
    """What closed before this time is in a piece's first block: the cutoff, moved on once an hour."""
    cutoff = now_ms - TIER_LAG_MS
    return cutoff - cutoff % _GRID_MS


class Moment(NamedTuple):
    """What a piece is built for: the time, and whether the miner is eliminated."""

    now_ms: int
    eliminated: bool = False

    @property
    def cutoff_ms(self) -> int:
        return self.now_ms - TIER_LAG_MS


class _Shown(NamedTuple):
    """A position as some tier shows it."""

    key: tuple[bool, int, str]
    text: bytes
    outcome: Outcome


def _in_order(shown: Iterable[_Shown]) -> list[_Shown]:
    return sorted(shown, key=lambda one: one.key)


class ClosedBlock:
    """The first block: what closed before `before_ms`, shown the same to all tiers."""

    __slots__ = ("before_ms", "block", "digest", "keys", "next_ms", "outcomes", "times", "uuids")

    def __init__(
        self, positions: Iterable[LoggedPosition], moment: Moment, before: Segment | None = None
    ) -> None:
        """`positions` are those that closed before `settled_before(now)`. A block `before` that says the
        same is kept: it is compressed already."""
        self.before_ms = settled_before(moment.now_ms)
        self.next_ms: int | None = None
        self.times: tuple[int, int] | None = None
        """The first and the last order's processed_ms."""
        shown = _in_order(self._show(logged, moment.now_ms) for logged in positions)
        self.keys = [one.key for one in shown]
        self.uuids = frozenset(one.key[2] for one in shown)
        self.outcomes = [one.outcome for one in shown]
        identity = _OPENING + b",".join(one.text for one in shown)
        self.block = before if before is not None and before.identity == identity else Segment(identity)
        self.digest: _Hash = hashlib.sha256(self.block.identity)

    def _show(self, logged: LoggedPosition, now_ms: int) -> _Shown:
        position = logged.text.position()
        self.next_ms = _earliest(self.next_ms, next_price_source_change_ms(position, now_ms))
        self.times = _span(self.times, position)
        return _shown(position.position_uuid, position, render_position(logged.text, position, AS_IS, now_ms))

    def concerns(self, position: LoggedPosition) -> bool:
        """Whether this block holds that position, or should."""
        early = position.close_ms is not None and position.close_ms < self.before_ms
        return early or position.position_uuid in self.uuids

    def texts(self) -> list[bytes]:
        """Each position's text, in shown order."""
        positions = self.block.identity[len(_OPENING) - 1 :] + b"]"
        return [bytes(raw) for raw in msgspec.json.decode(positions, type=list[msgspec.Raw])]

    def shown(self) -> list[_Shown]:
        return [_Shown(*row) for row in zip(self.keys, self.texts(), self.outcomes, strict=True)]


class TierEntry(NamedTuple):
    """An entry's blocks as one tier shows it, and the hash of what they and the tier's tail say."""

    blocks: tuple[Segment, Segment]
    digest: bytes
    aggregates: Aggregates

    def same_as(self, other: TierEntry) -> bool:
        """Whether both say the same, cut at the same place: then their compressed forms are equal too."""
        return self.digest == other.digest and len(self.blocks[0]) == len(other.blocks[0])


class MinerView:
    """A miner's entry for every tier at one moment; right until `next_ms` (None: for ever)."""

    __slots__ = (
        "_entries",
        "_runs",
        "empty",
        "hotkey",
        "names",
        "next_ms",
        "settled",
        "settled_next_ms",
        "tiers",
        "times",
        "unrebuildable",
    )

    def __init__(
        self,
        hotkey: str,
        settled: ClosedBlock,
        others: Sequence[LoggedPosition],
        moment: Moment,
        before: MinerView | None = None,
    ) -> None:
        """`others` are the positions that `settled` does not hold. Blocks equal to `before`'s are kept."""
        self.hotkey = hotkey
        self.names: tuple[Segment, Segment] = before.names if before is not None else _names(hotkey)
        """The hotkey as a key: of the first entry of a document, and of the others."""
        self.settled = settled
        self._entries: dict[Tier, Body] = {}
        self._runs: dict[tuple[Tier, bool, Segment], SegmentRun] = {}
        self.empty = not settled.keys and not others
        """Whether the miner has no position at all."""
        self.settled_next_ms = settled.next_ms
        """When the first block is to be built anew."""
        self.next_ms: int | None = None
        self.times = settled.times
        self.unrebuildable = 0
        """Positions that the lagging tiers leave out because they cannot be rebuilt."""
        live: list[_Shown] = []
        lagged: list[_Shown | None] = []
        for logged in others:
            position = logged.text.position()
            self._note_changes(position, moment)
            as_is = render_position(logged.text, position, AS_IS, moment.now_ms)
            live.append(_shown(position.position_uuid, position, as_is))
            lagged.append(self._lagged(logged, position, live[-1], moment))
        self.tiers = {tier: self._rest(tier, live, lagged, moment, before) for tier in TIERS}
        self.next_ms = _earliest(self.next_ms, self.settled_next_ms)

    def run(self, tier: Tier, *, first: bool, tail: Segment) -> SegmentRun:
        """The entry with its key, as it stands in a document: first in it or not."""
        run = self._runs.get((tier, first, tail))
        if run is None:
            run = SegmentRun(self.names[not first], *self.tiers[tier].blocks, tail)
            self._runs[tier, first, tail] = run
        return run

    def entry(self, tier: Tier) -> Body:
        """The entry alone, as the tier shows it."""
        entry = self._entries.get(tier)
        if entry is None:
            rest = self.tiers[tier]
            entry = self._entries[tier] = Body([*rest.blocks, TAILS[tier]], rest.digest.hex()[:32])
        return entry

    def _note_changes(self, position: Position, moment: Moment) -> None:
        cutoff = next_change_ms(position, 0, moment.cutoff_ms)
        self.next_ms = _earliest(self.next_ms, None if cutoff is None else cutoff + TIER_LAG_MS)
        self.next_ms = _earliest(self.next_ms, next_price_source_change_ms(position, moment.now_ms))
        self.times = _span(self.times, position)
        if (closed := position.closed_at) is not None:
            settles = closed - closed % _GRID_MS + _GRID_MS + TIER_LAG_MS
            self.settled_next_ms = _earliest(self.settled_next_ms, settles)

    def _lagged(
        self, logged: LoggedPosition, position: Position, live: _Shown, moment: Moment
    ) -> _Shown | None:
        """As the tiers show it for which it is not live; None: they don't."""
        shown = view(position, 0, moment.cutoff_ms)
        if isinstance(shown, AsIs):
            return live
        if isinstance(shown, Hidden):
            self.unrebuildable += shown.reason == "not_rebuildable"
            return None
        text = render_position(logged.text, position, shown, moment.now_ms)
        return _shown(position.position_uuid, shown.position.state, text)

    def _rest(
        self,
        tier: Tier,
        live: list[_Shown],
        lagged: list[_Shown | None],
        moment: Moment,
        before: MinerView | None,
    ) -> TierEntry:
        pairs = zip(live, lagged, strict=True)
        chosen = [now if is_live(now.key[2], tier) else then for now, then in pairs]
        shown = _in_order(one for one in chosen if one is not None)
        first = self.settled.block
        outcomes = self.settled.outcomes + [one.outcome for one in shown]
        if shown and self.settled.keys and shown[0].key < self.settled.keys[-1]:
            # A rebuilt position may have closed at another time than the file says: nothing is shared then.
            shown = _in_order([*self.settled.shown(), *shown])
            outcomes = [one.outcome for one in shown]
            first = _NOTHING_SETTLED
        self.next_ms = _earliest(self.next_ms, next_aggregate_change_ms(outcomes, moment.now_ms))
        sums = aggregates(outcomes, moment.now_ms, eliminated=moment.eliminated)
        second = _second_block([one.text for one in shown], sums, first)
        return _kept(self._finish(tier, first, second, sums), before.tiers[tier] if before else None)

    def _finish(self, tier: Tier, first: Segment, second: bytes, sums: Aggregates) -> TierEntry:
        shared = first is self.settled.block
        digest = self.settled.digest.copy() if shared else hashlib.sha256(first.identity)
        digest.update(second)
        digest.update(TAILS[tier].identity)
        return TierEntry((first, Segment(second)), digest.digest(), sums)


def _names(hotkey: str) -> tuple[Segment, Segment]:
    name = msgspec.json.encode(hotkey)
    return Segment(b"{" + name + b":"), Segment(b"," + name + b":")


_NOTHING_SETTLED = Segment(_OPENING)


def _kept(rest: TierEntry, before: TierEntry | None) -> TierEntry:
    """The same with the second block that was there before, if it says the same: it is compressed already."""
    if before is None or before.blocks[1].identity != rest.blocks[1].identity:
        return rest
    return rest._replace(blocks=(rest.blocks[0], before.blocks[1]))


def _second_block(texts: list[bytes], sums: Aggregates, first: Segment) -> bytes:
    comma = b"," if texts and len(first) > len(_OPENING) else b""
    return comma + b",".join(texts) + b"]," + msgspec.json.encode(sums)[1:-1]


def _shown(position_uuid: str, state: PositionState, text: bytes) -> _Shown:
    outcome = Outcome.of(state)
    return _Shown(position_order(outcome.close_ms, position_uuid), text, outcome)


def _earliest(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _span(times: tuple[int, int] | None, position: Position) -> tuple[int, int] | None:
    moments = [order.processed_ms for order in position.orders]
    if not moments:
        return times
    first, last = min(moments), max(moments)
    return (first, last) if times is None else (min(first, times[0]), max(last, times[1]))
