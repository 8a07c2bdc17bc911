"""What the stream is told when it starts."""

from __future__ import annotations

import msgspec

__all__ = ["StreamOptions"]


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the same names; times are milliseconds, sizes bytes."""

    auth_timeout_ms: int = 10_000
    heartbeat_ms: int = 15_000
    replay_window_ms: int = 86_400_000
    max_connections_per_key: int = 5
    send_buffer_bytes: int = 8 << 20
    unread_close_ms: int = 2_000
    eviction_delay_ms: int = 5_000
    accepts_per_second: int = 500
    message_limit_bytes: int = 1 << 20
    max_waiting_connections: int = 4_096
    frames_per_minute: int = 600
    connects_per_minute: int = 600
    failed_logins_per_minute: int = 30
    trusted_proxies: str = ""
    replay_stall_ms: int = 60_000
    """A replay that is not read for this long is given up."""
