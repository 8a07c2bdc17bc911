"""What becomes of an order of the stream: a row of a table, JSON, CSV, or the input of a command."""

from __future__ import annotations

import asyncio
import csv
import sys
import textwrap
from asyncio.subprocess import PIPE
from collections.abc import Callable
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from ptn_api.cli.exit_status import CommandFailed
from ptn_api.cli.row_options import Format
from ptn_api.cli.show.table import (
    LEVERAGE,
    NUMBER,
    RETURN,
    SIDE,
    TEXT,
    Kind,
    format_age,
    format_time,
    iso_time,
    print_lines,
    shortened,
)
from ptn_api.client.message import PTNWebSocketMessage

__all__ = ["OrderHandler", "order_handler"]

OrderHandler = Callable[[list[PTNWebSocketMessage]], Any]
"""A plain or async handler."""


def order_handler(
    output: Format, command: str | None, *, wide: bool = False, live: bool = True
) -> OrderHandler:
    """Runs the command for each order, or prints them: as a table on a terminal, tab-separated in a pipe.

    `live` orders have just happened, so their age is shown.
    """
    if command is not None:
        return _CommandRunner(command)
    match output:
        case "table":
            return _StyledRows(wide=wide, live=live) if sys.stdout.isatty() else _SeparatedRows("excel-tab")
        case "csv":
            return _SeparatedRows("excel")
        case "json":
            return lambda messages: print_lines(msgspec.json.format(m.to_json()) for m in messages)
        case "ndjson":
            return lambda messages: print_lines(m.to_json() for m in messages)


class _SeparatedRows:
    """Writes one row per order, after a row of names. `time` is the order's, `timestamp` the server's."""

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
                "time": iso_time(order.processed_ms),
            }
            if not self._has_header:
                self._rows.writerow(cells)
                self._has_header = True
            self._rows.writerow(cells.values())
        sys.stdout.flush()


_NOTES = {
    "leverage": "change of the position, in multiples of the account, - is short",
    "net": "the position's leverage",
    "price": "in the pair's quote currency",
    "return": "the position's",
    "age": "of the order when it arrived",
}


class _StyledRows:
    """Prints one coloured line per order, after a heading; a line with the date where it changes.

    A line fits 80 columns. Widths are fixed, since the later rows are not known; after a cell that is wider,
    the next ones have less space before them.
    """

    def __init__(self, *, wide: bool, live: bool) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._wide = wide
        self._live = live
        self._day = ""

    def __call__(self, messages: list[PTNWebSocketMessage]) -> None:
        for message in messages:
            order, position = message.new_order, message.position
            day, _, time = format_time(order.processed_ms).partition(" ")
            miner = position.miner_hotkey if self._wide else shortened(position.miner_hotkey)
            cells: list[tuple[str, int, Kind, Any]] = [
                ("time", 8, TEXT, time),
                ("miner", 48 if self._wide else 11, _MINER, miner),
                ("pair", 8, TEXT, str(order.trade_pair)),
                ("type", 5, SIDE, order.order_type),
                ("leverage", 8, LEVERAGE, order.leverage),
                ("price", 9, NUMBER, order.price),
                ("net", 8, LEVERAGE, position.net_leverage),
                ("return", 8, RETURN, position.current_return),
                ("age", 4, _AGE, message.timelag_from_order),
            ]
            if not self._live:
                del cells[8]
            elif self._console.width < 100 and not self._wide:
                del cells[6]
            if not self._day:
                notes = " ".join(f"{name}: {_NOTES[name]}." for name, *_ in cells if name in _NOTES)
                for note in textwrap.wrap(notes, min(self._console.width, 100)):
                    self._console.print(Text(note, style="dim"))
                heading = " ".join(_padded(kind, width, name) for name, width, kind, _ in cells)
                self._console.print(Text(heading, style="bold"))
            if day != self._day:
                self._console.print(Text(f"--- {day} (UTC)", style="dim"))
                self._day = day
            line, end = Text(), -1
            for _, width, kind, value in cells:
                shown = "-" if value is None else kind.show(value)
                line.append(" " * bool(line))
                end += 1 + width
                room = max(0, end - len(line))
                line.append(_padded(kind, room, shown), kind.style(value) if value is not None else "")
            line.append(" late" * message.late + " replay" * message.replay, "yellow")
            if not self._wide:
                line.truncate(self._console.width, overflow="ellipsis")
            self._console.print(line)


_AGE = Kind(format_age, right=True)
_MINER = Kind(style=lambda _: "cyan")


def _padded(kind: Kind, width: int, text: str) -> str:
    text = text if text.isprintable() else ascii(text)[1:-1]
    return f"{text:>{width}}" if kind.right else f"{text:<{width}}"


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
