"""What the stream counts while it runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ptn_api.histogram import Histogram

__all__ = ["StreamCounters"]


@dataclass
class StreamCounters:
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
    closed: Counter[int] = field(default_factory=Counter)
    limited: Counter[str] = field(default_factory=Counter)
    lag_seen: Histogram = field(default_factory=Histogram)
    lag_processed: Histogram = field(default_factory=Histogram)
