"""Where orders go: a table, JSON, CSV, or a command that is started for each."""

from __future__ import annotations

import asyncio
import csv
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.text import Text

from ptn_api.cli.exit_status import CommandFailed
from ptn_api.cli.table import factor, short
from ptn_api.client.message import PTNWebSocketMessage

__all__ = ["Output", "Sink", "sink"]

Sink = Callable[[list[PTNWebSocketMessage]], Any]
"""A handler, plain or async."""


Output = Literal["table", "json", "ndjson", "csv"]
"""`table` is for eyes, or tab-separated when piped; `json` is indented, `ndjson` one line per order."""


def sink(output: Output, command: str | None) -> Sink:
    """A command wins over an output."""
    if command is not None:
        return _Command(command)
    match output:
        case "table":
            return _on_terminal if sys.stdout.isatty() else _Separated("excel-tab")
        case "csv":
            return _Separated("excel")
        case "json":
            return lambda messages: _print(msgspec.json.format(as_json(m)) for m in messages)
        case "ndjson":
            return lambda messages: _print(as_json(m) for m in messages)


def as_json(message: PTNWebSocketMessage) -> bytes:
    """As the stream sends it."""
    fields = {"sequence": message.sequence, "timestamp": message.timestamp, "data": message.data}
    marks = {"late": message.late, "replay": message.replay}
    return msgspec.json.encode(fields | {k: v for k, v in marks.items() if v})


def _print(lines: Any) -> None:
    for line in lines:
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


# --- tables -----------------------------------------------------------------------------------------------


def _cells(message: PTNWebSocketMessage) -> dict[str, Any]:
    order, position = message.new_order, message.position
    return {
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


class _Separated:
    """One row per order, below a row of names."""

    def __init__(self, dialect: str) -> None:
        self._rows = csv.writer(sys.stdout, dialect=dialect, lineterminator="\n")
        self._begun = False

    def __call__(self, messages: list[PTNWebSocketMessage]) -> None:
        for message in messages:
            cells = _cells(message)
            if not self._begun:
                self._rows.writerow(cells)
                self._begun = True
            self._rows.writerow(cells.values())
        sys.stdout.flush()


_STYLES = {"LONG": "green", "SHORT": "red", "FLAT": "dim"}


def _on_terminal(messages: list[PTNWebSocketMessage]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for message in messages:
        console.print(_line(message))


def _line(message: PTNWebSocketMessage) -> Text:
    order, position = message.new_order, message.position
    marks = " late" * message.late + " replay" * message.replay
    return Text.assemble(
        f"{message.sequence}  ",
        (short(position.miner_hotkey), "cyan"),
        f"  {order.trade_pair:<7} ",
        (f"{order.order_type:<5}", _STYLES.get(order.order_type, "")),
        f" {order.leverage:+.4f} @ {order.price:<12g} net {position.net_leverage:+.4f}  ",
        f"return {factor(position.current_return)}  {message.timelag_from_order} ms",
        (marks, "yellow"),
    )


# --- a command --------------------------------------------------------------------------------------------


class _Command:
    """Started by the shell for each order, which is its standard input; the order never gets into words
    that a shell reads. Raises CommandFailed for another status than 0."""

    def __init__(self, command: str) -> None:
        self._command = command

    async def __call__(self, messages: list[PTNWebSocketMessage]) -> None:
        for message in messages:
            process = await asyncio.create_subprocess_shell(self._command, stdin=PIPE)
            await process.communicate(as_json(message) + b"\n")
            if process.returncode:
                problem = f"the command ended with {process.returncode} on order {message.sequence}"
                raise CommandFailed(problem)
