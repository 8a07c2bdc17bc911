"""`make soak`: see the package's docstring. The exit status is 0 only if every count of faults is 0."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import msgspec
import requests

from ptn_api.event_log import open_reader
from ptn_api.intake.removal import request_resync
from ptn_api.simulator.options import Network
from tests.chaos import ChaosProxy
from tests.soak.checker import (
    Deliveries,
    Verdict,
    check_mirrors,
    check_state,
    checksum_of,
    files_of,
    orders_placed,
)
from tests.soak.fleet import Fleet
from tests.soak.load import Load
from tests.soak.patience import Patience
from tests.soak.report import End
from tests.soak.traders import Traders
from tests.soak.trouble import Trouble
from tests.system.api import ROOT, Api, api
from tests.waiting import until

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


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--traders", type=int, default=3, help="programs that are killed and forked")
    parser.add_argument("--orders-per-second", type=float, default=50)
    parser.add_argument("--trouble-every", type=float, default=3, help="seconds between troubles, on average")
    parser.add_argument("--network", choices=get_args(Network), default="today")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--bot-processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs, journal and reports")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="ptn-soak-"))
    verdict, figures = soak(folder, arguments)
    print(json.dumps(figures | msgspec.to_builtins(verdict), indent=1))
    if arguments.keep or not verdict.zeros:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    return 0 if verdict.zeros else 1


def soak(folder: Path, arguments: argparse.Namespace) -> tuple[Verdict, dict[str, object]]:
    """Injects faults for the given minutes; then stops the orders and lets every bot reach the head."""
    key_file = folder / "api_keys.json"
    keys = _make_keys(key_file, [f"bot-{n}" for n in range(arguments.clients + arguments.traders)])
    bots = list(keys.values())[: arguments.clients]
    directory = folder / "validator"
    verdict = Verdict()
    with (
        _validator(directory, arguments) as simulator,
        api(folder / "data", validator_dir=directory, keys=key_file, **PERIODS) as server,
        ChaosProxy(server.ws_port, seed=arguments.seed) as proxy,
        Fleet(
            folder,
            stream_url=proxy.url,
            rest_url=server.rest,
            api_keys=bots,
            processes=arguments.bot_processes,
        ) as fleet,
        Traders(
            folder / "traders",
            stream_url=proxy.url,
            rest_url=server.rest,
            keys=dict(list(keys.items())[arguments.clients :]),
            first_number=arguments.clients,
            key_file=key_file,
            verdict=verdict,
            seed=arguments.seed,
        ) as traders,
    ):
        since_ns = time.time_ns()
        (directory / "go").touch()
        load = Load(proxy, lambda: _pids(simulator, server, fleet, traders))
        trouble = Trouble(
            arguments.seed,
            server=server,
            proxy=proxy,
            traders=traders,
            keys=key_file,
            data_dir=folder / "data",
            directory=directory,
            validator=simulator,
            verdict=verdict,
        )
        _go_wrong(trouble, load, arguments)
        figures = {"minutes": round((time.time_ns() - since_ns) / 60e9, 1)} | load.figures()
        simulator.terminate()
        simulator.wait()
        ended = time.monotonic()
        request_resync(folder / "data")  # restored backups remove enough to be held back
        files = files_of(directory)
        head, positions = _settled(server, bots[0], files)
        reports = fleet.end(End(head=head, checksum=checksum_of(files)))
        reports += traders.finish(head, Patience().lasts)
        figures |= {"seconds_to_catch_up": round(time.monotonic() - ended, 1)}
    for line in _exceptions(server.log):
        verdict.add("server_errors", line)
    with contextlib.closing(open_reader(folder / "data")) as log:
        placed = orders_placed(directory / "journal.ndjson", since_ns, created_ms=log.created_ms)
    deliveries = Deliveries(placed, verdict, stale_ms=60_000)
    deliveries.check(reports, head, doubled=trouble.counts["duplications"])
    check_state("REST", positions, files, verdict)
    check_mirrors(reports, files, verdict)
    kinds = Counter(bot.kind for bot in reports)
    connections = sum(bot.connections for bot in reports)
    figures |= deliveries.figures() | {"bots": kinds, "connections": connections}
    return verdict, figures | {"trouble": trouble.counts + traders.counts}


def _pids(
    simulator: subprocess.Popen[bytes], server: Api, fleet: Fleet, traders: Traders
) -> dict[str, list[int]]:
    """The processes of each role."""
    processes = {name: [process.pid] for name, process in server.children().items()}
    bots = [process.pid for process in fleet.processes]
    return processes | {"validator": [simulator.pid], "bots": bots, "traders": traders.pids}


def _exceptions(log: Path) -> Iterator[str]:
    """The lines of the server's log that have or begin a traceback."""
    with log.open(errors="replace") as lines:
        for line in lines:
            if any(mark in line for mark in ('"exception"', '"exc_info"', "Traceback")):
                yield line.strip()[:500]


def _settled(server: Api, key: str, files: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """REST's last sequence and positions, once they equal the files or no longer change."""
    patience = Patience()
    while True:
        cursor, positions = _positions(server, key)
        verdict = Verdict()
        check_state("REST", positions, files, verdict)
        if verdict.zeros or not patience.lasts(cursor):
            return cursor[0], positions  # the checker reports the differences
        time.sleep(0.5)


def _positions(server: Api, key: str) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """REST's sequence and revision, and every position of tier 100."""
    headers = {"Authorization": f"Bearer {key}"}
    try:
        response = requests.get(f"{server.rest}/miner-positions", headers=headers, timeout=300)
        response.raise_for_status()
    except requests.RequestException:
        return (-1, -1), []
    positions = [position for entry in response.json().values() for position in entry["positions"]]
    return (int(response.headers["X-PTN-Sequence"]), int(response.headers["X-PTN-Revision"])), positions


def _make_keys(path: Path, aliases: list[str]) -> dict[str, str]:
    keys = {alias: secrets.token_urlsafe(16) for alias in aliases}
    path.write_text(json.dumps({alias: {"key": key, "tier": 100} for alias, key in keys.items()}))
    return keys


@contextmanager
def _validator(directory: Path, arguments: argparse.Namespace) -> Iterator[subprocess.Popen[bytes]]:
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


def _go_wrong(trouble: Trouble, load: Load, arguments: argparse.Namespace) -> None:
    deadline = time.monotonic() + arguments.minutes * 60
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, trouble.pause_s(arguments.trouble_every)))
        trouble.once()
        load.sample()


if __name__ == "__main__":
    sys.exit(main())
