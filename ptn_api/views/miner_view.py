"""A miner's view: its entry for every tier, each encoded as two blocks, rebuilt when the miner changes.

The first block holds the positions that closed long ago. All tiers and the checkpoint share it, and it rarely
changes. The second block holds the other positions as the tier shows them, and the aggregates. The boundary
between the two depends on the time alone (`block_boundary_ms`), so the way a compressed body is cut reveals
nothing about later orders.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ptn_api.event_log.contract import LoggedPosition
from ptn_api.http.body import Body, Segment, SegmentRun
from ptn_api.model.accounting import replay_differs
from ptn_api.model.miner import (
    DEFAULT_LOOKBACK_DAYS,
    Aggregates,
    CountedOutcomes,
    Exposure,
    Outcome,
    aggregates,
    next_aggregate_change_ms,
    position_order,
)
from ptn_api.model.position import Position, PositionState
from ptn_api.model.rendering import (
    AS_IS,
    Hidden,
    Rebuilt,
    appearance,
    next_change_ms,
    next_price_source_change_ms,
    render_position,
)
from ptn_api.model.tiers import TIER_LAG_MS, TIERS, Tier, is_live
from ptn_api.model.trade_pair import pair_id

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = [
    "OPENING",
    "TAILS",
    "BlockIndex",
    "ClosedBlock",
    "EncodedEntry",
    "MinerView",
    "PositionKind",
    "Replay",
    "ShownPosition",
    "after_positions",
    "block_boundary_ms",
    "earliest",
]

_HOUR_MS = 3_600_000
OPENING = b'{"positions":['
_EMPTY_BLOCK = Segment(OPENING)
_NO_EXPOSURE = Exposure()

TAILS: dict[Tier, Segment] = {tier: Segment(b',"tier":%d}' % tier) for tier in TIERS}
"""The end of an entry after its second block; in the checkpoint it is only a brace."""


def block_boundary_ms(now_ms: int) -> int:
    """Positions that closed before this time are in the first block: the tiers' cutoff, by the hour."""
    cutoff_ms = now_ms - TIER_LAG_MS
    return cutoff_ms - cutoff_ms % _HOUR_MS


class ShownPosition(NamedTuple):
    """A position as at least one tier shows it."""

    sort_key: tuple[bool, int, str]
    text: bytes
    outcome: Outcome
    exposure: Exposure = _NO_EXPOSURE

    @classmethod
    def of(
        cls, position_uuid: str, state: PositionState, text: bytes, exposure: Exposure = _NO_EXPOSURE
    ) -> ShownPosition:
        outcome = Outcome.of(state)
        return cls(position_order(outcome.close_ms, position_uuid), text, outcome, exposure)


_sort_key = attrgetter("sort_key")


class _ListedPosition(PositionState, kw_only=True):
    """What `ShownPosition` needs of a position's text."""

    position_uuid: str


_listed_positions = msgspec.json.Decoder(list[_ListedPosition])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])

TimeSpan = tuple[int, int]
"""The smallest and the largest processed_ms of some orders."""


class ClosedBlock:
    """The first block: positions that closed before `before_ms`, the same for every tier."""

    __slots__ = (
        "before_ms",
        "block",
        "counted",
        "digest",
        "expires_ms",
        "exposure",
        "last_sort_key",
        "order_times",
        "revisions",
        "uuid_hashes",
    )

    def __init__(
        self, positions: Iterable[LoggedPosition], now_ms: int, previous: Segment | None = None
    ) -> None:
        """`positions` are those that closed before `block_boundary_ms(now_ms)`.

        If the `previous` block is equal, it is kept: it is already compressed.
        """
        shown: list[ShownPosition] = []
        expiries: list[int | None] = []
        spans: list[TimeSpan | None] = []
        revisions: dict[str, int] = {}
        for logged in positions:
            position = logged.text.position()
            revisions[position.position_uuid] = logged.revision
            text = render_position(logged.text, position, AS_IS, now_ms)
            exposure = Exposure.of(position.trade_pair, position, position.orders)
            shown.append(ShownPosition.of(position.position_uuid, position, text, exposure))
            expiries.append(next_price_source_change_ms(position, now_ms))
            spans.append(_order_times(position))
        shown.sort(key=_sort_key)
        self.before_ms = block_boundary_ms(now_ms)
        self.expires_ms = earliest(*expiries)
        """When price sources age out of the block."""
        self.order_times = _union(*spans)
        # There may be hundreds of thousands of these positions, so numbers are kept as arrays.
        self.revisions = array("q", [revisions[position.sort_key[2]] for position in shown])
        """The revision of each position, in the order of the block."""
        self.uuid_hashes = array("q", sorted(map(hash, revisions)))
        self.last_sort_key = shown[-1].sort_key if shown else None
        self.counted = CountedOutcomes(position.outcome for position in shown)
        self.exposure = Exposure.total(position.exposure for position in shown)
        identity = OPENING + b",".join(position.text for position in shown)
        self.block = previous if previous is not None and previous.identity == identity else Segment(identity)
        self.digest: _Hash = hashlib.sha256(self.block.identity)

    def covers(self, position: LoggedPosition) -> bool:
        """Whether the block contains that position, or should; equal hashes only mean needless work."""
        closed_early = position.close_ms is not None and position.close_ms < self.before_ms
        uuid_hash = hash(position.position_uuid)
        at = bisect_left(self.uuid_hashes, uuid_hash)
        return closed_early or self.uuid_hashes[at : at + 1] == array("q", [uuid_hash])

    def shown(self) -> list[ShownPosition]:
        """The positions in the block, read from it: it keeps nothing but their text."""
        listed = self.block.identity[len(OPENING) - 1 :] + b"]"
        positions = zip(_listed_positions.decode(listed), _raw_list.decode(listed), strict=True)
        return [ShownPosition.of(state.position_uuid, state, bytes(text)) for state, text in positions]


