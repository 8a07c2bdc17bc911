"""Counters of the stream, read by the metrics endpoint."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ptn_api.histogram import Histogram
from ptn_api.http.acceptor import AcceptPauses

__all__ = ["StreamCounters"]


@dataclass
class StreamCounters:
    """`clients` is the number currently logged in; everything else is a total since the start.

    `deliveries` counts messages times subscribers; `sent_bytes` their frames with headers, before TCP.
    `closed` is by close code, `limited` by the limit that was exceeded, `bad_logins` by what was wrong with a
    first frame that is not a login, `refused_handshakes` by HTTP status or "timeout", and `errors` by the
    code of the error frame that was sent. `lag_seen` and `lag_processed` are the seconds until an order was
    handed to the sockets, since intake saw it and since the validator filled it; replayed and late orders are
    not included.
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
    bad_logins: Counter[str] = field(default_factory=Counter)
    refused_handshakes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    accept_pauses: AcceptPauses = field(default_factory=AcceptPauses)
    lag_seen: Histogram = field(default_factory=Histogram)
    lag_processed: Histogram = field(default_factory=Histogram)
