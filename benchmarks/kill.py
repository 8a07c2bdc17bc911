"""Recovery time after kill -9 of each process."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import requests
from websockets.sync.client import connect

from benchmarks.figures import Figures
from benchmarks.server import running
from tests.system.api import Api
from tests.waiting import until

__all__ = ["run"]


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    size = f"{arguments.miners} x {arguments.positions}"
    with running(folder, arguments) as (server, validator, follower, key):
        for room in ("rest", "stream", "intake"):
            started = time.perf_counter()
            server.kill(room)
            validator.place()
            if room == "rest":
                until(lambda: _rest_answers(server, key))
            elif room == "stream":
                until(lambda: _stream_answers(server))
            follower.wait_for(len(validator.placed))
            took = (time.perf_counter() - started) * 1000
            figures.add(f"kill -9 of {room} -> serving, next order seen ({size})", ms=round(took))


def _rest_answers(server: Api, key: str) -> bool:
    headers = {"Authorization": f"Bearer {key}"}
    try:
        return requests.get(f"{server.rest}/miner-positions", headers=headers, timeout=30).ok
    except requests.RequestException:
        return False


def _stream_answers(server: Api) -> bool:
    try:
        with connect(server.stream):
            return True
    except OSError:
        return False
