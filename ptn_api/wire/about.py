"""What a server says of itself and of the key that asks: the answers of `/health` and `/me`.

Words that may become more (`status`, `problems`, states of processes) are plain strings to whoever reads
them, so that an older client can read a newer server; the schema lists those of today.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

__all__ = ["Health", "KeyLimits", "LogHealth", "Me", "Problem", "SourceHealth", "Status"]

Status = Literal["ok", "degraded", "starting", "failing"]
Problem = Literal[
    "log_unreadable",
    "log_unwritable",
    "process_down",
    "source_stale",
    "source_silent",
    "starting",
    "not_watching",
]
ProcessState = Literal["up", "down"]


class SourceHealth(msgspec.Struct, kw_only=True):
    """`swept_ms`: end of the last completed sweep of the validator's files; null without a directory."""

    swept_ms: int | None = None
    stale: bool = False
    reason: str = ""
    watching: bool = True


class LogHealth(msgspec.Struct, kw_only=True):
    """`ready`: the first scan of the validator's files is complete. `writable`: intake can add to the log."""

    ready: bool = False
    writable: bool = True


class Health(msgspec.Struct, kw_only=True):
    """Nothing here moves with live orders. `degraded`: all is served, a problem should be looked at.

    `processes` says which are `up` and which `down`; where they are not known it is empty.
    """

    status: Annotated[str, Meta(extra_json_schema={"enum": [*get_args(Status)]})]
    problems: list[Annotated[str, Meta(extra_json_schema={"enum": [*get_args(Problem)]})]]
    processes: dict[str, Annotated[str, Meta(extra_json_schema={"enum": [*get_args(ProcessState)]})]] = {}
    source: SourceHealth
    log: LogHealth


class KeyLimits(msgspec.Struct, kw_only=True):
    """`requests_per_minute` null: without a limit."""

    websocket_connections: int
    requests_per_minute: int | None = None


class Me(msgspec.Struct, kw_only=True):
    """The key that asks: whose it is, and what it may. `expires_ms` is epoch ms, null: never."""

    alias: str
    tier: int
    expires_ms: int | None = None
    limits: KeyLimits
