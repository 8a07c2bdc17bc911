"""What commands print: orders as a table, JSON, CSV or input of a command; rows and documents."""

from __future__ import annotations

import asyncio
import csv
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptn_api.cli.exit_status import CommandFailed
from ptn_api.client.message import PTNWebSocketMessage

__all__ = [
    "OrderHandler",
    "OrderOutput",
    "format_age",
    "format_leverage",
    "format_return",
    "format_time",
    "order_handler",
    "print_csv",
    "print_document",
    "print_rows",
    "table_of",
]

_DIRECTIONS = {"LONG": "green", "SHORT": "red", "FLAT": "dim"}


def format_time(ms: float | None) -> str:
    """UTC, to the second; empty for 0 and None, which mean never."""
    if not ms:
        return ""
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def format_age(ms: float) -> str:
    """A duration in its largest unit, such as 5m."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        if ms >= size:
            return f"{ms // size:.0f}{unit}"
    return f"{max(ms, 0) // 1000:.0f}s"


def format_return(value: float) -> str:
    """A return as a factor; 1 is unchanged."""
    return f"{value:.5f}"


def format_leverage(value: float | None) -> str:
    """Formats a leverage with its sign; - if the validator states none."""
    return "-" if value is None else f"{value:+.4f}"


def _shortened(hotkey: str) -> str:
    return f"{hotkey[:8]}…" if len(hotkey) > 12 else hotkey


# --- rows and documents -----------------------------------------------------------------------------------

_NUMBERS = {
    *("limit price", "stop loss", "take profit", "quantity", "account size", "balance", "equity"),
    *("leverage", "entry price", "price", "return", "orders"),
    *("rank", "all time", "won", "lost", "open", "net", "last"),
    *("weight", "omega", "sharpe", "sortino", "volatility", "drawdown"),
}
_SHRINKABLE = {"entry price", "order", "phase"}
"""Columns that give way on a narrow terminal: a header is wrapped, an uuid or a phase is cut short."""


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """A table on a terminal; otherwise tab-separated lines with complete cells, after a line of column names.

    The table fits 80 columns: it has no rules, and no column that is empty in every row. Control characters
    are escaped: names may come from another machine, and would reach the terminal.
    """
    rows = [[cell if cell.isprintable() else ascii(cell)[1:-1] for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(row))
        return
    console = Console()
    console.print(table_of(console, columns, rows, title=title))


def table_of(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str) -> Table:
    """Returns the rows as they look on a terminal."""
    shown = list(rows)
    used = [n for n in range(len(columns)) if not shown or any(row[n] for row in shown)]
    gap = 2 if console.width >= 100 else 1
    table = Table(title=title, title_justify="left", box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for n in used:
        is_number = columns[n] in _NUMBERS or columns[n].endswith("return")
        side: Literal["left", "right"] = "right" if is_number else "left"
        table.add_column(columns[n], justify=side, no_wrap=columns[n] not in _SHRINKABLE)
    for row in shown:
        table.add_row(*(_styled(columns[n], row[n]) for n in used))
    return table


def _styled(column: str, cell: str) -> Text:
    """A cell as the table shows it: in colour, hotkeys and times shortened."""
    if column == "miner":
        return Text(_shortened(cell), style="cyan")
    if column in ("opened", "closed"):  # as `ls` does: to the minute within this year, else the date
        this_year = cell.startswith(f"{datetime.now(timezone.utc).year}-")
        return Text(cell[5:16] if this_year else cell[:10])
    if column.endswith("return") and cell:
        return Text(cell, style="green" if float(cell) > 1 else "red" if float(cell) < 1 else "")
    return Text(cell, style=_DIRECTIONS.get(cell, ""), no_wrap=True, overflow="ellipsis")


def print_csv(rows: Iterable[Sequence[object]]) -> None:
    csv.writer(sys.stdout, lineterminator="\n").writerows(rows)


def print_document(body: bytes) -> None:
    """JSON as the server sent it, on one line."""
    _print_lines([body.rstrip()])


def _print_lines(lines: Iterable[bytes]) -> None:
    for line in lines:
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


# --- orders -----------------------------------------------------------------------------------------------

OrderHandler = Callable[[list[PTNWebSocketMessage]], Any]
"""A plain or async handler."""
OrderOutput = Literal["table", "json", "ndjson", "csv"]
"""`table` is tab-separated when piped, `json` is indented, `ndjson` has one line per order."""


def order_handler(output: OrderOutput, command: str | None) -> OrderHandler:
    """Prints orders, or runs a command for each of them if one is given."""
    if command is not None:
        return _CommandRunner(command)
    match output:
        case "table":
            return _print_styled if sys.stdout.isatty() else _SeparatedRows("excel-tab")
        case "csv":
            return _SeparatedRows("excel")
        case "json":
            return lambda messages: _print_lines(msgspec.json.format(m.to_json()) for m in messages)
        case "ndjson":
            return lambda messages: _print_lines(m.to_json() for m in messages)


class _SeparatedRows:
    """Writes one row per order, after a row of names."""

    def __init__(self, dialect: str) -> None:
        self._rows = csv.writer(sys.stdout, dialect=dialect, lineterminator="\n")
        self._has_header = False

    def __call__(self, messages: list[PTNWebSocketMessage]) -> None:
        for message in messages:
            order, position = message.new_order, message.position
            cells = {
                "sequence": message.sequence,
                "timestamp": message.timestamp,
                "miner_hotkey": position.miner_hotkey,
                "trade_pair": str(order.trade_pair),
                "order_type": order.order_type,
                "leverage": order.leverage,
                "price": order.price,
                "bid": order.bid,
                "ask": order.ask,
                "slippage": order.slippage,
                "processed_ms": order.processed_ms,
                "order_uuid": order.order_uuid,
                "position_uuid": position.position_uuid,
                "position_type": position.position_type,
                "net_leverage": position.net_leverage,
                "current_return": position.current_return,
                "late": int(message.late),
                "replay": int(message.replay),
            }
            if not self._has_header:
                self._rows.writerow(cells)
                self._has_header = True
            self._rows.writerow(cells.values())
        sys.stdout.flush()


def _print_styled(messages: list[PTNWebSocketMessage]) -> None:
    """One coloured line per order."""
    console = Console(highlight=False, soft_wrap=True)
    for message in messages:
        order, position = message.new_order, message.position
        marks = (" late" if message.late else "") + (" replay" if message.replay else "")
        line = Text.assemble(
            f"{message.sequence}  ",
            (_shortened(position.miner_hotkey), "cyan"),
            f"  {order.trade_pair:<7} ",
            (f"{order.order_type:<5}", _DIRECTIONS.get(order.order_type, "")),
            f" {format_leverage(order.leverage)} @ {order.price:<12g} net {position.net_leverage:+.4f}  ",
            f"return {format_return(position.current_return)}  {message.timelag_from_order} ms",
            (marks, "yellow"),
        )
        console.print(line)


class _CommandRunner:
    """Runs a shell command for each order, with the order as JSON on its standard input.

    The shell never sees the order: it is neither an argument nor in the environment. Raises CommandFailed for
    a status other than 0.
    """

    def __init__(self, command: str) -> None:
        self._command = command

    async def __call__(self, messages: list[PTNWebSocketMessage]) -> None:
        for message in messages:
            process = await asyncio.create_subprocess_shell(self._command, stdin=PIPE)
            await process.communicate(message.to_json() + b"\n")
            if process.returncode:
                problem = f"the command of --exec ended with status {process.returncode}"
                raise CommandFailed(f"{problem} on order {message.sequence}")
