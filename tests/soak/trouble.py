"""The faults of a soak and their times, drawn at random from a seed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.chaos import ChaosProxy
from tests.system.api import PROCESSES, Api

__all__ = ["Trouble"]


class Trouble:
    """Injects one fault at a time; `counts` has how often each was injected."""

    def __init__(
        self,
        seed: int,
        server: Api,
        proxy: ChaosProxy,
        keys: Path,
        directory: Path,
        validator: subprocess.Popen[bytes],
    ) -> None:
        """`keys` is the key file, `directory` the validator's."""
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._server = server
        self._proxy = proxy
        self._keys = keys
        self._directory = directory
        self._validator = validator
        self._kinds: dict[str, tuple[int, Callable[[], None]]] = {
            "cuts": (6, lambda: self._cut(self._random.uniform(0.1, 0.9))),
            "cuts of all": (2, lambda: self._cut(1.0)),
            "stalls": (2, self._stall),
            "truncations": (2, self._proxy.truncate),
            "duplications": (2, self._duplicate),
            "delays": (2, self._delay),
            "kills": (6, self._kill),
            "freezes": (1, self._freeze),
            "full disks": (1, self._fill_disk),
            "broken key files": (1, self._break_keys),
            "vanished directories": (1, self._vanish),
        }

    def once(self) -> None:
        """Injects one fault, which is over when this returns, apart from its consequences."""
        names = list(self._kinds)
        weights = [weight for weight, _ in self._kinds.values()]
        name = self._random.choices(names, weights)[0]
        self.counts[name] += 1
        self._kinds[name][1]()

    def pause_s(self, mean: float) -> float:
        return min(self._random.expovariate(1 / mean), 5 * mean)

    def _cut(self, share: float) -> None:
        self.counts["connections cut"] += self._proxy.cut(share)

    def _stall(self) -> None:
        self._proxy.stall()
        time.sleep(self._random.uniform(0.2, 4.0))  # up to several heartbeats
        self._proxy.flow()

    def _duplicate(self) -> None:
        self._proxy.duplicate_next = True

    def _delay(self) -> None:
        self._proxy.delay_s = self._random.uniform(0.001, 0.05)
        time.sleep(self._random.uniform(0.2, 1.0))
        self._proxy.delay_s = 0.0

    def _kill(self) -> None:
        name = self._random.choice(PROCESSES)
        self.counts[f"kills of {name}"] += 1
        self._server.wait_restarted(name, self._server.kill(name))

    def _freeze(self) -> None:
        """Suspends a process for a while, as on a machine that swaps."""
        process = self._server.children().get(self._random.choice(PROCESSES))
        if process is None:
            return
        try:
            process.send_signal(signal.SIGSTOP)
            time.sleep(self._random.uniform(0.1, 1.0))
            process.send_signal(signal.SIGCONT)
        except psutil.NoSuchProcess:
            return

    def _fill_disk(self) -> None:
        """The kernel lets intake write nothing for a while."""
        process = self._server.children().get("intake")
        if process is None:
            return
        try:
            soft, hard = process.rlimit(psutil.RLIMIT_FSIZE)
            process.rlimit(psutil.RLIMIT_FSIZE, (4096, hard))
            time.sleep(self._random.uniform(0.2, 2.0))
            process.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))
        except psutil.NoSuchProcess:
            return

    def _break_keys(self) -> None:
        good = self._keys.read_bytes()
        self._keys.write_bytes(good[: len(good) // 2])
        time.sleep(self._random.uniform(0.2, 1.5))
        self._keys.write_bytes(good)

    def _vanish(self) -> None:
        """The validator's positions are unmounted for a moment; the validator itself is stuck meanwhile."""
        miners = self._directory / "validation" / "miners"
        away = miners.with_name("miners-away")
        self._validator.send_signal(signal.SIGSTOP)
        os.rename(miners, away)
        time.sleep(self._random.uniform(0.1, 2.5))
        os.rename(away, miners)
        self._validator.send_signal(signal.SIGCONT)
