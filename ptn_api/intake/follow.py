"""Following the validator's directory: inotify events at once, and a sweep for what they missed.

    state      the sweep                                     becomes
    -----      ---------                                     -------
    IDLE       is not running                                SCANNING when due, or at once after lost events
    SCANNING   goes through folders and files, in slices     DRAINING at its end
    DRAINING   waits for files whose reading is deferred     IDLE when all are read; then removals are decided

In every state, a turn of the loop takes in this order: files with events and rechecks; if due, a batch
of deferred files; a slice of the sweep. Between two slices an event waits about 10 ms.

Two threads. The event loop owns everything in `DirectoryFollower`; the disk thread owns `DirectoryScanner`
and everything below it. `run` hands the scanner one call at a time and waits for it, so neither needs a lock.
Meanwhile `watch` and `recheck` only add to `_events`, `_rechecks` and `_missed_events`, which no call of the
scanner touches: `run` takes them out before it hands them over.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog

from ptn_api.clock import Clock, Monotonic
from ptn_api.event_log.contract import Change, SourceStatus
from ptn_api.intake import scan
from ptn_api.intake.files import Key
from ptn_api.intake.merge import Merge
from ptn_api.intake.options import IntakeOptions
from ptn_api.intake.scan import BATCH, DirectoryScanner
from ptn_api.intake.watch import FsEvent, Watch

__all__ = ["ROOT_MISSING", "DirectoryFollower"]

logger = structlog.get_logger()

T = TypeVar("T")

_BATCH_PERIOD_MS = 40
"""Pause between two batches of deferred files, so that most orders find the log idle."""
ROOT_MISSING = "root_missing"
"""The source status has this reason while the directory of miners is missing."""


class State(enum.Enum):
    IDLE = "idle"
    SCANNING = "scanning"
    DRAINING = "draining"


class DirectoryFollower:
    """Delivers the directory's changes to the merge, and the state of the directory as source status.

    `clock` and `steady` (a `SteadyClock`) give epoch ms, `monotonic` ms that only grow. `on_documents` is
    called when a document may have changed, `documents_refused` gives the number of documents that are
    skipped.
    """

    def __init__(
        self,
        scanner: DirectoryScanner,
        merge: Merge,
        watch: Watch,
        options: IntakeOptions,
        *,
        clock: Clock,
        steady: Clock,
        monotonic: Monotonic,
        on_documents: Callable[[], None],
        documents_refused: Callable[[], int],
    ) -> None:
        self._scanner = scanner
        self._merge = merge
        self._watch = watch
        self._options = options
        self._clock = clock
        self._steady = steady
        self._monotonic = monotonic
        self._on_documents = on_documents
        self._documents_refused = documents_refused
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="intake-directory")
        # A dict for its order: the same file is read once, in the order of the first events.
        self._events: dict[FsEvent, None] = {}
        self._rechecks: set[Key] = set()
        self._missed_events = False
        self._wake = asyncio.Event()
        self._stopping = False
        self._state = State.IDLE
        self._next_batch_ms = 0
        self._next_sweep_ms = 0
        self._next_full_sweep_ms = 0
        self._status = SourceStatus()
        self._warned = False

    # --- called from outside ------------------------------------------------------------------------------

    def recheck(self, key: Key) -> None:
        """Reads the position's file again, soon."""
        self._rechecks.add(key)
        self._wake.set()

    async def restore(self, positions: Collection[Key], present: Collection[Key] | None) -> None:
        """Reads the files of positions that the log has lost (see `DirectoryScanner.restore`)."""
        for key in await self._in_thread(partial(self._scanner.restore, positions, present)):
            self.recheck(key)

    def stop(self) -> None:
        """Lets `run` return once its current turn is delivered."""
        self._stopping = True
        self._wake.set()

    async def root_exists(self) -> bool:
        """Returns whether there is a directory of miners; logs once if there is not."""
        exists = await self._in_thread(self._scanner.check_root)
        if not exists and not self._warned:
            self._warned = True
            owner = self._scanner.needed_user()
            hint = f"run the service as its owner, {owner}" if owner else "is it the validator's checkout?"
            logger.warning(
                "no_miners_directory", setting="--validator-dir", path=self._scanner.root, hint=hint
            )
        return exists

    async def watch(self) -> None:
        """Collects inotify events until cancelled."""
        async for event in self._watch.events():
            if event is None:
                self._missed_events = True
                logger.warning("watch_overflowed")
            else:
                self._events[event] = None
            self._wake.set()

    async def run(self) -> None:
        """Follows the directory until stopped, beginning with a full sweep."""
        if self._scanner.mostly_refused:  # after the baseline: not only once the first sweep has ended
            self._publish_status(None)
        while not self._stopping:
            # Cleared before anything is examined: an event that comes during this turn sets it again, so
            # that the pause at the turn's end returns at once.
            self._wake.clear()
            if self._events or self._rechecks:
                # Swapped, not cleared after the read: `watch` and `recheck` add to the new ones meanwhile.
                events, self._events = self._events, {}
                rechecks, self._rechecks = self._rechecks, set()
                self._deliver(await self._in_thread(partial(self._scanner.read_changes, events, rechecks)))
                if self._scanner.has_document_events(events):
                    self._on_documents()
            now_ms = self._monotonic()
            if self._scanner.deferred and now_ms >= self._next_batch_ms:
                self._next_batch_ms = now_ms + _BATCH_PERIOD_MS
                # Not while the log is behind: more refreshes would only push each other's commits back.
                if self._merge.backlog < BATCH:
                    self._deliver(await self._in_thread(self._scanner.read_deferred))
            if self._state is State.SCANNING:
                if await self._in_thread(self._scanner.advance):
                    self._state = State.DRAINING
            elif self._state is State.DRAINING and not self._scanner.sweep_has_deferred:
                await self._finish_sweep()
            elif self._state is State.IDLE and (self._missed_events or now_ms >= self._next_sweep_ms):
                self._start_sweep(now_ms)
            elif not (self._events or self._rechecks):
                await self._pause()

    def close(self) -> None:
        self._disk.shutdown()

    # --- one turn -----------------------------------------------------------------------------------------

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, function)

    async def _pause(self) -> None:
        """Waits for an event, the next batch or the next sweep."""
        next_ms = self._next_batch_ms if self._scanner.deferred else self._next_sweep_ms
        pause_s = max(next_ms - self._monotonic(), 1) / 1000
        timer = asyncio.get_running_loop().call_later(pause_s, self._wake.set)
        await self._wake.wait()
        timer.cancel()

    def _deliver(self, changes: list[Change]) -> None:
        self._merge.put(changes)
        if self._scanner.root_missing and not self._status.stale:
            self._publish_status(self._status.swept_ms)
        elif not self._scanner.root_missing and self._status.reason == ROOT_MISSING:
            self._missed_events = True  # what happened below the root while it was away

    def _start_sweep(self, now_ms: int) -> None:
        rewatch = self._missed_events or self._status.reason == ROOT_MISSING
        self._missed_events = False
        full = rewatch or now_ms >= self._next_full_sweep_ms
        if full:
            self._next_full_sweep_ms = now_ms + self._options.full_sweep_ms
        self._scanner.start_sweep(full=full, rewatch=rewatch)
        self._state = State.SCANNING

    async def _finish_sweep(self) -> None:
        self._merge.put(await self._in_thread(self._scanner.finish_sweep))
        self._state = State.IDLE
        period_ms = self._options.sweep_ms
        if not self._scanner.watching:
            period_ms = min(period_ms, self._options.blind_sweep_ms)
        elif self._scanner.awaits_event:
            period_ms = min(period_ms, scan.EVENT_GRACE_MS)
        self._next_sweep_ms = self._monotonic() + period_ms
        self._publish_status(self._status.swept_ms if self._scanner.root_missing else self._clock())
        self._on_documents()

    def _publish_status(self, swept_ms: int | None) -> None:
        reason = ""
        if self._scanner.root_missing:
            reason = ROOT_MISSING
        elif self._scanner.holds_removals:
            reason = "mass_removal"
        elif self._scanner.mostly_refused:
            reason = "files_refused"
        if reason and reason != self._status.reason:
            owner = self._scanner.needed_user()
            hint = {"hint": f"run the service as the files' owner, {owner}"} if owner else {}
            logger.warning("source_stale", reason=reason, **hint)
        elif not reason and self._status.reason:
            logger.info("source_recovered")
        documents_refused = self._documents_refused()
        self._status = SourceStatus(
            swept_ms=swept_ms,
            stale=bool(reason),
            reason=reason,
            invalid=self._scanner.refused + documents_refused,
            watching=self._scanner.watching,
            invalid_documents=documents_refused,
            events_missing=self._scanner.events_missing,
            steady_ms=self._steady(),
        )
        self._merge.set_source(self._status)
