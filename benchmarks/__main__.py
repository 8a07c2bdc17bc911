"""Benchmarks of the service and of its alternatives, compared within one run: `make bench`.

    make bench                                          # all, at the size of mainnet: about 20 minutes
    make bench ARGS="fanout replay decode"              # a selection
    make bench ARGS="--miners 25 --positions 20 --json figures.json"
    make bench ARGS="fanout --compare HEAD~1"           # the same of another commit, in turn

Servers run on one core, load generators on the other. Peers (nginx, nchan, wrk) are measured if installed:
apt-get install nginx libnginx-mod-nchan wrk. Absolute figures depend on the machine; compare the ratios of
one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog

from benchmarks import (
    attacks,
    client,
    cluster,
    cold,
    cost,
    decode,
    delivery,
    fanout,
    imports,
    kill,
    latency,
    memory,
    mirror,
    past,
    pollers,
    queue,
    replay,
    rest,
    timing,
)
from benchmarks.compare import compare
from benchmarks.figures import Figures
from benchmarks.machine import many_files

BENCHMARKS = {
    "fanout": fanout.run,
    "published": fanout.run_published,
    "processes": fanout.run_processes,
    "delivery": delivery.latency,
    "replay": replay.replay,
    "reconnect": replay.reconnect,
    "wire": delivery.wire,
    "decode": decode.run,
    "client": client.run,
    "mirror": mirror.run,
    "imports": imports.run,
    "rest": rest.run,
    "requests": rest.run_requests,
    "pollers": pollers.run,
    "pollers-changing": pollers.run_changing,
    "memory": memory.run,
    "past": past.run,
    "start-first": cold.run_first,
    "start-filled": cold.run_filled,
    "documents": cold.run_documents,
    "cost": cost.run,
    "idle": delivery.idle,
    "latency": latency.run,
    "queue": queue.run,
    "kill": kill.run,
    "attacks": attacks.run,
    "timing": timing.run,
    "cluster": cluster.run,
    "cluster-failures": cluster.run_failures,
}


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.compare:
        _, others = _comparison(add_help=False).parse_known_args()
        compare(arguments.compare, others, arguments.compare_rounds)
        return
    many_files()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    figures, began = Figures(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ptn-bench-kept-") as kept:
        arguments.keep = arguments.keep or kept
        for name in arguments.names or BENCHMARKS:
            with tempfile.TemporaryDirectory(prefix="ptn-bench-") as folder:
                BENCHMARKS[name](Path(folder), arguments, figures)
    figures.print()
    print(f"\n{_machine()}; {time.monotonic() - began:.0f} s; load average {os.getloadavg()[0]:.1f}")
    if arguments.json:
        report = {"machine": _machine(), "rows": figures.rows, "targets": figures.targets}
        arguments.json.write_text(json.dumps(report, indent=1))


def _comparison(**options: Any) -> argparse.ArgumentParser:
    """The options that a compared commit does not get."""
    parser = argparse.ArgumentParser(**options)
    parser.add_argument(
        "--compare", metavar="COMMIT", help="run the benchmarks of this commit as well, in turn"
    )
    parser.add_argument("--compare-rounds", type=int, default=5, help="runs of each commit")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_comparison(add_help=False)],
    )
    parser.add_argument(
        "names", nargs="*", choices=[*BENCHMARKS, []], help="benchmarks to run (default: all)"
    )
    add = parser.add_argument
    add("--miners", type=int, default=250)
    add("--positions", type=int, default=200, help="positions per miner, about 6 orders each")
    add("--seed", type=int, default=1)
    add("--orders", type=int, default=200, help="orders timed one by one")
    add("--clients", type=int, default=500, help="fan-out clients")
    add("--messages", type=int, default=600, help="fan-out messages per round")
    add("--published", type=int, default=2_000, help="orders published as fast as possible")
    add("--rates", type=int, nargs="*", default=[20, 200, 1_000], help="orders per second, if paced")
    add("--paced-seconds", type=float, default=2, help="how long a round at each of them lasts")
    add("--replayed", type=int, default=50_000, help="orders to replay")
    add("--reconnecting", type=int, default=1_000, help="clients that reconnect at once")
    add("--missed", type=int, default=10_000, help="orders that each of them has missed")
    add(
        "--cost-miners",
        type=int,
        nargs="*",
        default=[25, 1_000],
        help="numbers of miners at which an order's cost is measured",
    )
    add("--cost-positions", type=int, default=50, help="positions per miner for that")
    add("--cost-orders", type=int, default=40, help="orders per round for that")
    add("--start-rounds", type=int, default=5, help="starts of each kind")
    add(
        "--latency-rounds",
        type=int,
        default=5,
        help="rounds of 7 rewrites of 500 positions, 4 orders in each",
    )
    add("--idle-clients", type=int, default=1_000)
    add("--idle-seconds", type=float, default=20)
    add("--minutes", type=float, default=3, help="memory: how long the load lasts; 60 shows slow growth")
    add("--only", choices=[*attacks.ATTACKS], nargs="+", help="of the attacks, run these")
    add("--seconds", type=float, default=10, help="how long each attack lasts")
    add("--windows", type=int, default=3, help="in how many parts, each after a quiet one")
    add("--rounds", type=int, default=1, help="attacks: repeat all against the same server")
    add("--files", type=int, default=0, help="attacks: limit the open files of the server's processes")
    add("--memory-mb", type=int, default=0, help="attacks: limit the address space of the server's processes")
    add("--nginx", action="store_true", help="attacks: behind nginx, as deploy/ configures it")
    add("--attack-mb", type=float, default=200, help="by how much an attack may raise a process's memory")
    add("--keep", default="", help="keep simulated directories and logs here for later runs")
    add("--json", type=Path, help="also write the figures to this file")
    return parser


def _machine() -> str:
    with open("/proc/cpuinfo") as file:
        model = next((line.partition(":")[2].strip() for line in file if "model name" in line), "")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {model}, Linux {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
