"""Contestants that take turns, and how much of the machine was left for them.

Other programs on the machine slow contestants down at random. Therefore they alternate, medians count, and a
round is preceded by a short spin on every core: the share of the core that the spin got is the share that the
round could have had.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

__all__ = ["MIN_SHARE", "Ratio", "Rounds", "alternate"]

MIN_SHARE = 0.8
"""Of each core, in the median round. With less, ratios are shown but not compared with their targets."""

_SPIN_S = 0.03

Result = TypeVar("Result")


class Ratio(NamedTuple):
    """The ratio of two medians, and the lowest and highest of the rounds' own ratios."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


class Rounds(Generic[Result]):
    """The results of each contestant, in order, and the share of the cores that each round could have."""

    def __init__(self, results: Mapping[str, Sequence[Result]], shares: Sequence[float]) -> None:
        self.results = results
        self.shares = shares

    @property
    def quiet(self) -> bool:
        return statistics.median(self.shares) >= MIN_SHARE

    def values(self, name: str, value: Callable[[Result], float]) -> list[float]:
        return [value(one) for one in self.results[name]]

    def ratio(self, ours: str, beside: str | Sequence[str], value: Callable[[Result], float]) -> Ratio:
        """Compares a contestant with another, or with the sum of several."""
        names = [beside] if isinstance(beside, str) else beside
        mine = self.values(ours, value)
        theirs = [self.values(name, value) for name in names]
        rounds = [one / sum(others) for one, *others in zip(mine, *theirs, strict=True)]
        medians = sum(statistics.median(values) for values in theirs)
        return Ratio(statistics.median(mine) / medians, min(rounds), max(rounds))


def alternate(contestants: Mapping[str, Callable[[], Result]], rounds: int = 5) -> Rounds[Result]:
    """Runs every contestant `rounds` times, in turn."""
    results: dict[str, list[Result]] = {name: [] for name in contestants}
    shares = []
    for _ in range(rounds):
        for name, contestant in contestants.items():
            shares.append(_share_of_cores(os.sched_getaffinity(0)))
            results[name].append(contestant())
    return Rounds(results, shares)


def _share_of_cores(cores: Iterable[int]) -> float:
    """Returns the smallest share of one of the cores that a busy loop gets."""
    before = os.sched_getaffinity(0)
    try:
        return min(_share(core) for core in cores)
    finally:
        os.sched_setaffinity(0, before)


def _share(core: int) -> float:
    os.sched_setaffinity(0, {core})
    began, cpu = time.perf_counter(), time.thread_time()
    while (elapsed := time.perf_counter() - began) < _SPIN_S:
        pass
    return (time.thread_time() - cpu) / elapsed
