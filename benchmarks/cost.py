"""The CPU cost of an order at several numbers of miners, and its delay until the compressed document has it.

Each order is a file renamed into place, for another miner each time. Then the miner's entry is polled until
it has the order, or the tier 100 document by HEAD, which assembles and compresses it without sending 20 MB.
The cost of an order depends on its miner only; a request for the document pays for joining it.
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
    """Returns CPU ms per order, without refreshes."""
    size = f"{arguments.miners} x {arguments.positions}"
    folder.mkdir()
    validator = prepared(folder, arguments)
    key = add_key(folder / "api_keys.json", "bench", 100)
    costs: list[float] = []
    with api(folder / "data", validator_dir=validator.root, wait=False, **DEFAULT_PERIODS) as server:
        server.wait_ready(300)
        for refreshing in (False, True):
            also = ", 500 positions refreshed a minute" if refreshing else ""
            with ExitStack() as stack:
                if refreshing:
                    stack.enter_context(Refreshes(validator, every_s=60))
                _, entry = _orders(server, key, validator, arguments.orders, whole=False)
                visible, whole = _orders(server, key, validator, arguments.orders, whole=True)
            figures.add_times(f"order -> in the compressed document{also} ({size})", visible)
            _add(f"CPU ms per order{also} ({size})", entry, figures)
            _add(f"CPU ms per order, the document asked for each time{also} ({size})", whole, figures)
            costs.append(sum(entry.values()))
            if targets:
                figures.target(f"order -> visible{also}, p99 ms", percentile(visible, 0.99), at_most=50)
                title = f"CPU per order, the document asked for each time{also}, ms"
                figures.target(title, sum(whole.values()), at_most=10)
    return costs[0]


def _add(what: str, costs: dict[str, float], figures: Figures) -> None:
    rooms = {room: round(ms, 2) for room, ms in costs.items()}
    figures.add(what, all=round(sum(costs.values()), 2), **rooms)


def _orders(
    server: Api, key: str, validator: BenchValidator, n: int, *, whole: bool
) -> tuple[list[float], dict[str, float]]:
    """Returns the delay of each order in ms, and the additional CPU ms per order."""
    pids = {room: process.pid for room, process in server.children().items()}

    def used() -> dict[str, float]:
        return {room: cpu_seconds(pid) for room, pid in pids.items()}

    pause, session = threading.Event(), requests.Session()
    session.headers.update(_HEADERS | {"Authorization": f"Bearer {key}"})
    url = f"{server.rest}/miner-positions"

    def one_more() -> float:
        miner = next(miners)
        return _until_visible(session, url if whole else f"{url}/{miner}", validator, miner)

    miners = itertools.cycle(session.get(f"{server.rest}/miner-hotkeys").json())
    for _ in range(3):  # warm the caches
        one_more()
    seconds = n * 0.05
    resting = used()
    pause.wait(seconds)
    began, before, visible = time.monotonic(), used(), []
    for _ in range(n):
        visible.append(one_more())
        pause.wait(0.05)
    after, longer = used(), (time.monotonic() - began) / seconds
    idle = {room: (before[room] - resting[room]) * longer for room in pids}
    return visible, {room: (after[room] - before[room] - idle[room]) / n * 1000 for room in pids}


def _until_visible(session: requests.Session, url: str, validator: BenchValidator, miner: str) -> float:
    sequence = int(session.head(url, timeout=30).headers["x-ptn-sequence"])
    validator.place(miner=miner)
    while int(session.head(url, timeout=30).headers["x-ptn-sequence"]) <= sequence:
        time.sleep(0.002)
    return (time.time_ns() - validator.moved_ns) / 1e6
