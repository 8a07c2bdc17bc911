"""Rows on standard output: a table on a terminal, tab-separated when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["factor", "print_document", "print_rows", "short", "utc"]


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Piped, hotkeys and the like stay whole, and the first line names the columns."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(row))
        return
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*map(_styled, columns, row))
    Console().print(table)


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


def _styled(column: str, cell: str) -> Text:
    if column == "miner":
        return Text(short(cell), style="cyan", overflow="fold")
    if column == "return" and cell:
        return Text(cell, style="green" if float(cell) > 1 else "red" if float(cell) < 1 else "")
    return Text(cell, style=_DIRECTIONS.get(cell, ""))
