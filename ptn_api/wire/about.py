"""The responses of `/health` and `/me`, as server and client type them.

`status`, `problems` and process states are plain strings, so that an older client can read the responses of a
newer server; the schema lists the values that exist today.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from ptn_api.problems import CODES, Trouble

__all__ = [
    "ClusterHealth",
    "Health",
    "KeyFileHealth",
    "KeyLimits",
    "LogHealth",
    "Me",
    "Ready",
    "SourceHealth",
    "Status",
]

Status = Literal["ok", "degraded", "starting", "failing"]
ProcessState = Literal["up", "down"]


class SourceHealth(msgspec.Struct, kw_only=True):
    """`swept_ms`: end of the last completed sweep of the validator's files; null without a directory."""

    swept_ms: int | None = None
    stale: bool = False
    reason: str = ""
    watching: bool = True


class LogHealth(msgspec.Struct, kw_only=True):
    """`ready`: the first scan of the validator's files is complete. `writable`: orders can be stored.

    `epoch_matches`: whether the request's `epoch` is that of the log; null without one.
    """

    ready: bool = False
    writable: bool = True
    epoch_matches: bool | None = None


class KeyFileHealth(msgspec.Struct, kw_only=True):
    """`left_out` is the number of entries of the key file that cannot be used; all others count."""

    left_out: int = 0


class ClusterHealth(msgspec.Struct, kw_only=True):
    """This machine's copy of a log that several machines share.

    `node` is the machine's name, `index` its copy's last commit, `term` that commit's turn of writing,
    `writes` whether it is this machine's. `behind_ms`: how long ago the copy was known to be complete; null:
    not since it was opened.
    """

    index: int
    term: int
    writes: bool
    behind_ms: int | None
    node: str = ""


class Ready(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Whether to send clients to this server; `reason` is a problem's code, or `stopping`."""

    ready: bool
    reason: str = ""


class Health(msgspec.Struct, kw_only=True):
    """Server health; independent of live orders. `degraded`: the server works, but there is a problem.

    `details` has for each problem the time since when it is known (`since_ms`, epoch ms) and, where it can be
    counted, how many files, processes or users it concerns (`count`). `processes` maps each process to `up`
    or `down`; it is empty where they are not known. `cluster` is null on a single machine.
    """

    status: Annotated[str, Meta(extra_json_schema={"enum": [*get_args(Status)]})]
    problems: list[Annotated[str, Meta(extra_json_schema={"enum": [*CODES]})]]
    details: dict[str, Trouble] = {}
    processes: dict[str, Annotated[str, Meta(extra_json_schema={"enum": [*get_args(ProcessState)]})]] = {}
    source: SourceHealth
    log: LogHealth
    key_file: KeyFileHealth = msgspec.field(default_factory=KeyFileHealth)
    cluster: ClusterHealth | None = None


class KeyLimits(msgspec.Struct, kw_only=True):
    """Null means no limit. Event streams count as WebSocket connections."""

    websocket_connections: int | None
    requests_per_minute: int | None = None


class Me(msgspec.Struct, kw_only=True):
    """The request's API key: its user and its limits. `expires_ms` is epoch ms; null: never.

    `version` is the server's.
    """

    alias: str
    tier: int | float
    expires_ms: int | None = None
    limits: KeyLimits
    version: str = ""
