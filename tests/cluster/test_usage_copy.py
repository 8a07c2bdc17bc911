"""The usage records of several machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptn_api.access.usage import UsageFile, UsageRow, day_of
from ptn_api.cluster.usage_copy import UsageCopy, last_use, usage_since
from ptn_api.errors import BrokerError
from tests.cluster.memory_broker import MemoryBroker

NOW = 1_760_400_000_000
DAY = 86_400_000


class Machine:
    def __init__(self, folder: Path, broker: MemoryBroker) -> None:
        folder.mkdir(exist_ok=True)
        self.now = NOW
        self.file = UsageFile(folder)
        self.copy = UsageCopy(broker, self.file, clock=lambda: self.now)

    def use(self, alias: str = "alice", requests: int = 1) -> None:
        self.file.add([UsageRow(alias, "ffffffff", day_of(self.now), requests, 10, 0, self.now)])


def sums(broker: MemoryBroker, days: int = 5) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for row in usage_since(broker, day_of(NOW), days):
        found[row.alias, row.day] = found.get((row.alias, row.day), 0) + row.requests
    return found


def test_machines_add_up(tmp_path: Path) -> None:
    """However often each publishes; only changed records are published again."""
    broker = MemoryBroker()
    a, b = (Machine(tmp_path / name, broker) for name in "ab")
    a.use(requests=2)
    a.use("bob.*> x")
    b.use(requests=3)
    assert [a.copy.publish(), a.copy.publish(), b.copy.publish()] == [2, 0, 1]
    assert sums(broker) == {("alice", "2025-10-14"): 5, ("bob.*> x", "2025-10-14"): 1}
    a.use()
    b.now += DAY
    b.use()
    assert [a.copy.publish(), b.copy.publish()] == [1, 1]
    assert sums(broker) == {
        ("alice", "2025-10-14"): 6,
        ("alice", "2025-10-15"): 1,
        ("bob.*> x", "2025-10-14"): 1,
    }
    assert last_use(broker, "alice", "ffffffff") == NOW + DAY
    assert last_use(broker, "alice", "00000000") is None


def test_a_machine_goes_on_after_a_restart(tmp_path: Path) -> None:
    """With what changed meanwhile; a new data directory begins at 0 and replaces nothing."""
    broker = MemoryBroker()
    first = Machine(tmp_path / "a", broker)
    for _ in range(5):
        first.use()
        first.copy.publish()
        first.now += DAY
    again = Machine(tmp_path / "a", broker)
    again.now = first.now
    assert again.copy.publish() == 0
    again.use()
    assert again.copy.publish() == 1
    assert sums(broker, 6) == {("alice", day_of(NOW + n * DAY)): 1 for n in range(6)}
    new = Machine(tmp_path / "new", broker)
    new.use()
    new.copy.publish()
    assert sums(broker, 1) == {("alice", "2025-10-14"): 2}


def test_an_interrupted_machine_publishes_the_rest(tmp_path: Path) -> None:
    """As where there was no connection for days, at the first time or later; new servers get everything."""
    broker = MemoryBroker()
    machine = Machine(tmp_path / "a", broker)
    for _ in range(5):
        machine.use()
        machine.now += DAY
    broker.down = True
    with pytest.raises(BrokerError):
        machine.copy.publish()
    broker.down = False
    assert machine.copy.publish() == 5
    wanted = sums(broker)
    # All but the first two are lost, as if the machine had been killed then.
    broker.records = dict(list(broker.records.items())[:2])
    again = Machine(tmp_path / "a", broker)
    again.now = machine.now
    assert again.copy.publish() == 3
    broker.records.clear()
    Machine(tmp_path / "a", broker).copy.publish()
    assert sums(broker) == wanted


def test_a_clock_that_was_wrong(tmp_path: Path) -> None:
    """Records of the right days are published afterwards."""
    broker = MemoryBroker()
    machine = Machine(tmp_path / "a", broker)
    machine.now += 300 * DAY
    machine.use()
    machine.copy.publish()
    for restart in (False, True):
        if restart:
            machine = Machine(tmp_path / "a", broker)
        machine.now = NOW
        machine.use()
        machine.copy.publish()
    assert sums(broker) == {("alice", "2025-10-14"): 2}


@pytest.mark.parametrize("record", [b"", b"{", b'["alice"]', b'["m", "f", "0001-01-01", 1, 1, 1, 1]'])
def test_a_malformed_record_stops_nothing(tmp_path: Path, record: bytes) -> None:
    """Any machine may write records of another one's name: they must not end that one's processes."""
    broker = MemoryBroker()
    machine = Machine(tmp_path / "a", broker)
    machine.use()
    machine.copy.publish()
    stray = f"{day_of(NOW)}.{machine.file.machine()}.0000000000000000"
    broker.put_usage(stray, record)
    again = Machine(tmp_path / "a", broker)
    again.use()
    assert again.copy.publish() == 1
    assert sums(broker) == {("alice", "2025-10-14"): 2}
    name = next(name for name in broker.records if name != stray)
    broker.put_usage(name, record)
    assert last_use(broker, "alice", "ffffffff") is None
