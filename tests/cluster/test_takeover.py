"""Machines that take over from each other, and what they start from: real processes and NATS servers."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ptn_api.access import add_key
from ptn_api.cluster.copy import Copy, found, open_copy
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.options import ClusterOptions
from ptn_api.cluster.snapshot import publish_snapshot
from ptn_api.cluster.writer import open_cluster_writer
from ptn_api.event_log import Head, open_reader
from ptn_api.event_log.database import log_path
from tests.cli.ptn import Ptn
from tests.cluster.machines import content
from tests.cluster.servers import missing
from tests.event_log.reading import NOW, numbers
from tests.factories import T0, order, position, written
from tests.live import bare_environment
from tests.processes import suspend
from tests.system.api import Api, api
from tests.system.follower import Follower
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

TAKEOVER_MS = 1_500


class Machines:
    """Machines with the same validator's files, and a node that only serves."""

    def __init__(self, folder: Path, options: ClusterOptions) -> None:
        self.folder = folder
        self.options = options
        self.validator = Validator(folder / "validator")
        self.key = add_key(folder / "api_keys.json", "user", 100)

    def start(self, name: str, **settings: Any) -> contextlib.AbstractContextManager[Api]:
        (self.folder / name).mkdir(exist_ok=True)
        values: dict[str, Any] = {
            "cluster": self.options.cluster,
            "cluster_name": self.options.cluster_name,
            "takeover_ms": TAKEOVER_MS,
        } | settings
        return api(self.folder / name / "data", keys=self.folder / "api_keys.json", **values)

    def intake(self, name: str, **settings: Any) -> contextlib.AbstractContextManager[Api]:
        values = {"metrics_port": -1} | settings
        return self.start(name, processes="intake", validator_dir=self.validator.root, **values)

    def log(self, name: str) -> str:
        return (self.folder / name / "server.log").read_text(errors="replace")

    def wait_active(self, name: str, term: int) -> None:
        until(lambda: f'"term": {term},' in active_lines(self.log(name)), what=f"{name} in term {term}")

    def wait_known(self, name: str) -> None:
        """Until the standby has a copy and has compared everything in it."""
        data_dir = self.folder / name / "data"
        until((data_dir / "log.sqlite3").exists, what="its copy")
        with contextlib.closing(open_reader(data_dir)) as reader:
            until(lambda: orders_of(data_dir) == self.validator.placed, what="the orders")
            until(lambda: reader.ready() and not foreign(log_path(data_dir)), what="the comparison")


def active_lines(log: str) -> str:
    return "\n".join(line for line in log.splitlines() if "cluster_writer_active" in line)


def foreign(path: Path) -> int:
    """The positions whose fingerprints are another machine's."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        count: int = db.execute("SELECT count(*) FROM positions WHERE fingerprint = ''").fetchone()[0]
        return count


@pytest.fixture
def machines(options: ClusterOptions, tmp_path: Path) -> Machines:
    with contextlib.closing(JetStreamBroker(options)) as broker:
        found(broker, T0)
    return Machines(tmp_path, options)


def kill_all(server: Api) -> None:
    """As a machine that loses power."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    for child in children:
        child.kill()


def test_a_killed_machine_is_followed_by_the_standby(machines: Machines, ptn_figures: list[str]) -> None:
    """Each order once, with the next sequence, for clients of a machine that only serves."""
    validator = machines.validator
    opened = validator.place()
    with (
        machines.intake("a", wait=False) as a,
        machines.start("node", processes="rest,stream") as node,
        Follower(node.stream, machines.key) as client,
    ):
        machines.wait_active("a", 1)
        with machines.intake("b", wait=False):
            for _ in range(3):
                opened = validator.add_order(opened)
            client.wait_for(3)
            machines.wait_known("b")
            kill_all(a)
            killed = time.monotonic()
            opened = validator.add_order(opened)
            client.wait_for(4)
            took = time.monotonic() - killed
            opened = validator.add_order(opened)
            client.wait_for(5)
            ptn_figures.append(f"first order {took:.2f} s after the kill, takeover_ms {TAKEOVER_MS}")
            machines.wait_active("b", 2)
        assert client.sequences == list(range(client.sequences[0], client.sequences[0] + 5))
        assert client.order_uuids == validator.placed[1:]


