"""The hostile tests again and again, each round with another seed and more tries: `make fuzz`.

A round is repeated with the seed that it prints; it ends with status 0 only if every round held.
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
        print(f"seed {seed} (again: python -m tests.hostile --seed {seed} --minutes 0)", flush=True)
        if status := _round(seed, arguments.effort):
            return status
        seed += 1
        if time.monotonic() > end:
            print(f"{seed - first} rounds held", flush=True)
            return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=10, help="no round is begun after this (default: 10)"
    )
    parser.add_argument("--seed", type=int, help="of the first round (default: any)")
    parser.add_argument(
        "--effort", type=int, default=20, help="tries, as a multiple of `make test` (default: 20)"
    )
    return parser


def _round(seed: int, effort: int) -> int:
    command = [
        *(sys.executable, "-m", "pytest", "tests/hostile", "-q", "-p", "no:cacheprovider", "--timeout=3600")
    ]
    environment = os.environ | {"PTN_FUZZ_EFFORT": str(effort), "PYTHONHASHSEED": str(seed % 2**32)}
    return subprocess.run([*command, f"--hypothesis-seed={seed}"], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
