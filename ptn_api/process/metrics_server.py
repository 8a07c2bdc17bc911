"""The metrics of all processes, for Prometheus, on a port of this machine alone, served by a thread."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from wsgiref.simple_server import WSGIServer

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from ptn_api.errors import SettingsError
from ptn_api.process.metrics import METRICS, Buckets, Metric, Samples

__all__ = ["MetricsServer", "Watched"]

HOST = "127.0.0.1"
_ANSWER_S = 2.0
"""How long a process may take to answer; one that does not is not up."""

_decoder = msgspec.json.Decoder(Samples)
_KINDS = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Watched(msgspec.Struct, frozen=True):
    """A process: how to ask which one it is now (None: none), and how often it was restarted."""

    pid: Callable[[], int | None]
    restarts: Callable[[], int]


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

    def listener(self, process: str) -> socket.socket:
        """The socket on which the process is to answer, whichever of its lives it is in.

        It has a name of the kernel's, no file: nothing to clean up, and gone with this process.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(b"")
        listener.listen(16)
        listener.setblocking(False)
        self._collector.addresses[process] = listener.getsockname()
        return listener

    def watch(self, process: str, watched: Watched) -> None:
        self._collector.watched[process] = watched

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector(Collector):
    """Asks every process whenever Prometheus asks."""

    def __init__(self) -> None:
        self.addresses: dict[str, bytes] = {}
        self.watched: dict[str, Watched] = {}

    def describe(self) -> Iterable[Family]:
        return ()

    def collect(self) -> Iterator[Family]:
        answers = {process: self._ask(process) for process in self.watched}
        known = {process: answer for process, answer in answers.items() if answer is not None}
        for process, watched in self.watched.items():
            own = known.setdefault(process, {})
            own["ptn_process_up"] = [([], float(answers[process] is not None))]
            own["ptn_process_restarts_total"] = [([], float(watched.restarts()))]
        for metric in METRICS:
            yield _family(metric, known)
        yield from self._of_the_system()

    def _ask(self, process: str) -> Samples | None:
        with contextlib.suppress(OSError, msgspec.DecodeError), socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(_ANSWER_S)
            asking.connect(self.addresses[process])
            return _decoder.decode(b"".join(iter(lambda: asking.recv(65_536), b"")))
        return None

    def _of_the_system(self) -> Iterator[Family]:
        """CPU, memory, files of each process: the names that every Prometheus client has."""
        families: dict[str, Family] = {}
        for process, watched in self.watched.items():
            pid = watched.pid()
            if pid is None:
                continue
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                whole = families.setdefault(
                    family.name, Family(family.name, family.documentation, family.type)
                )
                whole.samples += [
                    Sample(sample.name, {**sample.labels, "process": process}, sample.value)
                    for sample in family.samples
                ]
        yield from families.values()


def _family(metric: Metric, known: Mapping[str, Samples]) -> Family:
    family: Any = _KINDS[metric.kind](metric.name, metric.meaning, labels=metric.all_labels)
    for process, samples in known.items():
        of_process = [process] if metric.all_labels[-1:] == ("process",) else []
        for labels, value in samples.get(metric.name, ()):
            if isinstance(value, Buckets):
                bounds = [*map(str, value.bounds), "+Inf"]
                family.add_metric(
                    labels + of_process, list(zip(bounds, value.counts, strict=True)), value.sum
                )
            else:
                family.add_metric(labels + of_process, value)
    made: Family = family
    return made
