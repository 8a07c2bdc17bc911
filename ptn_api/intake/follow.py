"""Follows the validator's directory: what the watch sees at once, what it missed with the next sweep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from ptn_api.clock import Clock, Monotonic
from ptn_api.event_log.contract import (
    Change,
    Document,
    DocumentWritten,
    PositionRemoved,
    PositionWritten,
    SourceStatus,
)
from ptn_api.intake.directory import Directory
from ptn_api.intake.files import Key
from ptn_api.intake.merge import Merge
from ptn_api.intake.options import IntakeOptions
from ptn_api.intake.pending import key_of
from ptn_api.intake.position_files import PositionFiles, Touched
from ptn_api.intake.removal import RemovalGuard, resync_done, resync_requested
from ptn_api.intake.sweep import Sweep
from ptn_api.intake.watch import FsEvent, Watch

__all__ = ["DirectoryFollower"]

logger = structlog.get_logger()

T = TypeVar("T")

_SLICE_MS = 10.0
_LOOK_AGAIN_S = 0.02
_FEW = 25
_PACE_MS = 40
"""So many positions that seem refreshed are read and appended together, and so often: an order that comes in
their midst waits for few of them, and seldom for their commit."""
_ROOT_MISSING = "root_missing"
_ROOT_NAMES = ("miners", "")


class DirectoryFollower:
    """Keeps the merge told of every position under `validation/miners`, and of the list of miners.

    All looking and reading is done by one thread, in slices. Events of the watch come first; of the files
    seen, those that may hold an order; those that seem merely refreshed, by the hundred every minute, are
    read a few at a time. Sweeps fill the time between. `known` are the log's fingerprints. `clock` gives
    epoch ms, `monotonic` ms that only grow. `on_documents` is called whenever the documents are worth a look.
    """

    def __init__(
        self,
        validator_dir: Path,
        known: Mapping[Key, str],
        merge: Merge,
        watch: Watch,
        options: IntakeOptions,
        *,
        clock: Clock,
        monotonic: Monotonic,
        on_documents: Callable[[], None] = lambda: None,
        documents_refused: Callable[[], int] = lambda: 0,
    ) -> None:
        self._merge = merge
        self._watch = watch
        self._options = options
        self._clock = clock
        self._monotonic = monotonic
        self._on_documents = on_documents
        self._documents_refused = documents_refused
        self._outer = [str(validator_dir / "validation"), str(validator_dir / "runnable")]
        self._outer_wds: set[int] = set()
        self._files = PositionFiles(known, limit=options.position_limit_bytes)
        self._directory = Directory(validator_dir / "validation" / "miners", self._files, watch)
        self._guard = RemovalGuard(
            confirm_ms=options.removal_confirm_ms,
            window_ms=options.mass_removal_window_ms,
            share=options.mass_removal_share,
            count=options.mass_removal_count,
        )
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="intake-directory")
        self._seen: dict[FsEvent, None] = {}
        self._rechecks: set[Key] = set()
        self._refreshed: dict[Key, None] = {}
        self._next_few_ms = 0
        self._missed_some = False
        self._wake = asyncio.Event()
        self._stopping = False
        self._warned = False
        self._sweep: Sweep | None = None
        self._next_sweep_ms = 0
        self._next_full_sweep_ms = 0
        self._listed = False
        self._miners: list[str] | None = None
        self._status = SourceStatus()

    # --- what others call ---------------------------------------------------------------------------------

    def recheck(self, key: Key) -> None:
        """Looks at the position's file again, soon."""
        self._rechecks.add(key)
        self._wake.set()

    def stop(self) -> None:
        """Lets `run` return when it has handed over what it is at."""
        self._stopping = True
        self._wake.set()

    async def root_is_there(self) -> bool:
        """Whether there is a directory of miners at all; reported once where there is none."""
        there = await self._in_thread(self._directory.check_root)
        if not there and not self._warned:
            self._warned = True
            logger.warning("no_miners_directory", hint="is --validator-dir the validator's checkout?")
        return there

    def baseline(self) -> Iterator[Change]:
        """The first scan: everything there is, read as it is asked for; for the log's own thread.

        Nobody else may be at work here meanwhile. What the watch sees is kept for `run`.
        """
        listed: Touched = {}
        self._files.start_over()
        self._watch_outer()
        yield from self._scan(listed, full=True)
        # What was closed while the scan ran was moved away unread: found again now its orders are history,
        # found later they would be news.
        give_up_ms = self._monotonic() + self._options.removal_confirm_ms
        yield from self._scan(listed, full=False)
        while self._files.lost(listed) and self._monotonic() < give_up_ms:
            time.sleep(_LOOK_AGAIN_S)
            yield from self._scan(listed, full=False)
        self._listed = True
        yield from self._miners_changed()

    def _scan(self, listed: Touched, *, full: bool) -> Iterator[Change]:
        """One pass at a stretch; `listed` gathers the positions that it came upon."""
        touched: Touched = {}
        for _ in self._directory.sweep(touched, full=full):
            continue
        listed.update(touched)
        for change in self._files.settle(touched):
            if change is not None:
                yield change

    async def watch(self) -> None:
        """Gathers what the watch sees, until cancelled."""
        async for event in self._watch.events():
            if event is None:
                self._missed_some = True
                logger.warning("watch_overflowed")
            else:
                self._seen[event] = None
            self._wake.set()

    async def run(self) -> None:
        """Follows the directory until stopped. Sweeps fully to begin with."""
        while not self._stopping:
            self._wake.clear()
            if self._seen or self._rechecks:
                await self._look_at_once()
            if self._few_are_due():
                self._hand_on(await self._in_thread(self._read_a_few))
            if self._sweep is None and self._sweep_is_due():
                self._sweep = self._new_sweep()
            if self._sweep is not None and not self._sweep.ended:
                await self._in_thread(self._advance)
            elif self._sweep is not None and not self._sweep.awaited:
                await self._finish_sweep()
            elif not (self._seen or self._rechecks):
                await self._pause()

    def close(self) -> None:
        self._disk.shutdown()

    # --- looking ------------------------------------------------------------------------------------------

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, function)

    async def _pause(self) -> None:
        """Until something happens, a sweep is due, or more of what was put off."""
        next_ms = self._next_few_ms if self._refreshed else self._next_sweep_ms
        pause_s = max(next_ms - self._monotonic(), 1) / 1000
        timer = asyncio.get_running_loop().call_later(pause_s, self._wake.set)
        await self._wake.wait()
        timer.cancel()

    async def _look_at_once(self) -> None:
        events, self._seen = self._seen, {}
        rechecks, self._rechecks = self._rechecks, set()
        self._hand_on(await self._in_thread(lambda: self._look(events, rechecks)))
        if any(event.wd in self._outer_wds for event in events):
            self._on_documents()

    def _look(self, events: Iterable[FsEvent], rechecks: Iterable[Key]) -> list[Change]:
        """In the thread: what the events amount to."""
        touched: Touched = {}
        if any(wd in self._outer_wds and name in _ROOT_NAMES for wd, name in events):
            self._directory.look_at_root(touched)
        self._directory.look(events, touched)
        for key in rechecks:
            self._files.recheck(key, touched)
        changes: list[Change] = list(self._read_by_sweep(touched))
        self._put_off(touched)
        changes += [change for change in self._files.settle(touched) if change is not None]
        return changes + list(self._miners_changed())

    def _read_by_sweep(self, touched: Iterable[Key]) -> Iterator[PositionWritten]:
        """What a sweep under way has read of these already: it does not wait for the sweep's end."""
        found = {} if self._sweep is None else self._sweep.found
        return (found.pop(key) for key in touched if key in found)

    def _put_off(self, touched: Touched) -> set[Key]:
        """Takes out what is to be read later, and returns it. What stays is to be read now, and not again."""
        later = [key for key in touched if self._files.seems_refreshed(key)]
        for key in later:
            del touched[key]
        self._take_up(touched)
        self._refreshed.update(dict.fromkeys(later))
        return set(later)

    def _take_up(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._refreshed.pop(key, None)
        if self._sweep is not None:
            self._sweep.awaited.difference_update(keys)

    def _few_are_due(self) -> bool:
        """Not while the log is behind: what is read must be kept."""
        now = self._monotonic()
        if not self._refreshed or now < self._next_few_ms:
            return False
        self._next_few_ms = now + _PACE_MS
        return self._merge.waiting < _FEW

    def _read_a_few(self) -> list[Change]:
        """In the thread: some of what was put off; more where that is a whole directory."""
        many = max(_FEW, len(self._refreshed) // (2 * _FEW))
        few = dict.fromkeys(islice(self._refreshed, many), True)
        self._take_up(few)
        return [change for change in self._files.settle(few) if change is not None]

    def _hand_on(self, changes: Iterable[Change]) -> None:
        """An order at once. What a sweep has read of the same position goes before it."""
        together: list[Change] = []
        for change in changes:
            if isinstance(change, PositionWritten) and self._sweep is not None:
                earlier = self._sweep.found.pop(key_of(change), None)
                together += [earlier] if earlier is not None else []
            together.append(change)
        self._merge.put(together)
        if self._directory.root_missing and not self._status.stale:
            self._tell_status(self._status.swept_ms)
        elif not self._directory.root_missing and self._status.reason == _ROOT_MISSING:
            self._missed_some = True  # what happened below it while it was away

    # --- sweeps -------------------------------------------------------------------------------------------

    def _sweep_is_due(self) -> bool:
        return self._missed_some or self._monotonic() >= self._next_sweep_ms

    def _new_sweep(self) -> Sweep:
        now = self._monotonic()
        rewatch = self._missed_some or self._status.reason == _ROOT_MISSING
        self._missed_some = False
        full = rewatch or now >= self._next_full_sweep_ms
        if full:
            self._next_full_sweep_ms = now + self._options.full_sweep_ms
        return Sweep(self._directory, self._files, self._put_off, full=full, rewatch=rewatch)

    def _advance(self) -> None:
        """In the thread: a slice of the sweep."""
        assert self._sweep is not None
        self._sweep.advance(_SLICE_MS)

    async def _finish_sweep(self) -> None:
        assert self._sweep is not None
        changes = await self._in_thread(self._conclude)
        self._merge.put([*self._sweep.found.values(), *changes])
        self._sweep = None
        watching = self._directory.watching
        period = self._options.sweep_ms
        self._next_sweep_ms = self._monotonic() + (
            period if watching else min(period, self._options.blind_sweep_ms)
        )
        self._tell_status(self._status.swept_ms if self._directory.root_missing else self._clock())
        self._on_documents()

    def _conclude(self) -> list[Change]:
        """In the thread: what follows from a finished sweep: removals, the list of miners, watches."""
        self._watch_outer()
        self._listed = True
        accept = resync_requested(self._options.data_dir)
        removed = self._removals(accept)
        if accept:
            logger.warning("removals_accepted", removed=len(removed), still_waiting=self._guard.waiting)
            if not self._guard.waiting:
                resync_done(self._options.data_dir)
        self._files.forget(removed)
        changes: list[Change] = [
            PositionRemoved(miner_hotkey=hotkey, position_uuid=uuid) for hotkey, uuid in removed
        ]
        return changes + list(self._miners_changed())

    def _removals(self, accept: bool) -> list[Key]:
        if self._directory.root_missing:
            return list(self._files.known) if accept else []
        blind_to = self._directory.unreadable_hotkeys()
        absent = self._files.absent
        if blind_to:
            absent = {key for key in absent if key[0] not in blind_to and "" not in blind_to}
        return self._guard.after_sweep(absent, len(self._files.known), self._monotonic(), accept=accept)

    def _miners_changed(self) -> Iterator[DocumentWritten]:
        """The miners that have a directory; one whose positions are only missing as yet stays among them."""
        if not self._listed or (self._directory.root_missing and self._files.known):
            return
        waiting = {hotkey for hotkey, _ in self._files.absent}
        miners = [] if self._directory.root_missing else self._directory.hotkeys
        if waiting:
            miners = sorted(waiting.union(miners))
        if miners != self._miners:
            self._miners = miners
            yield DocumentWritten(document=Document.MINERS, content=msgspec.json.encode(miners))

    def _watch_outer(self) -> None:
        """Watches where documents lie, and where the root may come and go; again, should they be new."""
        for path in self._outer:
            try:
                self._outer_wds.add(self._watch.add(path, files=True, folders=True))
            except OSError:
                continue  # not there, or out of watches: the sweep looks there as well

    # --- status -------------------------------------------------------------------------------------------

    def _tell_status(self, swept_ms: int | None) -> None:
        reason = _ROOT_MISSING if self._directory.root_missing else ""
        if not reason and self._guard.holding:
            reason = "mass_removal"
        if reason != self._status.reason:
            if reason:
                logger.warning("source_stale", reason=reason)
            else:
                logger.info("source_whole_again")
        self._status = SourceStatus(
            swept_ms=swept_ms,
            stale=bool(reason),
            reason=reason,
            invalid=self._files.refused + self._directory.refused + self._documents_refused(),
            watching=self._directory.watching,
        )
        self._merge.set_source(self._status)
