"""`make soak`: see the package's docstring. Ends with 0 only when every count of what must not be is 0."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import requests

from ptn_api.intake.resync import request_resync
from tests.chaos import ChaosProxy
from tests.soak.bots import BotOrders, BotReport, End, read_received
from tests.soak.checker import (
    Verdict,
    check_bots,
    check_mirrors,
    check_state,
    checksum_of,
    files_of,
    orders_placed,
)
from tests.soak.trouble import Trouble
from tests.system.api import ROOT, Api, api
from tests.waiting import until

_VALIDATOR = """
import json, signal, sys, threading
from pathlib import Path
from ptn_api.simulator.simulator import run_simulator
from ptn_api.simulator.options import SimulatorOptions
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
arguments = json.loads(sys.argv[1])
directory = Path(arguments["directory"])
run_simulator(
    SimulatorOptions(**arguments["options"]),
    directory,
    stop=stop,
    ready=(directory / "ready").touch,
    journal=directory / "journal.ndjson",
)
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--orders-per-second", type=float, default=50)
    parser.add_argument("--trouble-every", type=float, default=3, help="seconds between troubles, on average")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs, journal and reports")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="ptn-soak-"))
    verdict, figures = soak(folder, arguments)
    print(json.dumps(figures | msgspec.to_builtins(verdict), indent=1))
    if arguments.keep or not verdict.zeros:
        print(f"kept: {folder}")
    else:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    return 0 if verdict.zeros else 1


def soak(folder: Path, arguments: argparse.Namespace) -> tuple[Verdict, dict[str, object]]:
    keys = _make_keys(folder / "api_keys.json", arguments.clients)
    directory = folder / "validator"
    with (
        _validator(directory, arguments) as simulator,
        api(folder / "data", validator_dir=directory, keys=folder / "api_keys.json") as server,
        ChaosProxy(server.ws_port, seed=arguments.seed) as proxy,
    ):
        with _bots(folder, proxy.url, server.rest, keys) as bots:
            since_ns = time.time_ns()
            trouble = Trouble(arguments.seed, server, proxy, folder / "api_keys.json", directory, simulator)
            _go_wrong(trouble, arguments)
            simulator.terminate()
            simulator.wait()
            request_resync(folder / "data")  # restored backups remove more than is believed at once
            head = _settled_head(server, keys[0], directory)
            end = End(head=head, checksum=checksum_of(files_of(directory)))
            (folder / "end.json").write_bytes(msgspec.json.encode(end))
            bots.terminate()
            bots.wait(timeout=180)
        reports = msgspec.json.decode((folder / "report.json").read_bytes(), type=list[BotReport])
        verdict = check_bots(reports, orders_placed(directory / "journal.ndjson", since_ns), stale_ms=60_000)
        check_state("REST", _positions(server, keys[0])[1], files_of(directory), verdict)
        check_mirrors(reports, files_of(directory), verdict)
        return verdict, _figures(reports, trouble, since_ns)


def _figures(reports: list[BotReport], trouble: Trouble, since_ns: int) -> dict[str, object]:
    return {
        "orders": max(bot.deliveries for bot in reports),
        "deliveries": sum(bot.deliveries for bot in reports),
        "replayed": sum(message.replay for bot in reports for message in read_received(bot)),
        "mirrors": sum(bot.kind == "mirror" for bot in reports),
        "late": sum(message.late for message in read_received(reports[0])),
        "connections": sum(len(bot.connected) for bot in reports),
        "minutes": round((time.time_ns() - since_ns) / 60e9, 1),
        "trouble": dict(trouble.counts),
    }


def _positions(server: Api, key: str) -> tuple[int, list[dict[str, Any]]]:
    """REST's sequence, and every position of tier 100."""
    headers = {"Authorization": f"Bearer {key}"}
    response = requests.get(f"{server.rest}/miner-positions", headers=headers, timeout=30)
    positions = [position for entry in response.json().values() for position in entry["positions"]]
    return int(response.headers["X-PTN-Sequence"]), positions


def _settled_head(server: Api, key: str, directory: Path) -> int:
    """The last sequence, once REST says what the files say (or will not within a minute)."""
    files = files_of(directory)
    head = 0

    def settled() -> bool:
        nonlocal head
        head, positions = _positions(server, key)
        verdict = Verdict()
        check_state("REST", positions, files, verdict)
        return verdict.zeros

    with contextlib.suppress(AssertionError):  # the checker will say what differs
        until(settled, seconds=60)
    return head


def _make_keys(path: Path, clients: int) -> list[str]:
    keys = [secrets.token_urlsafe(16) for _ in range(clients)]
    path.write_text(json.dumps({f"bot-{n}": {"key": key, "tier": 100} for n, key in enumerate(keys)}))
    return keys


@contextmanager
def _validator(directory: Path, arguments: argparse.Namespace) -> Iterator[subprocess.Popen[bytes]]:
    """A simulated validator that does everything a real one does, far more often."""
    directory.mkdir()
    options = {
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


@contextmanager
def _bots(folder: Path, url: str, rest: str, keys: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    orders = BotOrders(
        stream_url=url,
        rest_url=rest,
        api_keys=keys,
        state_dir=str(folder / "cursors"),
        report=str(folder / "report.json"),
        ready=str(folder / "bots-ready"),
        end=str(folder / "end.json"),
    )
    (folder / "bots.json").write_bytes(msgspec.json.encode(orders))
    with (folder / "bots.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.bots", str(folder / "bots.json")], cwd=ROOT, stderr=log
        )
    try:
        until((folder / "bots-ready").exists, seconds=120, what="every bot is live")
        yield process
    finally:
        process.kill()
        process.wait()


def _go_wrong(trouble: Trouble, arguments: argparse.Namespace) -> None:
    deadline = time.monotonic() + arguments.minutes * 60
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, trouble.pause_s(arguments.trouble_every)))
        trouble.once()


if __name__ == "__main__":
    sys.exit(main())
