"""Repeats the property tests and the attacks with a new seed and more examples each round: `make fuzz`.

Exits with status 0 if every round passed; a failed round can be repeated with the seed it printed.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time


def main() -> int:
    arguments = _parser().parse_args()
    first = arguments.seed if arguments.seed is not None else random.randrange(2**32)
    end = time.monotonic() + arguments.minutes * 60
    seed = first
    while True:
        print(f"seed {seed} (to repeat: python -m tests.fuzz --seed {seed} --minutes 0)", flush=True)
        for tests in (["tests/hostile"], ["tests", "--ignore=tests/hostile", "-m", "hypothesis"]):
            if status := _run(tests, seed, arguments.effort):
                return status
        seed += 1
        if time.monotonic() > end:
            print(f"{seed - first} rounds passed", flush=True)
            return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="start no round after this (default: 10)")
    parser.add_argument("--seed", type=int, help="seed of the first round (default: random)")
    parser.add_argument(
        "--effort", type=int, default=20, help="examples, as a multiple of `make test` (default: 20)"
    )
    return parser


def _run(tests: list[str], seed: int, effort: int) -> int:
    options = ["-q", "-p", "no:cacheprovider", "--timeout=3600"]
    profile = ["--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}"]
    environment = os.environ | {"PTN_FUZZ_EFFORT": str(effort), "PYTHONHASHSEED": str(seed % 2**32)}
    command = [sys.executable, "-m", "pytest", *tests, *options, *profile]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
