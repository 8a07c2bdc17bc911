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
    """The validator's files."""

    swept_ms: int | None = None
    """End of the last completed sweep of the validator's files. Unit: epoch ms. Null: without a directory."""
    stale: bool = False
    """Whether the files have stopped being updated or read."""
    reason: str = ""
    """Why it is stale; empty if it is not."""
    watching: bool = True
    """Whether changes of files are noticed at once; otherwise by sweeps only."""


class LogHealth(msgspec.Struct, kw_only=True):
    """The event log."""

    ready: bool = False
    """Whether the first scan of the validator's files is complete."""
    writable: bool = True
    """Whether orders can be stored."""
    epoch_matches: bool | None = None
    """Whether the request's `epoch` is that of the log. Null: no `epoch` in the request."""


class KeyFileHealth(msgspec.Struct, kw_only=True):
    """The key file. Since: 0.2.0."""

    left_out: int = 0
    """Entries that cannot be used; all others count. Unit: count."""


class ClusterHealth(msgspec.Struct, kw_only=True):
    """This machine's copy of a log that several machines share. Since: 0.2.0."""

    index: int
    """Index of the copy's last commit. Unit: count."""
    term: int
    """Number of the writer's turn that made this commit. Unit: count."""
    writes: bool
    """Whether the turn is this machine's."""
    behind_ms: int | None
    """How long ago the copy was known to be complete. Unit: ms. Null: not since it was opened."""
    node: str = ""
    """Name of the machine; empty if it has none."""


class Ready(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Whether to send clients to this server. Since: 0.2.0."""

    ready: bool
    """Whether to send clients."""
    reason: str = ""
    """Code of a problem, or `stopping`. Absent: if ready."""


class Health(msgspec.Struct, kw_only=True):
    """Health of the server; independent of live orders."""

    status: Annotated[str, Meta(extra_json_schema={"enum": [*get_args(Status)]})]
    """`ok`; `degraded`: works, but there is a problem; `starting` and `failing`: status 503."""
    problems: list[Annotated[str, Meta(extra_json_schema={"enum": [*CODES]})]]
    """Codes of the present problems (docs/troubleshooting.md)."""
    details: dict[str, Trouble] = {}
    """By problem, since when, and how many things it concerns. Since: 0.2.0."""
    processes: dict[str, Annotated[str, Meta(extra_json_schema={"enum": [*get_args(ProcessState)]})]] = {}
    """By process, `up` or `down`; empty where they are not known."""
    source: SourceHealth
    """The validator's files."""
    log: LogHealth
    """The event log."""
    key_file: KeyFileHealth = msgspec.field(default_factory=KeyFileHealth)
    """The key file. Since: 0.2.0."""
    cluster: ClusterHealth | None = None
    """This machine's copy of the log. Null: on a single machine. Since: 0.2.0."""


class KeyLimits(msgspec.Struct, kw_only=True):
    """Limits of the key's user."""

    websocket_connections: int | None
    """WebSocket connections and event streams at a time. Unit: count. Null: no limit."""
    requests_per_minute: int | None = None
    """Requests per minute. Unit: count per minute. Null: no limit."""


class Me(msgspec.Struct, kw_only=True):
    """The request's API key."""

    alias: str
    """Name of the key's user."""
    tier: int | float
    """The key's tier: 0, 30, 50, 100, 200 or another number. Unit: tier."""
    expires_ms: int | None = None
    """When the key expires. Unit: epoch ms. Null: never."""
    limits: KeyLimits
    """The user's limits."""
    version: str = ""
    """Version of the server."""
