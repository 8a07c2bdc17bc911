"""`ptn positions`: every miner's positions, as a table on a terminal, plain when piped, JSON when asked."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from ptn_api.cli.api_key import read_api_key
from ptn_api.client.calls import Tier
from ptn_api.client.rest import PTNClient
from ptn_api.model.miner import MinerEntry
from ptn_api.model.position import Position
from ptn_api.model.trade_pair import pair_id

__all__ = ["run"]

_TIERS: tuple[Tier, ...] = (0, 30, 50, 100)
_COLUMNS = ("miner", "pair", "type", "leverage", "entry price", "return", "orders", "opened")


def run(url: str, api_key_file: Path | None, *, tier: int | None, miner: str | None, as_json: bool) -> None:
    """Without a tier: the key's own."""
    with PTNClient(url, read_api_key(api_key_file)) as client:
        asked = client.me()["tier"] if tier is None else tier
        shown: Tier | None = next((t for t in _TIERS if t == asked), None)
        if shown is None:
            raise typer.BadParameter("must be 0, 30, 50 or 100", param_hint="--tier")
        entries = client.miner_positions(tier=shown, miners=[miner] if miner else [])
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(entries) + b"\n")
    elif sys.stdout.isatty():
        _print_table(entries)
    else:
        _print_lines(entries)


def _rows(entries: dict[str, MinerEntry]) -> list[tuple[str, ...]]:
    return [
        (hotkey, *_row(position))
        for hotkey, entry in entries.items()
        for position in entry.positions
        if not position.is_closed_position
    ]


def _row(position: Position) -> tuple[str, ...]:
    return (
        pair_id(position.trade_pair),
        position.position_type or "",
        f"{position.net_leverage:+.4f}",
        f"{position.average_entry_price:g}",
        f"{position.current_return:.5f}",
        str(len(position.orders)),
        _utc(position.open_ms / 1000),
    )


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _print_table(entries: dict[str, MinerEntry]) -> None:
    table = Table(*_COLUMNS, title=f"{len(entries)} miners, best first; open positions")
    for row in _rows(entries):
        table.add_row(f"{row[0][:8]}…", *row[1:])
    Console().print(table)


def _print_lines(entries: dict[str, MinerEntry]) -> None:
    """Tab-separated, whole hotkeys, with a header."""
    for row in [_COLUMNS, *_rows(entries)]:
        print("\t".join(row))
