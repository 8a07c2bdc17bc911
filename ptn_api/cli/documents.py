"""`ptn stats`, `ptn eliminations`, `ptn me`, `ptn checkpoint`: documents, and the key's own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ptn_api.cli.client import answer, asking
from ptn_api.cli.table import print_document, print_rows, utc
from ptn_api.client import calls
from ptn_api.errors import SettingsError

__all__ = ["run_checkpoint", "run_eliminations", "run_me", "run_statistics"]


def run_statistics(
    url: str | None, api_key_file: Path | None, *, hotkey: str | None, checkpoints: bool, as_json: bool
) -> None:
    """Every miner's scores, or one miner's whole element (which is JSON either way)."""
    with asking(url, api_key_file) as client:
        if hotkey is not None:
            body, _ = answer(client, calls.miner_statistics(hotkey, checkpoints=checkpoints))
            print_document(body if as_json else msgspec.json.format(body))
            return
        body, document = answer(client, calls.statistics(checkpoints=checkpoints))
    if as_json:
        print_document(body)
        return
    rows = [
        (miner.hotkey, *(_number(miner, *paths) for paths in _SCORES.values()), _phase(miner.challengeperiod))
        for miner in document.data
    ]
    title = f"statistics of {document.created_date or utc(document.created_timestamp_ms)}"
    print_rows(("miner", *_SCORES, "phase"), rows, title=title)


_SCORES = {
    "weight": ("weight",),
    "omega": ("scores.omega",),
    "sharpe": ("scores.sharpe",),
    "sortino": ("scores.sortino",),
    "volatility": ("volatility.annual",),
    "drawdown": ("drawdowns.instantaneous_max_drawdown", "drawdowns.ledger_max_drawdown"),
}
"""Where a column's number is; validators of different versions differ, and the first that is there counts."""


def _number(miner: Any, *paths: str) -> str:
    """A score may be a number or an object with a `value`."""
    for path in paths:
        first, *keys = path.split(".")
        value: Any = getattr(miner, first)
        for key in (*keys, "value"):
            value = value.get(key) if isinstance(value, Mapping) else value
        if isinstance(value, (int, float)):
            return f"{value:.5g}"
    return ""


def _phase(challengeperiod: Any) -> str:
    return str(challengeperiod.get("status", "")) if isinstance(challengeperiod, Mapping) else ""


def run_eliminations(url: str | None, api_key_file: Path | None, *, as_json: bool) -> None:
    with asking(url, api_key_file) as client:
        body, eliminations = answer(client, calls.eliminations())
    if as_json:
        print_document(body)
        return
    rows = [
        (e.hotkey, utc(e.elimination_initiated_time_ms), "" if e.dd is None else f"{e.dd:g}", e.reason or "")
        for e in eliminations
    ]
    print_rows(("miner", "eliminated", "drawdown", "reason"), rows, title=f"{len(rows)} eliminations")


def run_me(url: str | None, api_key_file: Path | None, *, as_json: bool) -> None:
    """What the server knows about the key: never the key."""
    with asking(url, api_key_file) as client:
        body, me = answer(client, calls.me())
    if as_json:
        print_document(body)
    else:
        print_rows(
            ("what", "is"),
            [(name, "" if value is None else str(value)) for name, value in _flat(msgspec.to_builtins(me))],
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return found


def run_checkpoint(url: str | None, api_key_file: Path | None, *, output: Path, as_json: bool) -> None:
    """The file is written beside and moved: what is there is whole. The bar is for people only."""
    if str(output) == "-":
        raise SettingsError("-o needs a file: what breaks off half way must not pass for a checkpoint")
    columns = (TextColumn("checkpoint"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with (
        asking(url, api_key_file) as client,
        Progress(*columns, console=console, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("", total=None)
        client.validator_checkpoint(output, lambda done, total: bar.update(task, completed=done, total=total))
    size = output.stat().st_size
    if as_json:
        print_document(msgspec.json.encode({"file": str(output), "bytes": size}))
    else:
        print(f"ptn: {output}: {size} bytes", file=sys.stderr)
