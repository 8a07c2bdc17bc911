"""Memory of the REST process beside the size of its document, and its growth under load.

The load: requests in several codings and with filters, changing positions, and up to two new orders a
second. Orders are data that stays, so the growth of the document is shown beside that of the memory.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks.figures import Figures
from benchmarks.rest import Service, served
from benchmarks.rewriter import rewriting
from benchmarks.server import BenchValidator
from ptn_api.clock import wall_ms
from tests.factories import order

__all__ = ["run"]

_SAMPLES = 12
"""In the whole time; a third of them are the warm-up."""
_POLL_S = 0.5
_REWRITTEN = 500
"""Positions rewritten before each sample."""


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    with served(folder, arguments) as service:
        identity = len(service.ask("/miner-positions").content)
        service.ask("/miner-positions", Accept_Encoding="gzip").raw.read(decode_content=False)
        size = f"{arguments.miners} x {arguments.positions}"
        memory = _memory(service)
        figures.add(
            f"memory of the rest process ({size})", MB=round(memory / 1e6), identity_MB=round(identity / 1e6)
        )
        what = "memory of the rest process / tier 100's identity"
        figures.target(what, memory / identity, at_most=1.8)
        with rewriting(service.validator.root, _REWRITTEN) as (_, rewrite):
            samples = _samples(service, arguments.minutes * 60, rewrite)
        grown = len(service.ask("/miner-positions").content)
    warm = samples[_SAMPLES // 3 :]
    before, after = warm[: len(warm) // 2], warm[len(warm) // 2 :]
    growth = statistics.mean(after) - statistics.mean(before)
    figures.add(
        f"memory of the rest process under load, {arguments.minutes:g} min",
        MB=" ".join(str(round(sample / 1e6)) for sample in samples),
        growth_MB=round(growth / 1e6, 1),
        identity_growth_MB=round((grown - identity) / 1e6 / 3, 1),  # in the same third of the time
    )


def _trades(validator: BenchValidator, hotkeys: list[str]) -> Iterator[None]:
    """Opens and closes a position of each miner in turn: no miner has thousands of open ones."""
    for number, hotkey in enumerate(itertools.cycle(hotkeys)):
        position = validator.place(miner=hotkey)
        yield
        close = order(2 * 10**7 + number, 0.0, at=wall_ms())
        ended = {"is_closed_position": True, "close_ms": close["processed_ms"], "position_type": "FLAT"}
        validator.write(position | ended | {"orders": [*position["orders"], close], "net_leverage": 0.0})
        yield


def _memory(service: Service) -> int:
    return int(psutil.Process(service.pid).memory_info().rss)


def _samples(service: Service, seconds: float, rewrite: Callable[[], None]) -> list[int]:
    hotkeys = service.ask("/miner-hotkeys").json()
    targets = itertools.cycle(
        [
            ("/miner-positions", "gzip"),
            ("/miner-positions?tier=30", "gzip"),
            (f"/miner-positions/{hotkeys[0]}", "zstd"),
            ("/me", "identity"),
            (f"/miner-positions?miner={','.join(hotkeys[:9])}&status=open", "gzip"),
            ("/miners", "gzip"),
            ("/orders?limit=200", "gzip"),
            ("/miner-positions", "identity"),
        ]
    )
    trades = _trades(service.validator, hotkeys)
    samples, began = [], time.monotonic()
    for sample in range(1, _SAMPLES + 1):
        rewrite()
        while time.monotonic() < began + sample * seconds / _SAMPLES:
            path, coding = next(targets)
            response = service.ask(path, Accept_Encoding=coding)
            assert response.status_code == 200, (path, response.status_code)
            response.raw.read(decode_content=False)
            next(trades)
            time.sleep(_POLL_S)
        samples.append(_memory(service))
    return samples
