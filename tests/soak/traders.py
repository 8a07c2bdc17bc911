"""Traders' programs, which are killed, forked and deprived of their disk, and what they must still receive.

The client library promises that a restarted program continues after the last order that it committed, and
that `on_state` reports trouble. An order that was handled but not committed comes again, marked as a replay.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import psutil
import requests

from ptn_api.access import rotate_key
from ptn_api.clock import wall_ms
from tests.processes import suspended
from tests.soak.checker import Verdict
from tests.soak.report import BotReport, Received, Record, TraderConfig
from tests.system.api import ROOT
from tests.waiting import until

__all__ = ["Trader", "Traders"]

GRACE_MS = 3_600_000
"""How long a rotated key would stay valid if it were not withdrawn."""


class Trader:
    """One program across its restarts. `report` has its orders without the permitted repetitions."""

    def __init__(self, number: int, config: TraderConfig, received: Path, verdict: Verdict) -> None:
        self.report = BotReport(number, "trader", str(received))
        self.config = config
        self.problems: list[str] = []
        self.state = ""
        self.answers = 0
        """How often the program, or its forked child, has reported what it was answered."""
        self.began = 0
        self.unsaved_after: int | None = None
        """The last order before the cursor could no longer be saved; None while it can."""
        self.repeats = 0
        self.process: subprocess.Popen[bytes]
        self._verdict = verdict
        self._record = Record(self.report)
        self._repeatable = 0
        self._previous: int | None = None
        self._reader: threading.Thread

    @property
    def follows(self) -> bool:
        """Whether the program is connected and has caught up, also while the server's source is stale."""
        return self.state in ("live", "stale")

    def start(self) -> None:
        path = Path(self.config.folder).with_suffix(".json")
        path.write_bytes(msgspec.json.encode(self.config))
        with Path(self.config.folder).with_suffix(".log").open("a") as log:
            command = [sys.executable, "-m", "tests.soak.trader", str(path)]
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()

    def send(self, command: str) -> None:
        """Sends a command, which the program carries out after its next order."""
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def end(self, number: int = signal.SIGKILL) -> None:
        """Ends the program and reads the rest of its output."""
        self.process.send_signal(number)
        self.process.wait(60)
        self._reader.join(60)

    def limit_files(self, size: int) -> int:
        """Sets the size to which the program may write files; returns the former one."""
        process = psutil.Process(self.process.pid)
        before, hard = process.rlimit(resource.RLIMIT_FSIZE)
        process.rlimit(resource.RLIMIT_FSIZE, (size, hard))
        return int(before)

    def close(self) -> BotReport:
        self._record.close()
        return self.report

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.take(json.loads(line))

    def take(self, line: list[Any]) -> None:
        """Notes an event that the program reported."""
        match line:
            case ["order", received, sequence, uuid, timestamp, processed_ms, late, replay]:
                order = Record.number_of(uuid)
                self._order(Received(sequence, order, timestamp, received, processed_ms, late, replay))
            case ["began", _]:
                self.began += 1
                self.problems, self.state = [], ""
                unsaved, self.unsaved_after = self.unsaved_after, None
                self._repeatable = self.report.last if unsaved is None else unsaved
                self._previous = None
            case ["state", _, state, problems]:
                self.state, self.problems = state, problems
            case ["gap", _, gap]:
                self.report.gaps.append(gap)
            case ["answers", _, wrong]:
                for answer in wrong:
                    self._add("wrong_answers", answer)
                self.answers += 1

    def _order(self, message: Received) -> None:
        if message.sequence > self.report.last:
            self._previous = message.sequence
            self._record.put(message)
            return
        self.repeats += 1
        if self._previous is not None and message.sequence != self._previous + 1:
            self._add("out_of_order", f"{message.sequence} after {self._previous}")
        elif message.sequence < self._repeatable:
            self._add("repeated", f"{message.sequence}, though {self._repeatable} was saved")
        elif not message.replay:
            self._add("unmarked_stale", f"{message.sequence} came again and is not marked")
        self._previous = message.sequence

    def _add(self, kind: str, problem: str) -> None:
        self._verdict.add(kind, f"trader {self.report.number}: {problem}")


