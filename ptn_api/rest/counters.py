"""The REST server's counters, for the metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ptn_api.fanout.counters import StreamCounters
from ptn_api.http.acceptor import AcceptPauses
from ptn_api.views.positions import ViewMetrics

__all__ = ["RestCounters"]


@dataclass
class RestCounters:
    """Totals since the start, except `connections`, which are open now.

    `requests` and `sent_bytes` are keyed by (route, status, coding), `limited` by the limit exceeded, and
    `refused` by what was wrong with input that is not a request, or `slow_download`. `heavy` counts by route
    the requests that were "queued" or "refused" (turns.py). `events` are those of the event streams.
    """

    connections: int = 0
    requests: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    sent_bytes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    auth_failures: int = 0
    limited: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    accept_pauses: AcceptPauses = field(default_factory=AcceptPauses)
    heavy: Counter[tuple[str, str]] = field(default_factory=Counter)
    events: StreamCounters = field(default_factory=StreamCounters)
    views: ViewMetrics = field(default_factory=ViewMetrics)

    def __post_init__(self) -> None:
        self.events.limited = self.limited
