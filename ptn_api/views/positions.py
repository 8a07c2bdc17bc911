"""The positions documents: one per tier and one for the checkpoint, joined from every miner's view.

A view is rebuilt when its miner changes or something in it ages; `Follower` decides when. A document is a
list of references to the views' blocks, joined at the first request after a change.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ptn_api.clock import Clock
from ptn_api.event_log.contract import EventLog, Head, LoggedPosition
from ptn_api.histogram import Histogram
from ptn_api.http.body import Body
from ptn_api.model.miner import DEFAULT_LOOKBACK_DAYS
from ptn_api.model.tiers import TIER_LAG_MS, TIERS, Tier
from ptn_api.views.miner_view import TAILS, ClosedBlock, MinerView, block_boundary_ms, earliest
from ptn_api.views.ranked_entries import CLOSE, RankedEntries

__all__ = ["PositionViews", "ViewMetrics"]


@dataclass
class ViewMetrics:
    """Durations in seconds, of building one miner's view and of joining them into a document.

    `replay_mismatches` counts changes of a position's orders whose replay contradicts the validator's file.
    """

    build_seconds: Histogram = field(default_factory=Histogram)
    replay_mismatches: int = 0
    assembly_seconds: Histogram = field(default_factory=Histogram)


class PositionViews:
    """Every miner's view, and the documents joined from them.

    `head` is a lower bound: the views contain every change up to it, and maybe later ones.
    """

    def __init__(self, log: EventLog, clock: Clock, metrics: ViewMetrics | None = None) -> None:
        self._log = log
        self._clock = clock
        self._metrics = metrics or ViewMetrics()
        self._views: dict[str, MinerView] = {}
        self._ranked: dict[Tier, RankedEntries] = {tier: RankedEntries(tier) for tier in TIERS}
        self._documents: dict[Tier | None, Body] = {}
        """By tier; None is the checkpoint's."""
        self._expiries: list[tuple[int, str]] = []
        """A heap of (expires_ms, hotkey); entries that `_scheduled` contradicts are outdated and skipped."""
        self._scheduled: dict[str, int] = {}
        self._rebuilding: dict[str, int] = {}
        """The expiries of the views that were taken for a rebuild and still await it."""
        self.head = Head(sequence=0, revision=0)
        self.lookback_days: float = DEFAULT_LOOKBACK_DAYS
        self.archived: frozenset[str] = frozenset()
        """The miners with archived positions."""
        self.built = False
        """Whether every miner's view has been built once."""
        self.changed_ms = 0
        """When the document of tier 100 last changed."""
        self.changes: Counter[Tier] = Counter()
        """How often each tier's document has changed."""

    # --- reading ------------------------------------------------------------------------------------------

    def snapshot(self, tier: Tier) -> Body:
        """All miners as the tier shows them."""
        document = self._documents.get(tier)
        if document is None:
            with self._metrics.assembly_seconds.time():
                document = self._documents[tier] = self._ranked[tier].document(TAILS[tier], self._views)
        return document

    def for_checkpoint(self) -> Body:
        """All miners as tier 100 shows them, without the key `tier`."""
        document = self._documents.get(None)
        if document is None:
            document = self._documents[None] = self._ranked[100].document(CLOSE, self._views)
        return document

    def entry(self, hotkey: str, tier: Tier) -> Body | None:
        """Returns one miner's entry in the tier; None if the tier's responses do not contain the miner."""
        view = self._views.get(hotkey)
        return view.body(tier) if view is not None and _is_known(view, tier) else None

    def ranked(self, tier: Tier) -> list[MinerView]:
        """Returns the views of the tier's miners, sorted by the returns that the tier shows, best first."""
        return [self._views[hotkey] for hotkey in self._ranked[tier].hotkeys()]

    def view(self, hotkey: str) -> MinerView | None:
        return self._views.get(hotkey)

    def hotkeys(self, tier: Tier = 100) -> list[str]:
        """Returns the tier's miners, sorted."""
        return sorted(hotkey for hotkey, view in self._views.items() if _is_known(view, tier))

    def omitted(self) -> int:
        """The number of positions that lagging tiers omit because they cannot be rebuilt."""
        return sum(view.omitted for view in self._views.values())

    def as_of_ms(self) -> int:
        """The cutoff up to which the lagging tiers are complete.

        It follows the clock, not the changes: a change after the cutoff does not move it.
        """
        now_ms = self._clock()
        pending_ms = earliest(*self._rebuilding.values(), self.next_expiry_ms())
        return (now_ms if pending_ms is None else min(now_ms, pending_ms - 1)) - TIER_LAG_MS

    # --- building -----------------------------------------------------------------------------------------

    def build(self, hotkey: str) -> None:
        """Builds a miner's view from all its positions in the log."""
        with self._metrics.build_seconds.time():
            now_ms = self._clock()
            boundary_ms = block_boundary_ms(now_ms)
            closed: list[LoggedPosition] = []
            others: list[LoggedPosition] = []
            for logged in self._log.positions(miner=hotkey):
                early = logged.close_ms is not None and logged.close_ms < boundary_ms
                (closed if early else others).append(logged)
            previous = self._views.get(hotkey)
            block = previous.closed.block if previous is not None else None
            self._store(hotkey, ClosedBlock(closed, now_ms, block), others, now_ms)

    def refresh(self, hotkey: str) -> None:
        """Rebuilds the second blocks of a miner's view, or all of it if the first block has expired."""
        view = self._views.get(hotkey)
        now_ms = self._clock()
        if view is None or (view.closed_expires_ms is not None and view.closed_expires_ms <= now_ms):
            self.build(hotkey)
            return
        with self._metrics.build_seconds.time():
            # The boundary of the existing first block, not the present one: the two parts must fit.
            others = self._log.positions_of(hotkey, open_or_closed_since_ms=view.closed.before_ms)
            self._store(hotkey, view.closed, others, now_ms)

    def drop(self, hotkey: str) -> None:
        """Forgets a miner."""
        self._rebuilding.pop(hotkey, None)
        self._scheduled.pop(hotkey, None)
        view = self._views.pop(hotkey, None)
        if view is not None:
            self._invalidate(hotkey, [tier for tier in TIERS if _is_known(view, tier)])

    def _store(self, hotkey: str, closed: ClosedBlock, others: list[LoggedPosition], now_ms: int) -> None:
        """Replaces a miner's view; invalidates the documents of the tiers that show a difference."""
        previous = self._views.get(hotkey)
        view = MinerView(hotkey, closed, others, now_ms, lookback_days=self.lookback_days, previous=previous)
        checked = {} if previous is None else previous.replays
        self._metrics.replay_mismatches += sum(
            replay.differs and replay != checked.get(uuid) for uuid, replay in view.replays.items()
        )
        self._views[hotkey] = view
        self._rebuilding.pop(hotkey, None)
        if view.expires_ms is None:
            self._scheduled.pop(hotkey, None)
        elif self._scheduled.get(hotkey) != view.expires_ms:
            # A heap cannot update an entry: the old one stays and is skipped when it surfaces.
            self._scheduled[hotkey] = view.expires_ms
            heapq.heappush(self._expiries, (view.expires_ms, hotkey))
        self._invalidate(hotkey, [tier for tier in TIERS if not _same_in(tier, previous, view)])

    def _invalidate(self, hotkey: str, tiers: Iterable[Tier]) -> None:
        """Takes a miner's new entry into the documents of these tiers, which are joined when requested."""
        view = self._views.get(hotkey)
        for tier in tiers:
            is_shown = view is not None and _is_known(view, tier)
            self._ranked[tier].put(hotkey, view.entries[tier] if view is not None and is_shown else None)
            self._documents.pop(tier, None)
            self.changes[tier] += 1
            if tier == 100:
                self._documents.pop(None, None)
                self.changed_ms = self._clock()

    # --- ageing -------------------------------------------------------------------------------------------

    def next_expiry_ms(self) -> int | None:
        """When the next view must be rebuilt because of its age."""
        while self._expiries and self._scheduled.get(self._expiries[0][1]) != self._expiries[0][0]:
            heapq.heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else None

    def take_expired(self) -> list[str]:
        """Miners whose views have expired. The caller rebuilds them; until then they hold `as_of_ms` back."""
        now_ms, hotkeys = self._clock(), []
        while (expiry_ms := self.next_expiry_ms()) is not None and expiry_ms <= now_ms:
            hotkey = heapq.heappop(self._expiries)[1]
            del self._scheduled[hotkey]
            self._rebuilding[hotkey] = expiry_ms
            hotkeys.append(hotkey)
        return hotkeys


def _is_known(view: MinerView, tier: Tier) -> bool:
    """Returns whether the tier's responses contain the miner: below tier 100, if it shows a position."""
    return tier == 100 or not view.entries[tier].empty


def _same_in(tier: Tier, previous: MinerView | None, view: MinerView) -> bool:
    """Returns whether the tier's document may be kept, so that its timing reveals no hidden order either."""
    if previous is None:
        return not _is_known(view, tier)
    return previous.entries[tier].same_as(view.entries[tier])
