"""The metrics of all processes in Prometheus' format, on a loopback port, served by a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from ptn_api.errors import SettingsError
from ptn_api.problems import CODES, Troubles
from ptn_api.process.control import kind_of
from ptn_api.process.metrics import METRICS, Buckets, Metric, Samples

__all__ = ["MetricsServer", "WatchedProcess"]

HOST = "127.0.0.1"
_ANSWER_MS = 2_000
"""A process that does not answer within this time is not up."""
_LOOP_MS = 3_000
"""The supervisor's own event loop must have collected the answers by then."""

_FAMILIES = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class WatchedProcess(Protocol):
    """A supervised process, without a `pid` while it does not run."""

    name: str
    restarts: int

    @property
    def pid(self) -> int | None: ...

    async def samples(self, timeout_ms: int) -> Samples | None:
        """The samples it answers with; None if it does not answer in time."""
        ...


class MetricsServer:
    """Listens on the port from the start. Raises SettingsError if it is taken."""

    def __init__(self, port: int) -> None:
        registry = CollectorRegistry()
        self._collector = _Collector()
        try:
            self._server, self._thread = start_http_server(port, addr=HOST, registry=registry)
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {HOST} port {port}: {error.strerror}; choose another with --metrics-port",
                code="port_in_use",
            ) from None
        registry.register(self._collector)

    @property
    def url(self) -> str:
        assert isinstance(self._server, WSGIServer)
        return f"http://{HOST}:{self._server.server_port}/metrics"

    def watch(
        self,
        processes: Sequence[WatchedProcess],
        problems: Callable[[], Troubles],
        memory: Callable[[], Samples] = dict,
    ) -> None:
        """Collects from these processes, which belong to the running event loop, as the functions do."""

        def own() -> Samples:
            found = problems()
            return {"ptn_problem": [([code], float(code in found)) for code in CODES], **memory()}

        self._collector.watched = (asyncio.get_running_loop(), processes, own)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector(Collector):
    """Asks every process for its samples at each scrape, in the server's thread."""

    def __init__(self) -> None:
        self.watched: (
            tuple[asyncio.AbstractEventLoop, Sequence[WatchedProcess], Callable[[], Samples]] | None
        ) = None

    def describe(self) -> Iterable[Family]:
        return ()

    def collect(self) -> Iterator[Family]:
        if self.watched is None or self.watched[0].is_closed():
            return
        loop, processes, own = self.watched

        async def ask_all() -> list[Samples | None]:
            answers = await asyncio.gather(*(process.samples(_ANSWER_MS) for process in processes))
            return [*answers, own()]

        answering = asyncio.run_coroutine_threadsafe(ask_all(), loop)
        try:
            answers = answering.result(_LOOP_MS / 1000)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            answering.cancel()
            answers = [None for _ in (*processes, "supervisor")]
        samples: dict[str, Samples] = {"supervisor": answers.pop() or {}}
        for process, answer in zip(processes, answers, strict=True):
            samples[process.name] = (answer or {}) | {
                "ptn_process_up": [([], float(answer is not None))],
                "ptn_process_restarts_total": [([], float(process.restarts))],
            }
        shared = sum(kind_of(process.name) == "stream" for process in processes) > 1
        for metric in METRICS:
            labels = metric.all_labels
            if shared and metric.processes == ("stream",):
                labels = (*labels, "process")
            yield _family(metric, labels, samples)
        pids = {process.name: process.pid for process in processes if process.pid is not None}
        yield from _system_metrics({"supervisor": os.getpid(), **pids})


def _family(metric: Metric, label_names: Sequence[str], samples: Mapping[str, Samples]) -> Family:
    """The metric with the samples of all processes that have it."""
    family: Any = _FAMILIES[metric.kind](metric.name, metric.meaning, labels=label_names)
    for process, found in samples.items():
        process_label = [process] if "process" in label_names else []
        for labels, value in found.get(metric.name, ()):
            if isinstance(value, Buckets):
                bounds = [*map(str, value.bounds), "+Inf"]
                buckets = list(zip(bounds, value.counts, strict=True))
                family.add_metric(labels + process_label, buckets, value.sum)
            else:
                family.add_metric(labels + process_label, value)
    made: Family = family
    return made


def _system_metrics(pids: Mapping[str, int]) -> Iterator[Family]:
    """CPU, memory and files of each process, under the names that every Prometheus client uses."""
    families: dict[str, Family] = {}
    for process, pid in pids.items():
        for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            merged = families.setdefault(family.name, Family(family.name, family.documentation, family.type))
            merged.samples += [
                Sample(sample.name, {**sample.labels, "process": process}, sample.value)
                for sample in family.samples
            ]
    yield from families.values()
