"""What operators see of the server's processes: their titles, and their log on standard error.

The log is readable on a terminal and JSON otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

from ptn_api.summary import wrapped

__all__ = ["configure_logging", "set_process_title"]

_SLOW_READER_S = 0.1
"""How long a line waits for the reader of standard error, unless the line before it was lost."""


def set_process_title(process: str) -> None:
    """Names this process `ptn-api <process>` in `ps` and `top`, instead of its command line.

    Without setproctitle, an optional library, or where a system forbids it, the command line stays.
    """
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        from setproctitle import setproctitle

        setproctitle(f"ptn-api {process}")


class _StandardError:
    """Writes each line of up to 4 KiB with one call, so that processes do not mix.

    The line is lost on a full disk, and while the reader of a pipe or terminal has stopped reading: waiting
    for it would stop the whole process. On a terminal, the line takes the place of a progress bar, which is
    drawn again below it.
    """

    def __init__(self, *, erase: bool) -> None:
        self._before = "\r\x1b[K" if erase else ""
        self.lost = 0
        """Lines lost since the last one that was written."""

    def write(self, line: str) -> None:
        data = f"{self._before}{line}".encode("utf-8", "backslashreplace")
        try:
            for start in range(0, len(data), select.PIPE_BUF):
                # A terminal that is slow, but read, holds no more than one such part.
                _, writable, _ = select.select([], [2], [], 0 if self.lost else _SLOW_READER_S)
                if not writable:
                    raise BlockingIOError
                os.write(2, data[start : start + select.PIPE_BUF])
        except OSError:
            self.lost += 1
        else:
            self.lost = 0

    def flush(self) -> None:
        pass


def configure_logging(level: str, *, process: str, node: str = "") -> None:
    """Sets up structlog for this process; in a cluster, lines also have the machine's name."""
    output = _StandardError(erase=sys.stderr.isatty())
    origin = {"process": process} | ({"node": node} if node else {})

    def add_process(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return origin | dict(event) | ({"lines_lost": output.lost} if output.lost else {})

    def escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        # A file's name must not control the terminal. (JSON escapes it by itself.)
        escaped = {name: value if str(value).isprintable() else ascii(value) for name, value in event.items()}
        if "exception" in event:
            lines = event["exception"].split("\n")
            escaped["exception"] = "\n".join(line if line.isprintable() else ascii(line) for line in lines)
        return escaped

    on_terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            add_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if on_terminal else "iso", utc=True),
            structlog.processors.format_exc_info,
            *([escape, _readable] if on_terminal else [structlog.processors.JSONRenderer()]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, output)),
    )


_COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "31"}


def _readable(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    """A line for people: time (UTC), level, process, event, and the fields that have a value."""
    time, level, process, name = (event.pop(key) for key in ("timestamp", "level", "process", "event"))
    exception = event.pop("exception", "")
    fields = [
        f"{key}={value!r}" if isinstance(value, str) and " " in value else f"{key}={value}"
        for key, value in event.items()
        if value is not None
    ]
    line = " ".join([time, f"{level:<7}", f"{process:<10}", str(name), *fields])
    line = wrapped(line, sys.stderr, indent="    ")
    colour = "" if os.environ.get("NO_COLOR") else _COLOURS.get(level, "")
    line = f"\x1b[{colour}m{line}\x1b[0m" if colour else line
    return f"{line}\n{exception}" if exception else line
