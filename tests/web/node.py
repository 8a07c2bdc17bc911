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

from tests.waiting import until

__all__ = ["CLIENT", "Program", "built", "missing", "program"]

CLIENT = Path(__file__).parents[2] / "web" / "client"
_BUILD_S = 120


@cache
def missing() -> str:
    """Returns what keeps the client from being built here; empty if nothing does."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "Node.js 20 or newer is not installed"
    if not (CLIENT / "node_modules" / "typescript").is_dir():
        return "the client's development packages are not installed; run: make web"
    return ""


@cache
def built() -> Path:
    """Compiles the client with its tests; returns the folder of the compiled tests."""
    command = [str(CLIENT / "node_modules" / ".bin" / "tsc"), "--project", "tsconfig.test.json"]
    done = subprocess.run(command, cwd=CLIENT, capture_output=True, text=True, timeout=_BUILD_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return CLIENT / "build" / "test"


class Program:
    """A running program that prints lines of JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def wait_for(self, name: str) -> Any:
        """Waits for a line with this key; returns its value."""

        def found() -> list[Any]:
            values = [line[name] for line in self.lines if name in line]
            assert values or self.process.poll() is None, f"the program ended without {name!r}"
            return values

        return until(found, what=name)[0]

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
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
    running = Program(process)
    try:
        yield running
    finally:
        running.end()
