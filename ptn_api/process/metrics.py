"""All metrics in one table: name, help text, and where the value is read at a scrape.

Processes only count, in plain numbers. A child sends its samples over the control channel when asked; the
supervisor collects them for Prometheus (metrics_server.py). Nothing is stored: the counters of a restarted
process begin at 0 again, which Prometheus expects.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from ptn_api.access import KeyFile, KeyRing
from ptn_api.clock import wall_ms
from ptn_api.errors import LogError
from ptn_api.event_log.contract import CopyStatus, EventLog
from ptn_api.event_log.database import log_path
from ptn_api.histogram import Histogram

if TYPE_CHECKING:  # a single machine does not import the cluster
    from ptn_api.cluster.copy import Copy

__all__ = ["METRICS", "Buckets", "Metric", "Samples", "Sources", "samples_of"]

Reading = Mapping[Any, float] | float | Histogram
"""A mapping has a value for each label value, or for each tuple of them."""


@dataclass(frozen=True)
class Sources:
    """Where a child's values are read. `counters` are those of its process."""

    counters: Any
    log: EventLog | None = None
    keys: KeyRing | None = None
    key_file: KeyFile | None = None
    data_dir: Path = Path()
    loop_lag: Histogram = field(default_factory=Histogram)
    copy: Copy | None = None
    """In a cluster, what the process that writes the log, or only keeps this machine's copy, has opened."""

    def cluster(self, read: Callable[[CopyStatus], float | None]) -> Mapping[Any, float]:
        """A value of this machine's copy; no sample on a single machine or where the value is not known."""
        status = self.log.copy_status() if self.log else None
        value = None if status is None else read(status)
        return {} if value is None else {(): value}

    def log_bytes(self) -> float:
        """The size of the log's files, write-ahead log included."""
        path = log_path(self.data_dir)
        return sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))


class Buckets(msgspec.Struct, frozen=True, array_like=True):
    """A histogram in a message; `counts` are cumulative, the last one is the total."""

    bounds: list[float]
    counts: list[int]
    sum: float


Value = float | Buckets
Sample = tuple[list[str], Value]
"""The values of the labels, and the value."""
Samples = dict[str, list[Sample]]
"""The samples of each metric, by its name."""


