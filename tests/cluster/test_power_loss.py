"""All machines lose power at once: what was acknowledged is on the disks of a majority.

The kernel shuts the file systems down without writing what was not synced. A disk that loses writes which it
reported as synced is not simulated.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ptn_api.cluster.copy import Copy, open_copy
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.options import ClusterOptions
from ptn_api.cluster.writer import open_cluster_writer
from ptn_api.errors import BrokerError, LogError
from tests.cluster.machines import begin, content
from tests.cluster.servers import Servers, missing, nats_servers
from tests.disks import Disk, disks, missing_disks
from tests.event_log.reading import NOW, numbers
from tests.factories import order, position, written
from tests.system.api import ROOT
from tests.waiting import until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(autouse=True)
def _disks() -> None:
    if missing_disks():
        pytest.skip(missing_disks())


_WRITER = """
import itertools, sys
from pathlib import Path
import structlog
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.options import ClusterOptions
from ptn_api.cluster.writer import open_cluster_writer
from ptn_api.errors import LogUnwritableError
from tests.event_log.reading import NOW
from tests.factories import T0, order, position, written
from tests.soak.orphan import end_with_parent
end_with_parent()
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
writer = open_cluster_writer(Path(sys.argv[1]), JetStreamBroker(ClusterOptions(cluster=sys.argv[2])))
writer.take_over()
writer.baseline([], T0)
for number in itertools.count(1):
    writer.append([written(position(number, [order(number)]))], NOW)
    print(number, flush=True)
"""
"""Prints the number of each order once it is acknowledged."""


class Machines:
    """Three NATS servers and a writer, each with its own disk."""

    def __init__(self, folder: Path, servers: Servers, all_disks: list[Disk]) -> None:
        self.servers = servers
        self.options = ClusterOptions(cluster=servers.urls)
        self.data_dir = all_disks[3].path / "data"
        self._disks = all_disks
        self._printed = folder / "acknowledged"
        with contextlib.closing(JetStreamBroker(self.options)) as broker:
            broker.create_streams()
            begin(broker)
        with self._printed.open("wb") as printed:
            self._writer = subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(self.data_dir), servers.urls], cwd=ROOT, stdout=printed
            )

    def acknowledged(self) -> list[int]:
        return [int(line) for line in self._printed.read_text().rpartition("\n")[0].split()]

    def lose_power(self) -> None:
        for disk in self._disks:
            disk.lose_power()
        self._writer.kill()
        self._writer.wait()
        for server in self.servers:
            server.kill()

    def start(self) -> None:
        for disk in self._disks:
            disk.restore()
        for server in self.servers:
            server.start()

    def close(self) -> None:
        self._writer.kill()
        self._writer.wait()


@contextlib.contextmanager
def machines(folder: Path, *, sync: str) -> Iterator[Machines]:
    with (
        disks(folder / "disks", ["nats-1", "nats-2", "nats-3", "writer"]) as made,
        nats_servers(folder / "nats", sync=sync, disks=[disk.path for disk in made]) as servers,
        contextlib.closing(Machines(folder, servers, made)) as running,
    ):
        yield running


def test_all_machines_lose_power(tmp_path: Path) -> None:
    """Every acknowledged order is there once, in order; the writer goes on, and a new copy equals its own."""
    with machines(tmp_path, sync="always") as running:
        until(lambda: len(running.acknowledged()) > 200, what="acknowledged orders")
        running.lose_power()
        acknowledged = running.acknowledged()
        running.start()
        running.servers.wait_healthy()
        with (
            contextlib.closing(JetStreamBroker(running.options)) as broker,
            contextlib.closing(open_cluster_writer(running.data_dir, broker)) as writer,
            contextlib.closing(until(lambda: opened(tmp_path / "copy", broker), what="a copy")) as copy,
        ):
            until(lambda: succeeds(writer.take_over), what="the take-over")
            found = numbers(writer)
            assert found[: len(acknowledged)] == acknowledged
            assert found == list(range(1, len(found) + 1))
            assert len(found) <= len(acknowledged) + 1  # the last one's outcome is unknown
            after = len(found) + 1
            more = [written(position(after, [order(after)]))]
            until(lambda: succeeds(lambda: writer.append(more, NOW)), what="another order")
            until(lambda: succeeds(copy.confirm) and copy.tip() == writer.tip(), what="the commits")
            assert numbers(copy) == [*found, after]
            assert content(tmp_path / "copy") == content(running.data_dir)


def test_without_syncing_orders_would_be_lost(tmp_path: Path) -> None:
    """With the default of NATS the same power failure loses orders, so the test above can fail."""
    with machines(tmp_path, sync="2m") as running:
        until(lambda: len(running.acknowledged()) > 200, what="acknowledged orders")
        running.lose_power()
        running.start()
        with contextlib.closing(JetStreamBroker(running.options)) as broker:
            assert until(lambda: stored(broker), what="an answer") < len(running.acknowledged())


def opened(data_dir: Path, broker: JetStreamBroker) -> Copy | None:
    """A new copy; None while the servers elect leaders."""
    try:
        return open_copy(data_dir, broker, Copy)
    except BrokerError:
        return None


def stored(broker: JetStreamBroker) -> float | None:
    """The last index of the stream, at least 0.1; None if that is not known yet."""
    try:
        return max(broker.last(), 0.1)
    except BrokerError as error:
        return 0.1 if error.code == "no_streams" else None


def succeeds(work: Callable[[], object]) -> bool:
    try:
        work()
    except LogError:
        return False
    return True
