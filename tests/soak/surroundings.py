"""What every soak needs: a simulated validator, keys, and REST's state once it no longer changes."""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.soak.checker import Verdict, check_state
from tests.soak.patience import Patience
from tests.system.api import ROOT
from tests.waiting import until

__all__ = ["PERIODS", "exceptions", "make_keys", "settled", "simulated_validator"]

PERIODS = {
    "heartbeat_ms": 1_000,
    "sweep_ms": 1_000,
    "full_sweep_ms": 10_000,
    "removal_confirm_ms": 500,
    "key_check_ms": 500,
    "parent_check_ms": 500,
    "usage_flush_ms": 1_000,
    "replay_window_ms": 86_400_000,
}
"""Long enough to leave the machine to the orders, and for version 1 to get every late order as well."""

_VALIDATOR = """
import json, signal, sys, threading
from pathlib import Path
from ptn_api.clock import wall_ms
from ptn_api.simulator.simulator import Simulator, SimulatorOptions
from tests.soak.orphan import end_with_parent
from tests.waiting import until
end_with_parent()
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
arguments = json.loads(sys.argv[1])
directory = Path(arguments["directory"])
simulator = Simulator(
    directory, SimulatorOptions(**arguments["options"]), journal=directory / "journal.ndjson"
)
simulator.prepare(wall_ms())
(directory / "ready").touch()
until(lambda: stop.is_set() or (directory / "go").exists(), seconds=3_600)
simulator.skip_to(wall_ms())
simulator.run(stop)
simulator.close()
"""
"""Trades as soon as the file `go` exists."""


@contextmanager
def simulated_validator(directory: Path, arguments: argparse.Namespace) -> Iterator[subprocess.Popen[bytes]]:
    """A simulated validator that does everything a real one does, far more often."""
    directory.mkdir()
    options = {
        "network": arguments.network,
        "seed": arguments.seed,
        "miners": 25,
        "positions": 20,
        "orders_per_minute": arguments.orders_per_second * 60,
        "refresh_ms": 5_000,
        "corrections_per_minute": 60,
        "bursts_per_hour": 360,
        "liquidations_per_day": 5_000,
        "eliminations_per_day": 500,
        "new_miners_per_day": 1_500,
        "miners_removed_per_day": 300,
        "synchronise_ms": 20_000,
        "backup_ms": 30_000,
        "restores_per_day": 700,
        "documents_ms": 5_000,
        "limit_orders_per_minute": 60,
        "flats_per_day": 2_000,
        "account_resets_per_day": 700,
        "snapshots_ms": 20_000,
        "copy_every": 50 if arguments.network == "today" else 0,
    }
    command = [
        sys.executable,
        "-c",
        _VALIDATOR,
        json.dumps({"directory": str(directory), "options": options}),
    ]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        until((directory / "ready").exists, seconds=60, what="the simulated validator")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def make_keys(path: Path, aliases: list[str]) -> dict[str, str]:
    keys = {alias: secrets.token_urlsafe(16) for alias in aliases}
    path.write_text(json.dumps({alias: {"key": key, "tier": 100} for alias, key in keys.items()}))
    return keys


def exceptions(log: Path) -> Iterator[str]:
    """The lines of the server's log that have or begin a traceback."""
    with log.open(errors="replace") as lines:
        for line in lines:
            if any(mark in line for mark in ('"exception"', '"exc_info"', "Traceback")):
                yield line.strip()[:500]


def settled(rest_url: str, key: str, files: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """REST's last sequence and positions, once they equal the files or no longer change."""
    patience = Patience()
    while True:
        cursor, positions = _positions(rest_url, key)
        verdict = Verdict()
        check_state("REST", positions, files, verdict)
        if verdict.zeros or not patience.lasts(cursor):
            return cursor[0], positions  # the checker reports the differences
        time.sleep(0.5)


def _positions(rest_url: str, key: str) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """REST's sequence and revision, and every position of tier 100."""
    headers = {"Authorization": f"Bearer {key}"}
    try:
        response = requests.get(f"{rest_url}/miner-positions", headers=headers, timeout=300)
        response.raise_for_status()
    except requests.RequestException:
        return (-1, -1), []
    positions = [position for entry in response.json().values() for position in entry["positions"]]
    return (int(response.headers["X-PTN-Sequence"]), int(response.headers["X-PTN-Revision"])), positions
