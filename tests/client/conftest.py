from __future__ import annotations

from collections.abc import Iterator

import pytest

from ptn_api.client.arguments import Timing
from ptn_api.client.testing import FakeServer


@pytest.fixture
def timing() -> Timing:
    """Periods short enough for tests; the server sets the heartbeat period."""
    return Timing(
        connect=5.0,
        close=0.2,
        ping=5.0,
        tick=0.02,
        backoff=0.02,
        backoff_max=0.2,
        eviction=0.05,
        refused=0.05,
        retry=0.01,
        settled=0.5,
    )


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(first_sequence=101) as server:
        yield server