def test_a_suspended_machine_stands_by(machines: Machines, ptn_figures: list[str]) -> None:
    """It is fenced when it goes on, and has its turn again later, when the other one stops in order."""
    validator = machines.validator
    opened = validator.place()
    with (
        machines.start("node", processes="rest,stream", wait=False) as node,
        machines.intake("a", wait=False) as a,
    ):
        node.wait_ready()
        with Follower(node.stream, machines.key) as client:
            machines.wait_active("a", 1)
            with machines.intake("b", wait=False) as b:
                opened = validator.add_order(opened)
                client.wait_for(1)
                machines.wait_known("b")
                family = [a.process.pid, *(child.pid for child in a.children().values())]
                for pid in family:
                    suspend(pid)
                try:
                    opened = validator.add_order(opened)
                    client.wait_for(2)
                    machines.wait_active("b", 2)
                finally:
                    for pid in family:
                        psutil.Process(pid).send_signal(signal.SIGCONT)
                opened = validator.add_order(opened)
                client.wait_for(3)
                until(lambda: "cluster_standing_by" in machines.log("a"), what="standing by")
                assert b.stop() == 0
                stopped = time.monotonic()
            opened = validator.add_order(opened)
            client.wait_for(4)
            took = time.monotonic() - stopped
            ptn_figures.append(f"first order {took:.2f} s after an orderly stop")
            machines.wait_active("a", 3)
            assert client.sequences == list(range(client.sequences[0], client.sequences[0] + 4))
            assert client.order_uuids == validator.placed[1:]


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of 24 MB at this path."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "none", str(path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):  # the last pages, too
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def test_a_full_disk_ends_a_turn(machines: Machines, tmp_path: Path) -> None:
    """Of the active machine: the standby goes on, each order once. With space again, the copy follows."""
    validator, disk = machines.validator, tmp_path / "a" / "data"
    opened = validator.place()
    patient = {"takeover_ms": 4_000}  # a may be slow, but its turn has to end because of the disk
    with (
        small_disk(disk),
        machines.intake("a", wait=False, **patient),
        machines.start("node", processes="rest,stream") as node,
        Follower(node.stream, machines.key) as client,
    ):
        machines.wait_active("a", 1)
        with machines.intake("b", wait=False, **patient):
            opened = validator.add_order(opened)
            client.wait_for(1)
            machines.wait_known("b")
            fill(disk / "filler")
            orders = 1

            def handed_over() -> bool:
                nonlocal opened, orders
                if active_lines(machines.log("b")):
                    return True
                if len(client.sequences) == orders:  # the write-ahead log may have room for a few more
                    opened = validator.add_order(opened)
                    orders += 1
                return False

            until(handed_over, what="b is active")
            opened = validator.add_order(opened)
            client.wait_for(orders + 1)
            assert client.order_uuids == validator.placed[1:]
            assert "the log cannot be written here" in machines.log("a")
            (disk / "filler").unlink()
            until(lambda: orders_of(disk) == validator.placed, what="the copy follows")
            until(lambda: "cluster_standing_by" in machines.log("a"), what="standing by")
        assert client.sequences == list(range(client.sequences[0], client.sequences[0] + orders + 1))


def test_the_operator_chooses_and_leaves(machines: Machines, tmp_path: Path) -> None:
    """`ptn cluster takeover` while both run, then `ptn cluster leave` on one; its cursors stay good.

    Both start at once with empty streams: one takes the baseline, the other one stands by.
    """
    ptn = Ptn(tmp_path, bare_environment(tmp_path))
    validator = machines.validator
    opened = validator.place()
    data = {"a": tmp_path / "a" / "data", "b": tmp_path / "b" / "data"}
    known = {"PTN_CLUSTER": machines.options.cluster, "PTN_CLUSTER_NAME": machines.options.cluster_name}
    with machines.intake("a", wait=False), machines.intake("b", wait=False):
        until(lambda: "baseline_taken" in machines.log("a") + machines.log("b"), what="the baseline")
        opened = validator.add_order(opened)
        first = "a" if "baseline_taken" in machines.log("a") else "b"
        second = "b" if first == "a" else "a"
        until(lambda: (data[second] / "log.sqlite3").exists(), what="its copy")
        refused = ptn("cluster", "leave", "--data-dir", data[second], **known)
        assert refused.status == 1
        assert "an intake of the cluster is running" in refused.stderr
        forced = ptn("cluster", "leave", "--force", "--data-dir", data[second])
        assert forced.status == 1, forced.stderr  # its server runs
        taken = ptn("cluster", "takeover", "--data-dir", data[second])
        assert (taken.status, "is the active one" in taken.stderr) == (0, True), taken.stderr
        machines.wait_active(second, 2)
        opened = validator.add_order(opened)
        until(lambda: orders_of(data[first]) == validator.placed, what="the orders")
        assert "baseline_taken" not in machines.log(second)
        assert "cluster_writer_active" in machines.log(first)
    before = content(data[first])  # which stopped last, or wrote the same
    assert "--cluster" in ptn("cluster", "leave", "--data-dir", data[second]).stderr
    left = ptn("cluster", "leave", "--data-dir", data[second], "--json", **known)
    assert left.status == 0, left.stderr
    assert content(data[second])["events"] == before["events"]
    assert ptn("cluster", "leave", "--force", "--data-dir", data[second]).status == 1
    with machines.start(
        second, cluster=None, cluster_name=None, takeover_ms=None, validator_dir=validator.root
    ) as alone:
        last = max(numbers_in(data[second]))
        with Follower(alone.stream, machines.key, last_sequence=last - 1) as client:
            client.wait_for(1)
            opened = validator.add_order(opened)
            client.wait_for(2)
            assert client.sequences == [last, last + 1]
            assert client.order_uuids == validator.placed[2:]
    with contextlib.closing(open_reader(data[second])) as reader:
        assert reader.epoch in before["log"][0]


