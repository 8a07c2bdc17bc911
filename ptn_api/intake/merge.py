"""The merge of directory and queue: pending changes, written to the log one after the other, none lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec
import structlog

from ptn_api.backoff import Backoff
from ptn_api.clock import Clock
from ptn_api.errors import LogDamagedError, LogFencedError
from ptn_api.event_log.contract import (
    Change,
    DocumentWritten,
    EventLogWriter,
    PositionRemoved,
    PositionWritten,
    SourceStatus,
)
from ptn_api.event_log.outage import RETRIED_WRITE_ERRORS
from ptn_api.histogram import Histogram
from ptn_api.intake.files import Key
from ptn_api.intake.pending import PendingChange, PendingChanges, QueueOverlay, key_of
from ptn_api.tasks import wait_for_event

__all__ = ["ALONE", "IntakeCounters", "Merge", "Turn"]

logger = structlog.get_logger()

T = TypeVar("T")

_MAX_PENDING = 20_000
"""While more changes are pending, nothing is taken from the queue."""
_COMPARE_MS = 250
"""A standby compares what it has found with the log at this interval."""


class Turn(Protocol):
    """Whose turn it is to write a log that several machines write in turns (ptn_api/cluster/turns.py)."""

    active: bool
    """Whether it is this machine's turn."""

    async def changed(self, timeout_ms: float) -> bool:
        """Waits until that changes, or for the timeout; returns whether it is this machine's turn."""
        ...


class _Alone:
    active = True

    async def changed(self, timeout_ms: float) -> bool:
        await asyncio.sleep(timeout_ms / 1000)
        return self.active


ALONE = _Alone()
"""The turn of a machine that shares its log with no other."""


@dataclass
class IntakeCounters:
    """`unwritable`, `unusable`: the last write to the log failed, for want of space or because of damage.

    The others are totals since the start.
    """

    unwritable: bool = False
    unusable: bool = False
    queue_refused: int = 0
    append_failures: int = 0
    read: int = 0
    listed: int = 0
    """Positions of the baseline that are read, and that there are."""
    append_seconds: Histogram = field(default_factory=Histogram)
    """Time from handing changes to the log until they are durable."""


