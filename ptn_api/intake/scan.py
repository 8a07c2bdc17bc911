"""Reading the validator's directory: the baseline, single changes, sweeps and removals.

Everything in this module blocks on the disk and runs in one thread at a time, never in the event loop:
`DirectoryFollower` calls it through a pool of one thread, and reads its properties only between two calls.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import msgspec
import structlog

from ptn_api.clock import Monotonic
from ptn_api.event_log.contract import Change, Document, DocumentWritten, PositionRemoved, PositionWritten
from ptn_api.file_version import owner_of
from ptn_api.intake.directory import Directory
from ptn_api.intake.files import Key
from ptn_api.intake.options import IntakeOptions
from ptn_api.intake.position_files import PositionFiles, PositionsToRead
from ptn_api.intake.removal import RemovalGuard, resync_done, resync_requested
from ptn_api.intake.watch import FsEvent, Watch

__all__ = ["BATCH", "EVENT_GRACE_MS", "DirectoryScanner"]

logger = structlog.get_logger()

BATCH = 25
"""Deferred positions that are read and appended together."""
_LARGE_BATCH_DIVISOR = 50
"""If 1/50 of the deferred positions is more, that many are read: the whole directory was rewritten."""
EVENT_GRACE_MS = 1_000
"""How much later than a sweep the event for an order may come."""
_SLICE_MS = 10
_RELIST_S = 0.02


class DirectoryScanner:
    """The positions under `validation/miners` as they change, and the list of miners.

    A file that has not grown by an order is most likely the minute's refresh of returns, one of hundreds.
    Its reading is deferred to `read_deferred`, so that an order does not wait for all of them. `known` are
    the log's fingerprints, `monotonic` is a clock in ms that only grows.
    """

    def __init__(
        self,
        validator_dir: Path,
        known: Mapping[Key, str],
        watch: Watch,
        options: IntakeOptions,
        *,
        monotonic: Monotonic,
    ) -> None:
        self._watch = watch
        self._monotonic = monotonic
        self._data_dir = options.data_dir
        self._confirm_ms = options.removal_confirm_ms
        self._document_folders = [str(validator_dir / "validation"), str(validator_dir / "runnable")]
        self._document_wds: set[int] = set()
        resync_done(self._data_dir)  # a consent that was left over is not about what is missing now
        root = validator_dir / "validation" / "miners"
        self.root = str(root)
        self._files = PositionFiles(root, known, limit=options.position_limit_bytes)
        self._directory = Directory(root, self._files, watch)
        self._guard = RemovalGuard(
            confirm_ms=options.removal_confirm_ms,
            window_ms=options.mass_removal_window_ms,
            share=options.mass_removal_share,
            count=options.mass_removal_count,
        )
        self._deferred: dict[Key, None] = {}
        self._steps: Iterator[None] = iter(())
        self._deferred_by_sweep: set[Key] = set()
        self.swept: dict[Key, PositionWritten] = {}
        """Positions that the current sweep has read; delivered together at its end."""
        self._without_event: dict[Key, int] = {}
        """Orders that a sweep has found and no event announced, each with the time; one may still come."""
        self._events_expected = False
        self._has_swept = False
        self._is_complete = False
        self.listed = 0
        """Number of positions that the baseline has found."""
        self._miners: list[str] | None = None

    # --- what the loop may read between two calls ---------------------------------------------------------

    @property
    def deferred(self) -> int:
        """Number of positions left to `read_deferred`."""
        return len(self._deferred)

    @property
    def sweep_has_deferred(self) -> bool:
        """Whether positions that the sweep deferred are not read yet."""
        return bool(self._deferred_by_sweep)

    @property
    def refused(self) -> int:
        """Number of files and folders that are skipped at present."""
        return self._files.refused + self._directory.refused

    @property
    def mostly_refused(self) -> bool:
        """Whether the root is unreadable, or more than half of the position files and unreadable folders."""
        folders = self._directory.unreadable
        if "" in self._directory.unreadable_hotkeys():
            return True
        return 2 * (self._files.refused + folders) > self._files.listed + folders

    def needed_user(self) -> str:
        """Returns the owner of a file or folder that this user cannot read, or an empty string."""
        path = self._directory.locked_path() or self._files.locked_path()
        return owner_of(path) if path else ""

    @property
    def root_missing(self) -> bool:
        return self._directory.root_missing

    @property
    def holds_removals(self) -> bool:
        """Whether a mass removal is held back."""
        return self._guard.holding

    @property
    def watching(self) -> bool:
        """False while inotify watches are short, or events do not come."""
        return self._directory.watching and not self.events_missing

    @property
    def events_missing(self) -> bool:
        """Whether the last new order was found by a sweep alone."""
        return self._directory.events_missing

    @property
    def awaits_event(self) -> bool:
        """Whether the next sweep decides if an event is missing."""
        return bool(self._without_event)

    def has_document_events(self, events: Iterable[FsEvent]) -> bool:
        """Returns whether any of the events happened in a folder of documents."""
        return any(event.wd in self._document_wds for event in events)

    # --- the first scan -----------------------------------------------------------------------------------

    def check_root(self) -> bool:
        """Returns whether there is a directory of miners."""
        return self._directory.check_root()

    def baseline(self) -> Iterator[Change]:
        """Yields everything there is, reading as it goes. Runs in the log's thread, before the follower."""
        listed = PositionsToRead()
        self._files.start_over()
        self._watch_documents()
        yield from self._scan(listed, full=True)
        # A position that was closed during the scan was moved away unread. Found now, its orders are history;
        # found by a later sweep, they would be announced.
        give_up_ms = self._monotonic() + self._confirm_ms
        yield from self._scan(listed, full=False)
        while self._files.vanished_unread(listed) and self._monotonic() < give_up_ms:
            time.sleep(_RELIST_S)
            yield from self._scan(listed, full=False)
        self._is_complete = True
        yield from self._changed_miners()

    def _scan(self, listed: PositionsToRead, *, full: bool) -> Iterator[Change]:
        to_read = PositionsToRead()
        for _ in self._directory.sweep(to_read, full=full):
            continue
        listed.update(to_read)
        self.listed = len(listed)
        yield from self._files.read_all(to_read)

    def restore(self, positions: Collection[Key], present: Collection[Key] | None) -> list[Key]:
        """Returns which of these positions, which the log has lost, and of all others are to be read again.

        `present` are the positions that the log still has; None if it has lost none but `positions`.
        """
        self._miners = None
        missing = set() if present is None else set(self._files.known).difference(present)
        return [*missing.union(positions)]

    # --- single changes -----------------------------------------------------------------------------------

    def read_changes(self, events: Collection[FsEvent], rechecks: Iterable[Key]) -> list[Change]:
        """Returns the changes behind these events and at these positions, except for deferred ones."""
        to_read = PositionsToRead()
        if any(wd in self._document_wds and name in ("miners", "") for wd, name in events):
            self._directory.list_root(to_read)
        self._directory.follow_events(events, to_read)
        for key in rechecks:
            self._files.recheck(key, to_read)
        # Before `_defer`: a version that the sweep has read is delivered now, even if the next is deferred.
        changes: list[Change] = self._take_swept(to_read)
        self._defer(to_read)
        found = list(self._files.read_all(to_read))
        self._note_events(self._directory.hotkeys_of(events), found)
        changes += found
        changes += self._moved(self._files.take_vanished())
        return changes + self._changed_miners()

    def _note_events(self, hotkeys: Collection[str], found: Collection[PositionWritten]) -> None:
        """Notes that events have come for these miners."""
        self._without_event = {
            key: since_ms for key, since_ms in self._without_event.items() if key[0] not in hotkeys
        }
        if hotkeys and found:
            self._directory.events_missing = False

    def read_deferred(self) -> list[Change]:
        """Reads the next batch of deferred positions."""
        size = max(BATCH, len(self._deferred) // _LARGE_BATCH_DIVISOR)
        batch = PositionsToRead(dict.fromkeys(islice(self._deferred, size), True))
        self._claim(batch)
        changes: list[Change] = self._take_swept(batch)
        return [*changes, *self._files.read_all(batch)]

    def _moved(self, keys: Iterable[Key]) -> list[Change]:
        """Returns the removal of positions whose files were moved to their miner's archive.

        The move is an act of the validator: it needs neither confirmation nor the guard's consent.
        """
        changes: list[Change] = []
        for key in keys:
            archived = self._files.archived(key)
            if archived is None:
                continue
            self._claim([key])
            changes += self._take_swept([key])
            last = self._files.read_archived(key, *archived)
            if last is not None:
                changes.append(last)
            changes.append(PositionRemoved(miner_hotkey=key[0], position_uuid=key[1]))
            self._files.forget([key])
        return changes

    def _take_swept(self, keys: Iterable[Key]) -> list[Change]:
        """Takes what the sweep has read of these positions: it is older than what is read next."""
        return [self.swept.pop(key) for key in keys if key in self.swept]

    def _defer(self, to_read: PositionsToRead) -> set[Key]:
        """Moves positions that seem merely refreshed to the deferred ones; returns them."""
        later = {key: None for key in to_read if self._files.seems_refreshed(key)}
        for key in later:
            del to_read[key]
        self._claim(to_read)
        self._deferred.update(later)
        return set(later)

    def _claim(self, keys: Iterable[Key]) -> None:
        """Notes that these are read now, so that neither a batch nor the sweep has to."""
        for key in keys:
            self._deferred.pop(key, None)
        self._deferred_by_sweep.difference_update(keys)

    # --- sweeps -------------------------------------------------------------------------------------------

    def start_sweep(self, *, full: bool, rewatch: bool) -> None:
        """Prepares a pass: `full` compares every file, otherwise only files of folders that changed.

        `rewatch` sets every watch again, after events were lost.
        """
        self._steps = self._pass(full=full, rewatch=rewatch)
        # The first sweep, and one after lost events, finds what happened meanwhile.
        self._events_expected = self._has_swept and self.watching and not rewatch
        self._has_swept = True

    def advance(self) -> bool:
        """Continues the sweep for some 10 ms; returns whether it has reached its end."""
        end_ms = self._monotonic() + _SLICE_MS
        for _ in self._steps:  # noqa: SIM110 - each step does work, `all` would hide that
            if self._monotonic() >= end_ms:
                return False
        return True

    def _pass(self, *, full: bool, rewatch: bool) -> Iterator[None]:
        to_read = PositionsToRead()
        yield from self._directory.sweep(to_read, full=full, rewatch=rewatch)
        self._files.retry_refused(to_read)
        self._deferred_by_sweep = self._defer(to_read)
        for key, force in to_read.items():
            is_expected = self._events_expected and self._files.expects_event(key)
            change = self._files.read(key, force=force)
            if change is not None:
                self.swept[key] = change
                if is_expected:
                    self._without_event.setdefault(key, self._monotonic())
            yield

    def finish_sweep(self) -> list[Change]:
        """Returns what the sweep found, and what follows from it: removals, and the list of miners."""
        self._watch_documents()
        self._is_complete = True
        self._check_events()
        accept = resync_requested(self._data_dir)
        moved: list[Change] = []
        removed: list[Key] = []
        if self.root_missing:
            if accept:
                removed = list(self._files.known)
                self._guard.reset()
        else:
            # Nothing is known about the files below a folder that cannot be read: they are not absent.
            unreadable = self._directory.unreadable_hotkeys()
            absent = self._files.absent
            if unreadable:
                absent = {key for key in absent if key[0] not in unreadable and "" not in unreadable}
            moved = self._moved(list(absent))
            absent = absent & self._files.absent
            known = len(self._files.known)
            removed = self._guard.after_sweep(absent, known, self._monotonic(), accept=accept)
        if accept:
            if removed:
                logger.warning("removals_accepted", removed=len(removed), pending=self._guard.pending)
            if removed or not self._guard.pending:  # otherwise it waits until they are confirmed
                resync_done(self._data_dir)
        self._files.forget(removed)
        swept, self.swept = self.swept, {}
        return [
            *swept.values(),
            *moved,
            *(PositionRemoved(miner_hotkey=hotkey, position_uuid=uuid) for hotkey, uuid in removed),
            *self._changed_miners(),
        ]

    def _check_events(self) -> None:
        """Decides whether events are missing, once they have had time to come."""
        late_ms = self._monotonic() - EVENT_GRACE_MS
        late = [key for key, since_ms in self._without_event.items() if since_ms <= late_ms]
        if late and not self.events_missing:
            logger.warning("events_missing", hotkey=late[0][0], uuid=late[0][1])
            self._directory.events_missing = True
        for key in late:
            del self._without_event[key]

    # --- documents, and the list of miners ----------------------------------------------------------------

    def _changed_miners(self) -> list[Change]:
        """Returns the list of miners if it changed: those with a folder or with positions not removed yet."""
        # A list from half a scan, or from a root that is away, would drop miners.
        if not self._is_complete or (self.root_missing and self._files.known):
            return []
        miners = [] if self.root_missing else self._directory.hotkeys
        if self._files.absent:
            miners = sorted({hotkey for hotkey, _ in self._files.absent}.union(miners))
        if miners == self._miners:
            return []
        self._miners = miners
        return [DocumentWritten(document=Document.MINERS, content=msgspec.json.encode(miners))]

    def _watch_documents(self) -> None:
        """Watches the documents' folders, in which the root comes and goes too. Repeated for new folders."""
        for path in self._document_folders:
            try:
                self._document_wds.add(self._watch.add(path, files=True, folders=True))
            except OSError:
                continue  # missing, or no watches left: sweeps look there as well
