"""The supervisor stops with its validator, and ends a start that cannot succeed."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import structlog

from ptn_api.clock import ClockStart, SteadyClock, monotonic_ms, wall_ms
from ptn_api.process import supervisor
from ptn_api.process.control import WorkerConfig
from ptn_api.process.settings import Settings, load_settings
from ptn_api.process.supervisor import Supervisor
from tests.processes import lives
from tests.waiting import PATIENCE_S, until


def test_an_embedded_supervisor_ends_when_its_validator_is_killed(tmp_path: Path) -> None:
    """kill -9 of the parent leaves no orphan, even when the supervisor hangs in its stop."""
    child_pid = tmp_path / "child"
    child = (
        "import asyncio, os, sys\n"
        "from ptn_api.process.supervisor import stop_when_orphaned\n"
        "async def main():\n"
        f"    open({str(child_pid)!r}, 'w').write(str(os.getpid()))\n"
        "    await stop_when_orphaned(asyncio.Event(), int(sys.argv[1]), check_ms=20, kill_after_ms=50)\n"
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


class InstantChild:
    """A child that is ready and stopped at once, without a process."""

    pid = None
    progress = None
    alive_until_ms, problems, recent_restarts = 0, {}, 0  # type: ignore[var-annotated]

    def __init__(self, name: str, *_: object, **__: object) -> None:
        self.name = name
        self.fatal, self.ready, self._stopped = False, asyncio.Event(), asyncio.Event()
        self.ready.set()

    async def run(self) -> None:
        await self._stopped.wait()

    def send(self, _: object) -> bool:
        return True

    async def stop(self) -> None:
        self._stopped.set()


async def test_a_child_that_is_restarted_goes_on_with_the_time_from_before_a_jump(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It starts while the system's clock is wrong, and is told the time that the supervisor goes by."""
    off_ms = 0
    configs: dict[str, Callable[[], WorkerConfig]] = {}
    reports: list[Callable[[], None]] = []

    class RestartedChild(InstantChild):
        def __init__(
            self,
            name: str,
            _command: object,
            *,
            config: Callable[[], WorkerConfig],
            on_alive: Callable[[], None],
            **_: object,
        ) -> None:
            super().__init__(name)
            configs[name] = config
            reports.append(on_alive)

    def clock_of(name: str) -> ClockStart:
        start = configs[name]().clock
        assert start is not None
        return start

    done = asyncio.Event()

    async def stop_when_done(stop: asyncio.Event, *_: object, **__: object) -> None:
        await done.wait()
        stop.set()

    monkeypatch.setattr(supervisor, "stop_when_orphaned", stop_when_done)
    monkeypatch.setattr(supervisor, "Child", RestartedChild)
    monkeypatch.setattr(supervisor, "SteadyClock", partial(SteadyClock, wall=lambda: wall_ms() + off_ms))
    began_ms = monotonic_ms()
    settings = load_settings({"demo": "true"}, {})
    ready = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as rest, socket.create_server(("127.0.0.1", 0)) as stream:
        service = Supervisor(settings, {"rest": rest, "stream": stream}, queue_fd=-1, metrics=None)
        running = asyncio.create_task(service.run(lambda _: ready.set(), hint=None, parent=1))
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        right = wall_ms() - monotonic_ms()
        off_ms = 25 * 3_600_000
        reports[0]()
        for name in ("intake", "rest", "stream"):
            start = clock_of(name)
            assert abs(start.offset_ms - right) < 60_000
            assert began_ms <= start.since_ms <= monotonic_ms()
        off_ms = -25 * 3_600_000
        reports[0]()
        off_ms = 0
        assert abs(clock_of("rest").offset_ms - right + 25 * 3_600_000) < 60_000
        done.set()
        assert await asyncio.wait_for(running, PATIENCE_S) == 0


@pytest.mark.parametrize("stop_timeout_ms", [100, 10_000, 60_000])
async def test_an_orphaned_supervisor_is_not_killed_while_it_stops(
    monkeypatch: pytest.MonkeyPatch, stop_timeout_ms: int
) -> None:
    """Its processes stop in three stages, and each stage may take the whole timeout."""
    limits: list[int] = []
    ready = asyncio.Event()

    async def stop_when_ready(
        stop: asyncio.Event, _parent: int, *, check_ms: int, kill_after_ms: int
    ) -> None:
        limits.append(kill_after_ms)
        await ready.wait()
        stop.set()

    monkeypatch.setattr(supervisor, "stop_when_orphaned", stop_when_ready)
    monkeypatch.setattr(supervisor, "Child", InstantChild)
    settings = load_settings({"demo": "true", "stop_timeout_ms": stop_timeout_ms}, {})
    with socket.create_server(("127.0.0.1", 0)) as rest, socket.create_server(("127.0.0.1", 0)) as stream:
        embedded = Supervisor(settings, {"rest": rest, "stream": stream}, queue_fd=-1, metrics=None)
        assert await embedded.run(lambda _: ready.set(), hint=None, parent=1) == 0
    assert limits[0] > 3 * stop_timeout_ms


async def test_a_setting_that_fails_in_a_process_ends_the_start(tmp_path: Path) -> None:
    """As a certificate that vanishes after the service's own check: status 1, and no restart."""
    settings = load_settings(
        {
            "data_dir": str(tmp_path),
            "api_keys_file": str(tmp_path / "api_keys.json"),
            "tls_cert": str(tmp_path / "gone.pem"),
            "tls_key": str(tmp_path / "gone.key"),
        },
        {},
    )
    announced: list[str] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as rest,
        socket.create_server(("127.0.0.1", 0)) as stream,
        structlog.testing.capture_logs() as logs,
    ):
        server = Supervisor(settings, {"rest": rest, "stream": stream}, queue_fd=-1, metrics=None)
        status = await asyncio.wait_for(server.run(announced.append, hint=None, parent=None), PATIENCE_S)
    assert (status, announced) == (1, [])
    assert "process_ended" not in [line["event"] for line in logs]


def test_a_problem_that_comes_and_goes_is_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its end, which is logged at once; and again after a minute, if it is there."""
    now = 1_000
    monkeypatch.setattr("ptn_api.process.supervisor.monotonic_ms", lambda: now)
    with structlog.testing.capture_logs() as lines:
        running = Supervisor(Settings(), {}, -1, None)

        def logged(present: bool) -> list[str]:
            lines.clear()
            running._register.set("work_refused", present)
            running._log_problems()
            return [line["event"] for line in lines]

        assert [logged(True), logged(True), logged(False)] == [["problem"], [], ["problem_ended"]]
        assert [logged(True), logged(False), logged(True)] == [[], [], []]
        now += Settings().problem_log_ms
        assert [logged(True), logged(False)] == [["problem"], ["problem_ended"]]
