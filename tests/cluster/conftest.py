"""A cluster of two machines and a copy, over a broker in memory; and real NATS servers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from ptn_api.cluster.copy import Copy, found, open_copy
from ptn_api.cluster.options import ClusterOptions
from ptn_api.cluster.writer import ClusterWriter
from tests.cluster.machines import machine
from tests.cluster.memory_broker import MemoryBroker
from tests.cluster.servers import Servers, missing, nats_servers
from tests.factories import T0


class Cluster(NamedTuple):
    folder: Path
    broker: MemoryBroker
    writer: ClusterWriter
    """Active, with an empty baseline."""
    standby: ClusterWriter
    copy: Copy


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    broker = MemoryBroker()
    found(broker, T0)
    writer, standby = machine(tmp_path / "writer", broker), machine(tmp_path / "standby", broker)
    copy = open_copy(tmp_path / "copy", broker, Copy, pause_ms=1)
    writer.take_over()
    writer.baseline([], T0)
    yield Cluster(tmp_path, broker, writer, standby, copy)
    for log in (writer, standby, copy):
        log.close()


PATIENT = {"ack_ms": 30_000, "request_ms": 30_000, "ping_ms": 30_000}
"""A busy machine may keep a server or the test itself from answering for seconds, which is no fault here."""
HASTY = {"ack_ms": 400, "request_ms": 900, "ping_ms": 1_900}
"""For tests in which servers fail: nearly the defaults."""


@pytest.fixture(autouse=True)
def patient_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets connections in this process wait, where the test leaves their times at the defaults."""
    from ptn_api.cluster.jetstream import JetStreamBroker

    default, make = msgspec.structs.asdict(ClusterOptions()), JetStreamBroker.__init__

    def make_patient(broker: JetStreamBroker, options: ClusterOptions) -> None:
        longer = {name: ms for name, ms in PATIENT.items() if getattr(options, name) == default[name]}
        make(broker, msgspec.structs.replace(options, **longer))

    monkeypatch.setattr(JetStreamBroker, "__init__", make_patient)


_names = (f"test{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def running_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if missing():
        pytest.skip(missing())
    with nats_servers(tmp_path_factory.mktemp("nats")) as servers:
        yield servers


@pytest.fixture
def servers(running_servers: Servers) -> Iterator[Servers]:
    """Three NATS servers, which the test may kill, freeze and wipe."""
    yield running_servers
    running_servers.restore()


@pytest.fixture
def no_streams(servers: Servers) -> ClusterOptions:
    """A cluster without streams, which no other test uses."""
    return ClusterOptions(cluster=servers.urls, cluster_name=next(_names))


@pytest.fixture
def hasty(options: ClusterOptions) -> ClusterOptions:
    """The same cluster, for connections that notice a failed server soon."""
    return msgspec.structs.replace(options, **HASTY)


@pytest.fixture
def options(no_streams: ClusterOptions) -> ClusterOptions:
    """A cluster with empty streams, which no other test uses."""
    from ptn_api.cluster.jetstream import JetStreamBroker

    with contextlib.closing(JetStreamBroker(no_streams)) as broker:
        broker.create_streams()
    return no_streams
