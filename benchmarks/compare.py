"""Two commits side by side: the benchmarks of each run in turn, and medians are compared.

Each commit runs the benchmarks that it contains; figures that only one of them has are not compared.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["compare"]

_HERE = Path(__file__).parents[1]

Figure = tuple[str, str]
"""The label of a row, and the name of a figure in it."""


def compare(commit: str, arguments: Sequence[str], rounds: int) -> None:
    """Prints the ratio of every figure of this checkout to the same figure of the commit."""
    with tempfile.TemporaryDirectory(prefix="ptn-bench-compare-") as folder, _checkout(commit) as other:
        trees = {"here": _HERE, commit: other}
        measured: dict[str, list[dict[Figure, float]]] = {name: [] for name in trees}
        for number in range(rounds):
            for name, tree in trees.items():
                print(f"--- round {number + 1} of {rounds}: {name}", flush=True)
                measured[name].append(_run(tree, arguments, Path(folder) / "figures.json"))
    print(f"\n{'here / ' + commit:<66} ratio")
    for figure in measured["here"][0]:
        sides = [[one[figure] for one in measured[name] if figure in one] for name in trees]
        if all(sides) and statistics.median(sides[1]):
            ratio = statistics.median(sides[0]) / statistics.median(sides[1])
            print(f"{' '.join(figure):<66} {ratio:.3g}   ({_spread(sides[0])} / {_spread(sides[1])})")


@contextmanager
def _checkout(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ptn-bench-commit-") as folder:
        git = ["git", "-C", str(_HERE), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", folder, commit], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)


def _run(tree: Path, arguments: Sequence[str], report: Path) -> dict[Figure, float]:
    command = [sys.executable, "-m", "benchmarks", *arguments, "--json", str(report)]
    subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, check=True)
    return {
        (row["what"], name): value
        for row in json.loads(report.read_text())["rows"]
        for name, value in row.items()
        if isinstance(value, int | float)
    }


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):g} to {max(values):g}"