class Replay(NamedTuple):
    """Whether a replay of a position's orders, as of this revision of them, contradicts its file."""

    revision: int
    differs: bool


class _Renderings(NamedTuple):
    """A position outside the first block, as tiers show it live and as tiers that lag behind show it."""

    position_uuid: str
    live: ShownPosition
    lagging: ShownPosition | None
    """None while hidden."""
    omitted: bool
    """Whether it is hidden because it cannot be rebuilt."""
    expires_ms: int | None
    """When either changes by age alone."""
    enters_ms: int | None
    """When the position enters the first block."""
    order_times: TimeSpan | None
    replay: Replay

    @classmethod
    def of(cls, logged: LoggedPosition, now_ms: int, replays: Mapping[str, Replay]) -> _Renderings:
        """`replays` are earlier ones by position uuid: one is repeated only after an order has changed."""
        position, cutoff_ms = logged.text.position(), now_ms - TIER_LAG_MS
        text = render_position(logged.text, position, AS_IS, now_ms)
        exposure = Exposure.of(position.trade_pair, position, position.orders)
        live = ShownPosition.of(position.position_uuid, position, text, exposure)
        lagging: ShownPosition | None = live
        appears_as = appearance(position, 0, cutoff_ms)
        if isinstance(appears_as, Hidden):
            lagging = None
        elif isinstance(appears_as, Rebuilt):
            text = render_position(logged.text, position, appears_as, now_ms)
            rebuilt = appears_as.position
            orders = rebuilt.orders if rebuilt.appended is None else (*rebuilt.orders, rebuilt.appended)
            exposure = Exposure.of(position.trade_pair, rebuilt.state, orders)
            lagging = ShownPosition.of(position.position_uuid, rebuilt.state, text, exposure)
        changes_ms = next_change_ms(position, 0, cutoff_ms)
        enters_ms: int | None = None
        if position.closed_at is not None:
            # It enters the first block once the boundary has passed the hour in which it closed.
            enters_ms = position.closed_at - position.closed_at % _HOUR_MS + _HOUR_MS + TIER_LAG_MS
        revision = max((logged.layout_revision, *logged.order_revisions))
        replay = replays.get(position.position_uuid)
        if replay is None or replay.revision != revision:
            replay = Replay(revision, replay_differs(position))
        return cls(
            position_uuid=position.position_uuid,
            live=live,
            lagging=lagging,
            omitted=isinstance(appears_as, Hidden) and appears_as.reason == "not_rebuildable",
            expires_ms=earliest(
                None if changes_ms is None else changes_ms + TIER_LAG_MS,
                next_price_source_change_ms(position, now_ms),
            ),
            enters_ms=enters_ms,
            order_times=_order_times(position),
            replay=replay,
        )

    def shown_in(self, tier: Tier) -> ShownPosition | None:
        """The position as the tier shows it: live if it is in the tier's sample; None if hidden."""
        return self.live if is_live(self.position_uuid, tier) else self.lagging


