"""Every metric, in one table: its name, what it means, and where its value is read when somebody asks.

Rooms only count, in plain numbers. A child answers a question on a Unix socket with its samples; the
supervisor asks them all and says it to Prometheus (metrics_server.py). Nothing is written down, so what a
restarted process counted begins at 0 again, which Prometheus expects of counters.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from ptn_api.access import KeyFile, KeyRing
from ptn_api.errors import LogError
from ptn_api.event_log.contract import EventLog
from ptn_api.event_log.database import log_path
from ptn_api.histogram import Histogram

__all__ = ["METRICS", "Metric", "Samples", "Sources", "answer_questions", "samples_of"]


@dataclass(frozen=True)
class Sources:
    """Where a child's values are read. `counters` are those of its room."""

    counters: Any
    log: EventLog | None = None
    keys: KeyRing | None = None
    key_file: KeyFile | None = None
    data_dir: Path = Path()


class Buckets(msgspec.Struct, frozen=True, array_like=True):
    """A histogram on its way; `counts` are cumulative, the last one is of all."""

    bounds: list[float]
    counts: list[int]
    sum: float


Value = float | Buckets
Samples = dict[str, list[tuple[list[str], Value]]]
"""Metric -> (values of its labels, value)."""
Found = Mapping[tuple[str, ...], float] | float | Histogram


