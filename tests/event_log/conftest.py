"""Every implementation of the log, for the suite that they all must pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api.event_log import EventLogWriter, open_writer
from tests.factories import T0
from tests.memory_log import MemoryLog

MakeLog = Callable[..., EventLogWriter]


@pytest.fixture(params=["memory", "sqlite"])
def make_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeLog]:
    """Makes logs that were created at T0; options as those of `open_writer`."""
    made: list[EventLogWriter] = []

    def make(**options: Any) -> EventLogWriter:
        log: EventLogWriter
        if request.param == "memory":
            log = MemoryLog(clock=lambda: T0, **options)
        else:
            log = open_writer(tmp_path / f"log{len(made)}", clock=lambda: T0, **options)
        made.append(log)
        return log

    yield make
    for log in made:
        log.close()


@pytest.fixture
def log(make_log: MakeLog) -> EventLogWriter:
    """A log whose baseline was empty."""
    made = make_log()
    made.baseline([], T0)
    return made