class Merge:
    """The write queue of the log: changes that arrive during an append go into the next one.

    `executor` must have a single thread. While the log cannot be written, changes are kept and retried.
    `on_damage` is called when it is damaged. Documents passed to `put` must be small; `documents` appends
    large ones itself. Without a directory, queue items are authoritative (`prefer_directory`).

    While it is another machine's turn, changes are compared with the log: those that it has are done, which
    stores their fingerprints, and those with unseen orders are kept for this machine's turn. All others are
    dropped; `Intake` has their files read again when the turn begins.
    """

    def __init__(
        self,
        log: EventLogWriter,
        executor: Executor,
        *,
        clock: Clock,
        retry: Backoff,
        counters: IntakeCounters | None = None,
        on_damage: Callable[[], None] = lambda: None,
        turn: Turn = ALONE,
    ) -> None:
        self._log = log
        self._turn = turn
        self.differing: set[Key] = set()
        """Positions that differ from the log's, without a new order, while it is another machine's turn."""
        self._on_damage = on_damage
        self._executor = executor
        self._clock = clock
        self._retry = retry
        self._overlay_ms: int | None = None
        self._recheck: Callable[[Key], None] = lambda key: None
        self._counters = counters or IntakeCounters()
        self._pending = PendingChanges()
        self._status: SourceStatus | None = None
        self._overlay = QueueOverlay()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = asyncio.Event()
        self._written = asyncio.Event()
        self._arrived = asyncio.Event()
        """Changes have arrived since the last write began, or the merge is closing."""
        self._status_failed = False

    def prefer_directory(self, overlay_ms: int, *, recheck: Callable[[Key], None]) -> None:
        """Makes the directory authoritative: a queue item overlays older files for at most this long.

        `recheck` is called with each position whose file must be read again.
        """
        self._overlay_ms = overlay_ms
        self._recheck = recheck

    # --- handing over -------------------------------------------------------------------------------------

    def put(self, changes: Iterable[Change]) -> None:
        """Takes changes found in the directory, or a small document."""
        arrived_ms = self._clock()
        for change in changes:
            if isinstance(change, DocumentWritten):
                self._pending.add_document(change)
            elif isinstance(change, PositionRemoved):
                self._overlay.discard(key_of(change))
                self._pending.add(PendingChange(change, arrived_ms, frozenset()))
            else:
                orders = _order_uuids(change)
                if self._overlay.admits(key_of(change), orders):
                    self._pending.add(PendingChange(change, arrived_ms, orders))
        self._arrived.set()
        self._wake()

    def put_queue_item(self, change: PositionWritten) -> None:
        """Takes a position from the queue. It only adds orders that the log has not seen."""
        item = PendingChange(change, self._clock(), _order_uuids(change), from_queue=True)
        if self._overlay_ms is not None:
            token = self._overlay.add(item.key, item.orders)

            def expire() -> None:
                if self._overlay.expire(item.key, token):
                    self._recheck(item.key)

            asyncio.get_running_loop().call_later(self._overlay_ms / 1000, expire)
        self._pending.add(item)
        self._arrived.set()
        self._wake()

    def set_source(self, status: SourceStatus) -> None:
        """Publishes how fresh the source is, once everything handed over before is in the log."""
        self._status = status
        self._wake()

    @property
    def pending(self) -> int:
        """Number of changes that are not in the log yet."""
        return len(self._pending)

    @property
    def backlog(self) -> int:
        """Number of changes that could be in the log by now."""
        return self.pending if self._turn.active else 0

    async def wait_for_capacity(self) -> None:
        """Returns when few enough changes are pending to take more from the queue."""
        while self.pending > _MAX_PENDING:
            self._written.clear()
            await self._written.wait()

    async def flush(self) -> None:
        """Returns when everything that was handed over is durable."""
        await self._idle.wait()

    async def call(self, function: Callable[[], T]) -> T:
        """Runs a call of the log in the log's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    def close(self) -> None:
        """Lets `run` return once everything is in the log, or at once if the log cannot be written."""
        self._closing.set()
        self._arrived.set()
        self._work.set()

    def _wake(self) -> None:
        self._idle.clear()
        self._work.set()

    # --- writing ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Writes until closed. Raises LogError for anything but a log that is unwritable for now."""
        while True:
            await self._work.wait()
            if not self._pending and self._status is None:
                # No await between the check and the clear, so that the next hand-over sets `_work` again.
                self._idle.set()
                self._work.clear()
                if self._closing.is_set():
                    return
                continue
            try:
                if self._turn.active:
                    await self._write_next()
                else:
                    await self._compare_next()
                    if self._closing.is_set():
                        return
                    await self._turn.changed(_COMPARE_MS)
            except LogFencedError:  # the turn has ended, which `turn` learns in a moment
                if self._closing.is_set():
                    return
                await self._turn.changed(_COMPARE_MS)
            except RETRIED_WRITE_ERRORS as error:
                self._counters.append_failures += 1
                if self._closing.is_set():
                    logger.error("log_unwritable_at_stop", unwritten=self.pending, reason=str(error))
                    return
                if not (self._counters.unwritable or self._counters.unusable):
                    logger.error("log_unwritable", pending=self.pending, reason=str(error))
                self._counters.unusable = isinstance(error, LogDamagedError)
                self._counters.unwritable = not self._counters.unusable
                if self._counters.unusable:
                    self._on_damage()
                # Closing ends the wait early, for one last attempt. A status must not hold up orders.
                if not self._status_failed:
                    await wait_for_event(self._closing, self._retry.next_ms())
                elif await wait_for_event(self._arrived, self._retry.next_ms()):
                    self._retry.reset()
            else:
                if self._counters.unwritable or self._counters.unusable:
                    self._counters.unwritable = self._counters.unusable = False
                    self._retry.reset()
                    logger.info("log_writable_again", pending=self.pending)

    async def _write_next(self) -> None:
        self._arrived.clear()
        self._status_failed = False
        # One consistent picture: the loop takes more changes while the log's thread appends.
        items = self._pending.next_positions()
        documents = self._pending.documents()
        is_all = self._pending.all_are_next
        status = self._status
        if items or documents:
            with self._counters.append_seconds.time():
                redundant = await self.call(lambda: self._append(items, documents))
            self._pending.done(items, documents)
            self._written.set()
            self._end_overlays(redundant)
        # A status speaks for all changes before it: not before the last of them is written.
        if is_all and status is not None:
            try:
                await self.call(lambda: self._log.set_source(status))
            except RETRIED_WRITE_ERRORS:
                self._status_failed = True
                raise
            if self._status is status:
                self._status = None

    def _end_overlays(self, redundant: Iterable[PendingChange]) -> None:
        for item in redundant:
            if self._overlay.discard_redundant(item.key, item.orders):
                self._recheck(item.key)

    async def _compare_next(self) -> None:
        """Removes what need not be written when this machine's turn begins."""
        items, documents = self._pending.next_positions(), self._pending.documents()
        done: list[PendingChange] = []
        differing: set[Key] = set()

        def compare() -> None:
            try:
                self._append(items, documents)
            except LogFencedError:
                pass
            else:
                done.extend(items)
                return
            for item in items:
                unseen = item.orders - self._log.seen(item.key[0], item.orders)
                try:
                    self._append([item], [])  # after that look: meanwhile its commit may come
                except LogFencedError:
                    if unseen:
                        continue
                    differing.add(item.key)
                    if isinstance(item.change, PositionRemoved):
                        continue
                done.append(item)

        if items or documents:
            await self.call(compare)
            self._pending.done(done, documents)
            self.differing.difference_update(item.key for item in done)
            self.differing.update(differing)
            self._written.set()
            self._end_overlays(item for item in done if item.from_queue)

    def _append(self, items: list[PendingChange], documents: list[DocumentWritten]) -> list[PendingChange]:
        """Appends in the log's thread. Returns the queue items without a new order."""
        changes: list[Change] = []
        redundant: list[PendingChange] = []
        for item in items:
            change = self._unseen(item) if item.from_queue else item.change
            if change is None:
                redundant.append(item)
            else:
                changes.append(change)
        if changes or documents:
            now_ms = max((item.arrived_ms for item in items), default=self._clock())
            self._log.append([*changes, *documents], now_ms)
        return redundant

    def _unseen(self, item: PendingChange) -> Change | None:
        """Returns what a queue item adds to the log; None if the log has seen all of its orders."""
        change = item.change
        unseen = item.orders - self._log.seen(item.key[0], item.orders)
        if not unseen or not isinstance(change, PositionWritten):
            return None
        present = self._log.position(*item.key) if self._overlay_ms is not None else None
        if present is None:
            return change
        # The queue never takes an order away. If its text lacks one, only the unseen orders are added.
        position = present.text.position()
        if {order.order_uuid for order in position.orders} <= item.orders:
            return change
        new = [i for i, order in enumerate(change.position.orders) if order.order_uuid in unseen]
        orders = [*position.orders, *(change.position.orders[i] for i in new)]
        texts = (*present.text.orders, *(change.text.orders[i] for i in new))
        return PositionWritten(
            position=msgspec.structs.replace(change.position, orders=orders),
            text=msgspec.structs.replace(change.text, orders=texts),
            extra=change.extra,
        )


def _order_uuids(change: PositionWritten) -> frozenset[str]:
    return frozenset(order.order_uuid for order in change.position.orders)
