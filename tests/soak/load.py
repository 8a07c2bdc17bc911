"""The load of the machine, so that a soak on a slow one does not blame the API."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable

import psutil

__all__ = ["Load"]

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


def _cpu_s(pid: int, before: float) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return before
    return times.user + times.system
