"""`make bench`: what the service costs and how fast it is, beside what else could do it, in one run.

    make bench                                          # everything, at the size of mainnet: some 15 minutes
    make bench ARGS="fanout replay decode"              # some of it
    make bench ARGS="--miners 25 --positions 20 --json figures.json"

Servers run on one core and whatever makes the load on the other. Peers (nginx, nchan, wrk) are measured
where they are installed: apt-get install nginx libnginx-mod-nchan wrk. Absolute figures depend on the
machine; compare ratios of one run.
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

from benchmarks import client, cold, cost, decode, delivery, fanout, kill, latency, queue, rest
from benchmarks.figures import Figures
from benchmarks.machine import many_files

BENCHMARKS = {
    "fanout": fanout.run,
    "delivery": delivery.latency,
    "replay": delivery.replay,
    "wire": delivery.wire,
    "decode": decode.run,
    "client": client.run,
    "rest": rest.run,
    "cold": cold.run,
    "cost": cost.run,
    "idle": delivery.idle,
    "latency": latency.run,
    "queue": queue.run,
    "kill": kill.run,
}


def main() -> None:
    arguments = _parser().parse_args()
    many_files()
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which; all if not given")
    add = parser.add_argument
    add("--miners", type=int, default=250)
    add("--positions", type=int, default=200, help="positions per miner, of some 6 orders")
    add("--seed", type=int, default=1)
    add("--orders", type=int, default=200, help="orders that are timed one by one")
    add("--clients", type=int, default=500, help="clients of the fan-out")
    add("--messages", type=int, default=600, help="messages of the fan-out, per round")
    add("--burst", type=int, default=5_000, help="orders of a burst")
    add("--replayed", type=int, default=50_000, help="orders that are replayed")
    add("--cost-miners", type=int, nargs="*", default=[25, 250, 1_000], help="where an order's cost is shown")
    add("--cost-positions", type=int, default=50, help="positions per miner there")
    add("--idle-clients", type=int, default=1_000)
    add("--idle-seconds", type=float, default=20)
    add("--keep", default="", help="simulated directories and logs are kept here, for further runs")
    add("--json", type=Path, help="also write the figures here")
    return parser


def _machine() -> str:
    with open("/proc/cpuinfo") as file:
        model = next((line.partition(":")[2].strip() for line in file if "model name" in line), "")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {model}, Linux {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
