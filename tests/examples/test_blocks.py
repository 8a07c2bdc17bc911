"""Every shell and Python block of the README and the documentation, run as by a reader.

Only addresses, keys, hotkeys and paths are replaced. A page's shell blocks run in order, in one directory and
with one environment, against a live server; each Python block runs by itself. What would go on forever is
interrupted after its first output (a `ptn stream` ends after one order). `make` only resolves its targets,
since they install and build.

A block that cannot run has a comment with the reason before it: `<!-- not run: needs systemd -->`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import requests

from ptn_api.access import add_key
from ptn_api.client import PTNClient
from tests.live import ROOT, Live
from tests.waiting import until

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- not run: ([^\n]+) -->\n)?^```(bash|sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
MOST_NOT_RUN = 40

UNTIL_OUTPUT = """
import select, signal, subprocess, sys, threading, time

process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
deadline = time.monotonic() + 40
while not select.select([process.stdout], [], [], 0.1)[0] and time.monotonic() < deadline:
    pass

def interrupt():
    if process.poll() is None:
        process.send_signal(signal.SIGINT)

timer = threading.Timer(0.2, interrupt)
timer.start()
sys.stdout.buffer.write(process.stdout.read())
status = process.wait()
timer.cancel()
sys.exit(status not in (0, 130, -2))
"""
"""Runs a command to its end, or interrupts it 0.2 s after its first output.

What prints only fresh orders may print none on a busy machine; it is interrupted after a while.
"""

PROGRAMS = {
    "ptn": """
case " $* " in
*" --serve "*) exec until-output ptn-itself "$@" --port 0 ;;
" serve "*) exec until-output ptn-itself "$@" --api-rest-port 0 --api-ws-port 0 --log-level error ;;
*" --live "*) exec until-output ptn-itself "$@" ;;
*" --test "*) ;;
" notify "*) exec until-output sh -c 'exec ptn-itself "$@" 2>&1' sh "$@" ;;
" stream "* | " record "*) exec ptn-itself "$@" --count 1 ;;
esac
exec ptn-itself "$@"
""",
    "ptn-itself": """exec {python} -c 'from ptn_api.cli.app import main; main()' "$@"\n""",
    "until-output": """exec {python} {home}/until_output.py "$@"\n""",
    "python": """
