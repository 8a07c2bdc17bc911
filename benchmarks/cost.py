"""What an order costs, at several numbers of miners, and how soon it is in the compressed document.

Each order is a file moved into place; then the whole document of tier 100 is asked for (HEAD: it is put
together and compressed, and 20 MB less travel) until it holds the order.
"""

from __future__ import annotations

import argparse
import itertools
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import requests

from benchmarks.figures import Figures, percentile
from benchmarks.machine import cpu_seconds
from benchmarks.server import DEFAULT_PERIODS, BenchValidator, Refreshes, prepared
from ptn_api.access import add_key
from tests.system.api import Api, api

__all__ = ["run"]

_HEADERS = {"Accept-Encoding": "gzip"}


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    small = argparse.Namespace(**vars(arguments) | {"positions": arguments.cost_positions})
    costs = {}
    for miners in arguments.cost_miners:
        small.miners = miners
        costs[miners] = _measure(folder / f"of-{miners}", small, figures)
    fewest, most = min(costs), max(costs)
    if fewest != most:
        title = f"CPU per order, {most} miners / {fewest} miners"
        figures.target(title, costs[most] / costs[fewest], at_most=1.5)
    _measure(folder / "full", arguments, figures, targets=True)


def _measure(
    folder: Path, arguments: argparse.Namespace, figures: Figures, *, targets: bool = False
) -> float:
    """CPU ms per order, refreshes aside."""
    size = f"{arguments.miners} x {arguments.positions}"
    folder.mkdir()
    validator = prepared(folder, arguments)
    key = add_key(folder / "api_keys.json", "bench", 100)
    cost = 0.0
    with api(folder / "data", validator_dir=validator.root, wait=False, **DEFAULT_PERIODS) as server:
        server.wait_ready(300)
        for refreshing in (False, True):
            with ExitStack() as stack:
                if refreshing:
                    stack.enter_context(Refreshes(validator, every_s=60))
                visible, cost = _orders(server, key, validator, arguments.orders)
            also = ", 500 positions refreshed a minute" if refreshing else ""
            figures.add_times(f"order -> in the compressed document{also} ({size})", visible)
            figures.add(f"CPU per order, all processes{also} ({size})", ms=round(cost, 2))
            if targets:
                figures.target(f"order -> visible{also}, p99 ms", percentile(visible, 0.99), at_most=50)
                figures.target(f"CPU per order{also}, ms", cost, at_most=10)
            if not refreshing:
                alone = cost
    return alone


def _orders(server: Api, key: str, validator: BenchValidator, n: int) -> tuple[list[float], float]:
    """Milliseconds until each order was there, and the CPU ms that one took beyond what goes on anyway."""
    pids = [process.pid for process in server.children().values()]
    pause, session = threading.Event(), requests.Session()
    session.headers.update(_HEADERS | {"Authorization": f"Bearer {key}"})
    url = f"{server.rest}/miner-positions"
    miners = itertools.cycle(session.get(f"{server.rest}/miner-hotkeys").json())
    for _ in range(3):  # the first ones find caches cold
        _until_visible(session, url, validator, next(miners))
    seconds = n * 0.05
    before = sum(map(cpu_seconds, pids))
    pause.wait(seconds)
    idle = sum(map(cpu_seconds, pids)) - before
    began, before = time.monotonic(), sum(map(cpu_seconds, pids))
    visible = []
    for _ in range(n):
        visible.append(_until_visible(session, url, validator, next(miners)))
        pause.wait(0.05)
    used = sum(map(cpu_seconds, pids)) - before - idle * (time.monotonic() - began) / seconds
    return visible, used / n * 1000


def _until_visible(session: requests.Session, url: str, validator: BenchValidator, miner: str) -> float:
    sequence = int(session.head(url, timeout=30).headers["x-ptn-sequence"])
    validator.place(miner=miner)
    while int(session.head(url, timeout=30).headers["x-ptn-sequence"]) <= sequence:
        time.sleep(0.002)
    return (time.time_ns() - validator.moved_ns) / 1e6
