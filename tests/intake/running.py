"""A running intake on a real log, with short periods."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

from ptn_api.errors import LogUnwritableError
from ptn_api.event_log import open_writer
from ptn_api.event_log.contract import Change, Event, EventLogWriter, Head
from ptn_api.intake.merge import ALONE, IntakeCounters, Turn
from ptn_api.intake.options import IntakeOptions
from ptn_api.intake.run import run_intake
from ptn_api.intake.watch import Watch
from tests.factories import T0
from tests.intake.validator_dir import ValidatorDir
from tests.waiting import PATIENCE_S, until_async

NEVER_MS = 3_600_000
WATCH_ALONE: dict[str, Any] = {"sweep_ms": NEVER_MS, "full_sweep_ms": NEVER_MS}
"""One sweep at the start; after that the watch must see everything."""

PERIODS: dict[str, Any] = {
    "sweep_ms": 10,
    "full_sweep_ms": 50,
    "blind_sweep_ms": 10,
    "removal_confirm_ms": 60,
    "mass_removal_window_ms": NEVER_MS,
    "miner_files_ms": 20,
    "account_sizes_ms": 10,
    "queue_hold_ms": 200,
    "prune_ms": NEVER_MS,
    "retry_ms": 5,
    "retry_max_ms": 20,
}


class Intake:
    """A running intake as tests see it: its log, and the write end of its queue."""

    def __init__(
        self, log: EventLogWriter, queue: int, task: asyncio.Task[None], counters: IntakeCounters
    ) -> None:
        self.log = log
        self.counters = counters
        self._task = task
        self._queue: int | None = queue

    def events(self) -> list[Event]:
        """Returns every event of the log."""
        return self.log.read(self.log.floor() - 1, 1_000_000)

    def announced(self) -> list[str]:
        """Returns the announced orders' uuids, in order."""
        return [event.order_uuid for event in self.events()]

    def state(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Returns (hotkey, uuid) -> position, as the log has it."""
        return {
            (position.miner_hotkey, position.position_uuid): json.loads(position.text.json())
            for position in self.log.positions()
        }

    def enqueue(self, item: dict[str, Any] | bytes) -> None:
        assert self._queue is not None
        os.write(self._queue, item if isinstance(item, bytes) else json.dumps(item).encode() + b"\n")

    def close_queue(self) -> None:
        if self._queue is not None:
            os.close(self._queue)
            self._queue = None

    async def ended(self) -> None:
        """Waits until intake ends by itself; raises what it failed with."""
        await asyncio.wait_for(asyncio.shield(self._task), PATIENCE_S)

    async def until(self, condition: Callable[[], Any], what: str = "") -> None:
        await until_async(condition, what=what)

    async def swept(self, times: int = 2) -> None:
        """Waits until this many sweeps have ended from now on; a second one has also begun since."""
        for _ in range(times):
            before = self.log.source().swept_ms or 0
            await self.until(lambda before=before: (self.log.source().swept_ms or 0) > before, "a sweep")


def _after_the_files(validator: ValidatorDir | None) -> int:
    """A time right after the orders in the directory, but not in the future: later orders are new."""
    times = [T0 - 1]
    for path in validator.miners.rglob("*") if validator is not None else ():
        with contextlib.suppress(OSError):
            content = path.read_bytes() if path.is_file() else b""
            times += map(int, re.findall(rb'"processed_ms": ?(\d{13})\b', content))
    return max(times)


@contextlib.asynccontextmanager
async def running(
    data_dir: Path,
    validator: ValidatorDir | None = None,
    *,
    watch: Watch | None = None,
    wrap: Callable[[EventLogWriter], EventLogWriter] = lambda log: log,
    created_ms: int | None = None,
    log: EventLogWriter | None = None,
    turn: Turn = ALONE,
    **options: Any,
) -> AsyncIterator[Intake]:
    """Runs intake. Yields once the baseline is in the log and the first sweep is done.

    A new log is created at `created_ms`, or else right after the orders in the directory. `log` is an open
    one to use instead; it is closed at the end.
    """
    log = log or open_writer(data_dir, clock=lambda: created_ms or _after_the_files(validator))
    stop, ready = asyncio.Event(), asyncio.Event()
    reading, writing = os.pipe()
    # A test writes from the event loop that reads: a full pipe would block both.
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)
    # A standby may have the last sweep of a machine that has left already: no other one follows.
    started_ms = log.source().swept_ms if turn is ALONE else None
    counters = IntakeCounters()
    task = asyncio.create_task(
        run_intake(
            log=wrap(log),
            options=IntakeOptions(
                **PERIODS | {"data_dir": data_dir, "validator_dir": validator and validator.path} | options
            ),
            queue_fd=reading,
            stop=stop,
            ready=ready.set,
            watch=watch,
            counters=counters,
            turn=turn,
        )
    )
    intake = Intake(log, writing, task, counters)
    try:
        await until_async(lambda: ready.is_set() or task.done(), what="readiness")
        if validator is not None:
            await until_async(lambda: log.source().swept_ms != started_ms or task.done(), what="a sweep")
        yield intake
    finally:
        stop.set()
        intake.close_queue()
        try:
            await asyncio.wait_for(task, PATIENCE_S)
        finally:
            log.close()


class FullDisk:
    """A log on a disk that is full while `full` is set."""

    def __init__(self, log: EventLogWriter) -> None:
        self._log = log
        self.full = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def baseline(self, changes: Iterable[Change], now_ms: int) -> Head:
        self._check(changes)
        return self._log.baseline(changes, now_ms)

    def append(self, changes: Iterable[Change], now_ms: int) -> Head:
        self._check()
        return self._log.append(changes, now_ms)

    def set_source(self, status: Any) -> None:
        self._check()
        self._log.set_source(status)

    def _check(self, changes: Iterable[Change] = ()) -> None:
        if self.full:
            list(changes)  # while they are read, the test may make room: too late for this write
            self.refused += 1
            raise LogUnwritableError("disk full")
