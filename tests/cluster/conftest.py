"""A cluster of two machines and a copy, over a broker in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ptn_api.cluster.copy import Copy, found, open_copy
from ptn_api.cluster.writer import ClusterWriter
from tests.cluster.machines import machine
from tests.cluster.memory_broker import MemoryBroker
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
