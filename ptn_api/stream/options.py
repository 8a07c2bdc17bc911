"""What the stream is told when it starts, and what it counts while it runs."""

from __future__ import annotations

from collections import Counter

import msgspec

from ptn_api.histogram import Histogram

__all__ = ["StreamCounters", "StreamOptions"]


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


class StreamCounters(msgspec.Struct, kw_only=True):
    """`clients` is how many are logged in now; the rest are totals since the start.

    `deliveries` counts messages times subscribers, `sent_bytes` their frames with headers, before TCP.
    `closed` goes by close code, `limited` by what was too much. `lag_seen` and `lag_processed` are seconds
    from when intake saw an order, and from when the validator filled it, until it was handed to the sockets;
    replays and late orders are not among them.
    """

    clients: int = 0
    logins: int = 0
    auth_failures: int = 0
    deliveries: int = 0
    sent_bytes: int = 0
    replays: int = 0
    slow_closes: int = 0
    evictions: int = 0
    closed: Counter[int] = msgspec.field(default_factory=Counter)
    limited: Counter[str] = msgspec.field(default_factory=Counter)
    lag_seen: Histogram = msgspec.field(default_factory=Histogram)
    lag_processed: Histogram = msgspec.field(default_factory=Histogram)
