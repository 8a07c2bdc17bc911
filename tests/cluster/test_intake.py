"""Intake over a cluster's log, unchanged: two machines in turns, with the same validator's files."""

from __future__ import annotations

from pathlib import Path

from ptn_api.cluster.copy import Copy, found, open_copy
from ptn_api.event_log import open_reader
from tests.cluster.machines import content, machine
from tests.cluster.memory_broker import Fault, MemoryBroker
from tests.event_log.reading import FIRST
from tests.factories import MINER, T0, order, position, uuid
from tests.intake.running import running
from tests.intake.validator_dir import ValidatorDir

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
