"""Examples run as by a reader: as a process, with addresses and key in the environment."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live import ROOT, Live
from tests.waiting import PATIENCE_S, until

__all__ = ["EXAMPLES", "Script", "run", "running"]

EXAMPLES = ROOT / "examples"


class Script:
    """A running example; its output goes to a file."""

    def __init__(self, path: Path, live: Live, home: Path, environment: dict[str, str]) -> None:
        self._output = home / f"{path.stem}.out"
        with self._output.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(path)],
                cwd=home,
                env=live.environment(home) | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    def wait_for_lines(self, n: int) -> None:
        until(lambda: len(self.lines) >= n or self.process.poll() is not None, what=f"{n} lines")
        assert self.process.poll() is None, self.output

    def interrupt(self) -> int:
        """Sends Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def running(path: Path, live: Live, home: Path, **environment: str) -> Iterator[Script]:
    script = Script(path, live, home, environment)
    try:
        yield script
    finally:
        script.kill()


def run(path: Path, live: Live, home: Path) -> str:
    """Runs the script to its end; returns its output."""
    finished = subprocess.run(
        [sys.executable, str(path)],
        cwd=home,
        env=live.environment(home),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
