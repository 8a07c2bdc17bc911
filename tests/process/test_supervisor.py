"""The supervisor stops with its validator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.processes import lives
from tests.waiting import until


def test_an_embedded_supervisor_ends_when_its_validator_is_killed(tmp_path: Path) -> None:
    """kill -9 of the parent leaves no orphan, even when the supervisor hangs in its stop."""
    child_pid = tmp_path / "child"
    child = (
        "import asyncio, os, sys\n"
        "from ptn_api.process.supervisor import stop_when_orphaned\n"
        "async def main():\n"
        f"    open({str(child_pid)!r}, 'w').write(str(os.getpid()))\n"
        "    await stop_when_orphaned(asyncio.Event(), int(sys.argv[1]), 20, grace_s=0.05)\n"
        "asyncio.run(main())\n"
    )
    parent = (
        "import subprocess, sys, os, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())])\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stderr=subprocess.DEVNULL)
    until(lambda: child_pid.exists() and child_pid.read_text())
    process.kill()
    process.wait()
    until(lambda: not lives(int(child_pid.read_text())))
