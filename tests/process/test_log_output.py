"""Logs are readable on a terminal and JSON elsewhere; an event never leaves its line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.interrupts import in_thread

SETUP = """
import structlog
from ptn_api.process.log_output import configure_logging
configure_logging("info", process="rest")
log = structlog.get_logger()
"""
LINE = """
log.info("skipped", file="\\x1b]0;owned\\x07\\x1b[2J", miner="a\\nlevel=error", ms=7)
"""
EXCEPTIONS = {
    "exception": 'log.exception("failed")',
    "exc_info=True": 'log.error("failed", exc_info=True)',
    "exc_info=error": 'log.error("failed", exc_info=error)',
}
RAISED = """
class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

def fail(api_key):
    raise {error}

try:
    fail("S3" + "CRET")
except Exception as error:
    {call}
log.error("after", exc_info=True)
"""


COLUMNS = "1000"


def logged(to: int, code: str) -> None:
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": COLUMNS}
    subprocess.run([sys.executable, "-c", SETUP + code], stderr=to, check=True, env=environment)


def in_pipe(code: str) -> list[str]:
    """Returns the lines that are logged without a terminal."""
    reading, writing = os.pipe()
    logged(writing, code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return pipe.read().splitlines()


def on_terminal(code: str) -> str:
    master, terminal = os.openpty()
    shown = b""

    def log() -> None:
        try:
            logged(terminal, code)
        finally:
            os.close(terminal)

    # A terminal holds 4 KB. Linux reports its end as an OSError.
    with in_thread(log), contextlib.suppress(OSError):
        while part := os.read(master, 65_536):
            shown += part
    os.close(master)
    return shown.decode()


def test_a_reader_that_has_stopped_reading_stops_no_process() -> None:
    """As `| less`, or a terminal after Ctrl-S. The first line after the lost ones has their number."""
    reading, writing = os.pipe()
    code = """
for n in range(2_000):
    log.info("filling", n=n)
print("done", flush=True)
input()
log.info("again")
log.error('long', text='x' * 10_000)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", SETUP + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
    )
    os.close(writing)
    with process, os.fdopen(reading, "rb") as pipe:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        pipe.read(1 << 15)
        process.stdin.write("\n")
        process.stdin.close()
        events = [json.loads(line) for line in pipe.read().decode().splitlines()[1:]]
    filled = [event["n"] for event in events if event["event"] == "filling"]
    assert [event.get("lines_lost") for event in events[-3:]] == [None, 1_999 - filled[-1], None]
    assert (events[-2]["event"], len(events[-1]["text"])) == ("again", 10_000)


def test_json_without_a_terminal() -> None:
    """One line per event."""
    (line,) = in_pipe(LINE)
    event = json.loads(line)
    assert (event["process"], event["event"], event["level"], event["ms"]) == ("rest", "skipped", "info", 7)
    assert event["miner"] == "a\nlevel=error"
    assert "\x1b" not in line


def test_a_logged_name_does_not_control_the_terminal() -> None:
    """A file name can neither send an escape sequence nor forge a line."""
    shown = on_terminal(LINE)
    assert "skipped" in shown
    assert "\x1b]0;" not in shown
    assert "\x1b[2J" not in shown
    assert shown.startswith("\r\x1b[K")  # erases a progress bar
    assert len(shown[1:].splitlines()) == 1


def test_a_line_on_a_terminal_is_short() -> None:
    """Time, level, process, event, and the fields that have a value."""
    shown = on_terminal('log.warning("keys_read", file="a b.json", count=None, ms=7)')
    line = shown.removeprefix("\r\x1b[K")
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning rest       keys_read file='a b\.json' ms=7\s*", line)


def test_a_long_line_is_broken_between_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.process.test_log_output.COLUMNS", "40")
    shown = on_terminal('log.warning("skipped", reason="it has no miners and no positions, see the log")')
    lines = shown.removeprefix("\r\x1b[K").replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 40
    assert all(line.startswith("    ") for line in lines[1:])
    assert " ".join(map(str.strip, lines)).endswith("it has no miners and no positions, see the log'")


TITLED = """
from pathlib import Path
from ptn_api.process.log_output import set_process_title
set_process_title("rest")
log.info("titled", title=Path("/proc/self/cmdline").read_text().rstrip("\\0"))
"""


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.skipif(find_spec("setproctitle") is None, reason="needs setproctitle")
def test_the_title_of_a_process() -> None:
    """Its name alone: neither a path nor an option, which could be a secret."""
    assert json.loads(in_pipe(TITLED)[0])["title"] == "ptn-api rest"


def test_without_the_library_a_process_keeps_its_command_line() -> None:
    missing = "import sys; sys.modules['setproctitle'] = None\n"
    assert "import structlog" in json.loads(in_pipe(missing + TITLED)[0])["title"]


@pytest.mark.parametrize("call", EXCEPTIONS)
def test_an_exception_is_logged_with_its_traceback(call: str) -> None:
    """In JSON, as text in the event's line."""
    error = 'ValueError("\\x1b[2J\\nforged")'
    first, second = map(json.loads, in_pipe(RAISED.format(call=EXCEPTIONS[call], error=error)))
    assert first["event"] == "failed"
    assert first["exception"].startswith("Traceback (most recent call last):\n")
    assert first["exception"].endswith("ValueError: \x1b[2J\nforged")
    assert (second["event"], "exc_info" in second) == ("after", False)
    assert "exc_info" not in first


@pytest.mark.parametrize("call", EXCEPTIONS)
def test_an_exception_on_a_terminal(call: str) -> None:
    """It does not control the terminal either, and shows no variables: one of them may be a key."""
    error = 'ValueError("\\x1b[2J\\nforged")'
    shown = on_terminal(RAISED.format(call=EXCEPTIONS[call], error=error))
    assert "Traceback (most recent call last):" in shown
    assert "ValueError: " in shown
    assert "\x1b[2J" not in shown
    assert "S3CRET" not in shown


@pytest.mark.parametrize("call", EXCEPTIONS)
def test_an_exception_that_has_no_text(call: str) -> None:
    """Its traceback is logged, and the process goes on."""
    code = RAISED.format(call=EXCEPTIONS[call], error="Unprintable")
    for shown in (in_pipe(code)[0], on_terminal(code)):
        # Python 3.10 shows the second.
        assert "<exception str() failed>" in shown or "<unprintable Unprintable object>" in shown
