"""The control channel: JSON lines both ways, bounded, and its end is noticed at once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import structlog

from ptn_api.clock import monotonic_ms
from ptn_api.intake.merge import IntakeCounters
from ptn_api.problems import Trouble
from ptn_api.process.control import (
    Alive,
    Channel,
    FromWorker,
    HealthReport,
    MetricSamples,
    MetricsRequest,
    Ready,
    ReportedHealth,
    Stop,
    WorkerConfig,
    WorkerControl,
    read_config,
)
from ptn_api.process.metrics import Buckets, Sources
from ptn_api.process.settings import Settings
from tests.processes import lives
from tests.waiting import PATIENCE_S, until_async

SETTINGS = Settings(process_silent_ms=50)


class Supervisor:
    """The other end of a worker's channel."""

    def __init__(self) -> None:
        self.received: list[FromWorker] = []
        self.channel = Channel[FromWorker](FromWorker, self.received.append)

    def all(self, kind: type) -> list[Any]:
        return [message for message in self.received if isinstance(message, kind)]


@asynccontextmanager
async def connected(process: str = "intake") -> AsyncIterator[tuple[WorkerControl, Supervisor]]:
    ours, theirs = socket.socketpair()
    supervisor, worker = Supervisor(), WorkerControl(WorkerConfig(process=process, settings=SETTINGS))
    await supervisor.channel.open(ours)
    await worker.open(theirs)
    try:
        yield worker, supervisor
    finally:
        await worker.close()
        await supervisor.channel.close()


async def test_a_worker_reports_and_is_told() -> None:
    """All messages, in both directions."""
    async with connected() as (worker, supervisor):
        worker.ready()
        await until_async(lambda: supervisor.received == [Ready()])
        report = HealthReport({"rest": 5}, {"log_unwritable": Trouble(7)})
        supervisor.channel.send(report)
        supervisor.channel.send(Stop())
        await asyncio.wait_for(worker.stop.wait(), PATIENCE_S)
        assert worker.health.report == report


async def test_a_worker_reports_that_it_lives_until_it_hangs() -> None:
    """Each report is good for `process_silent_ms`, and says whether the log can be written."""
    async with connected() as (worker, supervisor):
        worker.problems.watch(lambda: {"log_unwritable": True})
        task = asyncio.create_task(worker.report_alive())
        await until_async(lambda: len(supervisor.all(Alive)) >= 3)
        task.cancel()
        first, second = supervisor.all(Alive)[:2]
        assert first.until_ms < second.until_ms <= monotonic_ms() + SETTINGS.process_silent_ms
        assert [*first.problems] == ["log_unwritable"]


async def test_metrics_are_sent_when_asked_for() -> None:
    """A worker that is still starting answers too, with nothing; histograms keep their buckets."""
    async with connected() as (worker, supervisor):
        supervisor.channel.send(MetricsRequest())
        await until_async(lambda: supervisor.received == [MetricSamples({})])
        counters = IntakeCounters(append_failures=3)
        counters.append_seconds.observe(0.5)
        worker.sources = Sources(counters)
        supervisor.channel.send(MetricsRequest())
        await until_async(lambda: len(supervisor.received) == 2)
        samples = supervisor.all(MetricSamples)[1].samples
        assert samples["ptn_log_append_failures_total"] == [([], 3.0)]
        ((labels, buckets),) = samples["ptn_log_append_seconds"]
        assert isinstance(buckets, Buckets)
        assert (labels, buckets.counts[-1], buckets.sum) == ([], 1, 0.5)


@pytest.mark.filterwarnings("ignore")
async def test_what_is_sent_once_is_sent_once_there_is_room() -> None:
    """The supervisor waits for a process that is ready, and asks only once for metrics."""
    ours, theirs = socket.socketpair()
    worker = WorkerControl(WorkerConfig(process="stream", settings=SETTINGS))
    await worker.open(theirs)
    ours.sendall(msgspec.json.encode(MetricsRequest()) + b"\n")
    part = b'"' + b"x" * 10_000 + b'"'
    for _ in range(200):  # more than the sockets and the channel take
        worker.publish(part)
    supervisor = Supervisor()
    for _ in range(10):
        await asyncio.sleep(0)  # the request is read, while nothing leaves
    worker.ready()
    await supervisor.channel.open(ours)
    await until_async(lambda: supervisor.all(MetricSamples) and supervisor.all(Ready))
    await worker.close()
    await supervisor.channel.close()


async def test_metrics_that_cannot_be_read_cost_that_answer_only() -> None:
    """A fault of a counter ends neither the channel nor, with it, the process."""
    async with connected() as (worker, supervisor):
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        worker.sources = Sources(counters=None)
        supervisor.channel.send(MetricsRequest())
        await until_async(lambda: faults)
        worker.ready()
        await until_async(lambda: supervisor.received == [Ready()])


