"""Pages of all orders, and the positions as they were: CPU time, and the memory of documents in progress."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import psutil
import requests

from benchmarks.figures import Figures, percentile
from benchmarks.machine import SERVER, pinned
from benchmarks.server import DEFAULT_PERIODS, prepared
from ptn_api.access import add_key
from tests.system.api import api

__all__ = ["run"]

_DAY_MS = 86_400_000
_TIMES = 20
_AT_ONCE = 4


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    validator = prepared(folder, arguments)
    key = add_key(folder / "api_keys.json", "bench", 100)
    limit = {"requests_per_minute": 1_000_000_000}
    size = f"{arguments.miners} x {arguments.positions}"
    with api(folder / "data", validator_dir=validator.root, wait=False, **DEFAULT_PERIODS | limit) as server:
        server.wait_ready(300)
        rest = server.children()["rest"]
        pinned([process.pid for process in server.children().values()], SERVER)
        session = requests.Session()
        session.headers.update({"Authorization": f"Bearer {key}", "Accept-Encoding": "gzip"})

        def get(path: str) -> bytes:
            response = session.get(server.rest + path, timeout=600)
            assert response.status_code == 200, response.text
            return response.content

        newest = session.get(f"{server.rest}/orders?limit=1000").json()["orders"]
        hotkey, newest_ms = newest[-1]["miner_hotkey"], newest[0]["order"]["processed_ms"]
        for what, path in {
            "1,000 orders": "/orders?limit=1000",
            "1,000 orders of a miner": f"/orders?limit=1000&miner={hotkey}",
            "1,000 orders of a pair": f"/orders?limit=1000&trade_pair={newest[-1]['trade_pair']}",
            "one miner yesterday": f"/miner-positions/{hotkey}?at={newest_ms - _DAY_MS}",
        }.items():
            took, cpu_ms = _timed(rest, lambda path=path: get(path), _TIMES)
            figures.add(f"{what} ({size})", p50_ms=round(percentile(took, 0.5), 1), cpu_ms=round(cpu_ms, 1))
            if what == "1,000 orders":
                figures.target(f"CPU ms for {what}", cpu_ms, at_most=20)
        path = f"/miner-positions?at={newest_ms - _DAY_MS}"
        for at_once in (1, _AT_ONCE):
            before, peak = rest.memory_info().rss, _Peak(rest)
            with ThreadPoolExecutor(at_once) as pool, peak:
                took, cpu_ms = _timed(rest, lambda n=at_once: [*pool.map(get, [path] * n)], 1)
            figures.add(
                f"all miners yesterday, {at_once} at once ({size})",
                s=round(took[0] / 1000, 1),
                cpu_s=round(cpu_ms / 1000, 1),
                more_MB=round((peak.rss - before) / 1e6),
            )


def _timed(process: psutil.Process, work: Callable[[], object], times: int) -> tuple[list[float], float]:
    """Returns the durations in ms, and the process's CPU ms for each."""
    took = []
    before = process.cpu_times()
    for _ in range(times):
        began = perf_counter()
        work()
        took.append((perf_counter() - began) * 1000)
    after = process.cpu_times()
    return took, (after.user + after.system - before.user - before.system) / times * 1000


class _Peak:
    """The largest memory of a process during a block."""

    def __init__(self, process: psutil.Process) -> None:
        self.rss = 0
        self._process = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.rss = max(self.rss, self._process.memory_info().rss)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
