"""Intake over a cluster's log, unchanged: two machines in turns, with the same validator's files."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

from ptn_api.backoff import Backoff
from ptn_api.clock import wall_ms
from ptn_api.cluster.commit import decode_part, decode_rows
from ptn_api.cluster.copy import Copy, found, open_copy
from ptn_api.event_log import SourceStatus, open_reader
from ptn_api.intake.merge import IntakeCounters, Merge
from tests.cluster.conftest import Cluster
from tests.cluster.machines import content, machine
from tests.cluster.memory_broker import Fault, MemoryBroker
from tests.event_log.reading import FIRST, NOW, numbers
from tests.factories import MINER, T0, order, position, uuid, written
from tests.intake.running import running
from tests.intake.validator_dir import ValidatorDir
from tests.memory_log import MemoryLog
from tests.waiting import PATIENCE_S, until_async

FAULTS = (Fault.ACK_LOST, Fault.LATE, Fault.LOST, Fault.REFUSED, Fault.DOWN)


async def test_intake_moves_from_machine_to_machine(tmp_path: Path) -> None:
    """Each order is announced once, with the next sequence, through faults and two take-overs."""
    validator = ValidatorDir(tmp_path / "validator")
    broker = MemoryBroker()
    found(broker, T0)
    orders = [order(n, at=T0 + n) for n in range(5)]  # the first one is older than the log
    validator.write(position(1, orders))
    validator.document("validation/eliminations.json", b'{"eliminations": []}')
    copy = open_copy(tmp_path / "copy", broker, Copy)
    reader = open_reader(tmp_path / "copy")
    for name in ("first", "second", "first"):
        log = machine(tmp_path / name, broker)
        log.take_over()
        async with running(tmp_path / name, validator, log=log) as intake:
            for fault in (None, *FAULTS):
                if fault is not None:
                    broker.faults.append(fault)
                orders.append(order(len(orders), at=T0 + len(orders)))
                validator.write(position(1, orders))
                count = len(orders) - 1
                await intake.until(lambda count=count: len(intake.events()) == count, f"order {count}")
                broker.deliver_late()
            await intake.swept()
        copy.confirm()
        assert [event.order_uuid for event in reader.read(FIRST - 1, 100)] == [
            uuid(1000 + n) for n in range(1, len(orders))
        ]
        assert reader.read(FIRST - 1, 100)[-1].sequence == FIRST + len(orders) - 2
        assert content(tmp_path / name) == content(tmp_path / "copy")
    assert reader.source().swept_ms is not None
    stored = reader.position(MINER, uuid(1))
    assert stored is not None
    assert len(stored.text.orders) == len(orders)
    reader.close()
    copy.close()


async def test_a_status_that_cannot_be_written_holds_up_no_order(cluster: Cluster) -> None:
    """While the broker has no majority, only the newest one waits; it is tried once at a time."""
    entries, counters = len(cluster.broker.entries), IntakeCounters()
    cluster.broker.faults.extend([Fault.LOST, Fault.LOST])
    with ThreadPoolExecutor(1) as thread:
        merge = Merge(
            cluster.writer,
            thread,
            clock=lambda: NOW,
            retry=Backoff(first_ms=1_000_000, max_ms=1_000_000),
            counters=counters,
        )
        running = asyncio.create_task(merge.run())
        merge.set_source(SourceStatus(swept_ms=1))
        await until_async(lambda: counters.append_failures == 1)
        assert list(cluster.broker.faults) == [Fault.LOST]
        merge.set_source(SourceStatus(swept_ms=2))
        merge.set_source(SourceStatus(swept_ms=3))
        cluster.broker.faults.clear()
        merge.put([written(position(1, [order(1)]))])
        await asyncio.wait_for(merge.flush(), PATIENCE_S)
        merge.close()
        await running
    assert not counters.unwritable
    cluster.copy.follow()
    assert numbers(cluster.copy) == [1]
    assert cluster.copy.source().swept_ms == 3
    assert len(cluster.broker.entries) == entries + 2


async def test_a_validator_at_rest_costs_one_commit_per_sweep(tmp_path: Path) -> None:
    """The status; files that were rewritten with the same content, and full sweeps, cost none."""
    validator, broker = ValidatorDir(tmp_path / "validator"), MemoryBroker()
    found(broker, T0)
    validator.write(position(1, [order(0, at=T0)]))
    validator.document("validation/eliminations.json", b'{"eliminations": []}')
    log = machine(tmp_path / "first", broker)
    log.take_over()
    async with running(tmp_path / "first", validator, log=log, full_sweep_ms=1, prune_ms=1) as intake:
        await intake.swept()
        before = len(broker.entries)
        for _ in range(3):
            validator.write(position(1, [order(0, at=T0)]))
            validator.document("validation/eliminations.json", b'{"eliminations": []}')
            await intake.swept()
        parts = [decode_part(entry.payload) for entry in broker.entries[before:]]
    assert len(parts) >= 6
    assert {rows.table for part in parts for rows in decode_rows([part.body])} == {"log"}
    assert {part.after for part in parts} == {part.before for part in parts}


class StandingBy:
    """The turn of a machine that stands by until the test ends that."""

    def __init__(self) -> None:
        self.active = False

    async def changed(self, timeout_ms: float) -> bool:
        await asyncio.sleep(min(timeout_ms, 10) / 1000)
        return self.active


async def test_a_standby_with_an_old_copy_takes_over_with_the_right_time(tmp_path: Path) -> None:
    """Else its delayed data, and that of machines that start, would be late for ten minutes."""
    validator, log, turn = ValidatorDir(tmp_path / "validator"), MemoryLog(created_ms=T0), StandingBy()
    validator.write(position(1, [order(0, at=T0)]))
    log.baseline([], T0)
    log.set_source(SourceStatus(swept_ms=1, steady_ms=wall_ms() - 3_600_000))
    async with running(tmp_path, validator, log=log, turn=turn):
        newest_ms = wall_ms()
        log.set_source(SourceStatus(swept_ms=1, steady_ms=newest_ms))
        with patch.object(log, "source", wraps=log.source) as read:
            await until_async(lambda: read.call_count > 1)  # the standby has used what it read first
        log.set_source(SourceStatus(swept_ms=1))
        turn.active = True
        await until_async(lambda: log.source().steady_ms is not None)
        assert (log.source().steady_ms or 0) >= newest_ms
