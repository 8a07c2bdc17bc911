"""What signals do to a server: it is told to stop, and stops in order; or it has nothing to do."""

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
from tests.waiting import until


class Server:
    """A server in a session of its own, ready, with what it logs and the processes it has."""

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
        """The exit status; all of its processes must have ended by then."""
        status = self.process.wait(30)
        assert not any(lives(child) for child in self.family)
        return status


@contextlib.contextmanager
def serving(
    validator: Validator,
    data_dir: Path,
    terminal: int | None = None,
    hangup: signal.Handlers = signal.SIG_DFL,
) -> Iterator[Server]:
    """`terminal` is the one that controls the session; `hangup` what the server finds SIGHUP set to, however
    these tests were started themselves. Nothing of it is left behind."""
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
        process.kill()  # its own end by themselves then
        process.communicate()


@pytest.fixture
def terminal() -> Iterator[tuple[FileIO, FileIO]]:
    """A terminal's two ends, closed at last."""
    master, slave = os.openpty()
    with FileIO(master) as screen, FileIO(slave) as line:
        yield screen, line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order(number: signal.Signals, validator: Validator, data_dir: Path) -> None:
    """By its supervisor, which says so; SIGHUP means nothing to a service, which has no terminal."""
    with serving(validator, data_dir) as server:
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "nothing_to_reload" in server.log)
        server.process.send_signal(number)
        assert server.ended() == 0
        assert f'"signal": "{number.name}"' in server.log


def test_it_stops_when_its_terminal_is_closed(
    validator: Validator, data_dir: Path, terminal: tuple[FileIO, FileIO]
) -> None:
    """As a program that somebody runs by hand; not by the kernel, and not its processes before it."""
    screen, line = terminal
    with serving(validator, data_dir, line.fileno()) as server:
        line.close()
        screen.close()
        assert server.ended() == 0
        assert '"signal": "SIGHUP"' in server.log


def test_nohup_is_respected(validator: Validator, data_dir: Path, terminal: tuple[FileIO, FileIO]) -> None:
    """Who started it so wants it to outlive the terminal."""
    screen, line = terminal
    with serving(validator, data_dir, line.fileno(), signal.SIG_IGN) as server:
        line.close()
        screen.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.ended() == 0
        assert '"signal": "SIGHUP"' not in server.log
