"""Latency from a file renamed into the validator's directory to a subscribed client and a REST answer."""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

import requests

from benchmarks.figures import Figures
from benchmarks.server import Refreshes, running

__all__ = ["run"]


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    with running(folder, arguments) as (server, validator, follower, key):
        with Refreshes(validator, every_s=60) as refreshes:
            sent, seen = _place(server.rest, key, validator, arguments.orders)
            follower.wait_for(len(sent))
        received = dict(zip(follower.order_uuids, follower.received_ns, strict=True))
        size = f"{arguments.miners} x {arguments.positions}"
        on_socket = [(received[uuid] - at) / 1e6 for uuid, at in sent.items()]
        figures.add_times(f"file moved -> subscribed client ({size})", on_socket)
        figures.add_times(
            f"file moved -> in /miner-positions/<hotkey> ({size})",
            [(at - sent[uuid]) / 1e6 for uuid, at in seen.items()],
        )
        figures.add("open positions refreshed meanwhile", n=refreshes.written)


def _place(url: str, key: str, validator, n: int) -> tuple[dict[str, int], dict[str, int]]:  # type: ignore[no-untyped-def]
    """Places n orders, about 10 per second, and polls REST for each. Returns both times in Unix ns."""
    sent: dict[str, int] = {}
    seen: dict[str, int] = {}
    pause = threading.Event()
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {key}"
        for _ in range(n):
            validator.place()
            uuid = validator.placed[-1]
            sent[uuid] = validator.moved_ns
            while uuid not in session.get(f"{url}/miner-positions/{validator.miner}", timeout=10).text:
                pass
            seen[uuid] = time.time_ns()
            pause.wait(0.1)
    return sent, seen
