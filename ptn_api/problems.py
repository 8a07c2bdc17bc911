"""Everything that can be wrong with a running server, in one table.

From it are made: `/health`, the stream's heartbeats, the metric `ptn_problem`, `ptn doctor`, the log lines
`problem` and `problem_ended`, and the tables of docs/operators.md and docs/troubleshooting.md. A problem that
one of them reports is therefore known to all.

Each process keeps a `ProblemRegister` of what it finds itself. The supervisor collects them (process/control.py),
logs them, and tells every process about those of the others.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol, get_args

import msgspec

from ptn_api.clock import Clock, Monotonic, monotonic_ms, wall_ms

__all__ = [
    "CODES",
    "PROBLEMS",
    "Code",
    "Findings",
    "OtherProcesses",
    "Problem",
    "ProblemRegister",
    "Recent",
    "SingleProcess",
    "Trouble",
    "Troubles",
    "merged",
    "severity_of",
]

Severity = Literal["degraded", "starting", "unavailable"]
"""`degraded`: `/health` is a 200, for what is served is right. The others are a 503."""

Code = Literal[
    "starting",
    "source_stale",
    "root_missing",
    "mass_removal",
    "source_silent",
    "log_unwritable",
    "log_unreadable",
    "log_unusable",
    "log_damaged",
    "cluster_behind",
    "cluster_unreachable",
    "cluster_forked",
    "cluster_outdated",
    "cluster_leaderless",
    "cluster_clock_skew",
    "cluster_keys_stale",
    "process_down",
    "process_restarting",
    "files_refused",
    "documents_refused",
    "queue_items_refused",
    "not_watching",
    "events_missing",
    "changes_skipped",
    "clock_untrusted",
    "no_key_file",
    "key_file_unreadable",
    "key_file_detached",
    "key_entries_left_out",
    "certificate_unreadable",
    "usage_unwritable",
    "accept_paused",
    "work_refused",
    "event_loop_busy",
    "memory_near_limit",
    "connections_at_limit",
    "clients_too_slow",
    "checks_failing",
]
CODES: tuple[Code, ...] = get_args(Code)


class Problem(NamedTuple):
    """A row of the table. `counted` names what the problem's number counts; empty without one.

    `in_cluster` is the remedy on a machine of a cluster, if it is another one there.
    """

    severity: Severity
    sentence: str
    remedy: str
    counted: str = ""
    in_cluster: str = ""

    def remedy_for(self, *, cluster: bool, data_dir: str = "DIR") -> str:
        """The remedy for a server whose data directory may be known."""
        remedy = self.in_cluster or self.remedy if cluster else self.remedy
        return remedy.replace("--data-dir DIR", f"--data-dir {shlex.quote(data_dir)}")


# fmt: off
# ruff: noqa: E501 - one text a line
PROBLEMS: Mapping[Code, Problem] = {
    "starting": Problem(
        "starting",
        "The server is reading the validator's files for the first time, or assembling the documents",
        "Wait; a first start takes about half a minute for 50,000 positions. If it lasts, look for another problem in the list",
    ),
    "source_stale": Problem(
        "unavailable",
        "The served state may differ from the validator's; `source.reason` and another code say why",
        "Follow the remedy of `root_missing`, `mass_removal` or `files_refused`",
    ),
    "root_missing": Problem(
        "unavailable",
        "The validator's directory of miners (`validation/miners`) is missing, or the service's user cannot enter it",
        "Mount the directory, correct `--validator-dir`, or run the service as the validator's user; `ptn doctor` tells which",
    ),
    "mass_removal": Problem(
        "unavailable",
        "Many positions vanished at once; their last state is served until the removal is confirmed",
        "Bring the files back, or, if the removal is intended, run `ptn resync --accept-removals --data-dir DIR`",
    ),
    "source_silent": Problem(
        "unavailable",
        "No sweep of the validator's files has been completed for minutes",
        "Check the disk of the validator's directory: a network file system that hangs is the usual cause",
    ),
    "log_unwritable": Problem(
        "unavailable",
        "The event log cannot be written; new orders are kept and announced once it can",
        "Free space on the disk of the data directory, or make it writable again; no restart is needed",
    ),
    "log_unreadable": Problem(
        "unavailable",
        "A process cannot read the event log; it retries, and clients stay connected",
        "Check the disk and the permissions of the data directory; the log line `log_unreadable` has the reason",
    ),
    "log_unusable": Problem(
        "unavailable",
        "The event log's file is damaged and cannot be opened or written; new orders are kept, and nothing can be announced",
        "Run `ptn doctor --check-log` and check the disk. Then stop, move `log.sqlite3*` away (or restore a backup of the data directory), and start",
    ),
    "log_damaged": Problem(
        "degraded",
        "Parts of the event log are damaged and left out; positions and documents are written again from the validator's files",
        "Check the disk and the memory; `ptn doctor --check-log` names each part. Lost orders are a gap for clients until they are pruned",
        counted="parts",
    ),
    "cluster_behind": Problem(
        "unavailable",
        "This machine's copy of the cluster's log is behind, so it may serve old data. `/ready` is 503, so load balancers send clients elsewhere; it stays 200 with `cluster_leaderless`, when no machine can get newer data",
        "Wait after a start. If it lasts, check the network to the broker (`cluster_unreachable`) and the log of the process that keeps the copy",
    ),
    "cluster_unreachable": Problem(
        "degraded",
        "The cluster's broker does not answer this machine, or has no log; what it has is served until `cluster_behind`",
        "Check the network and the broker's servers: a majority of them must be up. The log line `cluster_not_connected` or `cluster_awaited` has the reason (credentials, certificates, no streams). The machine goes on by itself",
    ),
    "cluster_forked": Problem(
        "unavailable",
        "The broker's commits are not those of this machine's copy: the broker was restored from a backup or replaced, or the data directory belongs to another cluster",
        "Compare with the other machines. If the copy is right, found the cluster again from it; if the broker is, delete `log.sqlite3*` on this machine, and it is copied again",
    ),
    "cluster_outdated": Problem(
        "unavailable",
        "A newer version writes the cluster's log, so this machine's copy stands still at the last commit that it understands",
        "Upgrade this machine. Next time, upgrade the active intake last",
    ),
    "cluster_leaderless": Problem(
        "degraded",
        "The servers of the cluster's broker that this machine reaches have no leader, so no machine can store new orders",
        "Wait some seconds for an election. If it lasts, start the broker's servers: a majority must run and reach each other",
    ),
    "cluster_clock_skew": Problem(
        "degraded",
        "This machine's clock differs by more than a second from that of the broker's servers, so machines show delayed data at different times",
        "Check the clocks of this machine and of the broker's servers (NTP); `ptn doctor` shows the difference",
    ),
    "cluster_keys_stale": Problem(
        "degraded",
        "This machine does not get changes of the cluster's keys, so the keys that were valid before stay valid and no revocation takes effect",
        "The log line `cluster_keys_not_read` has the reason: no connection, no stream (`ptn cluster init` makes it), or no permission (deploy/cluster/nats.conf). Without such a line, the NATS server that answers is cut off from the others (`cluster_leaderless`)",
    ),
    "process_down": Problem(
        "unavailable",
        "A process has not reported for seconds; `processes` shows which",
        "See the log of that process: it hangs, or cannot be started",
        counted="processes",
    ),
    "process_restarting": Problem(
        "degraded",
        "A process ended unexpectedly within the last half minute and was started again",
        "See its last lines in the log (`process_ended` has the status). Killed by the system: give it more memory",
        counted="restarts",
    ),
    "files_refused": Problem(
        "degraded",
        "Position files cannot be read, or not everything in them; the last good state of each is served",
        "See `position_file_skipped`, `position_incomplete` and `folder_skipped` in the log. Unreadable files: run the service as the user that `ptn doctor` names",
        counted="files and folders",
    ),
    "documents_refused": Problem(
        "degraded",
        "Documents of the validator, or a miner's limit orders, archive or snapshots cannot be read; the last good ones are served",
        "See `document_skipped`, `miner_file_skipped` and `limit_order_incomplete` in the log. Unreadable files: run the service as the user that `ptn doctor` names",
        counted="files",
    ),
    "queue_items_refused": Problem(
        "degraded",
        "Items of the embedding validator's queue were not positions, and their orders are not announced",
        "See `queue_item_skipped` in the log. It lasts until the next start",
        counted="items since the start",
    ),
    "not_watching": Problem(
        "degraded",
        "inotify watches have run out, so files are swept every second",
        "Raise `fs.inotify.max_user_watches` (`ptn doctor` says how many are needed)",
    ),
    "events_missing": Problem(
        "degraded",
        "A sweep found an order of which the file system had not told, so files are swept every second",
        "Run the server on the machine that writes the files, on its own disk: network and FUSE file systems and some container mounts send no inotify events",
    ),
    "changes_skipped": Problem(
        "degraded",
        "The event log refused changes of the validator's files, which is a bug; they are not served",
        "Report the log line `change_skipped`. It lasts until the next start",
        counted="changes since the start",
    ),
    "clock_untrusted": Problem(
        "degraded",
        "The system's clock jumped, or the server was down; delayed data stays late until the new time has lasted",
        "Check the clock (NTP). If it is right, wait ten minutes (`--clock-settle-ms`); live data is not affected",
    ),
    "no_key_file": Problem(
        "degraded",
        "There is no key file, so every request is answered with 401",
        "Correct `--api-keys-file`, put the file back, or create one with `ptn keys add`; `ptn doctor` names the path",
        in_cluster="With `--cluster-keys`, the cluster has no keys so far: add one with `ptn keys add --cluster`. Otherwise correct `--api-keys-file`, put the file back, or create one with `ptn keys add`",
    ),
    "key_file_unreadable": Problem(
        "degraded",
        "The key file cannot be read, so the keys that were valid before stay valid and no revocation takes effect",
        "`ptn keys check` names the line; `ptn doctor` the permissions",
    ),
    "key_file_detached": Problem(
        "degraded",
        "The key file that the server sees has been deleted from its folder, so changes of the new one are not seen",
        "It is bound into a container as a single file and was replaced outside: mount its folder instead, and restart",
    ),
    "key_entries_left_out": Problem(
        "degraded",
        "Entries of the key file cannot be used; these users get 401",
        "`ptn keys check` names each",
        counted="users",
    ),
    "certificate_unreadable": Problem(
        "degraded",
        "The certificate was changed and cannot be read; the former one is still used",
        "Put chain and key in place together; the log line `certificate_not_read` has the reason",
    ),
    "usage_unwritable": Problem(
        "degraded",
        "The usage per key cannot be written; it is counted and written later",
        "Check space and permissions of the data directory; the log line `usage_not_written` has the reason",
    ),
    "accept_paused": Problem(
        "degraded",
        "New connections have to wait, because no more files can be opened; connected clients are served",
        "Raise the limit of open files (`LimitNOFILE=` in the unit, `ulimit -n`); `accept_paused` in the log has the reason. Sudden: look for a flood of connections",
    ),
    "work_refused": Problem(
        "degraded",
        "Expensive REST requests were answered with 503 within the last minute, since too many were waiting",
        "`ptn_rest_heavy_requests_total` shows the route, `ptn keys list` who uses the server most: lower that user's `requests_per_minute` in the key file",
        counted="requests since it began",
    ),
    "event_loop_busy": Problem(
        "degraded",
        "REST or the stream ran late for more than a third of the last ten seconds, so answers and orders are delayed",
        "See which clients cause the load (`ptn keys usage`, `ptn_rate_limited_total`, `ptn_stream_bad_logins_total`); give the service more of a processor, or lower the limits",
    ),
    "memory_near_limit": Problem(
        "degraded",
        "The server uses 90 % or more of the memory that it may have; beyond the limit, the system ends a process",
        "`ptn_memory_used_bytes` and `ptn_memory_limit_bytes` show which limit: raise `MemoryMax=`, the container's limit or `ulimit -v`. Or lower `--heavy-requests`, `--send-buffer-bytes` and `--max-rest-connections` (docs/limits.md)",
    ),
    "connections_at_limit": Problem(
        "degraded",
        "Connections were closed within the last minute to make room for new ones; clients that are logged in to the stream stay",
        "`ptn_rate_limited_total` (`connections`, `waiting_connections`) shows which limit. A flood: lower `--connects-per-minute`, or block the addresses. Otherwise raise `--max-rest-connections` or `--max-waiting-connections`, and `LimitNOFILE=`",
        counted="connections since it began",
    ),
    "clients_too_slow": Problem(
        "degraded",
        "Several users' connections to the stream were closed within the last minute, because they fell too far behind; they can resume",
        "Check the server's bandwidth and the proxy in front. Lines `connection_closed` with code 4001 name the users. Bursts: raise `--send-buffer-bytes`, if there is memory",
        counted="users",
    ),
    "checks_failing": Problem(
        "degraded",
        "A process cannot look for some of its problems, which is a bug; what it found of them before is still reported",
        "Report the traceback of `problem_check_failed` in the log",
        counted="checks",
    ),
}
# fmt: on


class Trouble(msgspec.Struct, frozen=True, omit_defaults=True):
    """A present problem."""

    since_ms: int
    """Since when it has been known. Unit: epoch ms."""
    count: int | None = None
    """How many things it concerns: files, processes, users.

    Unit: count. Absent: where it cannot be counted.
    """


Troubles = dict[Code, Trouble]
Findings = Mapping[Code, bool | int]
"""Whether each of these problems is there; a number says how many things it concerns."""


class ProblemRegister:
    """The problems that one process finds, each with the time since when.

    `watch` adds a function that is called at every look; what happens in between is noted with `set`.
    """

    def __init__(self, clock: Clock = wall_ms) -> None:
        self._clock = clock
        self._present: Troubles = {}
        self._finders: list[Callable[[], Findings]] = []
        self._failing: set[Callable[[], Findings]] = set()

    def watch(self, finder: Callable[[], Findings]) -> None:
        self._finders.append(finder)

    def set(self, code: Code, present: bool | int) -> None:
        if not present:
            self._present.pop(code, None)
            return
        known = self._present.get(code)
        since_ms = self._clock() if known is None else known.since_ms
        self._present[code] = Trouble(since_ms, None if present is True else present)

    def look(self) -> Troubles:
        """The present problems. A finder that raises is a problem itself, and leaves the others."""
        for finder in self._finders:
            try:
                findings = finder()
            except Exception:  # noqa: BLE001 - this is how a process reports that it lives
                if finder not in self._failing:
                    self._failing.add(finder)
                    import structlog  # the client reads this module, and has no structlog

                    structlog.get_logger().exception("problem_check_failed")
                continue
            self._failing.discard(finder)
            for code, present in findings.items():
                self.set(code, present)
        self.set("checks_failing", len(self._failing))
        return dict(self._present)


class Recent:
    """What has happened again within the last `window_ms`, by name: how often since it began."""

    def __init__(self, window_ms: int, monotonic: Monotonic = monotonic_ms) -> None:
        self._window_ms = window_ms
        self._monotonic = monotonic
        self._noted: dict[str, tuple[float, int]] = {}
        """When each last happened, and how often."""

    def note(self, name: str = "") -> None:
        count = self.counts().get(name, 0)
        self._noted[name] = (self._monotonic(), count + 1)

    def counts(self) -> dict[str, int]:
        oldest_ms = self._monotonic() - self._window_ms
        self._noted = {name: noted for name, noted in self._noted.items() if noted[0] > oldest_ms}
        return {name: count for name, (_, count) in self._noted.items()}

    @property
    def total(self) -> int:
        return sum(self.counts().values())


class OtherProcesses(Protocol):
    """What a process knows of the service's other processes."""

    def processes(self) -> dict[str, bool]:
        """Returns whether each process is alive, by name."""
        ...

    def problems(self) -> Mapping[Code, Trouble]:
        """Returns what the others have found."""
        ...

    def stopping(self) -> bool:
        """Returns whether the service is about to stop."""
        ...


class SingleProcess:
    """Where a process runs alone, as in tests."""

    def processes(self) -> dict[str, bool]:
        return {}

    def problems(self) -> Mapping[Code, Trouble]:
        return {}

    def stopping(self) -> bool:
        return False


def merged(*registers: Mapping[Code, Trouble]) -> Troubles:
    """The problems of all of them in the table's order, each since its first sight."""
    together: Troubles = {}
    for code in CODES:
        found = [register[code] for register in registers if code in register]
        if found:
            counts = [trouble.count for trouble in found if trouble.count is not None]
            together[code] = Trouble(
                min(trouble.since_ms for trouble in found), max(counts) if counts else None
            )
    return together


def severity_of(codes: Mapping[Code, object]) -> Literal["ok"] | Severity:
    """The worst severity of these problems; `starting` counts only where nothing is unavailable."""
    present = {PROBLEMS[code].severity for code in codes}
    ranking: tuple[Severity, ...] = ("unavailable", "starting", "degraded")
    return next((severity for severity in ranking if severity in present), "ok")
