"""A running intake: the baseline first, then every source until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import msgspec
import structlog

from ptn_api.backoff import Backoff
from ptn_api.clock import Clock, ClockStart, Monotonic, SteadyClock, monotonic_ms, wall_ms
from ptn_api.errors import LogDamagedError, LogError, LogFencedError, LogReplacedError, SettingsError
from ptn_api.event_log.contract import (
    Change,
    Document,
    DocumentWritten,
    EventLogWriter,
    PositionWritten,
    SourceStatus,
    known_ms,
)
from ptn_api.event_log.outage import RETRIED_WRITE_ERRORS
from ptn_api.intake.checkpoint import read_checkpoint
from ptn_api.intake.directory import other_validator
from ptn_api.intake.documents import DocumentFiles, DocumentFollower
from ptn_api.intake.follow import ROOT_MISSING, DirectoryFollower
from ptn_api.intake.merge import ALONE, IntakeCounters, Merge, Turn
from ptn_api.intake.miner_files import MinerFiles
from ptn_api.intake.options import IntakeOptions
from ptn_api.intake.queue import QueueReader
from ptn_api.intake.scan import DirectoryScanner
from ptn_api.intake.watch import Watch, open_watch
from ptn_api.tasks import cancel_and_wait, wait_for_event, wait_or_raise

__all__ = ["run_intake"]

logger = structlog.get_logger()

_BASELINE_POLL_MS = 500
_TURN_MS = 60_000


async def run_intake(
    *,
    log: EventLogWriter,
    options: IntakeOptions,
    queue_fd: int | None,
    stop: asyncio.Event,
    ready: Callable[[], None],
    watch: Watch | None = None,
    clock: Clock = wall_ms,
    clock_start: ClockStart | None = None,
    monotonic: Monotonic = monotonic_ms,
    counters: IntakeCounters | None = None,
    turn: Turn = ALONE,
) -> None:
    """Feeds the log from the validator's directory, the queue or a checkpoint until `stop` is set.

    While it is another machine's turn, positions are read and compared, and nothing is written. Calls `ready`
    once the log has a baseline. Owns `queue_fd` and `watch`. The log stays open; it is used by three threads,
    one for positions, two for documents, pruning and checks. After `stop`, nothing more is taken; in this
    machine's turn, everything taken is written before this returns. Raises LogError if the log fails for
    good, InvalidInputError for a checkpoint that cannot be used, SettingsError for another validator's log.
    """
    counters = counters or IntakeCounters()
    steady = SteadyClock(
        jump_ms=options.clock_jump_ms,
        settle_ms=options.clock_settle_ms,
        wall=clock,
        monotonic=monotonic,
        start=clock_start,
    )
    with contextlib.suppress(LogDamagedError):
        if log.ready():  # a cluster's log is made by `ptn cluster init`, perhaps long before the first start
            steady.compare(known_ms(log))
    intake = Intake(
        log, options, clock=clock, steady=steady, monotonic=monotonic, counters=counters, turn=turn
    )
    try:
        if options.validator_dir:
            await intake.open_directory(Path(options.validator_dir), watch or open_watch())
        if await intake.baseline(stop):
            ready()
            await intake.run(queue_fd, stop)
    finally:
        await intake.close()


class QueueAlone:
    """The queue without a directory, which would provide the list of miners and the source status."""

    def __init__(self, merge: Merge, miners: Iterable[str], steady: Clock) -> None:
        self._merge = merge
        self._miners = set(miners)
        self._steady = steady
        self._refused = 0
        self._publish()

    def put(self, change: PositionWritten) -> None:
        self._merge.put_queue_item(change)
        hotkey = change.position.miner_hotkey
        if hotkey not in self._miners:
            self._miners.add(hotkey)
            content = msgspec.json.encode(sorted(self._miners))
            self._merge.put([DocumentWritten(document=Document.MINERS, content=content)])

    def add_miners(self, miners: Iterable[str]) -> None:
        """Takes miners that another machine has added to the log."""
        self._miners.update(miners)

    def report_refused(self, refused: int) -> None:
        self._refused = refused
        self._publish()

    async def run(self, every_ms: int) -> None:
        """Keeps the log informed of the time, as sweeps do where there is a directory."""
        while True:
            await asyncio.sleep(every_ms / 1000)
            self._publish()

    def _publish(self) -> None:
        refused = self._refused
        status = SourceStatus(invalid=refused, refused_items=refused, steady_ms=self._steady())
        self._merge.set_source(status)


class Interrupted(Exception):  # noqa: N818 - not an error
    """Intake must stop during the baseline, of which nothing may be committed."""


class Intake:
    """The parts of a running intake, and the order in which they start and stop."""

    def __init__(
        self,
        log: EventLogWriter,
        options: IntakeOptions,
        *,
        clock: Clock,
        steady: SteadyClock,
        monotonic: Monotonic,
        counters: IntakeCounters,
        turn: Turn,
    ) -> None:
        self._log = log
        self._turn = turn
        self._options = options
        self._clock = clock
        self._monotonic = monotonic
        self._steady = steady
        self._counters = counters
        self._check_now = asyncio.Event()
        self._log_thread = ThreadPoolExecutor(1, thread_name_prefix="intake-log")
        self._background = ThreadPoolExecutor(2, thread_name_prefix="intake-background")
        self._merge = Merge(
            log,
            self._log_thread,
            clock=clock,
            retry=self._backoff(),
            counters=counters,
            on_damage=self._check_now.set,
            turn=turn,
        )
        self._watch: Watch | None = None
        self._scanner: DirectoryScanner | None = None
        self._follower: DirectoryFollower | None = None
        self._documents: DocumentFollower | None = None
        self._alone: QueueAlone | None = None
        self._sources: list[asyncio.Task[None]] = []
        self._following: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    def _backoff(self) -> Backoff:
        return Backoff(first_ms=self._options.retry_ms, max_ms=self._options.retry_max_ms)

    async def open_directory(self, validator_dir: Path, watch: Watch) -> None:
        """Begins to collect events; no file is read yet. Raises SettingsError for another validator's log."""
        self._watch = watch
        options = self._options
        with contextlib.suppress(LogError):  # of a damaged log, which is dealt with later
            if foreign := await self._merge.call(
                lambda: other_validator(self._log, options.data_dir, validator_dir)
            ):
                raise SettingsError(f"--data-dir {foreign}", code="other_validator")
        known = await self._merge.call(self._log.fingerprints)
        documents = await self._merge.call(self._log.document_fingerprints)
        files = DocumentFiles(
            validator_dir,
            {document: text for (document, miner), text in documents.items() if not miner},
            limit=options.document_limit_bytes,
            confirm_ms=options.removal_confirm_ms,
        )
        miner_files = MinerFiles(
            validator_dir / "validation" / "miners",
            {(document, miner): text for (document, miner), text in documents.items() if miner},
            position_limit=options.position_limit_bytes,
            document_limit=options.document_limit_bytes,
        )
        self._documents = DocumentFollower(
            files,
            miner_files,
            self._log,
            self._background,
            options,
            clock=self._clock,
            monotonic=self._monotonic,
            turn=self._turn,
        )
        self._scanner = DirectoryScanner(
            validator_dir,
            known,
            watch,
            options,
            monotonic=self._monotonic,
        )
        self._follower = DirectoryFollower(
            self._scanner,
            self._merge,
            watch,
            options,
            clock=self._clock,
            steady=self._steady,
            monotonic=self._monotonic,
            on_documents=self._documents.due,
            documents_refused=self._documents.refused,
        )
        self._merge.prefer_directory(options.queue_hold_ms, recheck=self._follower.recheck)
        self._sources.append(asyncio.create_task(self._follower.watch()))

    async def baseline(self, stop: asyncio.Event) -> bool:
        """Gives a new log its first state, unless another machine does; returns False if stopped before."""
        while not self._turn.active and not stop.is_set():
            if await self._merge.call(self._log.ready):
                return True
            await self._turn.changed(_BASELINE_POLL_MS)
        if await self._merge.call(self._log.ready):
            return True
        if self._follower is not None and not await self._follower.root_exists():
            missing = SourceStatus(stale=True, reason=ROOT_MISSING)
            with contextlib.suppress(*RETRIED_WRITE_ERRORS):  # the baseline reports it
                await self._merge.call(lambda: self._log.set_source(missing))
            while not stop.is_set() and not await self._follower.root_exists():
                await wait_for_event(stop, min(self._options.sweep_ms, 1_000))
        retry = self._backoff()
        started_ms = self._monotonic()
        while not stop.is_set():
            try:
                # In one transaction: half a baseline would make events of the other half at the next start.
                head = await self._merge.call(
                    lambda: self._log.baseline(self._first_state(stop), self._clock())
                )
            except Interrupted:
                return False
            except LogFencedError:
                return await self.baseline(stop)
            except RETRIED_WRITE_ERRORS as error:
                if not (self._counters.unwritable or self._counters.unusable):
                    logger.error("log_unwritable", reason=str(error))
                self._counters.unusable = isinstance(error, LogDamagedError)
                self._counters.unwritable = not self._counters.unusable
                await wait_for_event(stop, retry.next_ms())
            else:
                self._counters.unwritable = self._counters.unusable = False
                logger.info("baseline_taken", revision=head.revision, ms=self._monotonic() - started_ms)
                return True
        return False

    def _first_state(self, stop: asyncio.Event) -> Iterator[Change]:
        """Yields every position and document, in the log's thread. Raises Interrupted once stopped."""
        changes: Iterator[Change] = iter(())
        self._counters.read = 0
        if self._scanner is not None and self._documents is not None:
            changes = chain(self._scanner.baseline(), self._documents.baseline())
        elif self._options.checkpoint:
            changes = read_checkpoint(Path(self._options.checkpoint))
        for change in changes:
            if stop.is_set():
                raise Interrupted
            if self._scanner is not None and isinstance(change, PositionWritten):
                self._counters.read += 1
                self._counters.listed = self._scanner.listed
            yield change

    async def run(self, queue_fd: int | None, stop: asyncio.Event) -> None:
        """Takes changes from every source until `stop`. Raises what a part fails with."""
        self._writing = asyncio.create_task(self._merge.run())
        tasks = [self._writing]
        self._sources.append(asyncio.create_task(self._prune()))
        self._sources.append(asyncio.create_task(self._check_log()))
        self._sources.append(asyncio.create_task(self._compare()))
        put: Callable[[PositionWritten], None] = self._merge.put_queue_item
        if self._follower is not None and self._documents is not None:
            self._sources.append(asyncio.create_task(self._documents.run()))
            self._sources.append(asyncio.create_task(self._documents.run_miners()))
            self._following = asyncio.create_task(self._follower.run())
            tasks.append(self._following)
        else:
            self._alone = alone = QueueAlone(
                self._merge, await self._merge.call(self._log.hotkeys), self._steady
            )
            put = alone.put
            self._sources.append(asyncio.create_task(alone.run(self._options.sweep_ms)))
        if queue_fd is not None:

            def count_refused(refused: int) -> None:
                self._counters.queue_refused = refused
                if self._alone is not None:
                    self._alone.report_refused(refused)

            queue = QueueReader(
                queue_fd,
                put,
                line_limit=self._options.queue_line_limit_bytes,
                wait_for_capacity=self._merge.wait_for_capacity,
                on_refused=count_refused,
            )
            self._sources.append(asyncio.create_task(queue.run()))
        stopping = asyncio.create_task(stop.wait())
        try:
            await wait_or_raise(stopping, [*tasks, *self._sources])
        finally:
            stopping.cancel()

    async def close(self) -> None:
        """Stops the sources, writes what they delivered, ends threads and watch. Raises LogError."""
        await cancel_and_wait(self._sources)
        if self._follower is not None and self._following is not None:
            self._follower.stop()
            await asyncio.wait([self._following])
        self._merge.close()
        try:
            if self._writing is not None:
                await self._writing
        finally:
            for part in (self._follower, self._watch):
                if part is not None:
                    part.close()
            self._background.shutdown()
            self._log_thread.shutdown()

    async def _prune(self) -> None:
        """Prunes the log periodically; orders are appended in between.

        By the steady clock: a wall clock that is wrong for a while must not prune events that are young.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._options.prune_ms / 1000)
            if not self._turn.active:
                continue
            with contextlib.suppress(*RETRIED_WRITE_ERRORS):  # the merge logs it; the next round tries again
                await loop.run_in_executor(self._background, self._log.prune, self._steady())

    async def _compare(self) -> None:
        """Has files read again whose state in the log is another machine's; all of them as a turn begins.

        Most prove to be equal, and their fingerprints are stored, so that few are left for the turn.
        """
        stands_by = not self._turn.active
        while True:
            if not stands_by:
                stands_by = not await self._turn.changed(_TURN_MS)
                continue
            begins = await self._turn.changed(self._options.sweep_ms)
            with contextlib.suppress(*RETRIED_WRITE_ERRORS):
                # The copy may have been old at the start.
                self._steady.confirm((await self._merge.call(self._log.source)).steady_ms or 0)
                if self._alone is not None:
                    self._alone.add_miners(await self._merge.call(self._log.hotkeys))
                if self._follower is not None and self._documents is not None:
                    stored = await self._merge.call(self._log.fingerprints)
                    foreign = {key for key, fingerprint in stored.items() if not fingerprint}
                    if begins:
                        differing = set(self._merge.differing)
                        self._merge.differing.clear()
                        await self._follower.restore(foreign | differing, stored)
                        self._documents.compare(await self._merge.call(self._log.document_fingerprints))
                    else:
                        for key in foreign - self._merge.differing:
                            self._follower.recheck(key)
                stands_by = not begins

    async def _check_log(self) -> None:
        """Checks the log at the start, periodically and after damage; has what it has lost read again."""
        loop, said = asyncio.get_running_loop(), ""
        while True:
            self._check_now.clear()
            try:
                lost = await loop.run_in_executor(self._background, self._log.repair)
                if self._follower is not None and self._documents is not None:
                    present = await self._merge.call(self._log.fingerprints) if lost.structure else None
                    await self._follower.restore(lost.positions, present)
                    self._documents.restore(lost.documents)
                said = ""
            except LogReplacedError:
                raise
            except LogError as error:
                if str(error) != said:
                    said = str(error)
                    logger.warning("log_not_checked", reason=said)
            if await wait_for_event(self._check_now, self._options.log_check_ms):
                await asyncio.sleep(self._options.retry_max_ms / 1000)
