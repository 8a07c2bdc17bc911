"""The CPU cost of an order with few and with many miners, and its delay until the compressed document has it.

Each order is a file renamed into place, for another miner each time. Then the miner's entry is polled until
it has the order, or the tier 100 document by HEAD, which assembles and compresses it without sending 20 MB.
The cost of an order should depend on its miner only; a request for the document pays for joining it.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks.contest import alternate
from benchmarks.figures import Figures
from benchmarks.machine import cpu_seconds
from benchmarks.server import DEFAULT_PERIODS, prepared
from ptn_api.access import add_key
from tests.system.api import api

__all__ = ["run"]

_PAUSE_S = 0.05
_IDLE_S = 5
_IDLE_SHARE = 0.1
"""Of a core. With more, the check of the log that follows a start is not over."""
_PERIODS: dict[str, Any] = DEFAULT_PERIODS | dict.fromkeys(
    ("sweep_ms", "full_sweep_ms", "miner_files_ms"), 3_600_000
)
"""Sweeps cost something per minute, not per order, and in few of the rounds."""
_HEADERS = {"Accept-Encoding": "gzip"}


@dataclass
class Orders:
    """What some orders took: CPU ms of each process per order, and each order's delay in ms."""

    cpu: dict[str, float]
    delays: list[float]

    @property
    def total(self) -> float:
        return sum(self.cpu.values())


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    """Compares the least and the greatest number of miners. Both servers run, and are busy in turn."""
    fewest, most = min(arguments.cost_miners), max(arguments.cost_miners)
    with ExitStack() as stack:
        contestants: dict[str, Callable[[], Orders]] = {}
        services: list[_Service] = []
        for miners in (fewest, most):
            size = argparse.Namespace(
                **vars(arguments) | {"miners": miners, "positions": arguments.cost_positions}
            )
            service = stack.enter_context(_Service(folder / f"of-{miners}", size))
            services.append(service)
            for whole in (False, True):
                contestants[_name(miners, whole=whole)] = service.contestant(
                    arguments.cost_orders, whole=whole
                )
        for service in services:
            service.settle()
        rounds = alternate(contestants)
    for whole in (False, True):
        many, few = _name(most, whole=whole), _name(fewest, whole=whole)
        what = f"CPU ms per order, {many} / {few}"
        figures.ratio(what, rounds, many, few, value=lambda orders: orders.total, at_most=1.25)
        for name in (few, many):
            for process in ("intake", "rest", "stream"):
                spent = rounds.values(name, lambda orders: orders.cpu[process])  # noqa: B023
                figures.add(f"  {process}, {name}", rounds=", ".join(f"{one:.2f}" for one in spent))
    delays = [
        delay for one in rounds.values(_name(most, whole=True), lambda orders: orders.delays) for delay in one
    ]
    figures.add_times(f"order -> in the compressed document ({most} x {arguments.cost_positions})", delays)


def _name(miners: int, *, whole: bool) -> str:
    return f"{miners:,} miners" + (", document requested" if whole else "")


class _Service:
    """A server on a directory of this size, and the directory's validator."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        folder.mkdir()
        self._stack = ExitStack()
        self._validator = prepared(folder, arguments)
        self._key = add_key(folder / "api_keys.json", "bench", 100)
        self._folder = folder

    def __enter__(self) -> _Service:
        server = self._stack.enter_context(
            api(self._folder / "data", validator_dir=self._validator.root, **_PERIODS)
        )
        self._session = self._stack.enter_context(requests.Session())
        self._session.headers.update(_HEADERS | {"Authorization": f"Bearer {self._key}"})
        self._url = f"{server.rest}/miner-positions"
        self._miners = itertools.cycle(self._session.get(f"{server.rest}/miner-hotkeys").json())
        self._pids = {name: process.pid for name, process in server.children().items()}
        for _ in range(3):  # warm the caches
            self._until_visible(whole=True)
        return self

    def settle(self) -> None:
        """Waits until what follows a start is over, and measures what the processes take without orders."""
        self._idle = self._rest()
        while sum(self._idle.values()) > _IDLE_SHARE:
            self._idle = self._rest()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _rest(self) -> dict[str, float]:
        """Returns the CPU seconds per second of each process without orders."""
        before = self._used()
        time.sleep(_IDLE_S)
        return {name: (now - before[name]) / _IDLE_S for name, now in self._used().items()}

    def contestant(self, orders: int, *, whole: bool) -> Callable[[], Orders]:
        """Returns a function that places orders, and waits for each in the document or its entry."""

        def placed() -> Orders:
            began, before, delays = time.monotonic(), self._used(), []
            for _ in range(orders):
                delays.append(self._until_visible(whole=whole))
                time.sleep(_PAUSE_S)
            after, seconds = self._used(), time.monotonic() - began
            spent = {name: after[name] - before[name] - self._idle[name] * seconds for name in self._pids}
            return Orders({name: cpu / orders * 1000 for name, cpu in spent.items()}, delays)

        return placed

    def _used(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    def _until_visible(self, *, whole: bool) -> float:
        """Places an order and returns after how many milliseconds it is visible."""
        miner = next(self._miners)
        url = self._url if whole else f"{self._url}/{miner}"
        sequence = int(self._session.head(url, timeout=30).headers["x-ptn-sequence"])
        self._validator.place(miner=miner)
        while int(self._session.head(url, timeout=30).headers["x-ptn-sequence"]) <= sequence:
            time.sleep(0.002)
        return (time.time_ns() - self._validator.moved_ns) / 1e6
