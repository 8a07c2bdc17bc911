"""Real processes are kept running, restarted with backoff, and stopped in order."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import structlog

import ptn_api
from ptn_api.backoff import Backoff
from ptn_api.clock import monotonic_ms
from ptn_api.process.child import Child, python_command
from ptn_api.process.control import FATAL, HealthReport, Stop
from tests.processes import lives
from tests.waiting import PATIENCE_S, until_async

TELL = """
import json, os, signal, sys, time
def tell(**message):
    os.write(0, json.dumps(message).encode() + b"\\n")
"""
READY = TELL + "tell(type='ready')\n"
SLEEP = "time.sleep(60)\n"


class Config(msgspec.Struct, tag="config"):
    word: str = ""


def make_child(
    command: Sequence[str],
    config: Config,
    on_alive: Callable[[], None] = lambda: None,
    *,
    settled_ms: int = 60_000,
    stop_timeout_ms: int = 300,
    first_ms: int = 1,
) -> Child:
    return Child(
        "test",
        command,
        config=lambda: config,
        backoff=Backoff(first_ms=first_ms, max_ms=4 * first_ms),
        settled_ms=settled_ms,
        stop_timeout_ms=stop_timeout_ms,
        silent_ms=1_000,
        on_alive=on_alive,
    )


@asynccontextmanager
async def running(
    code: str,
    *,
    word: str = "",
    on_alive: Callable[[], None] = lambda: None,
    stop_timeout_ms: int = 300,
) -> AsyncIterator[Child]:
    command = [sys.executable, "-c", code]
    child = make_child(command, Config(word), on_alive, stop_timeout_ms=stop_timeout_ms)
    task = asyncio.create_task(child.run())
    try:
        yield child
    finally:
        await child.stop()
        await task


async def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    """It is a new process, with the same configuration."""
    record = tmp_path / "pids"
    code = TELL + (
        "word = json.loads(sys.stdin.readline())['word']\n"
        f"open({str(record)!r}, 'a').write(f'{{word}} {{os.getpid()}}\\n')\n" + SLEEP
    )

    def lines() -> list[str]:
        return record.read_text().splitlines() if record.exists() else []

    async with running(code, word="config") as child:
        for n in (1, 2, 3):
            await until_async(lambda n=n: len(lines()) == n)  # type: ignore[misc]
            os.kill(int(lines()[-1].split()[1]), signal.SIGKILL)
        await until_async(lambda: len(lines()) == 4)
        assert child.restarts == 3
        assert len(set(lines())) == 4
        assert all(line.startswith("config ") for line in lines())


async def test_a_process_that_is_ready_again_is_logged(tmp_path: Path) -> None:
    """After each end, which is logged too; not when it is ready for the first time."""
    record = tmp_path / "pids"
    code = TELL + f"open({str(record)!r}, 'w').write(str(os.getpid()))\n" + READY + SLEEP
    with structlog.testing.capture_logs() as logs:
        async with running(code) as child:
            await asyncio.wait_for(child.ready.wait(), PATIENCE_S)
            os.kill(int(record.read_text()), signal.SIGKILL)
            await until_async(lambda: "process_ready" in [line["event"] for line in logs])
    told = [line["event"] for line in logs if line["log_level"] != "debug"]
    assert told[:2] == ["process_ended", "process_ready"]  # then it is stopped
    assert {line["child"] for line in logs} == {child.name}


async def test_nothing_is_sent_before_the_configuration(tmp_path: Path) -> None:
    """Health reports go to every child, also to one that is just being started."""
    first = tmp_path / "first"
    code = f"{TELL}open({str(first)!r}, 'w').write(sys.stdin.readline())\n{SLEEP}"
    async with running(code) as child:
        while child.pid is None:
            child.send(HealthReport({}))
            await asyncio.sleep(0)
        await until_async(lambda: first.exists() and first.read_text())
    assert msgspec.json.decode(first.read_text())["type"] == "config"


async def test_a_child_is_ready_when_it_reports_it() -> None:
    """Its start alone does not make it ready."""
    async with running(READY + SLEEP) as child:
        await asyncio.wait_for(child.ready.wait(), PATIENCE_S)


async def test_a_fatal_end_before_ready_is_not_retried() -> None:
    """A restart would not help. Its exit status says so: its last messages may be lost."""
    async with running(TELL + f"os.close(0); sys.exit({FATAL})") as child:
        await until_async(lambda: child.fatal)
        assert child.restarts == 0


async def test_a_fatal_end_of_a_child_that_was_ready_is_retried() -> None:
    """A server that has served goes on trying."""
    async with running(READY + f"sys.stdin.readline(); sys.exit({FATAL})") as child:
        await until_async(lambda: child.restarts >= 2)
        assert not child.fatal


async def test_a_child_that_reports_is_told_to_stop_on_its_channel(tmp_path: Path) -> None:
    """It needs no signal; one that has not reported yet gets SIGTERM."""
    ended = tmp_path / "ended"
    code = READY + (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "tell(type='alive', until_ms=7)\n"
        "for line in sys.stdin:\n"
        "    if json.loads(line)['type'] == 'stop':\n"
        f"        open({str(ended)!r}, 'w').write('in order'); break\n"
    )
    async with running(code, stop_timeout_ms=60_000) as child:
        await until_async(lambda: child.alive_until_ms == 7)
    assert ended.read_text() == "in order"


async def test_a_process_that_ignores_the_stop_is_killed(tmp_path: Path) -> None:
    """Stopping takes no longer than its timeout allows."""
    pid_file = tmp_path / "pid"
    code = TELL + (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n" + SLEEP
    )
    async with running(code):
        await until_async(lambda: pid_file.exists() and pid_file.read_text())
    assert not lives(int(pid_file.read_text()))


async def test_a_process_without_its_channel_is_replaced() -> None:
    """It cannot be stopped or watched any more; it gets the stop's timeout to end by itself."""
    async with running(READY + "os.close(0)\n" + SLEEP) as child:
        await until_async(lambda: child.restarts >= 1)


