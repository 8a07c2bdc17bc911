"""`make cluster`: the demo serves from two machines, restarts what ends, and leaves nothing running."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.cluster.servers import missing
from tests.processes import lives
from tests.system.api import ROOT
from tests.waiting import PATIENCE_S, until

DEMO = ROOT / "deploy" / "cluster" / "demo.py"

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def started(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(DEMO), "--dir", str(folder / "demo"), *arguments]
    with (folder / "demo.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def test_the_demo_serves_and_leaves_nothing_running(tmp_path: Path) -> None:
    """Both nodes have the same head. A node that was killed serves again at its addresses."""
    demo = started(tmp_path, "--miners=2", "--positions=1", "--restart-s=0.1")
    printed = tmp_path / "demo.log"
    family: list[psutil.Process] = []
    try:
        until(lambda: "Ctrl-C" in printed.read_text() or demo.poll() is not None, seconds=2 * PATIENCE_S)
        assert demo.poll() is None, printed.read_text()
        nodes = re.findall(r"^  node-\d +REST (\S+)", printed.read_text(), re.MULTILINE)
        key = (tmp_path / "demo" / "demo-100.header").read_text().strip().partition(": ")[2]

        def head(node: str) -> Any:
            request = urllib.request.Request(f"{node}/messages", headers={"Authorization": key})
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                    found = json.load(answer)
                    return found["epoch"], found["head"]
            except OSError:
                return None

        def equal() -> bool:
            heads = {head(node) for node in nodes}
            return len(heads) == 1 and None not in heads

        assert len(set(nodes)) == 2
        until(equal, what="equal heads")
        (pid,) = re.findall(r"kill -9 (\d+) +# node-2", printed.read_text())
        psutil.Process(int(pid)).kill()
        until(lambda: "node-2 runs again" in printed.read_text())
        until(equal, what="equal heads after the restart")
        health = httpx.get(f"{nodes[0]}/health", timeout=PATIENCE_S).json()  # of any status
        assert health["cluster"]["node"] == "node-1"
        family = psutil.Process(demo.pid).children(recursive=True)
        assert len(family) > 8
        demo.send_signal(signal.SIGINT)
        assert demo.wait(PATIENCE_S) == 0
        until(lambda: not any(map(lives, family)), what="nothing runs")
    finally:
        demo.terminate()
        demo.wait(PATIENCE_S)


def test_the_demo_can_be_stopped_while_it_starts(tmp_path: Path) -> None:
    """By SIGTERM, as soon as its first servers run."""
    demo = started(tmp_path)
    try:
        family = until(lambda: psutil.Process(demo.pid).children(recursive=True))
        demo.terminate()
        assert demo.wait(PATIENCE_S) == 0
        until(lambda: not any(map(lives, family)), what="nothing runs")
    finally:
        demo.kill()
        demo.wait()
