"""`make soak`: see the package's docstring. The exit status is 0 only if every count of faults is 0."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import get_args

import msgspec
import psutil
import structlog

from ptn_api.cluster.copy import Copy, open_copy
from ptn_api.event_log import open_reader
from ptn_api.intake.removal import request_resync
from ptn_api.simulator.options import Network
from tests.chaos import ChaosProxy
from tests.cluster.machines import content
from tests.soak.checker import (
    Deliveries,
    Verdict,
    check_mirrors,
    check_state,
    checksum_of,
    files_of,
    orders_placed,
)
from tests.soak.cluster import Cluster, Machine, running_cluster
from tests.soak.cluster_trouble import ClusterTrouble
from tests.soak.fleet import Fleet
from tests.soak.load import Load, Occupied
from tests.soak.patience import Patience
from tests.soak.readers import Readers, check_alike
from tests.soak.report import BotReport, End, kind_of
from tests.soak.surroundings import PERIODS, exceptions, make_keys, settled, simulated_validator
from tests.soak.traders import Traders
from tests.soak.trouble import Injector, Trouble
from tests.system.api import Api, api

CLUSTER_PERIODS = PERIODS | {
    "takeover_ms": 3_000,
    "behind_ms": 3_000,
    "snapshot_ms": 30_000,
}
READERS = 3
SPREAD_MS = 60_000
"""How long a machine may be behind the others: it is cut off, or catches up."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cluster", action="store_true", help="of several machines and NATS servers")
    parser.add_argument("--nodes", type=int, default=2, help="machines of a cluster that only serve")
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
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    folder = Path(tempfile.mkdtemp(prefix="ptn-soak-"))
    verdict, figures = (soak_cluster if arguments.cluster else soak)(folder, arguments)
    print(json.dumps(figures | msgspec.to_builtins(verdict), indent=1))
    if arguments.keep or not verdict.zeros:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    return 0 if verdict.zeros else 1