class Metric(NamedTuple):
    """`read` gives a value, a histogram, or a value for each tuple of label values.

    A metric of several processes has `process` as its last label. `read` None: the supervisor knows.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    processes: tuple[str, ...]
    read: Callable[[Any], Found] | None
    labels: tuple[str, ...] = ()

    @property
    def all_labels(self) -> tuple[str, ...]:
        return (*self.labels, "process") if len(self.processes) > 1 else self.labels


def _log(read: Callable[[EventLog], Found]) -> Callable[[Sources], Found]:
    def found(sources: Sources) -> Found:
        assert sources.log is not None
        return read(sources.log)

    return found


def _by_one(counts: Mapping[Any, float]) -> Found:
    return {(str(name),): float(count) for name, count in counts.items()}


def _log_bytes(sources: Sources) -> Found:
    path = log_path(sources.data_dir)
    return float(sum(file.stat().st_size for file in path.parent.glob(path.name + "*")))


_INTAKE, _REST, _STREAM = ("intake",), ("rest",), ("stream",)
_SERVERS = ("rest", "stream")
_ALL = ("intake", "rest", "stream")
_ABOUT_REQUEST = ("route", "status", "encoding")

METRICS: tuple[Metric, ...] = (
    Metric("ptn_process_up", "gauge", "1 if the process answers", _ALL, None),
    Metric(
        "ptn_process_restarts_total", "counter", "how often a process that ended was restarted", _ALL, None
    ),
    # the event log
    Metric("ptn_log_head_sequence", "gauge", "last sequence given", _REST, _log(lambda g: g.head().sequence)),
    Metric("ptn_log_head_revision", "gauge", "last revision made", _REST, _log(lambda g: g.head().revision)),
    Metric("ptn_log_floor_sequence", "gauge", "oldest readable sequence", _REST, _log(lambda g: g.floor())),
    Metric(
        "ptn_log_events_total",
        "counter",
        "orders announced since the log was made",
        _REST,
        _log(lambda g: g.counters()["events"]),
    ),
    Metric(
        "ptn_log_late_events_total",
        "counter",
        "those of them that were marked late",
        _REST,
        _log(lambda g: g.counters()["late"]),
    ),
    Metric(
        "ptn_log_order_conflicts_total",
        "counter",
        "seen orders that came again with another time or leverage",
        _REST,
        _log(lambda g: g.counters()["conflicts"]),
    ),
    Metric(
        "ptn_log_pruned_events_total",
        "counter",
        "orders that are no longer kept",
        _REST,
        _log(lambda g: g.counters()["pruned"]),
    ),
    Metric("ptn_log_size_bytes", "gauge", "the log's files, write-ahead log included", _REST, _log_bytes),
    Metric(
        "ptn_log_append_seconds",
        "histogram",
        "from handing changes to the log until they are durable",
        _INTAKE,
        lambda s: s.counters.append_seconds,
    ),
    Metric(
        "ptn_log_append_failures_total",
        "counter",
        "attempts to write the log that failed and are tried again",
        _INTAKE,
        lambda s: s.counters.append_failures,
    ),
    Metric(
        "ptn_log_writable",
        "gauge",
        "0 while the log cannot be written",
        _INTAKE,
        lambda s: not s.counters.unwritable,
    ),
    # the source
    Metric(
        "ptn_source_stale",
        "gauge",
        "1 while the state may no longer be the validator's",
        _REST,
        _log(lambda g: g.source().stale),
    ),
    Metric(
        "ptn_source_swept_timestamp_seconds",
        "gauge",
        "end of the last completed sweep of the validator's files; 0 without a directory",
        _REST,
        _log(lambda g: (g.source().swept_ms or 0) / 1000),
    ),
    Metric(
        "ptn_source_watching",
        "gauge",
        "0 while inotify watches are short and files are swept instead",
        _REST,
        _log(lambda g: g.source().watching),
    ),
    Metric(
        "ptn_source_invalid_files",
        "gauge",
        "files of the validator that are skipped at present",
        _REST,
        _log(lambda g: g.source().invalid),
    ),
    # REST
    Metric("ptn_rest_connections", "gauge", "open HTTP connections", _REST, lambda s: s.counters.connections),
    Metric(
        "ptn_rest_requests_total",
        "counter",
        "answers by route, HTTP status and content coding",
        _REST,
        lambda s: s.counters.requests,
        _ABOUT_REQUEST,
    ),
    Metric(
        "ptn_rest_sent_bytes_total",
        "counter",
        "their bodies' bytes, as sent",
        _REST,
        lambda s: s.counters.sent_bytes,
        _ABOUT_REQUEST,
    ),
    Metric(
        "ptn_rest_piece_build_seconds",
        "histogram",
        "building one miner's part of the documents",
        _REST,
        lambda s: s.counters.views.build_seconds,
    ),
    Metric(
        "ptn_rest_view_assembly_seconds",
        "histogram",
        "joining those parts into a tier's document",
        _REST,
        lambda s: s.counters.views.assembly_seconds,
    ),
    # the stream
    Metric("ptn_stream_clients", "gauge", "clients logged in", _STREAM, lambda s: s.counters.clients),
    Metric("ptn_stream_logins_total", "counter", "logins", _STREAM, lambda s: s.counters.logins),
    Metric(
        "ptn_stream_deliveries_total",
        "counter",
        "orders sent, times the clients they were sent to",
        _STREAM,
        lambda s: s.counters.deliveries,
    ),
    Metric(
        "ptn_stream_sent_bytes_total",
        "counter",
        "bytes of the frames that held them",
        _STREAM,
        lambda s: s.counters.sent_bytes,
    ),
    Metric("ptn_stream_replays_total", "counter", "replays begun", _STREAM, lambda s: s.counters.replays),
    Metric(
        "ptn_stream_slow_closes_total",
        "counter",
        "clients told to come back because they read too slowly",
        _STREAM,
        lambda s: s.counters.slow_closes,
    ),
    Metric(
        "ptn_stream_evictions_total",
        "counter",
        "connections replaced by a newer one of the same user",
        _STREAM,
        lambda s: s.counters.evictions,
    ),
    Metric(
        "ptn_stream_closed_total",
        "counter",
        "connections that ended, by close code",
        _STREAM,
        lambda s: _by_one(s.counters.closed),
        ("code",),
    ),
    Metric(
        "ptn_stream_order_lag_seconds",
        "histogram",
        "from when the validator filled an order until it was handed to the sockets; live orders only",
        _STREAM,
        lambda s: s.counters.lag_processed,
    ),
    Metric(
        "ptn_stream_seen_lag_seconds",
        "histogram",
        "from when intake first saw an order until it was handed to the sockets; live orders only",
        _STREAM,
        lambda s: s.counters.lag_seen,
    ),
    # keys and limits
    Metric("ptn_keys", "gauge", "keys that are valid now", _SERVERS, lambda s: len(s.keys)),
    Metric(
        "ptn_key_reloads_total",
        "counter",
        "how often the changed key file was read, by result (read, failed)",
        _SERVERS,
        lambda s: _by_one(s.key_file.reloads),
        ("result",),
    ),
    Metric(
        "ptn_auth_failures_total",
        "counter",
        "requests and logins refused for their key",
        _SERVERS,
        lambda s: s.counters.auth_failures,
    ),
    Metric(
        "ptn_rate_limited_total",
        "counter",
        "what was turned away, by limit (requests, failed_logins, connects, frames)",
        _SERVERS,
        lambda s: _by_one(s.counters.limited),
        ("limit",),
    ),
)
"""The one table of metrics."""


# --- a child's side ---------------------------------------------------------------------------------------


def samples_of(process: str, sources: Sources) -> Samples:
    """All that this process knows now; what cannot be read is left out."""
    found: Samples = {}
    for metric in METRICS:
        if process in metric.processes and metric.read is not None:
            with contextlib.suppress(LogError, OSError):  # the log's own troubles are told elsewhere
                found[metric.name] = list(_samples(metric.read(sources)))
    return found


def _samples(found: Found) -> Iterator[tuple[list[str], Value]]:
    if isinstance(found, Histogram):
        counts = [sum(found.counts[: n + 1]) for n in range(len(found.counts))]
        yield [], Buckets(list(found.bounds), counts, found.sum)
    elif isinstance(found, Mapping):
        for labels, value in found.items():
            yield list(labels), float(value)
    else:
        yield [], float(found)


async def answer_questions(listener: socket.socket, process: str, sources: Sources) -> None:
    """Says what this process knows to everybody who connects, until cancelled."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(msgspec.json.encode(samples_of(process, sources)))
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, sock=listener)
    async with server:
        await server.serve_forever()
