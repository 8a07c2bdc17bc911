"""Signals to a server: it stops in order, or ignores them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import psutil
import pytest

from tests.processes import lives
from tests.system.api import READY, ROOT
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until


class Server:
    """A ready server in a separate session, with its log and its processes."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log
        assert process.stdout is not None
        assert READY.fullmatch(process.stdout.readline().strip()), self.log
        self.family = psutil.Process(process.pid).children()
        assert len(self.family) == 3

    @property
    def log(self) -> str:
        return self._log.read_text()

    def ended(self) -> int:
        """Waits for the exit status; all its processes must have ended by then."""
        status = self.process.wait(PATIENCE_S)
        assert not any(lives(child) for child in self.family)
        return status


@contextlib.contextmanager
def serving(
    validator: Validator,
    data_dir: Path,
    terminal: int | None = None,
    hangup: signal.Handlers = signal.SIG_DFL,
) -> Iterator[Server]:
    """A server whose session is controlled by `terminal`, and which inherits `hangup` as SIGHUP's handler."""
    validator.place()
    command = [sys.executable, str(ROOT / "api_manager.py"), "--serve", f"--validator-dir={validator.root}"]
    command += [f"--data-dir={data_dir}", "--api-rest-port=0", "--api-ws-port=0"]

    def begin_session() -> None:
        os.setsid()
        signal.signal(signal.SIGHUP, hangup)
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    path = data_dir.parent / "server.log"
    with path.open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=begin_session
        )
    try:
        yield Server(process, path)
    finally:
        process.kill()  # its children then end by themselves
        process.communicate()


@pytest.fixture
def terminal() -> Iterator[tuple[FileIO, FileIO]]:
    """The two ends of a terminal."""
    master, slave = os.openpty()
    with FileIO(master) as screen, FileIO(slave) as line:
        yield screen, line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order(number: signal.Signals, validator: Validator, data_dir: Path) -> None:
    """The supervisor logs the signal; SIGHUP is ignored by a service, which has no terminal."""
    with serving(validator, data_dir) as server:
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "nothing_to_reload" in server.log)
        server.process.send_signal(number)
        assert server.ended() == 0
        assert f'"signal": "{number.name}"' in server.log


def test_it_stops_when_its_terminal_is_closed(
    validator: Validator, data_dir: Path, terminal: tuple[FileIO, FileIO]
) -> None:
    """In order, like a program started by hand: its children are not hit by the kernel's SIGHUP."""
    screen, line = terminal
    with serving(validator, data_dir, line.fileno()) as server:
        line.close()
        screen.close()
        assert server.ended() == 0
        assert '"signal": "SIGHUP"' in server.log


def test_nohup_is_respected(validator: Validator, data_dir: Path, terminal: tuple[FileIO, FileIO]) -> None:
    """A server started with nohup outlives its terminal."""
    screen, line = terminal
    with serving(validator, data_dir, line.fileno(), signal.SIG_IGN) as server:
        line.close()
        screen.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.ended() == 0
        assert '"signal": "SIGHUP"' not in server.log
