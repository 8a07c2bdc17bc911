"""One writer that loses nothing, however long the log cannot be written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ptn_api.backoff import Backoff
from ptn_api.clock import wall_ms
from ptn_api.errors import LogUnusableError
from ptn_api.event_log.contract import (
    Change,
    Document,
    EventLogWriter,
    Head,
    PositionRemoved,
)
from ptn_api.intake.merge import Merge
from tests.factories import MINER, OTHER_MINER, order, position, uuid, written
from tests.intake.running import WATCH_ALONE, FullDisk, running
from tests.intake.validator_dir import ValidatorDir
from tests.memory_log import MemoryLog
from tests.waiting import PATIENCE_S, until_async

KEY = (MINER, uuid(1))


class SlowLog:
    """A log whose `seen` returns when it is allowed to."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.called = threading.Event()
        self.allowed = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def seen(self, miner: str, order_uuids: Iterable[str]) -> set[str]:
        self.called.set()
        assert self.allowed.wait(PATIENCE_S)
        return self._log.seen(miner, order_uuids)


async def test_a_file_withheld_for_a_redundant_item_is_read_again() -> None:
    """All orders of the queue's item were in the log: the file that it withheld must not be lost."""
    log = MemoryLog()
    log.baseline([written(position(1, [order(1), order(2)]))], 0)
    slow = SlowLog(log)
    rechecked: list[tuple[str, str]] = []
    with ThreadPoolExecutor(1) as thread:
        merge = Merge(
            slow,  # type: ignore[arg-type]
            thread,
            clock=wall_ms,
            retry=Backoff(first_ms=5, max_ms=20),
        )
        merge.prefer_directory(60_000, recheck=rechecked.append)
        writing = asyncio.create_task(merge.run())
        merge.put_queue_item(written(position(1, [order(1), order(2)])))
        await until_async(slow.called.is_set)
        merge.put([written(position(1, [order(1)]))])
        slow.allowed.set()
        await merge.flush()
        assert rechecked == [KEY]
        merge.close()
        await writing


async def test_a_queue_item_without_a_new_order_does_not_cancel_a_removal() -> None:
    """The removal would be lost: the item is not written, and the directory reports a removal once."""
    log = MemoryLog()
    log.baseline([written(position(1, [order(1)]))], 0)
    with ThreadPoolExecutor(1) as thread:
        merge = Merge(log, thread, clock=wall_ms, retry=Backoff(first_ms=5, max_ms=20))
        merge.prefer_directory(60_000, recheck=lambda _: None)
        merge.put([PositionRemoved(miner_hotkey=MINER, position_uuid=uuid(1))])
        merge.put_queue_item(written(position(1, [order(1)])))
        writing = asyncio.create_task(merge.run())
        await merge.flush()
        assert list(log.positions()) == []
        merge.put_queue_item(written(position(1, [order(1), order(2)])))
        await merge.flush()
        assert [logged.position_uuid for logged in log.positions()] == [uuid(1)]
        merge.close()
        await writing


# --- a disk that is full ----------------------------------------------------------------------------------


async def test_nothing_is_lost_while_the_disk_is_full(validator: ValidatorDir, data: Path) -> None:
    """Orders from file and queue, an order that was dropped again, removals, documents: all arrive."""
    disk: list[FullDisk] = []

    def wrap(log: EventLogWriter) -> Any:
        disk.append(FullDisk(log))
        return disk[0]

    validator.write(position(1, [order(1)]))
    validator.write(position(2, [order(2)]))
    async with running(data, validator, wrap=wrap, queue_hold_ms=60_000) as intake:
        disk[0].full = True
        validator.write(position(1, [order(1), order(11)]))
        await intake.until(lambda: disk[0].refused > 1)
        for n in range(20):
            validator.write(position(3, [order(30 + k) for k in range(n + 1)], miner=OTHER_MINER))
            await asyncio.sleep(0)
        before = disk[0].refused
        await intake.until(lambda: disk[0].refused > before + 2)
        validator.write(position(1, [order(1)]))
        intake.enqueue({"position": position(4, [order(40)])})
        validator.delete(position(2, []), folder="open")
        validator.document("validation/eliminations.json", b'{"eliminations": []}')
        before = disk[0].refused
        await intake.until(lambda: disk[0].refused > before + 20)
        assert intake.events() == []
        disk[0].full = False
        await intake.until(lambda: len(intake.events()) == 22)
        await intake.until(lambda: set(intake.state()) == {KEY, (OTHER_MINER, uuid(3)), (MINER, uuid(4))})
        assert set(intake.announced()) == {order(n)["order_uuid"] for n in [11, *range(30, 50), 40]}
        await intake.until(lambda: len(intake.state()[KEY]["orders"]) == 1)
        await intake.until(lambda: intake.log.document(Document.ELIMINATIONS) is not None)