case "$1" in
examples/*) exec until-output {python} "$@" ;;
esac
exec {python} "$@"
""",
    "python3": """exec {python} "$@"\n""",
    "make": """exec /usr/bin/make --dry-run --directory {root} "$@" >/dev/null\n""",
    "curl": """
case " $* " in
*" -N "*) exec until-output /usr/bin/curl "$@" ;;
esac
exec /usr/bin/curl "$@"
""",
}
"""What the commands in the blocks call."""


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str
    not_run: str
    """The reason; empty if it is run."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, match.start(2)) + 1, match[2], match[3], match[1] or "")
        for match in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [block for block in BLOCKS if not block.not_run]
CASES = {str(block): [block] for block in RUN if block.language == "python"} | {
    str(page.relative_to(ROOT)): blocks
    for page in PAGES
    if (blocks := [block for block in RUN if block.page == page and block.language != "python"])
}


class _Received(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(body.decode())  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def messages() -> Iterator[tuple[str, list[str]]]:
    """An address that accepts alerts, and what was posted to it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Received) as server:
        server.bodies = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/alerts", server.bodies  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="package")
def top_key(live: Live) -> str:
    """A key that may read every document; one per server: workers may return to these tests."""
    key = add_key(live.keys_file, "reader", 200)
    ask = {"headers": {"Authorization": f"Bearer {key}"}, "timeout": 30}
    until(lambda: requests.get(f"{live.rest}/me", **ask).status_code == 200, what="the key")
    return key


class World:
    """A reader's directory, with the files that the pages name, and what replaces addresses and keys."""

    def __init__(self, home: Path, live: Live, key: str, alerts: str) -> None:
        self.home = home
        data_dir = live.keys_file.parent
        validator = home / "validator"
        with PTNClient(live.rest, key) as client:
            entries = client.miner_positions()
        # Of the miners, the one that most often trades the pair in the examples.
        hotkey = max(
            entries, key=lambda miner: sum(p.trade_pair[0] == "BTCUSDC" for p in entries[miner].positions)
        )
        paths = {name: home / name for name in ("ptn-api-data", "ptn-api-settings")}
        for path in paths.values():
            path.mkdir()
        stream = urlsplit(live.stream)
        self._replaced = {
            # The simulated miner may have none at that moment.
            "ptn limit-orders HOTKEY": 'ptn limit-orders HOTKEY 2> said || grep "No limit orders" said',
            "https://ntfy.sh/a-name-that-nobody-guesses": alerts,
            'host="api.example.com", port=443, secure=True': f'host="127.0.0.1", port={stream.port}',
            "http://localhost:48888": live.rest,
            "http://127.0.0.1:48888": live.rest,
            "https://api.example.com": live.rest,
            "wss://api.example.com": live.stream,
            "ws://localhost:8765": live.stream,
            'host="localhost", port=8765': f'host="127.0.0.1", port={stream.port}',
            "/path/to/proprietary-trading-network": str(validator),
            "/var/lib/ptn-api": str(paths["ptn-api-data"]),
            "/etc/ptn-api": str(paths["ptn-api-settings"]),
            "wss://a.example.org": live.stream,
            "wss://b.example.org": f"ws://localhost:{stream.port}",
            "your key": key,
            "key for a": key,
            "key for b": key,
            "/dev/null targets": "my-targets targets",
            "alice's key": key,
            "PTN_API_KEY=...": f"PTN_API_KEY={key}",
            "EPOCH:REVISION": str(entries.cursor),
            "SEQUENCE": "1",
        }
        self._words = {"KEY": key, "HOTKEY": hotkey}
        self._hotkeys = re.compile(r"\b5(?:[A-Za-z]{0,5}\.\.\.|(?:GhCx|Synr)\w*)")
        self._hotkey = hotkey
        for name in ("my", "alice"):
            (home / f"{name}.header").write_text(f"Authorization: Bearer {key}\n")
            (home / f"{name}.key").write_text(key)
        for name in ("my-targets", "targets"):
            (home / name).write_text(f"desk = webhook+{alerts}\n")
            (home / name).chmod(0o600)
        commands = {"on_order.sh": "wc -c", "buy.sh": 'grep -o \'"order_uuid":"[^"]*"\' "$1"'}
        for name, command in commands.items():
            (home / name).write_text(f"#!/bin/sh\n{command}\n")
            (home / name).chmod(0o755)
        (home / ".venv" / "bin").mkdir(parents=True)
        (home / ".venv" / "bin" / "activate").touch()
        (home / ".ptn-demo").symlink_to(data_dir)
        (home / "examples").symlink_to(ROOT / "examples")
        validator.symlink_to(data_dir / "demo-validator")
        (home / "validation").symlink_to(data_dir / "demo-validator" / "validation")
        (home / "until_output.py").write_text(UNTIL_OUTPUT)
        programs = home / "bin"
        programs.mkdir()
        for name, text in PROGRAMS.items():
            names = {"python": sys.executable, "home": home, "root": ROOT}
            for word, value in names.items():
                text = text.replace(f"{{{word}}}", str(value))
            (programs / name).write_text(f"#!/bin/sh\n{text}")
            (programs / name).chmod(0o755)
        self.environment = live.environment(home) | {
            "PTN_API_KEY": key,
            "PTN_WEBHOOK_SECRET": "a secret for webhooks",
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "PTN_INTERVAL_S": "0.1",
            "MAKEFLAGS": "",
        }

    def replaced(self, text: str) -> str:
        for old, new in self._replaced.items():
            text = text.replace(old, new)
        for word, new in self._words.items():
            text = re.sub(rf"(?<![\w$-]){word}(?![\w=])", new, text)
        return self._hotkeys.sub(self._hotkey, text)

    def run(self, block: Block) -> None:
        text = self.replaced(block.text)
        if block.language == "python":
            if "\ndef test_" in text:
                (self.home / "test_block.py").write_text(text)
                command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_block.py"]
            else:
                (self.home / "block.py").write_text(text)
                command = [sys.executable, "until_output.py", sys.executable, "block.py"]
        else:
            # The next block has this one's variables.
            (self.home / "block.sh").write_text(
                f"set -eu\n[ ! -f .variables ] || . ./.variables\n{text}\nexport -p > .variables\n"
            )
            command = ["bash", "block.sh"]
        done = subprocess.run(
            command,
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        said = f"{block}: status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, said
        assert "Traceback" not in done.stderr or "KeyboardInterrupt" in done.stderr, said


@pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("bash", "curl", "jq", "make", "sqlite3")),
    reason="needs bash, curl, jq, make and sqlite3",
)
@pytest.mark.timeout(900)  # seconds on an idle machine; a page has up to 30 commands
@pytest.mark.parametrize("case", CASES)
def test_blocks_run_as_they_stand(
    case: str, live: Live, top_key: str, messages: tuple[str, list[str]], tmp_path: Path
) -> None:
    """Each ends with status 0, or is interrupted without a traceback."""
    address, posted = messages
    world = World(tmp_path, live, top_key, address)
    for block in CASES[case]:
        if block.language == "python" and "orders.ndjson.zst" in block.text:
            record = "ptn record orders.ndjson.zst; ptn checkpoint -o validator_checkpoint.json"
            world.run(Block(block.page, block.line, "bash", record, ""))
        world.run(block)
    if case.endswith("alert.md"):
        assert any("leverage" in text for text in posted)


def test_blocks_that_do_not_run_are_few(record_property: pytest.RecordProperty) -> None:
    """Each has a reason; this lists them (`pytest -rP`)."""
    not_run = [f"{block}: {block.not_run}" for block in BLOCKS if block.not_run]
    print(f"{len(BLOCKS)} blocks, not run: {len(not_run)}", *not_run, sep="\n")
    record_property("blocks_not_run", len(not_run))
    assert len(not_run) <= MOST_NOT_RUN
    unmarked = [
        block for block in BLOCKS if not block.not_run and re.search(r"\b(sudo|systemctl|npm) ", block.text)
    ]
    assert list(map(str, unmarked)) == []