class Traders:
    """Several programs, and the faults that concern them. Each fault is over when its method returns."""

    def __init__(
        self,
        folder: Path,
        *,
        stream_url: str,
        rest_url: str,
        keys: dict[str, str],
        first_number: int,
        key_file: Path,
        verdict: Verdict,
        seed: int,
    ) -> None:
        """`keys` has the key of each user, one for each program, as in `key_file`."""
        self.counts: Counter[str] = Counter()
        self._verdict = verdict
        self._random = random.Random(seed)
        self._key_file = key_file
        self._rest_url = rest_url
        self._all = []
        folder.mkdir()
        for number, (alias, key) in enumerate(keys.items(), first_number):
            key_of = folder / f"{number}.key"
            key_of.write_text(key)
            config = TraderConfig(stream_url, rest_url, alias, str(key_of), str(folder / str(number)))
            self._all.append(Trader(number, config, folder / f"{number}.received", verdict))

    @property
    def pids(self) -> list[int]:
        return [trader.process.pid for trader in self._all]

    def __enter__(self) -> Traders:
        for trader in self._all:
            trader.start()
        until(lambda: all(trader.follows for trader in self._all), seconds=600, what="every trader is live")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for trader in self._all:
            trader.process.kill()
            trader.process.wait()

    def finish(self, head: int, patience: Callable[[object], bool]) -> list[BotReport]:
        """Waits until every program has reached the head, or none makes progress; returns their reports."""
        while (last := [t.report.last for t in self._all]) and min(last) < head and patience(last):
            time.sleep(0.1)
        for trader in self._all:
            if trader.process.poll() is None:
                trader.end(signal.SIGTERM)
            if status := trader.process.returncode:
                self._verdict.add("wrong_answers", f"trader {trader.report.number} ended with {status}")
        self.counts["orders that came again"] = sum(trader.repeats for trader in self._all)
        return [trader.close() for trader in self._all]

    # --- faults -------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """The program is killed and started again."""
        self._restart(self._one())

    def fill_disk(self) -> None:
        """The kernel lets the program write no file for a while, or until it is killed."""
        trader = self._one()
        trader.unsaved_after = trader.report.last  # read before the limit is set
        before = trader.limit_files(0)
        self._shown(trader, "cursor_not_saved")
        time.sleep(self._random.uniform(0.1, 2.0))
        if self._random.random() < 0.5:
            self._restart(trader)
        else:
            trader.limit_files(before)
            self._gone(trader, "cursor_not_saved")
            trader.unsaved_after = None

    def replace_folder(self) -> None:
        """A file takes the place of the folder of the cursor for a while."""
        trader = self._one()
        folder = Path(trader.config.folder)
        with suspended(trader.process.pid):
            away = folder.rename(folder.with_suffix(".away"))
            folder.touch()
        self._shown(trader, "cursor_not_saved")
        time.sleep(self._random.uniform(0.1, 2.0))
        with suspended(trader.process.pid):
            folder.unlink()
            away.rename(folder)
        self._gone(trader, "cursor_not_saved")
        self._restart(trader)

    def delete_folder(self) -> None:
        """The folder of the cursor is deleted; the program makes it again, and is then killed."""
        trader = self._one()
        folder = Path(trader.config.folder)
        with suspended(trader.process.pid):
            shutil.rmtree(folder)
        what = f"the cursor file of trader {trader.report.number} is missing"
        self._verdict.expect("trouble_still_shown", what, lambda: list(folder.glob("cursor-*.json")))
        self._restart(trader)

    def fork(self) -> None:
        """The program forks with everything open; sometimes it is then killed and its child lives on."""
        trader = self._one()
        how, linger = self._random.choice(["fork", "multiprocessing"]), self._random.random() < 0.3
        answers = trader.answers
        trader.send(f"{how} linger" if linger else how)
        what = f"no answers after a fork of trader {trader.report.number}"
        self._verdict.expect("trouble_not_shown", what, lambda: trader.answers >= answers + 2)
        if linger:
            self._restart(trader)

    def rotate_key(self) -> None:
        """A user gets another key, and the former one ends; its program is told, or notices."""
        trader = self._one()
        config, began = trader.config, trader.began
        old = Path(config.key).read_text()
        by_expiry, told = self._random.random() < 0.5, self._random.random() < 0.5
        grace_s = self._random.uniform(0.5, 3.0)
        new = rotate_key(
            self._key_file,
            config.alias,
            grace_ms=int(grace_s * 1_000) if by_expiry else GRACE_MS,
            now_ms=wall_ms(),
        )
        Path(config.key).write_text(new)
        if told:
            trader.send("switch")
        time.sleep(grace_s)
        if not by_expiry:
            entries = json.loads(self._key_file.read_bytes())
            del entries[config.alias]["previous"]
            self._key_file.write_text(json.dumps(entries))
        for key, status, kind in ((new, 200, "trouble_still_shown"), (old, 401, "trouble_not_shown")):
            what = f"not {status} with a rotated key of trader {trader.report.number}"
            self._verdict.expect(kind, what, lambda: self._status(key) == status)  # noqa: B023
        what = f"trader {trader.report.number} does not use its new key"
        self._verdict.expect("trouble_still_shown", what, lambda: trader.began > began and trader.follows)

    def second(self) -> None:
        """A second process uses the same cursor, which it is refused; the first one goes on."""
        first = self._one()
        number = first.report.number
        received = Path(first.report.file).with_suffix(".second")
        second = Trader(number, first.config, received, self._verdict)
        second.start()
        self._shown(second, "cursor_not_saved")
        time.sleep(self._random.uniform(0.1, 2.0))
        if "cursor_not_saved" in first.problems:
            self._verdict.add("wrong_answers", f"trader {number} lost its cursor to a second process")
        second.end(self._random.choice([signal.SIGTERM, signal.SIGKILL]))
        for gap in second.close().gaps:
            if not gap.startswith("cursor "):
                self._verdict.add("wrong_answers", f"gap of a second process of trader {number}: {gap}")
        if self._random.random() < 0.5:
            self._restart(first)

    def again(self) -> None:
        """The program makes another follower with the same cursor, which ends the former one."""
        trader = self._one()
        answers = trader.answers
        trader.send("again")
        what = f"no error in the older follower of trader {trader.report.number}"
        self._verdict.expect("trouble_not_shown", what, lambda: trader.answers > answers)

    def _one(self) -> Trader:
        return self._random.choice(self._all)

    def _restart(self, trader: Trader) -> None:
        began, former = trader.began, trader.process
        trader.end()
        trader.start()
        what = f"trader {trader.report.number} is not live after its restart"
        self._verdict.expect("trouble_still_shown", what, lambda: trader.began > began and trader.follows)
        assert former.stdin is not None
        former.stdin.close()  # a child that outlived the program waits for it

    def _shown(self, trader: Trader, code: str) -> None:
        what = f"{code} of trader {trader.report.number}"
        self._verdict.expect("trouble_not_shown", what, lambda: code in trader.problems)

    def _gone(self, trader: Trader, code: str) -> None:
        what = f"{code} of trader {trader.report.number}"
        self._verdict.expect("trouble_still_shown", what, lambda: code not in trader.problems)

    def _status(self, key: str) -> int:
        """The status with which REST answers a request with this key; 0 without an answer."""
        headers = {"Authorization": f"Bearer {key}"}
        time.sleep(0.2)  # too many refused requests would block the address
        try:
            return requests.get(f"{self._rest_url}/me", headers=headers, timeout=30).status_code
        except requests.RequestException:
            return 0
