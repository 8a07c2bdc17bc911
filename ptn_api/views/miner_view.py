"""A miner's entry in the positions documents: two blocks per tier, rebuilt when the miner changes.

The first block holds the positions that closed long ago. All tiers and the checkpoint share it, and it rarely
changes. The second block holds the other positions as the tier shows them, and the aggregates. The boundary
between the two depends on the time alone (`block_boundary_ms`), so the way a compressed body is cut reveals
nothing about later orders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from operator import attrgetter
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

__all__ = ["TAILS", "ClosedBlock", "MinerView", "TierEntry", "block_boundary_ms", "earliest"]

_HOUR_MS = 3_600_000
_OPENING = b'{"positions":['
_EMPTY_BLOCK = Segment(_OPENING)

TAILS: dict[Tier, Segment] = {tier: Segment(b',"tier":%d}' % tier) for tier in TIERS}
"""The end of an entry after its second block; in the checkpoint it is only a brace."""


def block_boundary_ms(now_ms: int) -> int:
    """Positions that closed before this time are in the first block: the tiers' cutoff, by the hour."""
    cutoff_ms = now_ms - TIER_LAG_MS
    return cutoff_ms - cutoff_ms % _HOUR_MS


class _ShownPosition(NamedTuple):
    """A position as at least one tier shows it."""

    sort_key: tuple[bool, int, str]
    text: bytes
    outcome: Outcome

    @classmethod
    def of(cls, position_uuid: str, state: PositionState, text: bytes) -> _ShownPosition:
        outcome = Outcome.of(state)
        return cls(position_order(outcome.close_ms, position_uuid), text, outcome)


_sort_key = attrgetter("sort_key")


class ClosedBlock:
    """The first block: positions that closed before `before_ms`, the same for every tier."""

    __slots__ = (
        "before_ms",
        "block",
        "digest",
        "expires_ms",
        "order_times",
        "outcomes",
        "position_uuids",
        "sort_keys",
    )

    def __init__(
        self, positions: Iterable[LoggedPosition], now_ms: int, previous: Segment | None = None
    ) -> None:
        """`positions` are those that closed before `block_boundary_ms(now_ms)`.

        If the `previous` block is equal, it is kept: it is already compressed.
        """
        self.before_ms = block_boundary_ms(now_ms)
        self.expires_ms: int | None = None
        """When price sources age out of the block."""
        self.order_times: tuple[int, int] | None = None
        """The smallest and the largest processed_ms of the orders."""
        shown: list[_ShownPosition] = []
        for logged in positions:
            position = logged.text.position()
            self.expires_ms = earliest(self.expires_ms, next_price_source_change_ms(position, now_ms))
            self.order_times = _extended(self.order_times, position)
            text = render_position(logged.text, position, AS_IS, now_ms)
            shown.append(_ShownPosition.of(position.position_uuid, position, text))
        shown.sort(key=_sort_key)
        self.sort_keys = [position.sort_key for position in shown]
        self.position_uuids = frozenset(uuid for _, _, uuid in self.sort_keys)
        self.outcomes = [position.outcome for position in shown]
        identity = _OPENING + b",".join(position.text for position in shown)
        self.block = previous if previous is not None and previous.identity == identity else Segment(identity)
        self.digest: _Hash = hashlib.sha256(self.block.identity)

    def covers(self, position: LoggedPosition) -> bool:
        """Whether the block contains that position, or should."""
        closed_early = position.close_ms is not None and position.close_ms < self.before_ms
        return closed_early or position.position_uuid in self.position_uuids

    def shown(self) -> list[_ShownPosition]:
        """The positions in the block, with texts cut out of it: it stores no second copy of them."""
        array = self.block.identity[len(_OPENING) - 1 :] + b"]"
        texts = map(bytes, msgspec.json.decode(array, type=list[msgspec.Raw]))
        return [_ShownPosition(*row) for row in zip(self.sort_keys, texts, self.outcomes, strict=True)]


class TierEntry(NamedTuple):
    """The entry as one tier shows it, with a hash of its blocks and the tier's tail."""

    blocks: tuple[Segment, Segment]
    digest: bytes
    aggregates: Aggregates

    def same_as(self, other: TierEntry) -> bool:
        """Whether text and boundary of the blocks are equal; then their compressed forms are, too."""
        return self.digest == other.digest and len(self.blocks[0]) == len(other.blocks[0])


