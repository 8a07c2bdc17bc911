"""Logs are readable on a terminal and JSON elsewhere; an event never leaves its line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CODE = """
import structlog
from ptn_api.process.log_output import configure_logging
configure_logging("info", process="rest")
structlog.get_logger().info("skipped", file="\\x1b]0;owned\\x07\\x1b[2J", miner="a\\nlevel=error", ms=7)
"""


def logged(to: int) -> None:
    subprocess.run([sys.executable, "-c", CODE], stderr=to, check=True, env=os.environ | {"NO_COLOR": "1"})


def test_json_without_a_terminal() -> None:
    """One line per event."""
    reading, writing = os.pipe()
    logged(writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        (line,) = pipe.read().splitlines()
    event = json.loads(line)
    assert (event["process"], event["event"], event["level"], event["ms"]) == ("rest", "skipped", "info", 7)
    assert event["miner"] == "a\nlevel=error"
    assert "\x1b" not in line


def test_a_logged_name_does_not_control_the_terminal() -> None:
    """A file name can neither send an escape sequence nor forge a line."""
    master, terminal = os.openpty()
    logged(terminal)
    os.close(terminal)
    shown = os.read(master, 65_536).decode()
    os.close(master)
    assert "skipped" in shown
    assert "\x1b]0;" not in shown
    assert "\x1b[2J" not in shown
    assert len(shown.splitlines()) == 1
