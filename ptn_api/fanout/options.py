"""Options of the WebSocket server, and of REST's event streams."""

from __future__ import annotations

from typing import Annotated

from ptn_api.access.options import ClientLimits
from ptn_api.options import Bytes, Count, Delay, Limit, Period, setting

__all__ = ["StreamOptions"]


class StreamOptions(ClientLimits, frozen=True, kw_only=True):
    """Times are milliseconds, sizes bytes."""

    max_waiting_connections: Annotated[
        Count,
        setting(
            "Limits",
            "Keep at most this many WebSocket connections that have not logged in; beyond that, the oldest "
            "is closed",
        ),
    ] = 4_096
    accepts_per_second: Annotated[
        Count,
        setting(
            "Limits", "Accept at most this many WebSocket logins per second; further ones wait their turn"
        ),
    ] = 500
    frames_per_minute: Annotated[
        Limit,
        setting(
            "Limits",
            "Accept this many frames per minute from a WebSocket client, every full 4 KiB of a message "
            "counting as another frame; 0 = no limit",
        ),
    ] = 600
    message_limit_bytes: Annotated[
        Bytes,
        setting(
            "Limits",
            "Accept a subscribe of up to this size from a WebSocket client of version 2; other messages may "
            "have up to 4 KiB",
        ),
    ] = 128 << 10
    send_buffer_bytes: Annotated[
        Bytes,
        setting(
            "Limits", "Disconnect a client of the stream that falls further behind than this; it can resume"
        ),
    ] = 8 << 20
    auth_timeout_ms: Annotated[
        Period, setting("Stream", "Disconnect a client that has not logged in within this time")
    ] = 10_000
    heartbeat_ms: Annotated[
        Period, setting("Stream", "Send protocol version 2 heartbeats at this interval")
    ] = 15_000
    replay_window_ms: Annotated[
        Delay,
        setting(
            "Stream",
            "Replay missed orders to a version 1 client if the first of them is at most this old; send it no "
            "late order older than this",
        ),
    ] = 300_000
    presence_ms: Annotated[
        Period,
        setting(
            "Stream",
            "Repeat to the other processes that serve the stream which users are connected, at this interval",
        ),
    ] = 5_000
    unread_close_ms: Annotated[
        Period,
        setting("Stream", "Abort a connection whose client has not read the close frame within this time"),
    ] = 2_000
    eviction_delay_ms: Annotated[
        Delay,
        setting(
            "Stream",
            "Delay the next login of a user whose connections keep evicting each other; doubles, up to 12 "
            "times this",
        ),
    ] = 5_000

    behind_wait_ms: int = 2_000
    """How long a client whose cursor is above the head waits for this machine's copy of the log."""
    replay_stall_ms: int = 60_000
    """A replay whose client has read nothing for this long is given up."""
