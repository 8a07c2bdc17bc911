"""What a newcomer sees: progress, commands to try, and one line when the server cannot start."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ptn_api.cli import serve as serve_command
from ptn_api.process.service import port_holder
from ptn_api.simulator.options import SimulatorOptions
from ptn_api.simulator.simulator import Simulator
from tests.live import ROOT, bare_environment
from tests.system.api import api
from tests.waiting import PATIENCE_S, until

PTN = Path(sys.executable).parent / "ptn"
PORTS = ("--api-rest-port=0", "--api-ws-port=0")
PATH = "/usr/bin:/bin"
"""Of a terminal in which no virtual environment is active."""
NOW_MS = 1_790_000_000_000

pytestmark = pytest.mark.skipif(not PTN.exists(), reason="the package is not installed")


class Terminal:
    """A command on a pseudo-terminal, as its user sees it."""

    def __init__(self, command: list[str], home: Path, environment: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._shown = b""
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=home,
            env=bare_environment(home) | {"TERM": "xterm", "COLUMNS": "80"} | environment,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._ours, 65_536)
            except OSError:  # the other end is closed
                return
            self._shown += chunk

    @property
    def shown(self) -> str:
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        self._reader.join(10)
        os.close(self._ours)


@contextmanager
def on_terminal(home: Path, *arguments: object, **environment: str) -> Iterator[Terminal]:
    terminal = Terminal([str(PTN), *map(str, arguments)], home, environment)
    try:
        yield terminal
    finally:
        terminal.close()


def simulate(directory: Path, miners: int, positions: int) -> Path:
    simulator = Simulator(directory, SimulatorOptions(miners=miners, positions=positions))
    simulator.prepare(NOW_MS)
    simulator.close()
    return directory


@pytest.mark.parametrize("is_demo", [True, False])
def test_every_command_to_try_works_as_it_stands(tmp_path: Path, is_demo: bool) -> None:
    """In a new terminal, whose PATH lacks `ptn`; with a demo, and with a real validator without keys."""
    home = tmp_path / "a home"
    home.mkdir()
    if is_demo:
        source = ("--demo", "--demo-miners=3", "--demo-positions=3", "--demo-orders-per-minute=600")
    else:
        source = ("--validator-dir", str(simulate(tmp_path / "validator", 3, 3)))
    with on_terminal(home, "serve", *source, "--data-dir", "data", *PORTS, PATH=PATH) as server:
        until(lambda: "Try" in server.shown and server.shown.endswith("\n\n"), seconds=90, what="commands")
        lines = server.shown.partition("Try in another terminal:\n\n")[2].splitlines()
        commands = [line.strip() for line in lines if line.startswith("  ")]
        assert commands[0] == f"cd '{home}'"
        assert ("api_keys.json  (none yet)" in server.shown) is not is_demo
        assert len(commands) == (4 if is_demo else 5)
        environment = bare_environment(tmp_path) | {"PATH": PATH}
        for command in commands[1:-1]:
            begun = time.monotonic()
            while True:
                done = subprocess.run(
                    ["sh", "-c", f"{commands[0]}; {command}"],
                    cwd="/",
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
                # The server accepts a new key after a moment.
                if "unknown or expired API key" not in done.stderr or time.monotonic() - begun > PATIENCE_S:
                    break
            assert (done.returncode, "Traceback" in done.stderr) == (0, False), (command, done.stderr)
            assert done.stdout or "--key-file" in command
        stream = subprocess.Popen(
            ["sh", "-c", f"{commands[0]}; exec {commands[-1]}"],
            cwd="/",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert stream.stdout is not None
        assert stream.stderr is not None
        said = stream.stdout if is_demo else stream.stderr  # nobody trades at this validator
        assert said.readline().strip()
        assert stream.poll() is None
        stream.terminate()
        assert stream.wait(60) == 0
        stream.stdout.close()
        stream.stderr.close()
    for key in home.glob("data/my.key"):
        assert key.stat().st_mode & 0o777 == 0o600
    assert server.process.returncode == 0


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"INVOCATION_ID": "0" * 32}, False),
        ({"JOURNAL_STREAM": "8:1"}, False),
        ({"INVOCATION_ID": "0" * 32, "SYSTEMD_EXEC_PID": "1"}, True),  # a terminal that systemd has started
    ],
)
def test_a_service_is_not_told_what_to_try(tmp_path: Path, variables: dict[str, str], shown: bool) -> None:
    demo = ("--demo", "--demo-miners=1", "--demo-positions=1")
    with on_terminal(tmp_path, "serve", *demo, *PORTS, **variables) as server:
        until(lambda: "PTN API ready" in server.shown, seconds=90)
    assert ("Try in another terminal" in server.shown) is shown


def test_progress_is_logged_without_a_terminal(tmp_path: Path) -> None:
    """A line in each `process_silent_ms`, with what is being read and how much of it."""
    validator = simulate(tmp_path / "validator", 10, 40)
    with api(tmp_path / "data", validator_dir=validator, process_silent_ms=50) as server:
        events = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    reading = [e for e in events if e["event"] == "starting" and e["doing"] == "reading positions"]
    assert reading
    assert all(0 < event["done"] <= event["total"] == 400 for event in reading)
    assert "Try" not in server.log.read_text()


def test_progress_is_a_bar_on_a_terminal(tmp_path: Path) -> None:
    """It is erased in the end, and a log line takes its place."""
    validator = simulate(tmp_path / "validator", 10, 40)
    source = ("--validator-dir", validator, "--process-silent-ms=50")
    with on_terminal(tmp_path, "serve", *source, *PORTS) as server:
        until(lambda: "PTN API ready" in server.shown, seconds=90)
    assert re.search(r"reading positions .*━.* \d+/400", server.shown)
    assert '"starting"' not in server.shown
    before, _, after = server.shown.partition("PTN API ready")
    assert before.endswith("\x1b[2K")
    assert "reading positions" not in after


def test_simulating_shows_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line after every few seconds, or a bar on a terminal."""
    monkeypatch.setattr(serve_command, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    serve_command.simulate(tmp_path / "a", miners=3, positions=2)
    assert "simulating miners: 2 of 3\n" in capsys.readouterr().err
    with on_terminal(tmp_path, "simulate", "b", "--miners=3", "--positions=2") as terminal:
        assert terminal.process.wait(60) == 0
        until(lambda: "3 miners x 2 positions" in terminal.shown)
    assert re.search(r"simulating miners .* 3/3", terminal.shown)


def test_simulating_again_tells_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An existing directory keeps its size, whatever the options say."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    serve_command.simulate(tmp_path, miners=3, positions=2)
    assert "3 miners x 2 positions" in capsys.readouterr().err
    serve_command.simulate(tmp_path, miners=10)
    shown = capsys.readouterr().err
    assert f"{tmp_path}: exists already, with 3 miners (--miners: ignored" in shown
    assert "10 miners" not in shown


@pytest.mark.parametrize(
    ("variables", "remedy"),
    [
        ({}, "or any free ones: --api-rest-port 0 --api-ws-port 0"),
        ({"MAKELEVEL": "1"}, 'or any free ones: make serve ARGS="--api-rest-port 0 --api-ws-port 0"'),
        (
            {"MAKELEVEL": "1", "VALIDATOR_DIR": "a b"},
            "or any free ones: make serve VALIDATOR_DIR='a b' ARGS=\"--api-rest-port 0 --api-ws-port 0\"",
        ),
    ],
)
def test_a_taken_port_is_one_sentence_on_a_terminal(
    tmp_path: Path, variables: dict[str, str], remedy: str
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        arguments = ("serve", "--demo", f"--api-rest-port={port}")
        with on_terminal(tmp_path, *arguments, **{"MAKELEVEL": ""} | variables) as server:
            assert server.process.wait(60) == 1
            reason = f"cannot listen on 127.0.0.1 port {port}: Address already in use by {port_holder(port)}"
            sentence = f"ptn: {reason}; choose another with --api-rest-port, {remedy}"
            until(lambda: server.shown.endswith("\n"))
    assert server.shown.split() == sentence.split()
    longest = max(map(len, sentence.split()))  # the command's, which is this test's
    assert max(map(len, server.shown.splitlines())) <= max(80, longest)


def test_the_server_without_its_dependencies(tmp_path: Path) -> None:
    """The remedy works before the package is published; exit status 2, as for other wrong settings."""
    code = "import sys; sys.modules['uvloop'] = sys.modules['picows'] = sys.modules['structlog'] = None\n"
    code += "from ptn_api.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--demo"],
        cwd=tmp_path,
        env=bare_environment(tmp_path),
        capture_output=True,
        text=True,
    )
    line = (
        "ptn: the server's dependencies are missing (structlog): in the checkout, pip install '.[server]'\n"
    )
    assert (done.returncode, done.stderr) == (2, line)


def test_make_shows_what_it_waits_for(tmp_path: Path) -> None:
    """The function of the Makefile prints what it does, passes the status on, and leaves nothing behind."""
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"include {ROOT}/Makefile\nslow:\n\t$(call SLOWLY,Doing it,sh -c 'exit $(STATUS)')\n")
    for status in (0, 3):
        done = subprocess.run(
            ["make", "-f", makefile, "slow", f"STATUS={status}"],
            env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout, done.returncode) == ("Doing it\n", 2 if status else 0)
