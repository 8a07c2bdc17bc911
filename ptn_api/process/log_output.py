"""The log of the server's processes, on standard error: readable on a terminal, JSON otherwise."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

__all__ = ["configure_logging"]


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

    rendering: list[Any] = [structlog.processors.JSONRenderer()]
    if sys.stderr.isatty():
        # The default is Rich's traceback, with the values of all variables: keys, for example.
        formatter = structlog.dev.plain_traceback
        rendering = [escape, structlog.dev.ConsoleRenderer(exception_formatter=formatter)]
    structlog.configure(
        processors=[
            add_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _StandardError(erase=sys.stderr.isatty()))),
    )
