"""Random histories of a cluster: whatever the broker and the machines suffer, all copies end up the same.

Two machines follow the same files and write in turns or at once; a third one only copies.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ptn_api.cluster import commit
from ptn_api.cluster.copy import Copy, found, open_copy
from ptn_api.cluster.snapshot import publish_snapshot
from ptn_api.cluster.writer import ClusterWriter
from ptn_api.errors import BrokerError, LogUnwritableError
from ptn_api.event_log import Document, DocumentWritten, Head, PositionRemoved, SourceStatus
from ptn_api.event_log.database import log_path
from tests.cluster.machines import content
from tests.cluster.memory_broker import Fault, MemoryBroker
from tests.event_log.reading import FIRST
from tests.factories import MINER, T0, order, position, uuid, written
from tests.properties import tries

PART_BYTES = commit.PART_BYTES
WRITERS = ("first", "second")
writers = st.sampled_from(WRITERS)


class FullDisk(ClusterWriter):
    """Its next local COMMIT after an acknowledgement fails."""

    full = False

    def before_commit(self, db: sqlite3.Connection) -> None:
        super().before_commit(db)
        if self.full:
            self.full = False
            raise sqlite3.OperationalError("database or disk is full")


class Cluster(RuleBasedStateMachine):
    """The files grow; either machine appends what it reads there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
        self.machines: dict[str, FullDisk] = {}
        self.files: dict[int, list[int]] = {1: [], 2: []}
        self.orders = 0
        self.now = T0
        self.acknowledged: set[str] = set()
        self.heads: list[Head] = []

    @initialize(checking=st.booleans(), part_bytes=st.sampled_from([PART_BYTES, 300]))
    def start(self, checking: bool, part_bytes: int) -> None:
        commit.PART_BYTES = part_bytes
        self.broker = MemoryBroker(checking=checking)
        found(self.broker, T0)
        for name in WRITERS:
            self.open(name)
        self.copy = open_copy(self.folder / "copy", self.broker, Copy, pause_ms=0)
        self.machines["first"].take_over()
        self.machines["first"].baseline([], T0)

    def open(self, name: str) -> None:
        options = {"retention_ms": 60_000, "pause_ms": 0}
        self.machines[name] = open_copy(self.folder / name, self.broker, FullDisk, **options)

    def attempt(self, call: Any, *arguments: Any) -> bool:
        try:
            call(*arguments)
        except (LogUnwritableError, BrokerError):
            return False
        return True

    @rule(
        name=writers,
        n=st.integers(1, 2),
        new=st.integers(0, 3),
        faults=st.lists(st.sampled_from(list(Fault)), max_size=3),
        takes_over=st.booleans(),
        full=st.sampled_from([False, False, False, True]),
    )
    def append(self, name: str, n: int, new: int, faults: list[Fault], takes_over: bool, full: bool) -> None:
        """Without new orders, the return is refreshed."""
        log = self.machines[name]
        if takes_over and self.attempt(log.take_over):
            assert log.active
        self.files[n] += range(self.orders, self.orders + new)
        self.orders += new
        self.now += 1_000
        orders = [order(k, at=T0 + 1 + k) for k in self.files[n]]
        text = written(position(n, orders, current_return=1 if new else self.now), fingerprint=name)
        self.broker.faults.extend(faults)
        log.full = full
        if self.attempt(log.append, [text], self.now):
            self.acknowledged |= {entry["order_uuid"] for entry in orders}
            assert log.fingerprints()[MINER, uuid(n)] == name
            self.heads.append(log.head())
        log.full = False
        self.broker.faults.clear()

    @rule(
        name=writers, n=st.integers(1, 2), what=st.sampled_from(["position", "document", "prune", "source"])
    )
    def change(self, name: str, n: int, what: str) -> None:
        log = self.machines[name]
        if what == "position":
            removal = PositionRemoved(miner_hotkey=MINER, position_uuid=uuid(n))
            self.attempt(log.append, [removal], self.now)
        elif what == "document":
            text = DocumentWritten(document=Document.STATISTICS, content=b"[%d]" % self.now)
            self.attempt(log.append, [text], self.now)
        elif what == "prune":
            self.now += 50_000
            self.attempt(log.prune, self.now)
        else:
            self.attempt(log.set_source, SourceStatus(swept_ms=self.now))

    @rule(name=writers, stale=st.integers(0, 2))
    def broker_changes(self, name: str, stale: int) -> None:
        """Requests arrive late, reads are answered by a server that lags, and one machine reads on."""
        self.broker.deliver_late()
        self.broker.stale = stale
        self.attempt(self.machines[name].confirm)

    @rule(name=writers, wiped=st.booleans())
    def crash(self, name: str, wiped: bool) -> None:
        self.broker.stale = 0
        publish_snapshot(self.broker, log_path(self.folder / name))
        self.machines[name].close()
        if wiped:
            shutil.rmtree(self.folder / name)
        self.open(name)

    @rule()
    def follow(self) -> None:
        self.attempt(self.copy.confirm)

    def all_is_well(self) -> None:
        self.broker.stale = 0
        self.broker.deliver_late()
        new = open_copy(self.folder / "new", self.broker, Copy, pause_ms=0)
        new.confirm()
        new.close()
        logs = {"copy": self.copy, **self.machines}
        for log in logs.values():
            log.confirm()
            assert log.behind_ms() is not None
        contents = {name: content(self.folder / name) for name in (*logs, "new")}
        for name, found_there in contents.items():
            assert found_there == contents["copy"], name
        floor, head = self.copy.floor(), self.copy.head()
        announced = self.copy.read(floor - 1, 1_000)
        assert [event.sequence for event in announced] == list(range(floor, head.sequence + 1))
        assert len({event.order_uuid for event in announced}) == len(announced)
        assert self.copy.seen(MINER, self.acknowledged) == self.acknowledged
        assert self.copy.counters()["events"] == head.sequence - FIRST + 1
        assert all(earlier <= head for earlier in self.heads)

    def teardown(self) -> None:
        if not self.machines:
            return
        try:
            self.all_is_well()
        finally:
            commit.PART_BYTES = PART_BYTES
            for log in (self.copy, *self.machines.values()):
                with contextlib.suppress(BrokerError):
                    log.close()
            shutil.rmtree(self.folder)


Cluster.TestCase.settings = tries(60, stateful_step_count=30)
TestCluster = Cluster.TestCase
