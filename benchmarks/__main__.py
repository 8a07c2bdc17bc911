"""`make bench`: what an order costs, how soon it is seen, how fast a server is back.

    make bench                                  # all of it, small
    make bench ARGS="--miners 250 --positions 200 cold"
    make bench ARGS="latency --orders 500 --json figures.json"

Absolute times depend on the machine; compare figures of one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import cold, kill, latency, queue
from benchmarks.figures import Figures

BENCHMARKS = {"latency": latency.run, "queue": queue.run, "kill": kill.run, "cold": cold.run}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which; all if not given")
    parser.add_argument("--miners", type=int, default=25)
    parser.add_argument("--positions", type=int, default=200)
    parser.add_argument("--orders", type=int, default=200, help="orders that are timed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    figures = Figures()
    for name in arguments.names or BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="ptn-bench-") as folder:
            BENCHMARKS[name](Path(folder), arguments, figures)
    figures.print()
    if arguments.json:
        arguments.json.write_text(json.dumps(figures.rows, indent=1))


if __name__ == "__main__":
    sys.exit(main())
