"""The task that keeps the views up to date with the log and the clock.

A miner with a new or changed order is rebuilt at once. Mere refreshes of returns, hundreds of them every
minute, are coalesced for a while. Between any two miners other tasks run, and new orders go first.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic

import structlog

from ptn_api.clock import Clock, SteadyClock
from ptn_api.errors import LogPrunedError
from ptn_api.event_log.contract import Document, EventLog, Head, known_ms
from ptn_api.event_log.outage import LogOutage
from ptn_api.tasks import TimeSlice
from ptn_api.views.documents import Documents
from ptn_api.views.positions import PositionViews

__all__ = ["Follower", "RebuildQueue"]

logger = structlog.get_logger()

_LONGEST_WAIT_MS = 1_000
_BACKWARDS_MS = 60_000
"""A clock that jumps back further than this invalidates every view."""


@dataclass
class _Pending:
    """A miner to rebuild. The views contain its changes up to `before`, but not all later ones."""

    before: Head
    due: float = 0.0
    full: bool = False
    """Whether the first block must be rebuilt, too."""


class RebuildQueue:
    """Miners to rebuild: the urgent ones first, then those with mere refreshes, when they are due."""

    def __init__(self) -> None:
        self.urgent: dict[str, _Pending] = {}
        self.refreshes: dict[str, _Pending] = {}
        """In the order in which they are due."""

    def add_urgent(self, hotkey: str, before: Head, *, full: bool = False) -> None:
        """Queues a miner and replaces its refresh. If it is already queued, the older `before` remains."""
        pending = self.refreshes.pop(hotkey, None) or _Pending(before)
        pending = self.urgent.setdefault(hotkey, pending)
        pending.full = pending.full or full

    def add_refresh(self, hotkey: str, before: Head, due: float) -> None:
        if hotkey not in self.urgent:
            self.refreshes.setdefault(hotkey, _Pending(before, due))

    def next_due(self) -> tuple[str, _Pending] | None:
        """The miner to rebuild now. It stays in the queue until `remove`, so that no failure loses it."""
        if self.urgent:
            return next(iter(self.urgent.items()))
        wait_s = self.seconds_to_refresh()
        return next(iter(self.refreshes.items())) if wait_s is not None and wait_s <= 0 else None

    def seconds_to_refresh(self) -> float | None:
        """The time until the first refresh is due; None without refreshes."""
        first = next(iter(self.refreshes.values()), None)
        return None if first is None else first.due - monotonic()

    def remove(self, hotkey: str) -> None:
        self.urgent.pop(hotkey, None)
        self.refreshes.pop(hotkey, None)

    def head_within(self, taken: Head) -> Head:
        """The head that the views contain if all changes up to `taken` are in them or in the queue.

        It is a lower bound, since views may contain later changes, too. A refresh contains no new order, so
        it does not limit the sequence.
        """
        urgent = [pending.before for pending in self.urgent.values()]
        refreshes = [pending.before for pending in self.refreshes.values()]
        return Head(
            sequence=min([taken.sequence, *(head.sequence for head in urgent)]),
            revision=min([taken.revision, *(head.revision for head in urgent + refreshes)]),
        )


class Follower:
    """A task that rebuilds views: `await follower.run()`.

    `built` is set once every miner of the start has been built, even if more changes have come meanwhile.
    """

    def __init__(
        self, log: EventLog, views: PositionViews, documents: Documents, clock: Clock, *, coalesce_ms: int
    ) -> None:
        self._log = log
        self._views = views
        self._documents = documents
        self._clock = clock
        self._coalesce_s = coalesce_ms / 1000
        self._queue = RebuildQueue()
        self._taken = Head(sequence=0, revision=0)
        """Changes up to here are in the views or in the queue."""
        self._unbuilt: set[str] = set()
        """Until `built`: the miners without a complete view."""
        self._latest_ms = 0
        self.built = asyncio.Event()
        self.outage = LogOutage()

    async def run(self) -> None:
        """Follows until cancelled; retries while the log is unreadable. Raises LogReplacedError."""
        commits = self._log.commit_listener()
        try:
            while True:
                with self.outage.reading("views"):
                    await self.catch_up()
                waits_ms = [_LONGEST_WAIT_MS]
                if "views" not in self.outage.failing:
                    expiry_ms = self._views.next_expiry_ms()
                    if expiry_ms is not None:
                        waits_ms.append(expiry_ms - self._clock())
                    refresh_s = self._queue.seconds_to_refresh()
                    if refresh_s is not None:
                        waits_ms.append(int(1000 * refresh_s) + 1)
                await commits.wait_for_commit(max(1, min(waits_ms)))
        finally:
            commits.close()

    async def catch_up(self) -> None:
        """Rebuilds what is due; in the first call after the baseline, everything. Raises LogError."""
        views = self._views
        if not views.built:
            if not self._log.ready():
                return
            if self._taken.revision == 0:
                if isinstance(self._clock, SteadyClock):
                    self._clock.compare(known_ms(self._log))
                self._take_everything(self._log.head())
        clock = self._clock
        if isinstance(clock, SteadyClock) and clock.is_untrusted():
            # A copy of a cluster's log may have been old at the start, and gets newer times from the writer.
            clock.confirm(self._log.source().steady_ms or 0)
        time_slice = TimeSlice()
        while True:
            # Between two miners the log is read again, so that a new order does not wait for the others.
            await self._take_changes()
            self._take_expired()
            due = self._queue.next_due()
            if due is None:
                break
            hotkey, pending = due
            if pending.full:
                views.build(hotkey)
            else:
                views.refresh(hotkey)
            view = views.view(hotkey)
            if view is not None and view.empty and hotkey not in (self._documents.miners() or ()):
                views.drop(hotkey)
            self._queue.remove(hotkey)
            self.outage.succeeded("views")  # already here: new orders may keep this loop from its end
            self._unbuilt.discard(hotkey)
            views.head = self._queue.head_within(self._taken)
            self._note_built()
            await time_slice.yield_if_due()
        views.head = self._queue.head_within(self._taken)
        self._note_built()

    def _note_built(self) -> None:
        """Sets `built` once, even if the queue is never empty."""
        if not self._views.built and not self._unbuilt:
            self._views.built = True
            self.built.set()
            logger.info("views_built", miners=len(self._views.hotkeys()), omitted=self._views.omitted())

    def _take_everything(self, head: Head) -> None:
        self._take_documents(since=0)
        hotkeys = {*self._log.hotkeys(), *(self._documents.miners() or ()), *self._views.hotkeys()}
        if not self._views.built:
            self._unbuilt |= hotkeys
        for hotkey in hotkeys:
            self._queue.add_urgent(hotkey, self._taken, full=True)
        self._taken = head

    async def _take_changes(self) -> None:
        """Queues the miners that the log has changed: for an order as urgent, else as a refresh."""
        head = self._log.head()  # first: the reads below contain at least its changes
        since = self._taken.revision
        if head.revision == since:
            return
        try:
            removed = self._log.removed(since)
        except LogPrunedError:
            # The follower was asleep for longer than the retention: it cannot know what was removed.
            logger.warning("removals_forgotten", since=since)
            self._take_everything(head)
            return
        for removal in removed:
            self._queue.add_urgent(removal.miner_hotkey, self._taken, full=True)
        time_slice = TimeSlice()
        for position in self._log.positions(since_revision=since):
            view = self._views.view(position.miner_hotkey)
            full = view is None or view.closed.covers(position)
            # A position whose orders are unchanged since then has only been refreshed.
            if full or max(position.layout_revision, *position.order_revisions, 0) > since:
                self._queue.add_urgent(position.miner_hotkey, self._taken, full=full)
            else:
                due = monotonic() + self._coalesce_s
                self._queue.add_refresh(position.miner_hotkey, self._taken, due)
            await time_slice.yield_if_due()
        self._take_documents(since)
        self._taken = head  # last: after a LogError above everything is taken again

    def _take_documents(self, since: int) -> None:
        changed = {document for document, _ in self._log.documents_changed(since)}
        if Document.STATISTICS in changed:
            lookback_days = self._documents.lookback_days()
            if lookback_days != self._views.lookback_days:
                for hotkey in self._views.hotkeys():
                    self._queue.add_urgent(hotkey, self._taken)
                self._views.lookback_days = lookback_days
        if Document.ACCOUNT_SIZES in changed:
            # Not at the next request: every order changes the file, and the time of the answer would tell.
            self._documents.collateral_records()
        if Document.ARCHIVED_POSITIONS in changed:
            revisions = self._documents.revisions_by_miner(Document.ARCHIVED_POSITIONS)
            self._views.archived = frozenset(revisions)
        if Document.MINERS in changed:
            listed = set(self._documents.miners() or ())
            for hotkey in listed ^ set(self._views.hotkeys()):
                self._queue.add_urgent(hotkey, self._taken)
        if changed:
            self._views.changed_ms = self._clock()

    def _take_expired(self) -> None:
        """Queues the miners whose views have aged, or everything after a jump of the clock into the past."""
        now_ms = self._clock()
        if now_ms < self._latest_ms - _BACKWARDS_MS:
            logger.warning("clock_went_back", by_ms=self._latest_ms - now_ms)
            # Views show orders by the later time: all of them are rebuilt, although the log is unchanged.
            self._take_everything(self._taken)
            self._latest_ms = now_ms
        self._latest_ms = max(now_ms, self._latest_ms)
        for hotkey in self._views.take_expired():
            self._queue.add_urgent(hotkey, self._taken)