def orders_of(data_dir: Path) -> list[str]:
    with contextlib.closing(open_reader(data_dir)) as reader:
        return [event.order_uuid for event in reader.read(reader.floor() - 1, 1_000)]


def head(data_dir: Path) -> Head:
    with contextlib.closing(open_reader(data_dir)) as reader:
        return reader.head()


def numbers_in(data_dir: Path) -> list[int]:
    with contextlib.closing(open_reader(data_dir)) as reader:
        return [event.sequence for event in reader.read(reader.floor() - 1, 1_000)]


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        text: str = answer.read().decode()
        return text


# --- snapshots --------------------------------------------------------------------------------------------


def test_snapshots_come_by_themselves(machines: Machines) -> None:
    """The first one right after the baseline; the stream is purged, and an empty machine starts from it."""
    validator = machines.validator
    opened = validator.place()
    with (
        contextlib.closing(JetStreamBroker(machines.options)) as broker,
        machines.intake("a", wait=False, snapshot_ms=400, metrics_port=0) as server,
    ):
        until(broker.snapshots, what="the first snapshot")
        address = until(lambda: [line.split()[-1] for line in server.stdout if "metrics" in line])[0]
        until(lambda: "ptn_cluster_snapshot_age_seconds{" in read(address), what="its age")
        for _ in range(1_000):
            opened = validator.add_order(opened)
            if broker.status()["log"].first >= 3:
                break
        until(lambda: orders_of(machines.folder / "a" / "data") == validator.placed, what="the orders")
        assert len(broker.snapshots()) <= 3
        with contextlib.closing(open_copy(machines.folder / "new", broker, Copy)) as copy:
            until(lambda: copy.confirm() and copy.head() == head(machines.folder / "a" / "data"))
            assert [event.order_uuid for event in copy.read(copy.floor() - 1, 1_000)] == validator.placed


def test_a_machine_that_was_away_for_long(options: ClusterOptions, tmp_path: Path) -> None:
    """It loads the newest snapshot into the open file, which its readers go on reading."""
    with contextlib.ExitStack() as stack:
        broker, near = JetStreamBroker(options), JetStreamBroker(options)
        stack.callback(broker.close)
        stack.callback(near.close)
        found(broker, T0)
        writer = stack.enter_context(contextlib.closing(open_cluster_writer(tmp_path / "a", broker)))
        writer.take_over()
        writer.baseline([], T0)
        writer.append([written(position(1, [order(1)]))], NOW)
        away = stack.enter_context(contextlib.closing(open_copy(tmp_path / "b", near, Copy)))
        away.follow()
        reader = stack.enter_context(contextlib.closing(open_reader(tmp_path / "b")))
        assert numbers(reader) == [1]
        for number in range(2, 8):
            writer.append([written(position(number, [order(number)]))], NOW)
            if number % 2 == 0:
                publish_snapshot(broker, log_path(tmp_path / "a"))
        assert broker.status()["log"].first > away.tip().index + 1
        stop = threading.Event()
        thread = threading.Thread(target=away.run, args=(stop,))
        thread.start()
        try:
            until(lambda: numbers(reader) == list(range(1, 8)), what="the snapshot and what follows")
        finally:
            stop.set()
            thread.join()
        assert content(tmp_path / "b") == content(tmp_path / "a")


@pytest.fixture
def ptn_figures() -> Iterator[list[str]]:
    """Printed with `pytest -s`; nothing is asserted of them, since the machine may be busy."""
    figures: list[str] = []
    yield figures
    for figure in figures:
        print(figure)
