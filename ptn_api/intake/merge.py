"""Where directory, queue and checkpoint meet: one writer, which loses nothing that was handed to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import structlog

from ptn_api.clock import Clock
from ptn_api.errors import LogUnwritableError
from ptn_api.event_log.contract import (
    Change,
    DocumentWritten,
    EventLogWriter,
    PositionRemoved,
    PositionWritten,
    SourceStatus,
)
from ptn_api.histogram import Histogram
from ptn_api.intake.files import Key
from ptn_api.intake.pending import PendingChange, PendingChanges, QueueOverlay, key_of
from ptn_api.model.position import PositionText
from ptn_api.tasks import wait_for_event

__all__ = ["IntakeCounters", "Merge"]

logger = structlog.get_logger()

T = TypeVar("T")

_MOST_WAITING = 20_000


@dataclass
class IntakeCounters:
    """`unwritable`: the log could not be written the last time; the rest are totals since the start."""

    unwritable: bool = False
    append_failures: int = 0
    append_seconds: Histogram = field(default_factory=Histogram)
    """From handing changes to the log until they are durable."""


class Merge:
    """Hands changes to the log from one thread: whatever waits while one append runs goes into the next.

    `executor` must have a single thread. While the log cannot be written, what is known to be dirty is kept
    and tried again. Documents given to `put` are small ones; large ones go to the log beside (`documents`).
    `hold_ms` None: there is no directory, and the queue's word is final. `recheck` is called with positions
    whose file is to be looked at again.
    """

    def __init__(
        self,
        log: EventLogWriter,
        executor: Executor,
        *,
        clock: Clock,
        hold_ms: int | None = None,
        recheck: Callable[[Key], None] = lambda key: None,
        retry_ms: int = 100,
        retry_max_ms: int = 5_000,
        counters: IntakeCounters | None = None,
    ) -> None:
        self._log = log
        self._executor = executor
        self._clock = clock
        self._hold_ms = hold_ms
        self._recheck = recheck
        self._retry_ms = retry_ms
        self._retry_max_ms = retry_max_ms
        self._counters = counters or IntakeCounters()
        self._waiting = PendingChanges()
        self._status: SourceStatus | None = None
        self._overlay = QueueOverlay()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = asyncio.Event()
        self._written = asyncio.Event()

    # --- handing over -------------------------------------------------------------------------------------

    def put(self, changes: Iterable[Change]) -> None:
        """Takes what was found in the directory; one scan's changes together."""
        arrived = self._clock()
        for change in changes:
            if isinstance(change, DocumentWritten):
                self._waiting.add_document(change)
            elif isinstance(change, PositionRemoved):
                self._overlay.release(key_of(change))
                self._waiting.add(PendingChange(change, arrived, frozenset()))
            else:
                orders = _order_uuids(change)
                if self._overlay.admits(key_of(change), orders):
                    self._waiting.add(PendingChange(change, arrived, orders))
        self._wake()

    def offer(self, change: PositionWritten) -> None:
        """Takes a position from the queue, which counts only for orders that were never seen."""
        item = PendingChange(change, self._clock(), _order_uuids(change), from_queue=True)
        if self._hold_ms is not None:
            hold = self._overlay.start(item.key, item.orders)
            asyncio.get_running_loop().call_later(self._hold_ms / 1000, self._expire, item.key, hold)
        self._waiting.add(item)
        self._wake()

    def set_source(self, status: SourceStatus) -> None:
        """Tells the readers how fresh the source is, once everything handed over before is in the log."""
        self._status = status
        self._wake()

    @property
    def waiting(self) -> int:
        """Number of changes that are not in the log yet."""
        return len(self._waiting)

    async def wait_for_capacity(self) -> None:
        """Returns when little enough waits that more may be taken from the queue."""
        while self.waiting > _MOST_WAITING:
            self._written.clear()
            await self._written.wait()

    async def flush(self) -> None:
        """Returns when all that was handed over is durable."""
        await self._idle.wait()

    async def call(self, function: Callable[[], T]) -> T:
        """Runs a call of the log in the log's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    def close(self) -> None:
        """Lets `run` return once everything is in the log, or at once where the log cannot be written."""
        self._closing.set()
        self._work.set()

    def _wake(self) -> None:
        self._idle.clear()
        self._work.set()

    def _expire(self, key: Key, hold: object) -> None:
        if self._overlay.expire(key, hold):
            self._recheck(key)

    # --- writing ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Writes until closed. Raises LogError for anything but a log that is not writable now."""
        failures = 0
        while True:
            await self._work.wait()
            if not self._waiting and self._status is None:
                self._idle.set()
                self._work.clear()
                if self._closing.is_set():
                    return
                continue
            try:
                await self._write_next()
            except LogUnwritableError as error:
                failures += 1
                self._counters.append_failures += 1
                self._counters.unwritable = True
                if not await self._outlast(error, failures):
                    return
            else:
                if failures:
                    logger.info("log_writable_again", waiting=len(self._waiting))
                failures = 0
                self._counters.unwritable = False

    async def _write_next(self) -> None:
        items, documents, status = (
            self._waiting.next_positions(),
            self._waiting.documents(),
            self._status,
        )
        is_all = self._waiting.all_are_next
        if items or documents:
            with self._counters.append_seconds.time():
                ignored = await self.call(lambda: self._append(items, documents))
            self._waiting.done(items, documents)
            self._written.set()
            self._end_holds(ignored)
        if is_all and status is not None:
            await self.call(lambda: self._log.set_source(status))
            if self._status is status:
                self._status = None

    def _end_holds(self, ignored: Iterable[PendingChange]) -> None:
        for item in ignored:
            if self._overlay.needless(item.key, item.orders):
                self._recheck(item.key)

    async def _outlast(self, error: LogUnwritableError, failures: int) -> bool:
        """Waits before the next attempt; False where there is to be none."""
        if self._closing.is_set():
            logger.error("log_unwritable_at_stop", lost=len(self._waiting), reason=str(error))
            return False
        if failures == 1:
            logger.error("log_unwritable", waiting=len(self._waiting), reason=str(error))
        pause_ms = min(self._retry_ms << min(failures - 1, 20), self._retry_max_ms)
        await wait_for_event(self._closing, pause_ms)
        return True

    def _append(self, items: list[PendingChange], documents: list[DocumentWritten]) -> list[PendingChange]:
        """In the log's thread. Returns the queue's items that brought nothing new."""
        changes: list[Change] = []
        ignored: list[PendingChange] = []
        for item in items:
            change = self._unseen(item) if item.from_queue else item.change
            if change is None:
                ignored.append(item)
            else:
                changes.append(change)
        if changes or documents:
            now = max((item.arrived_ms for item in items), default=self._clock())
            self._log.append([*changes, *documents], now)
        return ignored

    def _unseen(self, item: PendingChange) -> Change | None:
        hotkey, uuid = item.key
        unseen = item.orders - self._log.seen(hotkey, item.orders)
        if not unseen or not isinstance(item.change, PositionWritten):
            return None
        present = self._log.position(hotkey, uuid) if self._hold_ms is not None else None
        return item.change if present is None else _added(item.change, present.text, unseen)


def _order_uuids(change: PositionWritten) -> frozenset[str]:
    return frozenset(order.order_uuid for order in change.position.orders)


def _added(change: PositionWritten, present: PositionText, unseen: frozenset[str]) -> PositionWritten:
    """The queue's text, unless that would take away orders which the present one has.

    The queue only adds: then its unseen orders go to the end of the present list.
    """
    position = present.position()
    if {order.order_uuid for order in position.orders} <= _order_uuids(change):
        return change
    new = [i for i, order in enumerate(change.position.orders) if order.order_uuid in unseen]
    orders = [*position.orders, *(change.position.orders[i] for i in new)]
    texts = (*present.orders, *(change.text.orders[i] for i in new))
    return PositionWritten(
        position=msgspec.structs.replace(change.position, orders=orders),
        text=msgspec.structs.replace(change.text, orders=texts),
        extra=change.extra,
    )