def soak(folder: Path, arguments: argparse.Namespace) -> tuple[Verdict, dict[str, object]]:
    """Injects faults for the given minutes; then stops the orders and lets every bot reach the head."""
    key_file = folder / "api_keys.json"
    keys = make_keys(key_file, [f"bot-{n}" for n in range(arguments.clients + arguments.traders)])
    bots = list(keys.values())[: arguments.clients]
    directory = folder / "validator"
    verdict = Verdict()
    with (
        simulated_validator(directory, arguments) as simulator,
        api(folder / "data", validator_dir=directory, keys=key_file, **PERIODS) as server,
        ChaosProxy(server.ws_port, seed=arguments.seed) as proxy,
        Fleet(
            folder,
            stream_url=proxy.url,
            rest_url=server.rest,
            api_keys=dict(enumerate(bots)),
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
        load = Load(proxy.cpu_s, lambda: _pids(simulator, server, fleet, traders))
        supervisor = {"supervisor": psutil.Process(server.process.pid)}
        occupied = Occupied(
            lambda: supervisor | server.children(), data_dir=folder / "data", validator=directory
        )
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
        _go_wrong(trouble, [load, occupied], arguments)
        figures = (
            {"minutes": round((time.time_ns() - since_ns) / 60e9, 1)} | load.figures() | occupied.figures()
        )
        simulator.terminate()
        simulator.wait()
        ended = time.monotonic()
        request_resync(folder / "data")  # restored backups remove enough to be held back
        files = files_of(directory)
        head, positions = settled(server.rest, bots[0], files)
        reports = fleet.end(End(head=head, checksum=checksum_of(files)))
        reports += traders.finish(head, Patience().lasts)
        figures |= {"seconds_to_catch_up": round(time.monotonic() - ended, 1)}
    for line in exceptions(server.log):
        verdict.add("server_errors", line)
    with contextlib.closing(open_reader(folder / "data")) as log:
        placed = orders_placed(directory / "journal.ndjson", since_ns, created_ms=log.created_ms)
    deliveries = Deliveries(placed, verdict, stale_ms=60_000)
    deliveries.check(reports, head, doubled=trouble.counts["duplications"])
    check_state("REST", positions, files, verdict)
    check_mirrors(reports, files, verdict)
    figures |= deliveries.figures() | _bots(reports)
    return verdict, figures | {"trouble": trouble.counts + traders.counts}


def soak_cluster(folder: Path, arguments: argparse.Namespace) -> tuple[Verdict, dict[str, object]]:
    """The same with clients that come to another machine with each connection, while others fail."""
    key_file = folder / "api_keys.json"
    # Version 1 cannot be sent to another machine when one is behind.
    numbers = [n for n in range(2 * arguments.clients) if kind_of(n) != "version 1"][: arguments.clients]
    keys = make_keys(key_file, [f"bot-{n}" for n in numbers] + [f"reader-{n}" for n in range(READERS)])
    bots = dict(zip(numbers, keys.values(), strict=False))
    directory = folder / "validator"
    verdict = Verdict()
    with (
        simulated_validator(directory, arguments) as simulator,
        running_cluster(
            folder,
            validator=directory,
            keys=key_file,
            nodes=arguments.nodes,
            seed=arguments.seed,
            **CLUSTER_PERIODS,
        ) as cluster,
        Fleet(
            folder,
            stream_url=cluster.stream.url,
            rest_url=cluster.rest_url,
            api_keys=bots,
            processes=arguments.bot_processes,
        ) as fleet,
        Readers(cluster.rest_url, list(keys.values())[len(bots) :], verdict, seed=arguments.seed) as readers,
    ):
        since_ns = time.time_ns()
        (directory / "go").touch()
        others = {"validator": [simulator.pid], "bots": [process.pid for process in fleet.processes]}
        load = Load(time.process_time, lambda: cluster.pids() | others)
        trouble = ClusterTrouble(
            arguments.seed, cluster=cluster, verdict=verdict, takeover_ms=CLUSTER_PERIODS["takeover_ms"]
        )
        _go_wrong(trouble, [load], arguments)
        figures = {"minutes": round((time.time_ns() - since_ns) / 60e9, 1)} | load.figures()
        simulator.terminate()
        simulator.wait()
        ended = time.monotonic()
        for machine in cluster.intakes:
            request_resync(machine.data_dir)
        files = files_of(directory)
        key = bots[numbers[0]]
        head = -1
        for node in cluster.nodes:
            head, positions = settled(node.api.rest, key, files)
            check_state(node.name, positions, files, verdict)
        reports = fleet.end(End(head=head, checksum=checksum_of(files)))
        for kept in readers.finish():
            check_state("a REST reader", kept.values(), files, verdict)
        cursors = random.Random(arguments.seed).sample(sorted(readers.cursors), min(20, len(readers.cursors)))
        check_alike([node.api.rest for node in cluster.nodes], key, cursors, verdict)
        figures |= {"seconds_to_catch_up": round(time.monotonic() - ended, 1)}
        _check_copies(cluster, verdict)
    for machine in cluster.intakes + cluster.nodes:
        for line in exceptions(machine.log):
            verdict.add("server_errors", f"{machine.name}: {line}")
    with contextlib.closing(open_reader(cluster.nodes[0].data_dir)) as log:
        # While nobody takes over, orders may be placed and removed again.
        placed = orders_placed(
            directory / "journal.ndjson", since_ns, created_ms=log.created_ms, grace_ns=60 * 10**9
        )
    deliveries = Deliveries(placed, verdict, stale_ms=60_000, spread_ms=SPREAD_MS)
    deliveries.check(reports, head, doubled=0)
    check_mirrors(reports, files, verdict)
    figures |= deliveries.figures() | _bots(reports)
    figures |= {"REST readers' answers": readers.counts, "pauses_ms": deliveries.pauses_ms(trouble.times)}
    return verdict, figures | {"trouble": trouble.counts}


def _check_copies(cluster: Cluster, verdict: Verdict) -> None:
    """Without intake, all copies have the same content in all tables that machines share."""
    for machine in cluster.intakes:
        machine.stop()
    for machine in cluster.intakes:  # the first one has stopped before the last commits
        with contextlib.closing(open_copy(machine.data_dir, cluster.broker, Copy)) as copy:
            verdict.expect("state_differences", f"the copy of {machine.name}", copy.confirm)

    def digest(machine: Machine) -> bytes:
        return hashlib.sha256(repr(sorted(content(machine.data_dir).items())).encode()).digest()

    def are_equal() -> bool:
        return len({digest(machine) for machine in cluster.intakes + cluster.nodes}) == 1

    verdict.expect("state_differences", "copies", are_equal)


def _bots(reports: list[BotReport]) -> dict[str, object]:
    connections = sum(bot.connections for bot in reports)
    return {"bots": Counter(bot.kind for bot in reports), "connections": connections}


def _pids(
    simulator: subprocess.Popen[bytes], server: Api, fleet: Fleet, traders: Traders
) -> dict[str, list[int]]:
    """The processes of each role."""
    processes = {name: [process.pid] for name, process in server.children().items()}
    bots = [process.pid for process in fleet.processes]
    return processes | {"validator": [simulator.pid], "bots": bots, "traders": traders.pids}


def _go_wrong(trouble: Injector, sampled: list[Load | Occupied], arguments: argparse.Namespace) -> None:
    deadline = time.monotonic() + arguments.minutes * 60
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, trouble.pause_s(arguments.trouble_every)))
        trouble.once()
        for each in sampled:
            each.sample()


if __name__ == "__main__":
    sys.exit(main())
