"""What operators see of the server's processes: their titles, and their log on standard error.

The log is readable on a terminal and JSON otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

from ptn_api.summary import wrapped

__all__ = ["configure_logging", "set_process_title"]


def set_process_title(process: str) -> None:
    """Names this process `ptn-api <process>` in `ps` and `top`, instead of its command line.

    Without setproctitle, an optional library, or where a system forbids it, the command line stays.
    """
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        from setproctitle import setproctitle

        setproctitle(f"ptn-api {process}")


class _StandardError:
    """Writes each line with one call, so that processes do not mix. On a full disk the line is lost.

    On a terminal, the line takes the place of a progress bar, which is drawn again below it.
    """

    def __init__(self, *, erase: bool) -> None:
        self._before = "\r\x1b[K" if erase else ""

    def write(self, line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{self._before}{line}".encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        pass


def configure_logging(level: str, *, process: str, node: str = "") -> None:
    """Sets up structlog for this process; in a cluster, lines also have the machine's name."""
    origin = {"process": process} | ({"node": node} if node else {})

    def add_process(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return origin | dict(event)

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
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _StandardError(erase=sys.stderr.isatty()))),
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