async def test_lines_arrive_in_any_pieces_and_nonsense_is_skipped() -> None:
    """A malformed line is logged, and the next one counts."""
    ours, theirs = socket.socketpair()
    supervisor = Supervisor()
    await supervisor.channel.open(ours)
    with theirs, structlog.testing.capture_logs() as logs:
        for piece in (b'{"type":"re', b'ady"}\nnonsense\n{"type":"unheard of"}\n{"type":"ready"}', b"\n"):
            theirs.send(piece)
            await asyncio.sleep(0)
        await until_async(lambda: supervisor.received == [Ready(), Ready()])
        # A process of another machine may have sent it; the next decoder may allow less depth than the last.
        theirs.send(b'{"type":"presence","peer":"a","update":' + b"[" * 10_000 + b"]" * 10_000 + b"}\n")
        theirs.send(b'{"type":"ready"}\n')
        await until_async(lambda: supervisor.received == [Ready(), Ready(), Ready()])
        assert [line["event"] for line in logs] == ["control_message_malformed"] * 3
    await asyncio.wait_for(supervisor.channel.closed.wait(), PATIENCE_S)
    assert not supervisor.channel.send(Stop())


async def test_a_reader_that_hangs_gets_no_more_than_fits() -> None:
    """Messages are dropped, none waits; the channel is closed all the same."""
    ours, theirs = socket.socketpair()
    supervisor = Supervisor()
    await supervisor.channel.open(ours)
    report = HealthReport({"x" * 10_000: 1})
    with theirs:
        assert sum(supervisor.channel.send(report) for _ in range(1_000)) < 1_000
        await supervisor.channel.close(timeout_ms=10)
        await asyncio.wait_for(supervisor.channel.closed.wait(), PATIENCE_S)


def test_the_configuration_is_the_first_line_only() -> None:
    """What follows belongs to the event loop; without a whole line the supervisor is gone."""
    config = WorkerConfig(process="rest", settings=SETTINGS, listener=7)
    for rest in (b'{"type":"stop"}\n', b""):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.send(msgspec.json.encode(config) + b"\n" + rest)
            ours.shutdown(socket.SHUT_WR)
            assert read_config(theirs) == config
            assert theirs.recv(100) == rest
            with pytest.raises(EOFError):
                read_config(theirs)


def test_health_lapses_with_the_reports() -> None:
    """A process is up until its deadline passes, and the one that answers always is."""
    health = ReportedHealth("rest", Settings(process_silent_ms=1_000_000))
    assert health.processes() == {"intake": True, "rest": True, "stream": True}
    assert health.problems() == {}
    now = monotonic_ms()
    health.report = HealthReport(
        {"intake": now - 1, "rest": now - 1, "stream": now + 60_000}, {"log_unwritable": Trouble(7)}
    )
    assert health.processes() == {"intake": False, "rest": True, "stream": True}
    assert health.problems()["log_unwritable"].since_ms == 7
    assert health.problems()["process_down"].count == 1
    assert ReportedHealth("rest", Settings(process_silent_ms=-1)).processes() == {
        "intake": False,
        "rest": True,
        "stream": False,
    }


WORKER = """
import asyncio, subprocess
from ptn_api.process.control import WorkerConfig, WorkerControl, take_over_stdin
from ptn_api.process.settings import Settings
control = take_over_stdin()
async def main():
    worker = WorkerControl(WorkerConfig(process="intake", settings=Settings()))
    await worker.open(control)
    worker.ready()
    await worker.end_with_supervisor()  # a stop that hangs
asyncio.run(main())
"""
PARENT = """
import os, subprocess
from ptn_api.process.control import take_over_stdin
control = take_over_stdin()
print(subprocess.Popen(["sleep", "60"], close_fds=False).pid, flush=True)
os._exit(3)
"""


def test_a_worker_ends_with_its_supervisor() -> None:
    """At the end of file, even when its stop hangs."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, "-c", WORKER], stdin=theirs, stderr=subprocess.DEVNULL)
    assert ours.recv(100) == b'{"type":"ready"}\n'
    ours.close()
    assert process.wait(PATIENCE_S) == -signal.SIGKILL


def test_a_grandchild_inherits_no_end_of_the_channel() -> None:
    """The supervisor sees at once that the worker is gone, even if a process of the worker outlives it."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, "-c", PARENT], stdin=theirs, stdout=subprocess.PIPE)
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    try:
        assert ours.recv(100) == b""
        assert process.wait(PATIENCE_S) == 3
        assert lives(grandchild)
    finally:
        os.kill(grandchild, signal.SIGKILL)
        process.communicate()
        ours.close()