class EncodedEntry(NamedTuple):
    """A miner's entry for one tier, encoded (`model.miner.MinerEntry` is its decoded form).

    `digest` is a hash of the blocks and the tier's tail, `expires_ms` when the aggregates change by age,
    `empty` whether the tier shows no position. `exposure` is for the leaderboard and follows from the blocks.
    """

    blocks: tuple[Segment, Segment]
    digest: bytes
    aggregates: Aggregates
    exposure: Exposure
    expires_ms: int | None
    empty: bool

    @classmethod
    def of(
        cls,
        tier: Tier,
        closed: ClosedBlock,
        others: list[ShownPosition],
        now_ms: int,
        *,
        lookback_days: float,
        previous: Segment | None,
    ) -> EncodedEntry:
        """The entry with `others`, sorted, in the second block; `previous` is kept if it is equal."""
        first, counted, shown = closed.block, closed.counted, others
        exposure = Exposure.total([closed.exposure, *(position.exposure for position in others)])
        if shown and closed.last_sort_key is not None and shown[0].sort_key < closed.last_sort_key:
            # A rebuilt position may have closed earlier than the file states and then sorts before positions
            # of the first block. This tier shares no block: all its positions go into the second one.
            shown = sorted([*closed.shown(), *shown], key=_sort_key)
            first, counted = _EMPTY_BLOCK, CountedOutcomes()
        outcomes = [position.outcome for position in shown]
        sums = aggregates(outcomes, now_ms, lookback_days=lookback_days, first=counted)
        comma = b"," if shown and len(first) > len(OPENING) else b""
        texts = b",".join(position.text for position in shown)
        identity = comma + texts + after_positions(sums)
        second = previous if previous is not None and previous.identity == identity else Segment(identity)
        # The hash of the shared block continues from a copy of its state, so its text is hashed only once.
        digest = closed.digest.copy() if first is closed.block else hashlib.sha256(first.identity)
        digest.update(identity)
        digest.update(TAILS[tier].identity)
        changes_ms = next_aggregate_change_ms(outcomes, now_ms, lookback_days=lookback_days, first=counted)
        empty = not shown and closed.last_sort_key is None
        return cls((first, second), digest.digest(), sums, exposure, changes_ms, empty)

    def same_as(self, other: EncodedEntry) -> bool:
        """Whether text and boundary of the blocks are equal; then their compressed forms are, too."""
        return self.digest == other.digest and len(self.blocks[0]) == len(other.blocks[0])


PositionKind = tuple[str, bool]
"""What filters choose positions by: the trade pair's id, and whether the position is closed."""


class _Traits(msgspec.Struct):
    position_uuid: str = ""
    trade_pair: Any = None
    is_closed_position: bool = False


_traits_list = msgspec.json.Decoder(list[_Traits])


class BlockIndex:
    """Where the positions of a block are in its text, and of which kind: filters cut them out by it."""

    __slots__ = ("ends", "kinds", "start", "sums", "uuids")

    def __init__(self, text: bytes, start: int, end: int) -> None:
        """The text from `start` to `end` is the positions, separated by single commas."""
        listed = b"[" + text[start:end] + b"]"
        traits = _traits_list.decode(listed)
        known: dict[PositionKind, PositionKind] = {}
        self.start = start
        self.ends = array("L")
        self.uuids = [trait.position_uuid for trait in traits]
        self.kinds: list[PositionKind] = []
        self.sums: dict[PositionKind, tuple[int, int]] = {}
        """The number and the bytes of the positions of each kind."""
        for trait, raw in zip(traits, _raw_list.decode(listed), strict=True):
            kind = (pair_id(trait.trade_pair), trait.is_closed_position)
            kind = known.setdefault(kind, kind)
            size = len(memoryview(raw))
            count, total = self.sums.get(kind, (0, 0))
            self.sums[kind] = (count + 1, total + size)
            self.kinds.append(kind)
            self.ends.append(start + size)
            start += size + 1

    def __len__(self) -> int:
        return len(self.ends)

    def sizes(self) -> Iterator[int]:
        """Yields the length of each position's text."""
        start = self.start
        for end in self.ends:
            yield end - start
            start = end + 1

    def runs(self, chosen: Iterable[bool]) -> Iterator[tuple[int, int]]:
        """Yields where the text of the chosen positions begins and ends; adjacent ones together."""
        start, first = self.start, -1
        for end, is_chosen in zip(self.ends, chosen, strict=True):
            if is_chosen and first < 0:
                first = start
            elif not is_chosen and first >= 0:
                yield first, start - 1
                first = -1
            start = end + 1
        if first >= 0:
            yield first, start - 1


