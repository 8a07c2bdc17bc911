"""Every implementation of the log, for the test suite of the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api.event_log import EventLogWriter, open_writer
from tests.cluster.machines import writer_and_copy
from tests.factories import T0
from tests.memory_log import MemoryLog

MakeLog = Callable[..., EventLogWriter]


@pytest.fixture(params=["memory", "sqlite", "cluster"])
def make_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeLog]:
    """Creates logs at T0; takes the options of `open_writer`."""
    logs: list[EventLogWriter] = []

    def make(**options: Any) -> EventLogWriter:
        log: EventLogWriter
        if request.param == "memory":
            log = MemoryLog(clock=lambda: T0, **options)
        elif request.param == "cluster":
            log = writer_and_copy(tmp_path / f"log{len(logs)}", **options)
        else:
            log = open_writer(tmp_path / f"log{len(logs)}", clock=lambda: T0, **options)
        logs.append(log)
        return log

    yield make
    for log in logs:
        log.close()


@pytest.fixture
def log(make_log: MakeLog) -> EventLogWriter:
    """A log with an empty baseline."""
    log = make_log()
    log.baseline([], T0)
    return log