async def test_reports_say_how_long_a_child_is_alive() -> None:
    """And what is wrong with it; each is passed on at once."""
    reports: list[tuple[int, list[str]]] = []
    ill = "tell(type='alive', until_ms=1, problems={'starting': {'since_ms': 5}})"
    code = READY + ill + "; tell(type='alive', until_ms=2)\n"
    started_ms = monotonic_ms()
    async with running(
        code + SLEEP, on_alive=lambda: reports.append((child.alive_until_ms, [*child.problems]))
    ) as child:
        assert child.alive_until_ms >= started_ms + 1_000
        await until_async(lambda: len(reports) == 2)
    assert reports == [(1, ["starting"]), (2, [])]


async def test_metrics_are_asked_for_once_until_they_come() -> None:
    """A child that does not answer costs each scrape its timeout, and gets no second request meanwhile."""
    code = READY + (
        "requests = 0\n"
        "for line in sys.stdin:\n"
        "    message = json.loads(line)\n"
        "    if message['type'] == 'metrics':\n"
        "        requests += 1\n"
        "    if message['type'] == 'health':\n"
        "        tell(type='samples', samples={'requests': [[[], requests]]})\n"
    )
    async with running(code) as child:
        await asyncio.wait_for(child.ready.wait(), PATIENCE_S)
        assert await child.samples(10) is None
        assert await child.samples(10) is None
        answer = asyncio.create_task(child.samples(20_000))
        child.send(HealthReport({}))
        assert await answer == {"requests": [([], 1.0)]}


async def test_a_child_that_reads_nothing_blocks_nobody() -> None:
    """What it does not take is bounded, and it is still stopped."""
    async with running(READY + SLEEP) as child:
        await asyncio.wait_for(child.ready.wait(), PATIENCE_S)
        report = HealthReport({"x" * 10_000: 1})
        await until_async(lambda: not child.send(report))
        assert await child.samples(20_000) is None  # at once
        assert not child.send(Stop())


