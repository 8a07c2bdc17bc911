"""What signals do to a server: it is told to stop, and stops in order; or it has nothing to do."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import psutil
import pytest

from tests.processes import lives
from tests.system.api import READY, ROOT
from tests.system.validator import Validator
from tests.waiting import until


def start(
    validator: Validator, data_dir: Path, terminal: int | None, hangup: signal.Handlers = signal.SIG_DFL
) -> subprocess.Popen[str]:
    """A server in a session of its own, ready; `terminal` is the one that controls the session.

    `hangup` is what it finds SIGHUP set to, however these tests were started themselves.
    """
    command = [sys.executable, str(ROOT / "api_manager.py"), "--serve", f"--validator-dir={validator.root}"]
    command += [f"--data-dir={data_dir}", "--api-rest-port=0", "--api-ws-port=0"]

    def begin_session() -> None:
        os.setsid()
        signal.signal(signal.SIGHUP, hangup)
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    with (data_dir.parent / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=begin_session
        )
    assert process.stdout is not None
    assert READY.fullmatch(process.stdout.readline().strip()), (data_dir.parent / "server.log").read_text()
    return process


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    family = psutil.Process(process.pid).children()
    assert len(family) == 3
    return family


def ended(process: subprocess.Popen[str], family: list[psutil.Process]) -> int:
    """The exit status; all of its processes must have ended by then."""
    status = process.wait(30)
    assert process.stdout is not None
    process.stdout.close()
    assert not any(lives(child) for child in family)
    return status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order(number: signal.Signals, validator: Validator, data_dir: Path) -> None:
    """By its supervisor, which says so; SIGHUP means nothing to a service, which has no terminal."""
    validator.place()
    process = start(validator, data_dir, None)
    family = family_of(process)
    log = data_dir.parent / "server.log"
    process.send_signal(signal.SIGHUP)
    until(lambda: "nothing_to_reload" in log.read_text())
    process.send_signal(number)
    assert ended(process, family) == 0
    assert f'"signal": "{number.name}"' in log.read_text()


def test_it_stops_when_its_terminal_is_closed(validator: Validator, data_dir: Path) -> None:
    """As a program that somebody runs by hand; not by the kernel, and not its processes before it."""
    validator.place()
    master, terminal = os.openpty()
    process = start(validator, data_dir, terminal)
    family = family_of(process)
    os.close(terminal)
    os.close(master)
    assert ended(process, family) == 0
    assert '"signal": "SIGHUP"' in (data_dir.parent / "server.log").read_text()


def test_nohup_is_respected(validator: Validator, data_dir: Path) -> None:
    """Who started it so wants it to outlive the terminal."""
    validator.place()
    master, terminal = os.openpty()
    process = start(validator, data_dir, terminal, signal.SIG_IGN)
    family = family_of(process)
    os.close(terminal)
    os.close(master)
    process.send_signal(signal.SIGTERM)
    assert ended(process, family) == 0
    assert '"signal": "SIGHUP"' not in (data_dir.parent / "server.log").read_text()
