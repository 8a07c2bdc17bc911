"""`ptn` as its user runs it: output and exit status."""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from ptn_api.cli.app import main
from tests.waiting import PATIENCE_S

__all__ = ["Ended", "Ptn"]

_PTN = [sys.executable, "-c", "from ptn_api.cli.app import main; main()"]


class Ended(NamedTuple):
    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


class Ptn:
    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = environment
        self.command = _PTN

    def __call__(self, *arguments: object, stdin: str = "", **environment: str) -> Ended:
        """Runs to the end with all streams piped, within this process, which saves a second per call."""
        stdout, stderr = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
        with (
            _process_state(["ptn", *map(str, arguments)], self.home, self.environment | environment, stdin),
            redirect_stdout(stdout),
            redirect_stderr(stderr),
        ):
            status = _main()
        said = stdout.buffer.getvalue().decode()  # type: ignore[attr-defined]
        return Ended(status, said, stderr.getvalue())

    def process(self, *arguments: object, **environment: str) -> Ended:
        """The same in a new process."""
        return self._run([*_PTN, *map(str, arguments)], environment)

    def shell(self, line: str) -> Ended:
        """Runs a shell command, in which `ptn` is defined as a function."""
        return self._run(["sh", "-c", f'ptn() {{ {shlex.join(_PTN)} "$@"; }}; {line}'], {})

    def _run(self, words: list[str], environment: dict[str, str]) -> Ended:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            cwd=self.home,
            env=self.environment | environment,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def begin(self, *arguments: object) -> subprocess.Popen[str]:
        """Starts the command without waiting for it; standard error goes to standard output."""
        return subprocess.Popen(
            [*_PTN, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.home,
            env=self.environment,
        )

    def on_terminal(self, *arguments: object, columns: int = 160, statuses: Sequence[int] = (0,)) -> str:
        """Runs to the end on a pseudo-terminal of this width and returns what it shows."""
        import fcntl  # not on Windows, as these all
        import pty
        import termios

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        process = subprocess.Popen(
            [*self.command, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=self.home,
            env={k: v for k, v in self.environment.items() if k not in ("COLUMNS", "LINES")}
            | {"TERM": "xterm"},
        )
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        os.close(ours)
        assert process.wait(PATIENCE_S) in statuses, shown
        return shown.decode()

    def captures(self, commands: Sequence[str], *, columns: int) -> list[str]:
        """What each command shows on a pseudo-terminal of this width, without colours.

        One process runs them all, since starting Python takes longer than a command does.
        """
        code = (
            "import shlex, sys\n"
            "from ptn_api.cli.app import main\n"
            f"for words in {list(commands)!r}:\n"
            "    sys.argv = ['ptn', *shlex.split(words)]\n"
            "    try:\n"
            "        main()\n"
            "    except SystemExit as end:\n"
            "        sys.stderr.write(f'{end}\\n' if isinstance(end.code, str) else '')\n"
            f"    sys.stdout.write({_BETWEEN!r})\n"
            "    sys.stdout.flush()\n"
        )
        ptn = Ptn(self.home, self.environment)
        ptn.command = [sys.executable, "-c", code]
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", ptn.on_terminal(columns=columns))
        return shown.replace("\r", "").split(_BETWEEN)[:-1]


_BETWEEN = "\x1e"


def _main() -> int:
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):  # as the interpreter does
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


@contextmanager
def _process_state(words: list[str], home: Path, environment: dict[str, str], stdin: str) -> Iterator[None]:
    """Replaces the process's arguments, directory, environment, input and logger for a while."""
    logger = logging.getLogger("ptn_api.client")
    handlers, propagate, here = logger.handlers[:], logger.propagate, Path.cwd()
    with (
        patch.object(sys, "argv", words),
        patch.object(sys, "stdin", io.StringIO(stdin)),
        patch.dict(os.environ, environment, clear=True),
    ):
        os.chdir(home)
        try:
            yield
        finally:
            os.chdir(here)
            logger.handlers[:], logger.propagate = handlers, propagate


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
