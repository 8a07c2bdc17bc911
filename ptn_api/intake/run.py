"""Runs intake: baseline first, then whatever happens, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from ptn_api.clock import Clock, Monotonic, SteadyClock, monotonic_ms, wall_ms
from ptn_api.errors import LogUnwritableError
from ptn_api.event_log.contract import (
    Change,
    Document,
    DocumentWritten,
    EventLogWriter,
    PositionWritten,
    SourceStatus,
)
from ptn_api.intake.checkpoint import read_checkpoint
from ptn_api.intake.documents import DocumentFiles, DocumentFollower
from ptn_api.intake.files import Key
from ptn_api.intake.follow import DirectoryFollower
from ptn_api.intake.merge import IntakeCounters, Merge
from ptn_api.intake.options import IntakeOptions
from ptn_api.intake.queue import QueueReader
from ptn_api.intake.watch import Watch, open_watch
from ptn_api.tasks import cancel_and_wait, wait_for_event

__all__ = ["IntakeOptions", "run_intake"]

logger = structlog.get_logger()

T = TypeVar("T")


async def run_intake(
    *,
    log: EventLogWriter,
    options: IntakeOptions,
    queue_fd: int | None,
    stop: asyncio.Event,
    ready: Callable[[], None],
    watch: Watch | None = None,
    clock: Clock = wall_ms,
    monotonic: Monotonic = monotonic_ms,
    counters: IntakeCounters | None = None,
) -> None:
    """Feeds the log from the validator's directory, the queue or a checkpoint until `stop` is set.

    Calls `ready` once the log holds a baseline. Takes over `queue_fd` and `watch`; the log, which is used
    from two threads (positions in one, documents and pruning in the other), stays open. On `stop` nothing
    more is taken, and what was taken is written before this returns.
    Raises LogError where the log fails for good, InvalidInputError for a checkpoint that cannot be used.
    """
    counters = counters or IntakeCounters()
    intake = Intake(log, options, clock=clock, monotonic=monotonic, counters=counters)
    try:
        if options.validator_dir:
            await intake.open_directory(Path(options.validator_dir), watch or open_watch())
        if await intake.baseline(stop):
            ready()
            await intake.run(queue_fd, stop)
    finally:
        await intake.close()


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """The baseline was given up because intake is to stop; none of it may be committed."""


class Intake:
    """The parts of a running intake, and the order in which they start and stop."""

    def __init__(
        self,
        log: EventLogWriter,
        options: IntakeOptions,
        *,
        clock: Clock,
        monotonic: Monotonic,
        counters: IntakeCounters,
    ) -> None:
        self._log = log
        self._options = options
        self._clock = clock
        self._monotonic = monotonic
        self._steady = SteadyClock(
            jump_ms=options.clock_jump_ms, settle_ms=options.clock_settle_ms, wall=clock, monotonic=monotonic
        )
        self._counters = counters
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="intake-log")
        self._chores = ThreadPoolExecutor(1, thread_name_prefix="intake-chores")
        self._merge = Merge(
            log,
            self._thread,
            clock=clock,
            hold_ms=options.queue_hold_ms if options.validator_dir else None,
            recheck=self._recheck,
            retry_ms=options.retry_ms,
            retry_max_ms=options.retry_max_ms,
            counters=counters,
        )
        self._directory: DirectoryFollower | None = None
        self._documents: DocumentFollower | None = None
        self._watch: Watch | None = None
        self._miners: set[str] = set()
        self._sources: list[asyncio.Task[None]] = []
        self._following: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def open_directory(self, validator_dir: Path, watch: Watch) -> None:
        """Begins to watch; nothing is looked at yet."""
        known = await self._merge.call(self._log.fingerprints)
        options = self._options
        files = DocumentFiles(
            validator_dir,
            {document: known[key] for document in Document if (key := ("", document.value)) in known},
            limit=options.document_limit_bytes,
            confirm_ms=options.removal_confirm_ms,
        )
        self._documents = DocumentFollower(
            files,
            self._log,
            self._chores,
            clock=self._clock,
            monotonic=self._monotonic,
            retry_ms=options.retry_ms,
            retry_max_ms=options.retry_max_ms,
        )
        self._watch = watch
        self._directory = DirectoryFollower(
            validator_dir,
            {key: fingerprint for key, fingerprint in known.items() if key[0]},
            self._merge,
            watch,
            options,
            clock=self._clock,
            monotonic=self._monotonic,
            on_documents=self._documents.due,
            documents_refused=self._documents.refused,
        )
        self._sources.append(asyncio.create_task(self._directory.watch()))

    async def baseline(self, stop: asyncio.Event) -> bool:
        """Gives a new log its first state; False if stopped before the log has one."""
        if await self._merge.call(self._log.ready):
            return True
        if self._directory is not None:
            while not stop.is_set() and not await self._directory.root_is_there():
                await wait_for_event(stop, min(self._options.sweep_ms, 1_000))
        pause_ms = self._options.retry_ms
        while not stop.is_set():
            try:
                await self._merge.call(lambda: self._take_baseline(stop))
                self._counters.unwritable = False
                return True
            except Interrupted:
                return False
            except LogUnwritableError as error:
                self._counters.unwritable = True
                if pause_ms == self._options.retry_ms:
                    logger.error("log_unwritable", reason=str(error))
                await wait_for_event(stop, pause_ms)
                pause_ms = min(pause_ms * 2, self._options.retry_max_ms)
        return False

    async def run(self, queue_fd: int | None, stop: asyncio.Event) -> None:
        """Takes what comes until `stop`. Raises what a part of it failed with."""
        self._writing = asyncio.create_task(self._merge.run())
        tasks = [self._writing]
        self._sources.append(asyncio.create_task(self._prune()))
        if self._directory is not None and self._documents is not None:
            self._sources.append(asyncio.create_task(self._documents.run()))
            self._following = asyncio.create_task(self._directory.run())
            tasks.append(self._following)
        else:
            self._miners.update(await self._merge.call(self._log.hotkeys))
            self._merge.set_source(SourceStatus())
        if queue_fd is not None:
            self._sources.append(asyncio.create_task(self._reader(queue_fd).run()))
        await _until(stop, [*tasks, *self._sources])

    async def close(self) -> None:
        """Takes no more, writes what was taken, ends threads and watch. Raises LogError."""
        await cancel_and_wait(self._sources)
        if self._directory is not None and self._following is not None:
            self._directory.stop()
            await asyncio.wait([self._following])
        self._merge.close()
        try:
            if self._writing is not None:
                await self._writing
        finally:
            for part in (self._directory, self._watch):
                if part is not None:
                    part.close()
            self._chores.shutdown()
            self._thread.shutdown()

    # --- baseline -----------------------------------------------------------------------------------------

    def _take_baseline(self, stop: asyncio.Event) -> None:
        """In the log's thread: all of it in one transaction."""
        started = self._monotonic()
        head = self._log.baseline(_until_stopped(self._everything(), stop), self._clock())
        logger.info("baseline_taken", revision=head.revision, ms=self._monotonic() - started)

    def _everything(self) -> Iterator[Change]:
        if self._directory is not None and self._documents is not None:
            yield from self._directory.baseline()
            yield from self._documents.baseline()
        elif self._options.checkpoint:
            yield from read_checkpoint(Path(self._options.checkpoint))

    # --- the other sources --------------------------------------------------------------------------------

    def _recheck(self, key: Key) -> None:
        if self._directory is not None:
            self._directory.recheck(key)

    def _reader(self, queue_fd: int) -> QueueReader:
        return QueueReader(
            queue_fd,
            self._offer,
            line_limit=self._options.queue_line_limit_bytes,
            wait_for_capacity=self._merge.wait_for_capacity,
            on_refused=self._tell_refused,
        )

    def _offer(self, change: PositionWritten) -> None:
        self._merge.offer(change)
        hotkey = change.position.miner_hotkey
        if self._directory is None and hotkey not in self._miners:
            self._miners.add(hotkey)
            content = msgspec.json.encode(sorted(self._miners))
            self._merge.put([DocumentWritten(document=Document.MINERS, content=content)])

    def _tell_refused(self, refused: int) -> None:
        """Without a directory nobody else says how much was skipped."""
        if self._directory is None:
            self._merge.set_source(SourceStatus(invalid=refused))

    async def _prune(self) -> None:
        """Beside the orders, which the log lets in between; a clock wrong for a while prunes nothing."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._options.prune_ms / 1000)
            with contextlib.suppress(LogUnwritableError):  # the merge reports it; the next round will do
                await loop.run_in_executor(self._chores, lambda: self._log.prune(self._steady()))


def _until_stopped(changes: Iterator[T], stop: asyncio.Event) -> Iterator[T]:
    for change in changes:
        if stop.is_set():
            raise Interrupted
        yield change


async def _until(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Waits for `stop`; raises what a task fails with before."""
    stopping = asyncio.create_task(stop.wait())
    pending: set[asyncio.Task[Any]] = {stopping, *tasks}
    try:
        while stopping in pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        stopping.cancel()
