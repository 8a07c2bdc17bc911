"""The positions documents: every miner's piece, and snapshots of them, one per tier and the checkpoint.

A piece is built from the log whenever its miner changes or something in it ages (`Follower` says when);
a snapshot is a list of references to pieces, made when first asked for.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from ptn_api.clock import Clock
from ptn_api.event_log.contract import EventLog, Head, LoggedPosition
from ptn_api.histogram import Histogram
from ptn_api.http.body import Body, Segment, SegmentRun, tag_of
from ptn_api.model.miner import miner_order
from ptn_api.model.tiers import TIER_LAG_MS, TIERS, Tier
from ptn_api.views.miner_view import TAILS, ClosedBlock, MinerView, Moment, settled_before

__all__ = ["PositionViews", "ViewMetrics"]

_CLOSE, _NOTHING = Segment(b"}"), Segment(b"{}")


@dataclass
class ViewMetrics:
    """Durations in seconds: of building one miner's view, and of joining them into a document."""

    build_seconds: Histogram = field(default_factory=Histogram)
    assembly_seconds: Histogram = field(default_factory=Histogram)


class PositionViews:
    """What is served of positions. `head` is a lower bound: everything up to it is in."""

    def __init__(self, log: EventLog, clock: Clock, metrics: ViewMetrics | None = None) -> None:
        self._log = log
        self._clock = clock
        self._metrics = metrics or ViewMetrics()
        self._pieces: dict[str, MinerView] = {}
        self._snapshots: dict[Tier | None, Body] = {}
        self._moments: list[tuple[int, str]] = []
        """A heap of when which piece is to be built anew; outdated entries are passed over."""
        self._scheduled: dict[str, int] = {}
        self._ageing_ms: int | None = None
        self.head = Head(sequence=0, revision=0)
        self.eliminated: frozenset[str] = frozenset()
        self.built = False
        """Whether every miner's piece has been built once."""
        self.changed_ms = 0
        """When what tier 100 shows last changed."""

    # --- reading ------------------------------------------------------------------------------------------

    def snapshot(self, tier: Tier) -> Body:
        """All miners as the tier shows them."""
        snapshot = self._snapshots.get(tier)
        if snapshot is None:
            with self._metrics.assembly_seconds.time():
                snapshot = self._snapshots[tier] = self.joined(tier, self.ranked(tier))
        return snapshot

    def for_checkpoint(self) -> Body:
        """All miners as tier 100 shows them, without `tier`."""
        snapshot = self._snapshots.get(None)
        if snapshot is None:
            snapshot = self._snapshots[None] = self.joined(100, self.ranked(100), tail=_CLOSE)
        return snapshot

    def joined(self, tier: Tier, pieces: Iterable[MinerView], *, tail: Segment | None = None) -> Body:
        """An object of these miners' entries."""
        tail = tail or TAILS[tier]
        runs: list[SegmentRun | Segment] = []
        said: list[bytes] = []
        for piece in pieces:
            runs.append(piece.run(tier, first=not runs, tail=tail))
            said += (piece.names[0].identity, piece.tiers[tier].digest)
        return Body([*runs, _CLOSE] if runs else [_NOTHING], tag_of(said))

    def entry(self, hotkey: str, tier: Tier) -> Body | None:
        """One miner's entry as the tier shows it; None: no such miner."""
        piece = self._pieces.get(hotkey)
        return None if piece is None else piece.entry(tier)

    def ranked(self, tier: Tier) -> list[MinerView]:
        """The miners' pieces, best first by what the tier shows."""
        return sorted(
            self._pieces.values(),
            key=lambda piece: miner_order(piece.tiers[tier].aggregates.thirty_day_returns, piece.hotkey),
        )

    def piece(self, hotkey: str) -> MinerView | None:
        return self._pieces.get(hotkey)

    def hotkeys(self) -> list[str]:
        return sorted(self._pieces)

    def unrebuildable(self) -> int:
        """How many positions the lagging tiers leave out because they cannot be rebuilt."""
        return sum(piece.unrebuildable for piece in self._pieces.values())

    def as_of_ms(self) -> int:
        """The cutoff up to which the lagging tiers are complete.

        It follows the time, not the changes: nothing that is after the cutoff moves it.
        """
        now = self._clock()
        waiting = [moment for moment in (self._ageing_ms, self.next_moment_ms()) if moment is not None]
        return min([now, *(moment - 1 for moment in waiting)]) - TIER_LAG_MS

    # --- building -----------------------------------------------------------------------------------------

    def build(self, hotkey: str) -> None:
        """Builds a miner's piece from all its positions in the log."""
        with self._metrics.build_seconds.time():
            self._build(hotkey)

    def _build(self, hotkey: str) -> None:
        moment = self._moment(hotkey)
        before_ms = settled_before(moment.now_ms)
        settled: list[LoggedPosition] = []
        others: list[LoggedPosition] = []
        for logged in self._log.positions(miner=hotkey):
            early = logged.close_ms is not None and logged.close_ms < before_ms
            (settled if early else others).append(logged)
        before = self._pieces.get(hotkey)
        block = before.settled.block if before is not None else None
        self._keep(MinerView(hotkey, ClosedBlock(settled, moment, block), others, moment, before))

    def refresh(self, hotkey: str) -> None:
        """Builds the part of a miner's piece that changes often; all of it where that does not do."""
        piece = self._pieces.get(hotkey)
        moment = self._moment(hotkey)
        if piece is None or (piece.settled_next_ms or moment.now_ms + 1) <= moment.now_ms:
            self.build(hotkey)
            return
        with self._metrics.build_seconds.time():
            others = self._log.positions_of(hotkey, open_or_closed_since_ms=piece.settled.before_ms)
            self._keep(MinerView(hotkey, piece.settled, others, moment, piece))

    def drop(self, hotkey: str) -> None:
        """Forgets a miner."""
        self._scheduled.pop(hotkey, None)
        if self._pieces.pop(hotkey, None) is not None:
            self._changed(TIERS)

    def _moment(self, hotkey: str) -> Moment:
        return Moment(self._clock(), hotkey in self.eliminated)

    def _keep(self, piece: MinerView) -> None:
        before = self._pieces.get(piece.hotkey)
        self._pieces[piece.hotkey] = piece
        self._schedule(piece)
        self._changed([t for t in TIERS if before is None or not before.tiers[t].same_as(piece.tiers[t])])

    def _schedule(self, piece: MinerView) -> None:
        if piece.next_ms is None:
            self._scheduled.pop(piece.hotkey, None)
        elif self._scheduled.get(piece.hotkey) != piece.next_ms:
            self._scheduled[piece.hotkey] = piece.next_ms
            heapq.heappush(self._moments, (piece.next_ms, piece.hotkey))

    def _changed(self, tiers: Iterable[Tier]) -> None:
        for tier in tiers:
            self._snapshots.pop(tier, None)
            if tier == 100:
                self._snapshots.pop(None, None)
                self.changed_ms = self._clock()

    # --- ageing -------------------------------------------------------------------------------------------

    def next_moment_ms(self) -> int | None:
        """When the next piece is to be built anew because of its age."""
        while self._moments and self._scheduled.get(self._moments[0][1]) != self._moments[0][0]:
            heapq.heappop(self._moments)
        return self._moments[0][0] if self._moments else None

    def due(self) -> list[str]:
        """Miners whose pieces have aged; to be followed by `aged()` once they are built."""
        now, hotkeys = self._clock(), []
        while (moment := self.next_moment_ms()) is not None and moment <= now:
            if self._ageing_ms is None:
                self._ageing_ms = moment
            hotkey = heapq.heappop(self._moments)[1]
            del self._scheduled[hotkey]
            hotkeys.append(hotkey)
        return hotkeys

    def aged(self) -> None:
        """All that was due has been built."""
        self._ageing_ms = None
