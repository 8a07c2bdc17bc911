"""Latency from an embedding validator's queue to a subscribed client."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.figures import Figures
from ptn_api.access import add_key
from tests.system.api import ROOT
from tests.system.follower import Follower

__all__ = ["run"]

_VALIDATOR = """
import queue, sys, threading, time
sys.path[:0] = [{root!r}]
from ptn_api.api_manager import APIManager
from tests import factories
shared = queue.Queue()
manager = APIManager(shared_queue=shared, rest_port=0, ws_port=0, data_dir={data!r}, api_keys_file={keys!r})
threading.Thread(target=manager.run, daemon=True).start()
sys.stdin.readline()
for n in range({orders}):
    now = time.time_ns()
    order = factories.order(n, 0.1, at=now // 1_000_000)
    shared.put({{"position": factories.position(n, [order]), "put_ns": now}})
    time.sleep(0.02)
sys.stdin.readline()
"""


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    keys = folder / "api_keys.json"
    key = add_key(keys, "bench", 100)
    code = _VALIDATOR.format(
        root=str(ROOT), data=str(folder / "data"), keys=str(keys), orders=arguments.orders
    )
    validator = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
    )
    assert validator.stdin is not None
    assert validator.stdout is not None
    try:
        url = validator.stdout.readline().split()[-1]
        with Follower(url, key) as follower:
            validator.stdin.write("\n")
            validator.stdin.flush()
            follower.wait_for(arguments.orders, seconds=60 + arguments.orders * 0.1)
            figures.add_times(
                "put on the embedded queue -> subscribed client",
                [
                    (at - message["data"]["put_ns"]) / 1e6
                    for at, message in zip(follower.received_ns, follower.messages, strict=True)
                ],
            )
    finally:
        validator.kill()
        validator.communicate()
