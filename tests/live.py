"""A demo server for tests of the command line, the examples and the README."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import server_packages
from tests.system.api import ROOT, api

__all__ = ["ROOT", "Live", "bare_environment", "serving"]


class Live(NamedTuple):
    """A running server with ten orders per second."""

    rest: str
    stream: str
    key: str
    keys_file: Path

    def environment(self, home: Path) -> dict[str, str]:
        """Returns the environment of a user with this home, the server's addresses and the key."""
        known = {"PTN_API_KEY": self.key, "PTN_REST_URL": self.rest, "PTN_WS_URL": self.stream}
        return bare_environment(home) | known


def bare_environment(home: Path) -> dict[str, str]:
    """Returns the environment of a user with this home and without PTN_ variables."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("PTN_")}
    places = {"HOME": home, "XDG_CONFIG_HOME": home / "config", "XDG_STATE_HOME": home / "state"}
    return ours | {k: str(v) for k, v in places.items()} | {"PYTHONPATH": str(ROOT)}


@contextmanager
def serving(folder: Path) -> Iterator[Live]:
    """Skips the test where the server cannot run."""
    if not server_packages.INSTALLED:
        pytest.skip(server_packages.MISSING)
    data_dir = folder / "data"
    keys = data_dir / "demo_api_keys.json"
    demo = {"demo_miners": 5, "demo_positions": 6, "demo_orders_per_minute": 600}
    # No client reconnects because the machine is busy: what it prints then is not expected.
    with api(data_dir, keys=keys, demo=True, heartbeat_ms=15_000, **demo) as server:
        key = (data_dir / "demo-100.header").read_text().split()[-1]
        yield Live(server.rest, server.stream, key, keys)
