"""Rows on standard output: a table on a terminal, tab-separated when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["factor", "print_document", "print_rows", "short", "utc"]


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Piped, everything stays whole, and the first line names the columns.

    A terminal of 80 columns has room for everything else: there are no lines between the columns, and none
    that is empty in every row.
    """
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(row))
        return
    shown = list(rows)
    full = [n for n in range(len(columns)) if not shown or any(row[n] for row in shown)]
    console = Console()
    between = 2 if console.width >= 100 else 1
    table = Table(title=title, title_justify="left", box=None, padding=(0, between, 0, 0), pad_edge=False)
    for n in full:
        side: Literal["left", "right"] = "right" if columns[n] in _NUMBERS else "left"
        table.add_column(columns[n], justify=side, no_wrap=columns[n] not in _GIVE_WAY)
    for row in shown:
        table.add_row(*(_styled(columns[n], row[n]) for n in full))
    console.print(table)


def print_document(body: bytes) -> None:
    """JSON as the server sent it, and a newline."""
    sys.stdout.buffer.write(body.rstrip() + b"\n")
    sys.stdout.buffer.flush()


def utc(ms: float | None) -> str:
    """Nothing for 0 and None, which mean never."""
    if not ms:
        return ""
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def factor(value: float) -> str:
    """A return; 1 is unchanged."""
    return f"{value:.5f}"


def short(hotkey: str) -> str:
    """For eyes; as long as it takes to tell miners apart."""
    return f"{hotkey[:8]}…" if len(hotkey) > 12 else hotkey


_DIRECTIONS = {"LONG": "green", "SHORT": "red", "FLAT": "dim"}
_NUMBERS = {
    *("leverage", "entry price", "price", "return", "orders"),
    *("weight", "omega", "sharpe", "sortino", "volatility", "drawdown"),
}
_GIVE_WAY = {"entry price", "order"}
"""Where room is short: the name goes on two lines, the uuid loses its end."""


def _styled(column: str, cell: str) -> Text:
    if column == "miner":
        return Text(short(cell), style="cyan")
    if column in ("opened", "closed"):
        return Text(_brief(cell))
    if column == "return" and cell:
        return Text(cell, style="green" if float(cell) > 1 else "red" if float(cell) < 1 else "")
    return Text(cell, style=_DIRECTIONS.get(cell, ""), no_wrap=True, overflow="ellipsis")


def _brief(moment: str) -> str:
    """As `ls` says it: day and minute in this year, the date in others."""
    this_year = moment.startswith(f"{datetime.now(timezone.utc).year}-")
    return moment[5:16] if this_year else moment[:10]