class Metric(NamedTuple):
    """A row of the table, without `read` where the supervisor knows the value.

    A metric of several processes has `process` as its last label; those of the stream alone have it if the
    stream has several processes.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    processes: tuple[str, ...]
    read: Callable[[Any], Reading] | None
    labels: tuple[str, ...] = ()

    @property
    def all_labels(self) -> tuple[str, ...]:
        return (*self.labels, "process") if len(self.processes) > 1 else self.labels

    def samples(self, sources: Sources) -> list[Sample]:
        """Reads the metric. Raises LogError or OSError if it cannot be read."""
        assert self.read is not None
        reading = self.read(sources)
        if isinstance(reading, Histogram):
            counts = [sum(reading.counts[: n + 1]) for n in range(len(reading.counts))]
            return [([], Buckets(list(reading.bounds), counts, reading.sum))]
        if isinstance(reading, Mapping):
            values = [(key if isinstance(key, tuple) else (key,), value) for key, value in reading.items()]
            return [([str(label) for label in labels], float(value)) for labels, value in values]
        return [([], float(reading))]


_INTAKE, _REST, _STREAM = ("intake",), ("rest",), ("stream",)
_SERVERS = ("rest", "stream")
_COPY = ("intake", "copy")
_ALL = ("intake", "copy", "rest", "stream")
_PER_REQUEST = ("route", "status", "encoding")


# fmt: off
# ruff: noqa: E501 - one row a line
METRICS: tuple[Metric, ...] = (
    Metric("ptn_process_up", "gauge", "1 if the process answers", _ALL, None),
    Metric("ptn_process_restarts_total", "counter", "restarts of a process that ended", _ALL, None),
    Metric("ptn_problem", "gauge", "1 while the server has this problem (docs/troubleshooting.md)", ("supervisor",), None, ("code",)),
    Metric("ptn_memory_used_bytes", "gauge", "memory that counts towards a limit: cgroup (without file caches; of the processes together), address_space (of a process), setting (--memory-limit-bytes; resident, of the processes together)", ("supervisor",), None, ("process", "limit")),
    Metric("ptn_memory_limit_bytes", "gauge", "the limit itself; a limit that is not set has no sample", ("supervisor",), None, ("process", "limit")),

    Metric("ptn_log_head_sequence", "gauge", "newest sequence", _REST, lambda s: s.log.head().sequence),
    Metric("ptn_log_head_revision", "gauge", "newest revision", _REST, lambda s: s.log.head().revision),
    Metric("ptn_log_floor_sequence", "gauge", "oldest readable sequence", _REST, lambda s: s.log.floor()),
    Metric("ptn_log_events_total", "counter", "orders announced since the log was made", _REST, lambda s: s.log.counters()["events"]),
    Metric("ptn_log_late_events_total", "counter", "announced orders that were marked late", _REST, lambda s: s.log.counters()["late"]),
    Metric("ptn_log_order_conflicts_total", "counter", "known orders that came again with another time or leverage", _REST, lambda s: s.log.counters()["conflicts"]),
    Metric("ptn_log_skipped_changes_total", "counter", "changes that the log's schema refused, a bug; each is logged as change_skipped", _REST, lambda s: s.log.counters()["skipped"]),
    Metric("ptn_log_pruned_events_total", "counter", "orders that are no longer kept", _REST, lambda s: s.log.counters()["pruned"]),
    Metric("ptn_log_size_bytes", "gauge", "size of the log's files, write-ahead log included", _REST, lambda s: s.log_bytes()),
    Metric("ptn_log_append_seconds", "histogram", "time from handing changes to the log until they are durable", _INTAKE, lambda s: s.counters.append_seconds),
    Metric("ptn_log_append_failures_total", "counter", "failed writes to the log, each retried", _INTAKE, lambda s: s.counters.append_failures),
    Metric("ptn_queue_items_refused_total", "counter", "items of the embedding validator's queue that were not positions", _INTAKE, lambda s: s.counters.queue_refused),
    Metric("ptn_log_writable", "gauge", "0 while the log cannot be written", _INTAKE, lambda s: not s.counters.unwritable),

    Metric("ptn_cluster_index", "gauge", "last commit that this machine's copy of the log contains; in a cluster only, as the others", _REST, lambda s: s.cluster(lambda copy: copy.index)),
    Metric("ptn_cluster_behind_seconds", "gauge", "how long ago the copy was known to be complete; absent before it was, see ptn_problem", _REST, lambda s: s.cluster(lambda copy: copy.behind_ms and copy.behind_ms / 1000)),
    Metric("ptn_cluster_term", "gauge", "turn of writing that the last commit belongs to", _REST, lambda s: s.cluster(lambda copy: copy.term)),
    Metric("ptn_cluster_active", "gauge", "1 if this machine writes the log", _REST, lambda s: s.cluster(lambda copy: copy.active)),
    Metric("ptn_cluster_commits_total", "counter", "entries of the stream by verdict: read ones (counts, part, void, suspect), own ones (published, refused, unknown)", _COPY, lambda s: s.copy.counts if s.copy else {}, ("verdict",)),
    Metric("ptn_cluster_snapshot_age_seconds", "gauge", "time since this machine published a snapshot", _COPY, lambda s: {(): (wall_ms() - s.copy.snapshot_ms) / 1000} if s.copy and s.copy.snapshot_ms else {}),
    Metric("ptn_cluster_clock_skew_seconds", "gauge", "how far this machine's clock is ahead of the NATS servers' (negative: behind), beyond what their answers' travel time explains", _COPY, lambda s: {(): s.copy.clock_skew_ms / 1000} if s.copy and s.copy.clock_skew_ms is not None else {}),

    Metric("ptn_source_stale", "gauge", "1 while the state may no longer be the validator's", _REST, lambda s: s.log.source().stale),
    Metric("ptn_source_swept_timestamp_seconds", "gauge", "end of the last full sweep of the validator's files; 0 without a directory", _REST, lambda s: (s.log.source().swept_ms or 0) / 1000),
    Metric("ptn_source_watching", "gauge", "0 while there are too few inotify watches and files are swept instead", _REST, lambda s: s.log.source().watching),
    Metric("ptn_source_invalid_files", "gauge", "files of the validator that are skipped at present", _REST, lambda s: s.log.source().invalid),

    Metric("ptn_rest_connections", "gauge", "open HTTP connections", _REST, lambda s: s.counters.connections),
    Metric("ptn_rest_requests_total", "counter", "responses by route, HTTP status and content coding", _REST, lambda s: s.counters.requests, _PER_REQUEST),
    Metric("ptn_rest_sent_bytes_total", "counter", "bytes of response bodies, as sent", _REST, lambda s: s.counters.sent_bytes, _PER_REQUEST),
    Metric("ptn_rest_heavy_requests_total", "counter", "expensive requests that had to wait (queued) or were answered with 503 (refused), by route", _REST, lambda s: s.counters.heavy, ("route", "outcome")),
    Metric("ptn_rest_refused_total", "counter", "input that is not a request, by the error's code, and downloads that were too slow (slow_download) or too many (too_many_downloads)", _REST, lambda s: s.counters.refused, ("cause",)),
    Metric("ptn_rest_piece_build_seconds", "histogram", "time to build one miner's part of the documents", _REST, lambda s: s.counters.views.build_seconds),
    Metric("ptn_rest_replay_mismatches_total", "counter", "changes of a position's orders whose replay contradicts the validator's file", _REST, lambda s: s.counters.views.replay_mismatches),
    Metric("ptn_rest_view_assembly_seconds", "histogram", "time to join those parts into a tier's document", _REST, lambda s: s.counters.views.assembly_seconds),

    Metric("ptn_stream_clients", "gauge", "clients logged in", _STREAM, lambda s: s.counters.clients),
    Metric("ptn_stream_logins_total", "counter", "logins", _STREAM, lambda s: s.counters.logins),
    Metric("ptn_stream_deliveries_total", "counter", "orders sent, times the clients they were sent to", _STREAM, lambda s: s.counters.deliveries),
    Metric("ptn_stream_sent_bytes_total", "counter", "bytes of the frames that held them", _STREAM, lambda s: s.counters.sent_bytes),
    Metric("ptn_stream_replays_total", "counter", "replays begun", _STREAM, lambda s: s.counters.replays),
    Metric("ptn_stream_slow_closes_total", "counter", "clients disconnected because they read too slowly", _STREAM, lambda s: s.counters.slow_closes),
    Metric("ptn_stream_evictions_total", "counter", "connections replaced by a newer one of the same user", _STREAM, lambda s: s.counters.evictions),
    Metric("ptn_stream_closed_total", "counter", "connections that ended, by close code", _STREAM, lambda s: s.counters.closed, ("code",)),
    Metric("ptn_stream_bad_logins_total", "counter", "first frames that are not a login, by reason (too_big, not_json, bad_frame, no_key, bad_fragment, not_deflated, not_a_frame)", _STREAM, lambda s: s.counters.bad_logins, ("reason",)),
    Metric("ptn_stream_refused_handshakes_total", "counter", "WebSocket handshakes that were refused, by HTTP status, or did not come in time (timeout)", _STREAM, lambda s: s.counters.refused_handshakes, ("cause",)),
    Metric("ptn_stream_errors_total", "counter", "requests of clients that were answered with an error frame, by its code", _STREAM, lambda s: s.counters.errors, ("code",)),
    Metric("ptn_stream_order_lag_seconds", "histogram", "time from the validator's fill of an order until it was written to the sockets; live orders only", _STREAM, lambda s: s.counters.lag_processed),
    Metric("ptn_stream_seen_lag_seconds", "histogram", "time from intake's first sight of an order until it was written to the sockets; live orders only", _STREAM, lambda s: s.counters.lag_seen),

    Metric("ptn_event_loop_lag_seconds", "histogram", "how late the event loop does what is due, measured four times a second", _SERVERS, lambda s: s.loop_lag),
    Metric("ptn_keys", "gauge", "keys that are valid now", _SERVERS, lambda s: len(s.keys)),
    Metric("ptn_key_entries_left_out", "gauge", "entries of the key file that cannot be used; see `ptn keys check`", _REST, lambda s: s.keys.left_out),
    Metric("ptn_key_reloads_total", "counter", "reloads of the changed key file, by result (read, failed)", _SERVERS, lambda s: s.key_file.reloads, ("result",)),
    Metric("ptn_accept_paused_seconds_total", "counter", "time in which no new connection was accepted, because no more files could be opened", _SERVERS, lambda s: s.counters.accept_pauses.total_s),
    Metric("ptn_tls_handshakes_failed_total", "counter", "TLS handshakes that failed or timed out (failed), or were ended to make room (evicted)", _SERVERS, lambda s: s.counters.accept_pauses.handshakes, ("outcome",)),
    Metric("ptn_auth_failures_total", "counter", "requests and logins refused for their key", _SERVERS, lambda s: s.counters.auth_failures),
    Metric("ptn_rate_limited_total", "counter", "refusals by limit (requests, failed_logins, waiting_logins, connects, connections and waiting_connections, which closed one to make room, frames)", _SERVERS, lambda s: s.counters.limited, ("limit",)),
)
# fmt: on


def samples_of(process: str, sources: Sources) -> Samples:
    """This process's samples; a metric that cannot be read is left out."""
    samples: Samples = {}
    for metric in METRICS:
        if process in metric.processes and metric.read is not None:
            with contextlib.suppress(LogError, OSError):  # /health and the log report those
                samples[metric.name] = metric.samples(sources)
    return samples
