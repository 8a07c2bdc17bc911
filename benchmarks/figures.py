"""The table of a benchmark run, and the ratios compared with targets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.contest import Result, Rounds

__all__ = ["Figures", "percentile"]


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the value below which this share (0..1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Figures:
    """Rows of (label, figures by name), printed at once, and the targets, printed at the end."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.targets: list[dict[str, Any]] = []

    def add(self, what: str, **figures: float | str) -> None:
        self.rows.append({"what": what} | figures)
        print(_line(self.rows[-1]), flush=True)

    def add_times(self, what: str, milliseconds: Sequence[float]) -> None:
        self.add(
            what,
            n=len(milliseconds),
            p50_ms=round(statistics.median(milliseconds), 2),
            p99_ms=round(percentile(milliseconds, 0.99), 2),
            max_ms=round(max(milliseconds), 2),
        )

    def target(
        self, what: str, value: float, *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Adds a row to the table of targets."""
        met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        wanted = f">= {at_least:,}" if at_least is not None else f"<= {at_most:,}"
        self.targets.append({"what": what, "measured": _short(value), "target": wanted, "met": met})

    def ratio(
        self,
        what: str,
        rounds: Rounds[Result],
        ours: str,
        beside: str | Sequence[str],
        *,
        value: Callable[[Result], float],
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Adds a row with the ratio of two contestants, and judges it if the machine was quiet enough."""
        ratio = rounds.ratio(ours, beside, value)
        names = [beside] if isinstance(beside, str) else beside
        medians = {name: _short(statistics.median(rounds.values(name, value))) for name in (ours, *names)}
        self.add(what, ratio=str(ratio), **medians)
        if at_least is None and at_most is None:
            return
        self.target(what, ratio.median, at_least=at_least, at_most=at_most)
        self.targets[-1]["measured"] = str(ratio)
        if not rounds.quiet:
            share = statistics.median(rounds.shares)
            self.targets[-1] |= {"met": None, "measured": f"{ratio}, machine busy: {share:.0%} of a core"}

    def skip(self, what: str, why: str) -> None:
        """Reports a measurement that is impossible on this machine, here and in the table."""
        self.add(f"SKIPPED: {what}", why=why)
        self.targets.append({"what": what, "measured": None, "target": f"skipped: {why}", "met": None})

    def print(self) -> None:
        print("\n" + "\n".join(_line(row) for row in self.rows))
        if self.targets:
            print("\n" + self.table())

    def table(self) -> str:
        """Prints the targets as a Markdown table."""
        words = {True: "yes", False: "**no**", None: "-"}
        rows = [
            f"| {one['what']} | {one['measured'] if one['measured'] is not None else '-'} "
            f"| {one['target']} | {words[one['met']]} |"
            for one in self.targets
        ]
        return "\n".join(["| what | measured | target | met |", "|---|---|---|---|", *rows])


def _short(value: float) -> float | int:
    """Formats a value with three significant digits."""
    return round(value) if abs(value) >= 100 else float(f"{value:.3g}")


def _line(row: dict[str, Any]) -> str:
    figures = "  ".join(f"{name}={value}" for name, value in row.items() if name != "what")
    return f"{row['what']:<66} {figures}"
