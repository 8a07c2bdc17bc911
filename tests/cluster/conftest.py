"""A cluster of two machines and a copy, over a broker in memory; and real NATS servers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
def options(no_streams: ClusterOptions) -> ClusterOptions:
    """A cluster with empty streams, which no other test uses."""
    from ptn_api.cluster.jetstream import JetStreamBroker

    with contextlib.closing(JetStreamBroker(no_streams)) as broker:
        broker.create_streams()
    return no_streams
