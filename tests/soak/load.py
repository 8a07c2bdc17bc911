"""The load of the machine, so that a soak on a slow one does not blame the API, and what the API occupies."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import psutil

__all__ = ["Load", "Occupied"]

OVERLOADED = 0.95


class Load:
    """Adds up processor time by role. Sample it often: the time of a killed process is lost.

    `proxy_cpu_s` returns the proxy's processor time. `processes`: role -> the pids that play it now.
    """

    def __init__(
        self, proxy_cpu_s: Callable[[], float], processes: Callable[[], dict[str, list[int]]]
    ) -> None:
        self._proxy_cpu_s = proxy_cpu_s
        self._processes = processes
        self._seen: dict[int, float] = {}
        self._spent: defaultdict[str, float] = defaultdict(float)
        self.sample()
        self._spent.clear()
        self._since = time.monotonic()
        self._proxy_before = proxy_cpu_s()
        self._machine_before = psutil.cpu_times()

    def sample(self) -> None:
        for role, pids in self._processes().items():
            for pid in pids:
                spent = _cpu_s(pid, self._seen.get(pid, 0.0))
                self._spent[role] += spent - self._seen.get(pid, 0.0)
                self._seen[pid] = spent

    def figures(self) -> dict[str, object]:
        """In processors: 1.0 is one of them in constant use."""
        self.sample()
        elapsed = time.monotonic() - self._since
        busy = self._busy()
        cores = {role: round(spent / elapsed, 2) for role, spent in sorted(self._spent.items())}
        cores["proxy"] = round((self._proxy_cpu_s() - self._proxy_before) / elapsed, 2)
        return {
            "processors": {
                "ours": cores,
                "busy": round(busy * (os.cpu_count() or 1), 2),
                "of": os.cpu_count(),
            },
            "overloaded": busy > OVERLOADED,
        }

    def _busy(self) -> float:
        """The share of the machine in use, by any process."""
        before, now = self._machine_before, psutil.cpu_times()
        idle = now.idle - before.idle + getattr(now, "iowait", 0.0) - getattr(before, "iowait", 0.0)
        total = sum(now) - sum(before)
        return 1.0 - idle / total if total else 0.0


class Occupied:
    """Memory, descriptors and disk over the time of a soak.

    `processes`: role -> its process. The state of the simulated validator grows with every order, so
    memory and disk are shown beside the number of bytes of its files.
    """

    PARTS = 6

    def __init__(
        self, processes: Callable[[], dict[str, psutil.Process]], *, data_dir: Path, validator: Path
    ) -> None:
        self._processes = processes
        self._folders = {"data_dir": data_dir, "validator": validator}
        self._samples: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._since = time.monotonic()

    def sample(self) -> None:
        now = time.monotonic()
        for role, process in self._processes().items():
            try:
                memory, descriptors = process.memory_info().rss, process.num_fds()
            except psutil.Error:
                continue
            self._samples[f"{role} MB"].append((now, memory / 1e6))
            self._samples[f"{role} descriptors"].append((now, descriptors))
        for name, folder in self._folders.items():
            sizes = _sizes(folder)
            self._samples[f"{name} files"].append((now, len(sizes)))
            self._samples[f"{name} MB"].append((now, sum(sizes) / 1e6))

    def figures(self) -> dict[str, object]:
        """The median of each of six equal parts of the time."""
        self.sample()
        part_s = (time.monotonic() - self._since) / self.PARTS
        return {
            "occupied": {
                name: [
                    round(statistics.median(values), 1)
                    for part in range(self.PARTS)
                    if (values := [v for at, v in samples if (at - self._since) // part_s == part])
                ]
                for name, samples in sorted(self._samples.items())
            }
        }


def _sizes(folder: Path) -> list[int]:
    """The sizes of the files in a folder that changes meanwhile."""
    sizes = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.stat(os.path.join(parent, name)).st_size)
    return sizes


def _cpu_s(pid: int, before: float) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return before
    return times.user + times.system
