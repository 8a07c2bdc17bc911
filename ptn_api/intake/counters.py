"""What intake counts while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from ptn_api.histogram import Histogram

__all__ = ["IntakeCounters"]


@dataclass
class IntakeCounters:
    """`unwritable`: the log could not be written the last time; the rest are totals since the start."""

    unwritable: bool = False
    append_failures: int = 0
    append_seconds: Histogram = field(default_factory=Histogram)
    """From handing changes to the log until they are durable."""
