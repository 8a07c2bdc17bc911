"""What the REST room counts while it runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ptn_api.views.positions import ViewMetrics

__all__ = ["RestCounters"]


@dataclass
class RestCounters:
    """`connections` are open now; the rest are totals since the start, times in seconds.

    `requests` and `sent_bytes` go by (route, status, coding), `limited` by what was too much.
    """

    connections: int = 0
    requests: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    sent_bytes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    auth_failures: int = 0
    limited: Counter[str] = field(default_factory=Counter)
    views: ViewMetrics = field(default_factory=ViewMetrics)