async def test_a_baseline_is_retried_until_the_disk_has_room(validator: ValidatorDir, data: Path) -> None:
    """Not ready before, and complete then."""
    validator.write(position(1, [order(1)]))

    def wrap(log: EventLogWriter) -> Any:
        disk = FullDisk(log)
        disk.full = True
        asyncio.get_running_loop().call_later(0.1, setattr, disk, "full", False)
        return disk

    async with running(data, validator, wrap=wrap) as intake:
        assert set(intake.state()) == {KEY}
        assert intake.log.ready()
        assert intake.events() == []


async def test_stopping_on_a_full_disk_does_not_hang_and_the_files_are_read_again(
    validator: ValidatorDir, data: Path
) -> None:
    """The next start finds the unwritten changes."""
    disk: list[FullDisk] = []

    def wrap(log: EventLogWriter) -> Any:
        disk.append(FullDisk(log))
        return disk[0]

    async with running(data, validator, wrap=wrap) as intake:
        disk[0].full = True
        validator.write(position(1, [order(1)]))
        await intake.until(lambda: disk[0].refused > 1)
    async with running(data, validator) as intake:
        await intake.until(lambda: intake.announced() == [order(1)["order_uuid"]])


class UnusableLog:
    """A log that fails for good at the first append."""

    def __init__(self, log: EventLogWriter) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, changes: Iterable[Change], now_ms: int) -> Head:
        raise LogUnusableError("malformed", code="corrupt")


async def test_a_log_that_fails_for_good_ends_intake(validator: ValidatorDir, data: Path) -> None:
    """The error is raised, so that the supervisor learns of it."""
    with pytest.raises(LogUnusableError, match="malformed"):
        async with running(data, validator, wrap=lambda log: UnusableLog(log), **WATCH_ALONE) as intake:  # type: ignore[arg-type,return-value]
            validator.write(position(1, [order(1)]))
            await intake.ended()


async def test_items_that_were_taken_are_written_before_intake_ends(data: Path) -> None:
    """A stop flushes."""
    async with running(data) as intake:
        for n in range(50):
            intake.enqueue({"position": position(n, [order(n)])})
            await asyncio.sleep(0)
        await intake.until(lambda: intake.events())
        taken = intake
    async with running(data) as intake:
        assert 1 <= len(intake.events()) <= 50
        assert len(intake.state()) == len(intake.events())
    assert taken is not intake


async def test_the_queue_waits_while_too_many_changes_are_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit itself may be pending; one more waits until the log has caught up."""
    monkeypatch.setattr("ptn_api.intake.merge._MAX_PENDING", 2)
    monkeypatch.setattr(Merge, "pending", 2)
    merge = object.__new__(Merge)
    merge._written = asyncio.Event()
    await merge.wait_for_capacity()
    monkeypatch.setattr(Merge, "pending", 3)
    waiting = asyncio.create_task(merge.wait_for_capacity())
    await asyncio.sleep(0)
    assert not waiting.done()
    monkeypatch.setattr(Merge, "pending", 2)
    merge._written.set()
    await asyncio.wait_for(waiting, PATIENCE_S)
