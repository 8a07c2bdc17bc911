"""The API as an operator runs it: a real server process, its real children, real clients."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.processes import lives
from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).resolve().parent.parent.parent
READY = re.compile(r"PTN API ready: REST (https?://127\.0\.0\.1:\d+) WebSocket (wss?://127\.0\.0\.1:\d+)")
SHORT_PERIODS = {
    "sweep_ms": 200,
    "full_sweep_ms": 1_000,
    "removal_confirm_ms": 300,
    "queue_hold_ms": 1_000,
    "refresh_coalesce_ms": 50,
    "overload_ms": 500,
    "problem_log_ms": 1,
    "heartbeat_ms": 1_000,  # clients reconnect after two: a busy machine may be silent for a second
    "key_check_ms": 100,
    "parent_check_ms": 100,
    "restart_backoff_ms": 20,
    "stop_timeout_ms": 20_000,
    "usage_flush_ms": 100,
    "requests_per_minute": 0,  # waiting for a condition asks more often than any client should
    "frames_per_minute": 0,
}
PROCESSES = ("intake", "rest", "stream")


class Api:
    """A running `python api_manager.py --serve`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log
        self.stdout: list[str] = []
        self._reader = threading.Thread(target=self._read_stdout, daemon=True)
        self._reader.start()

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        self.stdout.extend(iter(self.process.stdout.readline, ""))

    def close(self) -> None:
        """Call it when every process has ended."""
        self._reader.join(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_ready(self, seconds: float = 2 * PATIENCE_S) -> Api:
        until(lambda: self.stdout or self.process.poll() is not None, seconds=seconds, what="ready")
        assert self.stdout, f"the server ended: {self.log.read_text()}"
        return self

    @property
    def rest(self) -> str:
        return self._address(1)

    @property
    def stream(self) -> str:
        return self._address(2)

    @property
    def ws_port(self) -> int:
        return int(self.stream.rpartition(":")[2])

    def _address(self, group: int) -> str:
        match = READY.fullmatch(self.stdout[0].strip())
        assert match, self.stdout
        return match[group]

    def children(self) -> dict[str, psutil.Process]:
        """The processes by name, which is on their command lines, or is their title."""
        found = {}
        for process in psutil.Process(self.process.pid).children():
            try:
                name = re.search(r"ptn-api[- ](?!supervisor)([\w-]+)", " ".join(process.cmdline()))
            except psutil.NoSuchProcess:
                continue
            if name is not None:  # started for good
                found[name[1]] = process
        return found

    def kill(self, name: str) -> int:
        """kill -9 of one process; returns the pid that is gone."""
        process = until(lambda: self.children().get(name), what=f"a process for {name}")
        process.send_signal(signal.SIGKILL)
        return process.pid

    def wait_restarted(self, name: str, old_pid: int) -> None:
        back = lambda: name in (c := self.children()) and c[name].pid != old_pid  # noqa: E731
        until(back, what=f"{name} is back")

    def stop(self) -> int:
        """Sends SIGTERM; returns the exit status."""
        self.process.terminate()
        return self.process.wait(timeout=PATIENCE_S)


@contextmanager
def api(
    data_dir: Path,
    *,
    validator_dir: Path | None = None,
    keys: Path | None = None,
    wait: bool = True,
    script: str = "api_manager.py",
    prefix: Sequence[str] = (),
    **settings: object,
) -> Iterator[Api]:
    """Starts the API on free ports with short periods, and ends all its processes afterwards.

    `prefix` is a command that starts the command after it, such as `nice`.
    """
    values: dict[str, object] = {"api_rest_port": 0, "api_ws_port": 0, "data_dir": data_dir}
    values |= SHORT_PERIODS | settings
    values |= {"validator_dir": validator_dir} if validator_dir else {}
    values = {"api_keys_file": keys or data_dir.parent / "api_keys.json"} | values
    values = {name: value for name, value in values.items() if value is not None}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not True]
    arguments += [f"--{name.replace('_', '-')}" for name, value in values.items() if value is True]
    log = data_dir.parent / "server.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PTN_")}
    with log.open("a") as stderr:
        process = subprocess.Popen(
            [*prefix, sys.executable, str(ROOT / script), "--serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
            cwd=data_dir.parent,
        )
    running = Api(process, log)
    try:
        yield running.wait_ready() if wait else running
    finally:
        _end(process)
        running.close()


@contextmanager
def unreadable_log(data_dir: Path) -> Iterator[None]:
    """The log's name leads to itself meanwhile; processes that have the file open keep it."""
    log = data_dir / "log.sqlite3"
    aside, loop = log.with_name("aside"), log.with_name("loop")
    os.link(log, aside)
    loop.symlink_to(log.name)
    loop.replace(log)  # in one step: a log that is missing counts as deleted
    yield
    aside.replace(log)


def _end(process: subprocess.Popen[str]) -> None:
    family = [process.pid]
    with suppress(psutil.NoSuchProcess):
        family += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=PATIENCE_S)  # three stops in a row, each with its own timeout
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in family[1:]:
        try:
            until(lambda pid=pid: not lives(pid))  # type: ignore[misc]
        except AssertionError:
            os.kill(pid, signal.SIGKILL)
            raise
