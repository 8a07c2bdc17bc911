"""Server starts, with an empty and with a filled log, and the time of the all-positions document."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import psutil
import requests

from benchmarks.figures import Figures
from benchmarks.server import DEFAULT_PERIODS, build
from ptn_api.access import add_key
from tests.system.api import Api, api

__all__ = ["run"]


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    size = f"{arguments.miners} x {arguments.positions}"
    started = time.perf_counter()
    validator = build(folder, arguments)
    figures.add(f"simulated directory written ({size})", s=round(time.perf_counter() - started, 1))
    key = add_key(folder / "api_keys.json", "bench", 100)
    for what in ("first start, baseline read", "start, log filled"):
        started = time.perf_counter()
        with api(folder / "data", validator_dir=validator.root, wait=False, **DEFAULT_PERIODS) as server:
            server.wait_ready(300)
            took = time.perf_counter() - started
            figures.add(f"{what} -> ready ({size})", s=round(took, 2))
            if what.startswith("start"):
                figures.target(f"cold start to ready, log filled ({size}), s", took, at_most=3)
                _documents(server, key, validator, arguments, figures)


def _documents(server: Api, key: str, validator, arguments: argparse.Namespace, figures: Figures) -> None:  # type: ignore[no-untyped-def]
    size = f"{arguments.miners} x {arguments.positions}"
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {key}"
        for tier in (0, 30, 50, 100):
            url = f"{server.rest}/miner-positions?tier={tier}"
            _timed(session, url)
            unchanged = [_timed(session, url) for _ in range(10)]
            figures.add_times(f"/miner-positions tier {tier}, nothing changed ({size})", unchanged)
            after = []
            for _ in range(10):
                validator.place()
                after.append(_timed(session, url))
            figures.add_times(f"/miner-positions tier {tier}, right after an order ({size})", after)
        body = session.get(server.rest + "/miner-positions", headers={"Accept-Encoding": "identity"})
        rest = server.children()["rest"].memory_info().rss
        figures.add(
            f"memory of the rest process ({size})",
            MB=round(rest / 1e6),
            times_identity=round(rest / len(body.content), 2),
        )
    family = psutil.Process(server.process.pid).children()
    figures.add("memory of all processes", MB=round(sum(p.memory_info().rss for p in family) / 1e6))


def _timed(session: requests.Session, url: str) -> float:
    """Returns milliseconds until the gzip body has arrived, without decompression."""
    started = time.perf_counter()
    with session.get(url, headers={"Accept-Encoding": "gzip"}, stream=True) as response:
        assert response.status_code == 200, response.status_code
        while response.raw.read(1 << 20):
            pass
    return (time.perf_counter() - started) * 1000