async def test_a_child_that_is_gone_answers_nobody() -> None:
    """Also when it goes while it is asked."""
    async with running(READY + "sys.stdin.readline(); sys.stdin.readline()\n") as child:
        await asyncio.wait_for(child.ready.wait(), PATIENCE_S)
        assert await child.samples(20_000) is None


@pytest.mark.parametrize("turns", range(6))
async def test_a_stop_while_it_is_being_started_is_heard(turns: int) -> None:
    """However few turns of the loop the process is away."""
    async with running(TELL + SLEEP):
        for _ in range(turns):
            await asyncio.sleep(0)


async def test_a_failed_start_is_retried(tmp_path: Path) -> None:
    """As when memory runs out: logged once per attempt, counted as no restart, and no descriptor is lost."""
    program = tmp_path / "program"
    before = len(os.listdir("/proc/self/fd"))
    child = make_child([str(program)], Config())
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(child.run())
        await until_async(lambda: len(logs) >= 3)
    try:
        assert {line["event"] for line in logs} == {"process_not_started"}
        assert [line["pause_ms"] for line in logs][:3] == [1, 2, 4]
        assert child.restarts == 0
        assert len(os.listdir("/proc/self/fd")) <= before + 2
        program.write_text(f"#!{sys.executable}\n{READY}{SLEEP}")
        program.chmod(0o700)
        await asyncio.wait_for(child.ready.wait(), PATIENCE_S)
    finally:
        await child.stop()
        await task


@pytest.mark.parametrize(("settled_ms", "pauses"), [(60_000, [1, 2, 4, 4]), (0, [1, 1, 1, 1])])
async def test_restarts_back_off_until_a_run_lasts(settled_ms: int, pauses: list[int]) -> None:
    """A process that crashes at once is not restarted ten times a second; one that ran long enough is."""
    child = make_child([sys.executable, "-c", ""], Config(), settled_ms=settled_ms)
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(child.run())
        await until_async(lambda: child.restarts >= 4)
        await child.stop()
        await task
    assert [line["pause_ms"] for line in logs if line["event"] == "process_ended"][:4] == pauses


@pytest.mark.parametrize(("first_ms", "recent"), [(60_000, 1), (1, 0)], ids=["paused", "running again"])
async def test_restarts_are_recent_until_a_run_lasts(tmp_path: Path, first_ms: int, recent: int) -> None:
    """However long the pause before the next run is."""
    ran = str(tmp_path / "ran")
    code = f"import os, time\nif os.path.exists({ran!r}): time.sleep(60)\nopen({ran!r}, 'w')"
    child = make_child([sys.executable, "-c", code], Config(), settled_ms=0, first_ms=first_ms)
    task = asyncio.create_task(child.run())
    await until_async(lambda: child.restarts == 1)
    await until_async(lambda: child.recent_restarts == recent)
    await child.stop()
    await task


def test_a_worker_without_a_supervisor_ends() -> None:
    """Standard input is not a control channel, or is one that is closed before the configuration comes."""
    command = python_command("ptn_api.process.worker:run_child", "ptn-api-rest")
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 1
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        assert subprocess.run(command, stdin=theirs, check=False).returncode == 1


def test_a_child_finds_this_package_and_no_other(tmp_path: Path) -> None:
    """A validator may have a ptn_api folder in its working directory; `http` stays the standard one."""
    (tmp_path / "ptn_api").mkdir()
    (tmp_path / "ptn_api" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    command = python_command("ptn_api.clock:wall_ms")
    check = "import http, ptn_api; print(http.HTTPStatus.OK.value, ptn_api.__file__)"
    command[3] = command[3].partition("from ptn_api")[0] + check
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["200", str(Path(ptn_api.__file__))]


def test_a_child_without_a_module() -> None:
    """What an import would only find by chance counts as not installed, in the child and not here."""
    command = python_command("ptn_api.clock:wall_ms", without=["rich"])
    check = "import structlog, sys; print(structlog.dev.rich, 'pygments' in sys.modules)"
    command[3] = command[3].partition("from ptn_api")[0] + check
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["None", "False"]
    assert importlib.util.find_spec("rich") is not None
