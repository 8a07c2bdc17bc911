"""Keeps the views up with the log and the clock.

An order's miner is built anew at once. Mere refreshes of returns, which come by the hundred every minute,
wait a moment for each other. Between any two miners other tasks run, and new orders go first.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic

import structlog

from ptn_api.clock import Clock
from ptn_api.errors import LogPrunedError
from ptn_api.event_log.contract import Document, EventLog, Head, LoggedPosition
from ptn_api.event_log.health import LogHealth
from ptn_api.tasks import TimeSlice
from ptn_api.views.documents import Documents
from ptn_api.views.positions import PositionViews

__all__ = ["Follower"]

logger = structlog.get_logger()

_LOOK_MS = 1_000
_BACKWARDS_MS = 60_000


@dataclass
class _Waiting:
    """A miner to be built. `before`: up to there its changes were in when the first of these came."""

    before: Head
    due: float
    whole: bool = False


class Follower:
    """Run as a task: `await follower.run()`. `built` is set when every miner has been built once."""

    def __init__(
        self, log: EventLog, views: PositionViews, documents: Documents, clock: Clock, *, coalesce_ms: int
    ) -> None:
        self._log = log
        self._views = views
        self._documents = documents
        self._clock = clock
        self._coalesce_s = coalesce_ms / 1000
        self._urgent: dict[str, _Waiting] = {}
        self._calm: dict[str, _Waiting] = {}
        self._taken = Head(sequence=0, revision=0)
        """Changes up to here are built or wait to be."""
        self._document_revisions: dict[Document, int] = {}
        self._latest_ms = 0
        self.built = asyncio.Event()
        self.log_health = LogHealth()

    async def run(self) -> None:
        """Follows until cancelled; retries while the log is unreadable. Raises LogReplacedError."""
        commits = self._log.commit_listener()
        try:
            while True:
                with self.log_health:
                    await self.catch_up()
                await commits.wait_for_commit(self._pause_ms())
        finally:
            commits.close()

    async def catch_up(self) -> None:
        """Builds what is due: at the first call, once the log is ready, everything. Raises LogError."""
        if not self._views.built:
            if not self._log.ready():
                return
            self._begin()
        time_slice = TimeSlice()
        while True:
            await self._take_changes()
            self._take_aged()
            hotkey = self._next()
            if hotkey is None:
                break
            self._build(hotkey)
            self._state_head()
            await time_slice.yield_if_due()
        self._views.aged()
        self._state_head()
        if not self._views.built and not self._urgent:
            self._views.built = True
            self.built.set()
            miners, left_out = len(self._views.hotkeys()), self._views.unrebuildable()
            logger.info("views_built", miners=miners, not_rebuildable=left_out)

    def _pause_ms(self) -> int:
        """Until the next thing that is known to come, if nothing else does."""
        if self.log_health.failing:
            return _LOOK_MS
        waits = [_LOOK_MS]
        if self._calm:
            waits.append(int(1000 * (next(iter(self._calm.values())).due - monotonic())) + 1)
        aged = self._views.next_moment_ms()
        if aged is not None:
            waits.append(aged - self._clock())
        return max(1, min(waits))

    # --- what is to be built ------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._taken.revision == 0:
            self._take_everything(self._log.head())

    def _take_everything(self, head: Head) -> None:
        self._take_documents()
        for hotkey in {*self._log.hotkeys(), *(self._documents.miners() or ()), *self._views.hotkeys()}:
            self._mark_urgent(hotkey, whole=True)
        self._taken = head

    async def _take_changes(self) -> None:
        """Finds whose positions changed. The head is read before what it stands for."""
        head = self._log.head()
        if head.revision == self._taken.revision:
            return
        since = self._taken.revision
        try:
            removed = self._log.removed(since)
        except LogPrunedError:
            logger.warning("removals_forgotten", since=since)
            self._take_everything(head)
            return
        for removal in removed:
            self._mark_urgent(removal.miner_hotkey, whole=True)
        time_slice = TimeSlice()
        for position in self._log.positions(since_revision=since):
            self._mark(position, since)
            await time_slice.yield_if_due()
        self._take_documents()
        self._taken = head

    def _mark(self, position: LoggedPosition, since: int) -> None:
        hotkey = position.miner_hotkey
        piece = self._views.piece(hotkey)
        whole = piece is None or piece.settled.concerns(position)
        if whole or max(position.layout_revision, *position.order_revisions, 0) > since:
            self._mark_urgent(hotkey, whole=whole)
        elif hotkey not in self._urgent:
            due = monotonic() + self._coalesce_s
            self._calm.setdefault(hotkey, _Waiting(self._taken, due))

    def _mark_urgent(self, hotkey: str, *, whole: bool = False) -> None:
        waiting = self._calm.pop(hotkey, None) or _Waiting(self._taken, 0.0)
        waiting = self._urgent.setdefault(hotkey, waiting)
        waiting.whole |= whole

    def _take_documents(self) -> None:
        revisions = {document: self._log.document_revision(document) for document in Document}
        changed = {d for d, revision in revisions.items() if self._document_revisions.get(d) != revision}
        if Document.ELIMINATIONS in changed:
            eliminated = self._documents.eliminated()
            for hotkey in eliminated ^ self._views.eliminated:
                if self._views.piece(hotkey) is not None:
                    self._mark_urgent(hotkey)
            self._views.eliminated = eliminated
        if Document.MINERS in changed:
            listed = set(self._documents.miners() or ())
            for hotkey in listed ^ set(self._views.hotkeys()):
                self._mark_urgent(hotkey)
        if changed:
            self._views.changed_ms = self._clock()
        self._document_revisions = revisions  # last: what could not be read is taken again

    def _take_aged(self) -> None:
        now = self._clock()
        if now < self._latest_ms - _BACKWARDS_MS:
            logger.warning("clock_went_back", by_ms=self._latest_ms - now)
            self._take_everything(self._taken)
            self._latest_ms = now
        self._latest_ms = max(now, self._latest_ms)
        for hotkey in self._views.due():
            self._mark_urgent(hotkey)

    # --- building -----------------------------------------------------------------------------------------

    def _next(self) -> str | None:
        if self._urgent:
            return next(iter(self._urgent))
        hotkey = next(iter(self._calm), None)
        return hotkey if hotkey is not None and self._calm[hotkey].due <= monotonic() else None

    def _build(self, hotkey: str) -> None:
        """Builds one miner; only then is it no longer waiting, so that a failure forgets nothing."""
        waiting = self._urgent.get(hotkey) or self._calm[hotkey]
        if waiting.whole:
            self._views.build(hotkey)
        else:
            self._views.refresh(hotkey)
        piece = self._views.piece(hotkey)
        if piece is not None and piece.empty and hotkey not in (self._documents.miners() or ()):
            self._views.drop(hotkey)
        self._urgent.pop(hotkey, None)
        self._calm.pop(hotkey, None)

    def _state_head(self) -> None:
        """Says up to where everything is in: lower bounds, since later changes may be in too."""
        urgent = [waiting.before for waiting in self._urgent.values()]
        waiting = urgent + [calm.before for calm in self._calm.values()]
        self._views.head = Head(
            sequence=min([self._taken.sequence, *(head.sequence for head in urgent)]),
            revision=min([self._taken.revision, *(head.revision for head in waiting)]),
        )
