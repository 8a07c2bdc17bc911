"""Commits larger than an entry, interrupted between two parts: all or nothing on every copy."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api.cluster.copy import Copy, open_copy
from ptn_api.cluster.jetstream import JetStreamBroker
from ptn_api.cluster.options import ClusterOptions
from ptn_api.cluster.writer import ClusterWriter, open_cluster_writer
from ptn_api.errors import BrokerError, LogUnwritableError
from ptn_api.event_log import Change
from ptn_api.event_log.database import log_path
from tests.cluster.machines import begin, content, done
from tests.cluster.servers import Servers, missing
from tests.event_log.reading import NOW
from tests.factories import T0, order, position, written
from tests.waiting import until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

POSITIONS = 2_000


def many_positions() -> list[Change]:
    """Some megabytes that can hardly be compressed, hence several parts."""
    noise = random.Random(1)
    return [
        written(position(n, [order(n, price_sources=[{"source": noise.randbytes(500).hex()}])]))
        for n in range(1, POSITIONS + 1)
    ]


class Interrupted:
    """A broker with something that happens before the next part of this number (from 0) is published."""

    def __init__(self, broker: JetStreamBroker) -> None:
        self.published = 0
        self.number = -1
        self.event: Callable[[], None] = lambda: None
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def publish(self, payload: bytes, *, expected: int) -> int:
        if self.published == self.number:
            self.number = -1
            self.event()
        index = self._broker.publish(payload, expected=expected)
        self.published += 1
        return index

    def at_part(self, number: int, event: Callable[[], None]) -> None:
        self.published, self.number, self.event = 0, number, event


class Machines:
    """A writer, a standby and a copy, which two threads follow; a third one looks at all of them."""

    def __init__(self, folder: Path, options: ClusterOptions) -> None:
        self._stack = contextlib.ExitStack()
        self._stop = threading.Event()
        self.folder = folder
        self.seen: Counter[tuple[str, int]] = Counter()
        """How often a log was seen with how many positions."""
        self.broker = Interrupted(self._broker(options))
        self.writer = self._opened(open_cluster_writer(folder / "writer", self.broker, pause_ms=20))
        self.standby = self._opened(
            open_cluster_writer(folder / "standby", self._broker(options), pause_ms=20)
        )
        self.copy = self._opened(open_copy(folder / "copy", self._broker(options), Copy, pause_ms=20))
        until(lambda: done(self.writer.take_over), what="the take-over")
        self._threads = [
            threading.Thread(target=work)
            for work in (
                lambda: self.standby.run(self._stop),
                lambda: self.copy.run(self._stop),
                self._look,
            )
        ]
        for thread in self._threads:
            thread.start()

    def _broker(self, options: ClusterOptions) -> JetStreamBroker:
        return self._stack.enter_context(contextlib.closing(JetStreamBroker(options)))

    def _opened(self, log: Any) -> Any:
        return self._stack.enter_context(contextlib.closing(log))

    def _look(self) -> None:
        while not self._stop.is_set():
            for name in ("writer", "standby", "copy"):
                self.seen[name, self.positions(name)] += 1
            time.sleep(0.005)

    def positions(self, name: str) -> int:
        with contextlib.closing(sqlite3.connect(log_path(self.folder / name))) as db:
            count: int = db.execute("SELECT count(*) FROM positions").fetchone()[0]
            return count

    def equal(self) -> bool:
        wanted = content(self.folder / "writer")
        return all(content(self.folder / name) == wanted for name in ("standby", "copy"))

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._stack.close()


@contextlib.contextmanager
def running(folder: Path, options: ClusterOptions) -> Iterator[Machines]:
    with contextlib.closing(Machines(folder, options)) as made:
        yield made


@pytest.fixture
def leader(options: ClusterOptions) -> str:
    """The leader of the streams, of which the log has begun."""
    with contextlib.closing(JetStreamBroker(options)) as broker:
        begin(broker)
        return until(lambda: broker.status()["log"].leader)


def test_a_baseline_whose_leader_is_killed(
    tmp_path: Path, hasty: ClusterOptions, servers: Servers, leader: str
) -> None:
    """Between its parts; it is written again as a whole, and no copy ever has some of its positions."""
    changes = many_positions()
    with running(tmp_path, hasty) as machines:
        machines.broker.at_part(2, servers.named(leader).kill)
        until(lambda: done(lambda: machines.writer.baseline(changes, NOW)), what="the baseline")
        assert not servers.named(leader).running
        more = [written(position(POSITIONS + 1, [order(POSITIONS + 1)]))]
        until(lambda: done(lambda: machines.writer.append(more, NOW)), what="another order")
        until(machines.equal, what="equal copies")
        assert {count for _, count in machines.seen} <= {0, POSITIONS, POSITIONS + 1}
        assert machines.copy.counts["part"] > 3


@pytest.mark.usefixtures("leader")
def test_a_writer_that_is_lost_between_parts(tmp_path: Path, options: ClusterOptions) -> None:
    """Its successor writes the same changes; the parts of the former one never show."""
    changes = many_positions()

    def lost() -> None:
        raise BrokerError("the machine has lost power")

    with running(tmp_path, options) as machines:
        machines.writer.baseline([], T0)
        machines.broker.at_part(3, lost)
        former: ClusterWriter = machines.writer
        with pytest.raises(LogUnwritableError):
            # Without its attempts to repeat it: there is no such process any more.
            super(ClusterWriter, former).append(changes, NOW)
        assert machines.broker.published == 3
        until(lambda: done(machines.standby.take_over), what="the take-over")
        machines.standby.append(changes, NOW)
        until(lambda: former.follow() >= 0 and machines.equal(), what="equal copies")
        assert {count for _, count in machines.seen} <= {0, POSITIONS}
        head = machines.copy.head()
        assert head.sequence - machines.copy.floor() + 1 == POSITIONS
