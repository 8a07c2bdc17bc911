"""The faults of a soak and their times, drawn at random from a seed.

A fault of the server's surroundings lasts until `/health` shows its problem, and is over when that is gone.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import requests

from ptn_api.problems import Code
from tests.chaos import ChaosProxy
from tests.processes import suspend
from tests.soak.checker import Verdict
from tests.soak.traders import Traders
from tests.system.api import PROCESSES, Api, unreadable_log

__all__ = ["Injector", "Trouble"]

KILLED_MEANWHILE = 0.25
"""The share of lasting faults during which a process is killed."""


class Injector:
    """Injects one fault at a time; `counts` has how often each was injected."""

    def __init__(self, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.kinds: dict[str, tuple[int, Callable[[], None]]] = {}
        """How often each kind comes, and what injects it."""
        self.random = random.Random(seed)
        self._left: list[str] = []

    def once(self) -> None:
        """Injects one fault, which is over when this returns, apart from its consequences.

        Each kind comes once before any comes twice; later on the frequent ones come more often.
        """
        if not self._left:
            often = sum(self.counts.values()) > 0
            self._left = [name for name, (n, _) in self.kinds.items() for _ in range(n if often else 1)]
            self.random.shuffle(self._left)
        name = self._left.pop()
        self.counts[name] += 1
        self.kinds[name][1]()

    def pause_s(self, mean: float) -> float:
        return min(self.random.expovariate(1 / mean), 5 * mean)


class Trouble(Injector):
    """The faults of a single machine."""

    def __init__(
        self,
        seed: int,
        *,
        server: Api,
        proxy: ChaosProxy,
        traders: Traders,
        keys: Path,
        data_dir: Path,
        directory: Path,
        validator: subprocess.Popen[bytes],
        verdict: Verdict,
    ) -> None:
        """`keys` is the key file, `directory` the validator's."""
        super().__init__(seed)
        self._server = server
        self._proxy = proxy
        self._keys = keys
        self._data_dir = data_dir
        self._directory = directory
        self._validator = validator
        self._verdict = verdict
        self.kinds = {
            "cuts": (6, lambda: self._cut(self.random.uniform(0.1, 0.9))),
            "cuts of all": (2, lambda: self._cut(1.0)),
            "stalls": (2, self._stall),
            "truncations": (2, self._proxy.truncate),
            "duplications": (2, self._duplicate),
            "delays": (2, self._delay),
            "kills": (6, lambda: self._kill(self.random.choice(PROCESSES))),
            "freezes": (1, self._freeze),
            "full disks": (1, self._fill_disk),
            "broken key files": (1, self._break_keys),
            "vanished directories": (1, self._vanish),
            "unreadable files": (2, self._break_files),
            "unreadable documents": (1, self._break_document),
            "unreadable logs": (1, self._break_log),
            "rotated keys": (1, traders.rotate_key),
            "killed traders": (1, traders.kill),
            "full disks of traders": (2, traders.fill_disk),
            "replaced folders of traders": (1, traders.replace_folder),
            "deleted cursors": (1, traders.delete_folder),
            "forks": (2, traders.fork),
            "second followers": (1, traders.second),
            "followers made again": (1, traders.again),
        }

    def _cut(self, share: float) -> None:
        self.counts["connections cut"] += self._proxy.cut(share)

    def _stall(self) -> None:
        self._proxy.stall()
        time.sleep(self.random.uniform(0.2, 4.0))  # up to several heartbeats
        self._proxy.flow()

    def _duplicate(self) -> None:
        self._proxy.duplicate_next = True

    def _delay(self) -> None:
        self._proxy.delay_s = self.random.uniform(0.001, 0.05)
        time.sleep(self.random.uniform(0.2, 1.0))
        self._proxy.delay_s = 0.0

    def _kill(self, name: str) -> None:
        self.counts[f"kills of {name}"] += 1
        self._server.wait_restarted(name, self._server.kill(name))

    def _freeze(self) -> None:
        """Suspends a process for a while, as on a machine that swaps."""
        process = self._server.children().get(self.random.choice(PROCESSES))
        if process is None:
            return
        try:
            process.send_signal(signal.SIGSTOP)
            time.sleep(self.random.uniform(0.1, 1.0))
            process.send_signal(signal.SIGCONT)
        except psutil.NoSuchProcess:
            return

    # --- faults with a problem in /health -------------------------------------------------------------------

    @contextmanager
    def _problem(
        self, code: Code, longest_s: float, *, killable: Collection[str] = PROCESSES
    ) -> Iterator[None]:
        """Until /health shows the problem and a while longer; its cause is ended by the block.

        Sometimes a process is killed meanwhile.
        """
        self._verdict.expect("trouble_not_shown", code, lambda: self._shows(code))
        if killable and self.random.random() < KILLED_MEANWHILE:
            self._kill(self.random.choice(sorted(killable)))
            what = f"{code} after a restart"
            self._verdict.expect("trouble_not_shown", what, lambda: self._shows(code))
        time.sleep(self.random.uniform(0.1, longest_s))
        yield
        self._verdict.expect("trouble_still_shown", code, lambda: self._shows(code) is False)

    def _shows(self, code: Code) -> bool | None:
        """Whether /health has the problem; None without an answer."""
        try:
            return code in requests.get(f"{self._server.rest}/health", timeout=30).json()["problems"]
        except (requests.RequestException, ValueError):
            return None

    def _fill_disk(self) -> None:
        """The kernel lets intake write nothing for a while."""
        process = self._server.children().get("intake")
        if process is None:
            return
        try:
            soft, hard = process.rlimit(psutil.RLIMIT_FSIZE)
            process.rlimit(psutil.RLIMIT_FSIZE, (4096, hard))
            with self._problem("log_unwritable", 2.0, killable=["rest", "stream"]):
                process.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))
        except psutil.NoSuchProcess:
            return

    def _break_keys(self) -> None:
        put_right = self._spoil(self._keys, ["halves", "locked"])
        with self._problem("key_file_unreadable", 1.5):
            put_right()

    def _vanish(self) -> None:
        """The validator's positions are unmounted for a moment; the validator itself is stuck meanwhile."""
        miners = self._directory / "validation" / "miners"
        away = miners.with_name("miners-away")
        suspend(self._validator.pid)
        os.rename(miners, away)
        with self._problem("root_missing", 2.5):
            os.rename(away, miners)
            self._validator.send_signal(signal.SIGCONT)

    def _break_files(self) -> None:
        """Files of positions cannot be read; the validator itself is stuck meanwhile."""
        suspend(self._validator.pid)
        files = sorted((self._directory / "validation" / "miners").glob("*/positions/*/*/*"))
        chosen = self.random.sample(files, min(len(files), self.random.randint(1, 3)))
        put_right = [self._spoil(path, ["halves", "locked", "folders"]) for path in chosen]
        with self._problem("files_refused", 3.0):
            for put_one_right in put_right:
                put_one_right()
            self._validator.send_signal(signal.SIGCONT)

    def _break_document(self) -> None:
        """The list of eliminated miners cannot be read; the validator itself is stuck meanwhile."""
        suspend(self._validator.pid)
        put_right = self._spoil(
            self._directory / "validation" / "eliminations.json", ["halves", "locked", "folders"]
        )
        with self._problem("documents_refused", 3.0):
            put_right()
            self._validator.send_signal(signal.SIGCONT)

    def _spoil(self, path: Path, ways: list[str]) -> Callable[[], None]:
        """Puts something unreadable in the file's place; returns a function that puts the file back."""
        beside = self._data_dir.with_name(f"{path.parent.name}-{path.name}")
        aside, new = beside.with_suffix(".aside"), beside.with_suffix(".new")
        os.link(path, aside)
        way = self.random.choice(ways)
        self.counts[f"files replaced: {way}"] += 1
        if way == "halves":
            new.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif way == "folders":
            new.mkdir()
            path.unlink()
        elif os.geteuid():
            new.touch(mode=0o000)
        else:  # a mode does not stop root
            new.symlink_to(path.name)
        new.rename(path)

        def put_back() -> None:
            if path.is_dir():
                path.rmdir()
            aside.replace(path)

        return put_back

    def _break_log(self) -> None:
        """REST is not killed meanwhile: without a log it could not serve /health."""
        with ExitStack() as cause:
            cause.enter_context(unreadable_log(self._data_dir))
            with self._problem("log_unreadable", 2.0, killable=["intake", "stream"]):
                cause.close()
