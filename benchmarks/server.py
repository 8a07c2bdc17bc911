"""A server on a simulated validator's directory with one following client."""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptn_api.access import add_key
from ptn_api.process.settings import SETTINGS
from ptn_api.simulator.options import SimulatorOptions
from ptn_api.simulator.simulator import run_simulator
from tests import factories
from tests.system.api import SHORT_PERIODS, Api, api
from tests.system.follower import Follower
from tests.system.validator import Validator

__all__ = ["BenchValidator", "build", "prepared", "running"]

DEFAULT_PERIODS: dict[str, object] = {
    name: SETTINGS[name].default for name in SHORT_PERIODS if name.endswith("_ms")
}
"""Default periods instead of those that tests shorten. Limits stay off, as in tests."""


class BenchValidator(Validator):
    """A validator directory that records when its last file was renamed into place."""

    def __init__(self, root: Path) -> None:
        (root / "validation" / "tmp").mkdir(parents=True, exist_ok=True)
        if not (root / "validation" / "miners").exists():
            super().__init__(root)
        self.root = root
        self.placed = []
        self.miner = factories.MINER
        self.moved_ns = 0
        self._count = int(time.time()) % 10**8 * 1_000
        """Returns order numbers that no earlier run used in the same directory."""

    def place(
        self, n_orders: int = 1, *, miner: str = factories.MINER, closed: bool = False
    ) -> dict[str, Any]:
        self._count += 1
        number = 10**7 + self._count
        now = time.time_ns() // 1_000_000
        order = factories.order(number, 0.1, at=now)
        position = factories.position(number, [order], miner=miner)
        self.placed.append(order["order_uuid"])
        self.write(position)
        self.moved_ns = time.time_ns()
        return position


def build(folder: Path, arguments: argparse.Namespace) -> BenchValidator:
    """Returns a validator directory of the given size."""
    stop = threading.Event()
    options = SimulatorOptions(
        network="2025",  # as the servers that it is compared with read it
        seed=arguments.seed,
        miners=arguments.miners,
        positions=arguments.positions,
        orders_per_minute=0,
    )
    run_simulator(options, folder / "validator", stop=stop, ready=stop.set)
    return BenchValidator(folder / "validator")


def prepared(folder: Path, arguments: argparse.Namespace) -> BenchValidator:
    """Returns the same with a filled log, made once per benchmark run and then copied."""
    size = f"{arguments.miners}x{arguments.positions}-{arguments.seed}"
    made = Path(arguments.keep) / size
    if not (made / "data").exists():
        build(made, arguments)
        with api(made / "data", validator_dir=made / "validator", wait=False, **DEFAULT_PERIODS) as server:
            server.wait_ready(600)
    # The validator's files are not copied: the log identifies them by inode.
    shutil.copytree(made / "data", folder / "data", ignore=shutil.ignore_patterns("bells"))
    return BenchValidator(made / "validator")


@contextmanager
def running(
    folder: Path, arguments: argparse.Namespace
) -> Iterator[tuple[Api, BenchValidator, Follower, str]]:
    validator = prepared(folder, arguments)
    key = add_key(folder / "api_keys.json", "bench", 100)
    with (
        api(folder / "data", validator_dir=validator.root, **DEFAULT_PERIODS) as server,
        Follower(server.stream, key) as follower,
    ):
        yield server, validator, follower, key
