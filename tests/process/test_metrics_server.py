"""The metrics endpoint: what each process answers, and which one does not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from ptn_api.problems import Trouble
from ptn_api.process import metrics_server
from ptn_api.process.metrics import Buckets, Samples
from ptn_api.process.metrics_server import MetricsServer
from tests.waiting import PATIENCE_S

Values = dict[tuple[str, str], float]


class Process:
    """A supervised process that answers at once, or never."""

    restarts = 2

    def __init__(
        self, name: str, answer: Samples | None, *, pid: int | None = None, hangs: bool = False
    ) -> None:
        self.name = name
        self.pid = pid
        self._answer = answer
        self._hangs = hangs

    async def samples(self, timeout_ms: int) -> Samples | None:
        if self._hangs:
            await asyncio.Event().wait()
        return self._answer


@pytest.fixture
async def server() -> AsyncIterator[MetricsServer]:
    running = MetricsServer(0)
    yield running
    await asyncio.to_thread(running.close)


async def scrape(server: MetricsServer) -> Values:
    """(name, process) -> value."""
    text = (await asyncio.to_thread(requests.get, server.url, timeout=PATIENCE_S)).text
    return {
        (sample.name, sample.labels.get("process", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_each_process_answers_for_itself(server: MetricsServer) -> None:
    """One without an answer is not up, and costs the others nothing."""
    lag = Buckets([0.1, 1.0], [1, 2, 4], 7.5)
    answer: Samples = {"ptn_keys": [([], 3.0)], "ptn_stream_order_lag_seconds": [([], lag)]}
    server.watch(
        [Process("rest", None), Process("stream", answer, pid=os.getpid())],
        lambda: {"not_watching": Trouble(5)},
    )
    values = await scrape(server)
    assert values["ptn_process_up", "rest"] == 0
    assert values["ptn_process_up", "stream"] == 1
    assert values["ptn_process_restarts_total", "rest"] == 2
    assert values["ptn_keys", "stream"] == 3
    assert ("ptn_keys", "rest") not in values
    assert values["ptn_stream_order_lag_seconds_count", ""] == 4
    assert values["ptn_stream_order_lag_seconds_sum", ""] == 7.5
    assert values["process_resident_memory_bytes", "stream"] > 0
    assert ("process_resident_memory_bytes", "rest") not in values


async def test_several_processes_of_the_stream_have_a_label(server: MetricsServer) -> None:
    """Their values are not added up: a restarted process would look like a reset of all counters."""
    answers: list[Samples] = [{"ptn_stream_clients": [([], n)], "ptn_keys": [([], 7.0)]} for n in (3.0, 5.0)]
    server.watch([Process(f"stream-{n}", answer) for n, answer in enumerate(answers, 1)], dict)
    values = await scrape(server)
    assert [values["ptn_stream_clients", f"stream-{n}"] for n in (1, 2)] == [3, 5]
    assert [values["ptn_keys", f"stream-{n}"] for n in (1, 2)] == [7, 7]
    assert ("ptn_stream_clients", "") not in values


async def test_before_there_are_processes_there_is_nothing(server: MetricsServer) -> None:
    """The port is open from the start of the server."""
    assert await scrape(server) == {}


async def test_a_scrape_does_not_wait_for_a_supervisor_that_hangs(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no process counts as up."""
    monkeypatch.setattr(metrics_server, "_LOOP_MS", 50)
    server.watch([Process("rest", {}), Process("stream", {}, hangs=True)], dict)
    values = await scrape(server)
    assert (values["ptn_process_up", "rest"], values["ptn_process_up", "stream"]) == (0, 0)
