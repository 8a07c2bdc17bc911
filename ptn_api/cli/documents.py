"""`ptn stats`, `ptn eliminations`, `ptn me` and `ptn checkpoint`: the server's documents."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ptn_api.cli.client import fetch, open_client
from ptn_api.cli.output import format_time, print_document, print_rows
from ptn_api.client import calls
from ptn_api.errors import SettingsError

__all__ = ["run_checkpoint", "run_eliminations", "run_me", "run_statistics"]

_SCORES = {
    "weight": ("weight",),
    "omega": ("scores.omega",),
    "sharpe": ("scores.sharpe",),
    "sortino": ("scores.sortino",),
    "volatility": ("volatility.annual",),
    "drawdown": ("drawdowns.instantaneous_max_drawdown", "drawdowns.ledger_max_drawdown"),
}
"""By column: where the number may be. Validators' versions differ; the first path that exists is used."""


def run_statistics(
    url: str | None, api_key_file: Path | None, *, hotkey: str | None, checkpoints: bool, as_json: bool
) -> None:
    """Prints every miner's scores, or one miner's complete element as JSON."""
    with open_client(url, api_key_file) as client:
        if hotkey is not None:
            body, _ = fetch(client, calls.miner_statistics(hotkey, checkpoints=checkpoints))
            print_document(body if as_json else msgspec.json.format(body))
            return
        body, document = fetch(client, calls.statistics(checkpoints=checkpoints))
    if as_json:
        print_document(body)
        return
    rows = []
    for miner in document.data:
        scores = (_score(miner, *paths) for paths in _SCORES.values())
        period = miner.challengeperiod
        rows.append(
            (miner.hotkey, *scores, str(period.get("status", "")) if isinstance(period, Mapping) else "")
        )
    title = f"statistics of {document.created_date or format_time(document.created_timestamp_ms)}"
    print_rows(("miner", *_SCORES, "phase"), rows, title=title)


def _score(miner: Any, *paths: str) -> str:
    """The number at the first path that has one, possibly as an object's `value`; else empty."""
    for path in paths:
        first, *keys = path.split(".")
        value: Any = getattr(miner, first)
        for key in (*keys, "value"):
            value = value.get(key) if isinstance(value, Mapping) else value
        if isinstance(value, (int, float)):
            return f"{value:.5g}"
    return ""


def run_eliminations(url: str | None, api_key_file: Path | None, *, as_json: bool) -> None:
    with open_client(url, api_key_file) as client:
        body, eliminations = fetch(client, calls.eliminations())
    if as_json:
        print_document(body)
        return
    rows = [
        (
            miner.hotkey,
            format_time(miner.elimination_initiated_time_ms),
            "" if miner.dd is None else f"{miner.dd:g}",
            miner.reason or "",
        )
        for miner in eliminations
    ]
    print_rows(("miner", "eliminated", "drawdown", "reason"), rows, title=f"{len(rows)} eliminations")


def run_me(url: str | None, api_key_file: Path | None, *, as_json: bool) -> None:
    """Prints what the server knows about the key, but never the key."""
    with open_client(url, api_key_file) as client:
        body, me = fetch(client, calls.me())
    if as_json:
        print_document(body)
        return
    rows = [(name, "" if value is None else str(value)) for name, value in _flat(msgspec.to_builtins(me))]
    print_rows(("field", "value"), rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The fields of nested objects, with names like `limits.connections`."""
    fields: list[tuple[str, Any]] = []
    for name, value in values.items():
        fields += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return fields


def run_checkpoint(url: str | None, api_key_file: Path | None, *, output: Path, as_json: bool) -> None:
    """Downloads to a temporary file and renames it when complete, with a progress bar on a terminal."""
    if str(output) == "-":
        raise SettingsError("--output needs a file: a broken download on a pipe could pass for a checkpoint")
    columns = (TextColumn("checkpoint"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with (
        open_client(url, api_key_file) as client,
        Progress(*columns, console=console, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("", total=None)
        client.validator_checkpoint(output, lambda done, total: bar.update(task, completed=done, total=total))
    size = output.stat().st_size
    if as_json:
        print_document(msgspec.json.encode({"file": str(output), "bytes": size}))
    else:
        print(f"ptn: {output}: {size} bytes", file=sys.stderr)
