"""The table that a run of the benchmarks fills."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

__all__ = ["Figures", "percentile"]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share (0..1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Figures:
    """Rows of (what, figures by name), printed as they come and together at the end."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, what: str, **figures: float | str) -> None:
        self.rows.append({"what": what} | figures)
        print(self._line(self.rows[-1]), flush=True)

    def add_times(self, what: str, milliseconds: Sequence[float]) -> None:
        self.add(
            what,
            n=len(milliseconds),
            p50_ms=round(statistics.median(milliseconds), 2),
            p99_ms=round(percentile(milliseconds, 0.99), 2),
            max_ms=round(max(milliseconds), 2),
        )

    def print(self) -> None:
        print("\n" + "\n".join(self._line(row) for row in self.rows))

    def _line(self, row: dict[str, Any]) -> str:
        figures = "  ".join(f"{name}={value}" for name, value in row.items() if name != "what")
        return f"{row['what']:<58} {figures}"