class MinerView:
    """A miner's entry for every tier, as of one time and valid until `expires_ms` (None: indefinitely)."""

    __slots__ = (
        "_entries",
        "_runs",
        "closed",
        "closed_expires_ms",
        "empty",
        "expires_ms",
        "hotkey",
        "keys",
        "omitted",
        "order_times",
        "tiers",
    )

    def __init__(
        self,
        hotkey: str,
        closed: ClosedBlock,
        others: Sequence[LoggedPosition],
        now_ms: int,
        *,
        eliminated: bool = False,
        previous: MinerView | None = None,
    ) -> None:
        """`others` are the positions outside `closed`. Blocks equal to those in `previous` are kept."""
        name = msgspec.json.encode(hotkey)
        self.hotkey = hotkey
        self.keys: tuple[Segment, Segment] = (Segment(b"{" + name + b":"), Segment(b"," + name + b":"))
        """The hotkey as JSON key of the first entry in a document, and of a later one."""
        if previous is not None:
            self.keys = previous.keys
        self.closed = closed
        self._entries: dict[Tier, Body] = {}
        self._runs: dict[tuple[Tier, bool, Segment], SegmentRun] = {}
        self.empty = not closed.sort_keys and not others
        """Whether the miner has no positions."""
        self.closed_expires_ms = closed.expires_ms
        """When the first block must be rebuilt."""
        self.expires_ms: int | None = None
        self.order_times = closed.order_times
        self.omitted = 0
        """The number of positions that lagging tiers omit because they cannot be rebuilt."""
        appearances = [self._appearances(logged, now_ms) for logged in others]
        self.tiers: dict[Tier, TierEntry] = {}
        for tier in TIERS:
            # A tier shows the positions in its sample live and lags behind for the others.
            chosen = (now if is_live(now.sort_key[2], tier) else then for now, then in appearances)
            shown = sorted((position for position in chosen if position is not None), key=_sort_key)
            before = previous.tiers[tier].blocks[1] if previous else None
            self.tiers[tier] = self._tier_entry(tier, shown, now_ms, eliminated, before)
        self.expires_ms = earliest(self.expires_ms, self.closed_expires_ms)

    def run(self, tier: Tier, *, first: bool, tail: Segment) -> SegmentRun:
        """The entry with its key, as it appears in a document, as the first one or not."""
        run = self._runs.get((tier, first, tail))
        if run is None:
            key = self.keys[0] if first else self.keys[1]
            run = SegmentRun(key, *self.tiers[tier].blocks, tail)
            self._runs[tier, first, tail] = run
        return run

    def entry(self, tier: Tier) -> Body:
        """The entry as a document."""
        entry = self._entries.get(tier)
        if entry is None:
            shown = self.tiers[tier]
            entry = self._entries[tier] = Body([*shown.blocks, TAILS[tier]], shown.digest.hex()[:32])
        return entry

    def _appearances(
        self, logged: LoggedPosition, now_ms: int
    ) -> tuple[_ShownPosition, _ShownPosition | None]:
        """The position as shown live, and as shown by tiers that lag behind (None: hidden).

        Also notes when either changes by age alone.
        """
        position = logged.text.position()
        self.order_times = _extended(self.order_times, position)
        appears_ms = next_change_ms(position, 0, now_ms - TIER_LAG_MS)
        self.expires_ms = earliest(
            self.expires_ms,
            None if appears_ms is None else appears_ms + TIER_LAG_MS,
            next_price_source_change_ms(position, now_ms),
        )
        close_ms = position.closed_at
        if close_ms is not None:
            # It enters the first block once the boundary has passed the hour in which it closed.
            enters_ms = close_ms - close_ms % _HOUR_MS + _HOUR_MS + TIER_LAG_MS
            self.closed_expires_ms = earliest(self.closed_expires_ms, enters_ms)
        text = render_position(logged.text, position, AS_IS, now_ms)
        live = _ShownPosition.of(position.position_uuid, position, text)
        lagging = view(position, 0, now_ms - TIER_LAG_MS)
        if isinstance(lagging, AsIs):
            return live, live
        if isinstance(lagging, Hidden):
            if lagging.reason == "not_rebuildable":
                self.omitted += 1
            return live, None
        text = render_position(logged.text, position, lagging, now_ms)
        return live, _ShownPosition.of(position.position_uuid, lagging.position.state, text)

    def _tier_entry(
        self, tier: Tier, shown: list[_ShownPosition], now_ms: int, eliminated: bool, previous: Segment | None
    ) -> TierEntry:
        """The tier's entry with these positions in the second block, `previous` if that is equal."""
        first = self.closed.block
        outcomes = self.closed.outcomes + [position.outcome for position in shown]
        if shown and self.closed.sort_keys and shown[0].sort_key < self.closed.sort_keys[-1]:
            # A rebuilt position may have closed earlier than the file states and then sorts before positions
            # of the first block. This tier shares no block: all its positions go into the second one.
            shown = sorted([*self.closed.shown(), *shown], key=_sort_key)
            outcomes = [position.outcome for position in shown]
            first = _EMPTY_BLOCK
        self.expires_ms = earliest(self.expires_ms, next_aggregate_change_ms(outcomes, now_ms))
        sums = aggregates(outcomes, now_ms, eliminated=eliminated)
        comma = b"," if shown and len(first) > len(_OPENING) else b""
        texts = b",".join(position.text for position in shown)
        identity = comma + texts + b"]," + msgspec.json.encode(sums)[1:-1]
        second = previous if previous is not None and previous.identity == identity else Segment(identity)
        # The hash of the shared block continues from a copy of its state, so its text is hashed only once.
        shared = first is self.closed.block
        digest = self.closed.digest.copy() if shared else hashlib.sha256(first.identity)
        digest.update(identity)
        digest.update(TAILS[tier].identity)
        return TierEntry((first, second), digest.digest(), sums)


def earliest(*times: int | None) -> int | None:
    """The earliest of these times; None means never."""
    return min((time for time in times if time is not None), default=None)


def _extended(span: tuple[int, int] | None, position: Position) -> tuple[int, int] | None:
    """The span of times, extended to the position's orders."""
    times = [order.processed_ms for order in position.orders]
    if not times:
        return span
    first, last = min(times), max(times)
    return (first, last) if span is None else (min(first, span[0]), max(last, span[1]))
