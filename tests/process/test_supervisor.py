"""Real processes are kept running, restarted with backoff, and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ptn_api.errors import SettingsError
from ptn_api.process.supervisor import FATAL, Backoff, Child, listen, python_command
from tests.processes import lives
from tests.waiting import until, until_async

READY = "import os, sys, time; os.write(int(sys.argv[-1]), b'1'); "


@asynccontextmanager
async def running(code: str, *, stdin: bytes = b"", fds: tuple[int, ...] = ()) -> AsyncIterator[Child]:
    child = Child(
        "test",
        [sys.executable, "-c", code],
        stdin=stdin,
        fds=fds,
        backoff=Backoff(first_ms=1, max_ms=50),
        stop_timeout_ms=300,
    )
    task = asyncio.create_task(child.run())
    try:
        yield child
    finally:
        await child.stop()
        await task


async def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    """And it is another process, with the same orders on its standard input."""
    record = tmp_path / "pids"
    code = (
        READY
        + f"open({str(record)!r}, 'a').write(sys.stdin.read() + str(os.getpid()) + '\\n'); time.sleep(60)"
    )

    def lines() -> list[str]:
        return record.read_text().splitlines() if record.exists() else []

    async with running(code, stdin=b"orders ") as child:
        for n in (1, 2, 3):
            await until_async(lambda n=n: len(lines()) == n)  # type: ignore[misc]
            os.kill(int(lines()[-1].split()[1]), signal.SIGKILL)
        await until_async(lambda: len(lines()) == 4)
        assert child.restarts == 3
        assert len(set(lines())) == 4
        assert all(line.startswith("orders ") for line in lines())


async def test_ready_is_said_by_the_child() -> None:
    """Not by its start."""
    async with running(READY + "time.sleep(60)") as child:
        await asyncio.wait_for(child.ready.wait(), 20)


async def test_a_fatal_exit_before_ready_is_not_retried() -> None:
    """Starting again would not help."""
    async with running(f"raise SystemExit({FATAL})") as child:
        await until_async(lambda: child.fatal)
        assert child.restarts == 0


async def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """Stopping takes no longer than its timeout allows."""
    pid_file = tmp_path / "pid"
    code = (
        "import signal, os, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    async with running(code):
        await until_async(lambda: pid_file.exists() and pid_file.read_text())
    assert not lives(int(pid_file.read_text()))


@pytest.mark.parametrize("turns", range(6))
async def test_a_stop_while_it_is_being_started_is_heard(turns: int) -> None:
    """However few turns of the loop the process is away."""
    async with running("import time; time.sleep(60)"):
        for _ in range(turns):
            await asyncio.sleep(0)


async def test_a_process_that_cannot_be_had_now_is_tried_again(tmp_path: Path) -> None:
    """As when a fork fails for want of memory: neither the end, nor a descriptor lost."""
    program = tmp_path / "program"
    before = len(os.listdir("/proc/self/fd"))
    child = Child(
        "test",
        [str(program)],
        stdin=b"",
        fds=(),
        backoff=Backoff(first_ms=1, max_ms=5),
        stop_timeout_ms=300,
    )
    task = asyncio.create_task(child.run())
    try:
        await until_async(lambda: child.restarts >= 3)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
        program.write_text(f"#!{sys.executable}\n{READY}time.sleep(60)\n")
        program.chmod(0o700)
        await asyncio.wait_for(child.ready.wait(), 45)
    finally:
        await child.stop()
        await task


def test_backoff_doubles_and_is_forgotten_after_a_long_run() -> None:
    """A process that crashes at once is not started ten times a second."""
    backoff = Backoff(first_ms=100, max_ms=1_000)
    assert [backoff.pause_ms(0) for _ in range(6)] == [100, 200, 400, 800, 1000, 1000]
    assert backoff.pause_ms(5_000) == 100


def test_a_taken_port_is_a_clear_error() -> None:
    """No sharing of ports: two servers would split the clients."""
    with contextlib.closing(listen("127.0.0.1", 0, "--api-rest-port")) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port}.*--api-rest-port") as caught:
            listen("127.0.0.1", port, "--api-rest-port")
        assert caught.value.code == "port_in_use"
        assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


def test_a_foreign_address_is_a_clear_error() -> None:
    """Listening on an address that is not ours names it."""
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0, "--api-host")


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """kill -9 of the parent leaves no orphan, even when the child hangs in its stop."""
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


def test_a_child_finds_this_package_and_no_other(tmp_path: Path) -> None:
    """A validator may have a ptn_api folder of its own in its working directory."""
    (tmp_path / "ptn_api").mkdir()
    (tmp_path / "ptn_api" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    command = python_command("ptn_api.clock:wall_ms")
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "wrong package" not in result.stderr