class MinerView:
    """A miner's entries, one per tier, as of one time and valid until `expires_ms` (None: indefinitely)."""

    __slots__ = (
        "_bodies",
        "_runs",
        "closed",
        "closed_expires_ms",
        "empty",
        "entries",
        "expires_ms",
        "hotkey",
        "indexes",
        "name_segments",
        "omitted",
        "order_times",
        "replays",
        "revision",
        "revisions",
    )

    def __init__(
        self,
        hotkey: str,
        closed: ClosedBlock,
        others: Sequence[LoggedPosition],
        now_ms: int,
        *,
        lookback_days: float = DEFAULT_LOOKBACK_DAYS,
        previous: MinerView | None = None,
    ) -> None:
        """`others` are the positions outside `closed`. Blocks equal to those in `previous` are kept."""
        self.hotkey = hotkey
        name = msgspec.json.encode(hotkey)
        self.name_segments: tuple[Segment, Segment] = (
            previous.name_segments
            if previous is not None
            else (Segment(b"{" + name + b":"), Segment(b"," + name + b":"))
        )
        """The hotkey as the name of a document's first entry, and as that of a later one."""
        self.closed = closed
        self.empty = closed.last_sort_key is None and not others
        """Whether the miner has no positions."""
        earlier: dict[str, Replay] = {} if previous is None else previous.replays
        renderings = [_Renderings.of(logged, now_ms, earlier) for logged in others]
        self.replays: dict[str, Replay] = {
            rendering.position_uuid: rendering.replay for rendering in renderings
        }
        self.entries: dict[Tier, EncodedEntry] = {}
        for tier in TIERS:
            candidates = (rendering.shown_in(tier) for rendering in renderings)
            shown = sorted((position for position in candidates if position is not None), key=_sort_key)
            before = previous.entries[tier].blocks[1] if previous else None
            self.entries[tier] = EncodedEntry.of(
                tier, closed, shown, now_ms, lookback_days=lookback_days, previous=before
            )
        self.revisions = {logged.position_uuid: logged.revision for logged in others}
        """The revision of each position outside `closed`, by its uuid."""
        self.revision = max([0, *closed.revisions, *self.revisions.values()])
        """The newest revision of any position."""
        blocks = {block for entry in self.entries.values() for block in entry.blocks}
        kept_indexes = {} if previous is None else previous.indexes
        self.indexes: dict[Segment, BlockIndex] = {
            block: index for block, index in kept_indexes.items() if block in blocks
        }
        """Where the positions of each block are, for `index_of`."""
        self.order_times = _union(closed.order_times, *(rendering.order_times for rendering in renderings))
        self.omitted = sum(rendering.omitted for rendering in renderings)
        """The number of positions that lagging tiers omit because they cannot be rebuilt."""
        self.closed_expires_ms = earliest(
            closed.expires_ms, *(rendering.enters_ms for rendering in renderings)
        )
        """When the first block must be rebuilt."""
        self.expires_ms = earliest(
            self.closed_expires_ms,
            *(rendering.expires_ms for rendering in renderings),
            *(entry.expires_ms for entry in self.entries.values()),
        )
        # A tier that shows the same keeps its bodies: the time of an answer must not tell of hidden orders.
        same = [tier for tier in TIERS if previous and previous.entries[tier].same_as(self.entries[tier])]
        kept_bodies, kept_runs = ({}, {}) if previous is None else (previous._bodies, previous._runs)
        self._bodies: dict[Tier, Body] = {tier: body for tier, body in kept_bodies.items() if tier in same}
        self._runs: dict[tuple[Tier, bool, Segment], SegmentRun] = {
            key: run for key, run in kept_runs.items() if key[0] in same
        }

    def run(self, tier: Tier, *, first: bool, tail: Segment) -> SegmentRun:
        """The tier's entry with its name, as it appears in a document, as the first one or not."""
        run = self._runs.get((tier, first, tail))
        if run is None:
            name = self.name_segments[0] if first else self.name_segments[1]
            run = SegmentRun(name, *self.entries[tier].blocks, tail)
            self._runs[tier, first, tail] = run
        return run

    def index_of(self, tier: Tier) -> tuple[BlockIndex, BlockIndex]:
        """Where the positions of the tier's entry are in its two blocks."""
        entry = self.entries[tier]
        first, second = entry.blocks
        for block in entry.blocks:
            if block not in self.indexes:
                text = block.identity
                at, end = 0, len(text)
                if block is first:
                    at = len(OPENING)
                else:
                    at += text.startswith(b",")
                    end -= len(after_positions(entry.aggregates))
                self.indexes[block] = BlockIndex(text, at, end)
        return self.indexes[first], self.indexes[second]

    def body(self, tier: Tier) -> Body:
        """The tier's entry as a document."""
        body = self._bodies.get(tier)
        if body is None:
            entry = self.entries[tier]
            body = self._bodies[tier] = Body([*entry.blocks, TAILS[tier]], entry.digest.hex()[:32])
        return body


def after_positions(sums: Aggregates) -> bytes:
    """Returns the text that follows an entry's last position, up to the tier's tail."""
    return b"]," + msgspec.json.encode(sums)[1:-1]


def earliest(*times: int | None) -> int | None:
    """The earliest of these times; None means never."""
    return min((time for time in times if time is not None), default=None)


def _order_times(position: Position) -> TimeSpan | None:
    times = [order.processed_ms for order in position.orders]
    return (min(times), max(times)) if times else None


def _union(*spans: TimeSpan | None) -> TimeSpan | None:
    """The shortest span that contains all of these."""
    present = [span for span in spans if span is not None]
    if not present:
        return None
    return min(first for first, _ in present), max(last for _, last in present)
