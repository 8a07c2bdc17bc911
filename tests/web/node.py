"""The TypeScript client as built, and its programs as processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE_S, until

__all__ = ["CLIENT", "Program", "built", "compiled", "missing", "program"]

CLIENT = Path(__file__).parents[2] / "web" / "client"
_COMPILE_S = 3 * PATIENCE_S
_NODE = shutil.which("node")


@cache
def missing() -> str:
    """Returns what keeps the client from being built here; empty if nothing does."""
    if _NODE is None:
        return "Node.js 20 or newer is not installed"
    if not (CLIENT / "node_modules" / "typescript").is_dir():
        return "the client's development packages are not installed; run: npm ci, in web/client"
    return ""


def compiled(project: str, *options: str) -> None:
    """Runs the TypeScript compiler."""
    command = ["node", "node_modules/typescript/bin/tsc", "--project", project, *options]
    done = subprocess.run(command, cwd=CLIENT, capture_output=True, text=True, timeout=_COMPILE_S)
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def built() -> Path:
    """Compiles the client with its tests; returns the folder of the compiled tests.

    Each worker has a folder of its own: another one would read files that are being written.
    """
    folder = CLIENT / f"build-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    compiled("tsconfig.test.json", "--outDir", str(folder))
    return folder / "test"


class Program:
    """A running program that prints lines of JSON."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def wait_for(self, name: str, *, times: int = 1, seconds: float = PATIENCE_S) -> Any:
        """Waits for this many lines with the key; returns the value of the last of them."""

        def found() -> list[Any]:
            values = [line[name] for line in self.lines if name in line][:times]
            assert len(values) == times or self.process.poll() is None, self.log.read_text()[-4_000:]
            return values if len(values) == times else []

        return until(found, seconds=seconds, what=name)[-1]

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def program(name: str, log: Path, **environment: str) -> Iterator[Program]:
    """Runs a program of test/live; its errors go to `log`."""
    with log.open("a") as stderr:
        process = subprocess.Popen(
            ["node", str(built() / "live" / f"{name}.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={"PATH": os.environ["PATH"]} | environment,
        )
    running = Program(process, log)
    try:
        yield running
    finally:
        running.end()
