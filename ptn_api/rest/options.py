"""Options of the REST server."""

from __future__ import annotations

from typing import Annotated

from ptn_api.access.options import ClientLimits
from ptn_api.options import (
    BEHIND_MS,
    CLOCK_JUMP_MS,
    CLOCK_SETTLE_MS,
    STOP_TIMEOUT_MS,
    Behind,
    ClockJump,
    ClockSettle,
    Count,
    Delay,
    Limit,
    NodeName,
    Period,
    StopTimeout,
    setting,
)

__all__ = ["RestOptions"]


class RestOptions(ClientLimits, frozen=True, kw_only=True):
    """Times are milliseconds, sizes bytes."""

    requests_per_minute: Annotated[
        Limit,
        setting(
            "Limits",
            "Allow each user this many REST requests per minute, unless the key file sets another limit; "
            "0 = no limit",
        ),
    ] = 600
    max_rest_connections: Annotated[
        Count,
        setting(
            "Limits",
            "Keep at most this many REST connections; beyond that, the longest-idle connection is closed",
        ),
    ] = 4_096
    heavy_requests: Annotated[
        Count,
        setting(
            "Limits",
            "Work on this many expensive REST requests at once (filters, changes, messages, checkpoint), up "
            "to 4 MB each",
        ),
    ] = 32
    heavy_requests_per_user: Annotated[
        Count, setting("Limits", "Work on this many expensive REST requests of a user at once")
    ] = 4
    heavy_waiting: Annotated[
        Limit,
        setting("Limits", "Let this many expensive REST requests wait; beyond that, the response is a 503"),
    ] = 1_024
    heavy_waiting_per_user: Annotated[
        Limit, setting("Limits", "Let this many expensive REST requests of a user wait")
    ] = 128
    max_downloads_per_user: Annotated[
        Count,
        setting("Limits", "Send each user at most this many large documents at a time; further ones wait"),
    ] = 8
    refresh_coalesce_ms: Annotated[
        Delay,
        setting("REST", "Collect refreshed returns for this long before serving them; orders never wait"),
    ] = 1_000
    header_timeout_ms: Annotated[
        Period, setting("REST", "Limit the time for receiving a complete request, headers and body")
    ] = 10_000
    minimum_rate: Annotated[
        Limit,
        setting(
            "REST", "Disconnect a client that downloads slower than this many bytes per second; 0 = never"
        ),
    ] = 1_024
    clock_jump_ms: ClockJump = CLOCK_JUMP_MS
    clock_settle_ms: ClockSettle = CLOCK_SETTLE_MS
    stop_timeout_ms: StopTimeout = STOP_TIMEOUT_MS
    behind_ms: Behind = BEHIND_MS
    node_name: NodeName = ""

    rate_window_ms: int = 10_000
    """The time over which `minimum_rate` is measured."""
    waiting_downloads: int = 32
    """How many large documents more a user may wait for."""
    download_wait_ms: int = 30_000
    """How long each of them waits before the response is a 503."""
    behind_wait_ms: int = 2_000
    """How long a request with a cursor above the head waits for this machine's copy of the log."""
    silent_ms: int = 300_000
    """The age at which the last sweep of the validator's files counts as a problem."""
