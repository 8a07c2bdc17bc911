"""The commands that print the server's documents: statistics, eliminations, ledgers, accounts and others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ptn_api.cli.client import fetch, open_client
from ptn_api.cli.show.output import format_leverage, format_return, format_time, print_document, print_rows
from ptn_api.client import calls
from ptn_api.client.calls import Call
from ptn_api.errors import SettingsError

__all__ = [
    "run_account",
    "run_challenge_period",
    "run_checkpoint",
    "run_collateral",
    "run_eliminations",
    "run_entities",
    "run_ledger",
    "run_limit_orders",
    "run_me",
    "run_selections",
    "run_statistics",
    "run_trade_pairs",
]

T = TypeVar("T")

_PRICES = ("limit_price", "stop_loss", "take_profit")

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


class _Table(NamedTuple):
    columns: Sequence[str]
    rows: Iterable[Sequence[str]]
    title: str = ""


def _print(
    url: str | None, api_key_file: Path | None, call: Call[T], table: Callable[[T], _Table], *, as_json: bool
) -> None:
    """Prints the document as a table, or as the server sends it."""
    with open_client(url, api_key_file) as client:
        body, document = fetch(client, call)
    if as_json:
        print_document(body)
    else:
        columns, rows, title = table(document)
        print_rows(columns, rows, title=title)


def run_eliminations(url: str | None, api_key_file: Path | None, *, as_json: bool) -> None:
    _print(
        url,
        api_key_file,
        calls.eliminations(),
        lambda eliminations: _Table(
            ("miner", "eliminated", "drawdown", "reason"),
            [
                (
                    miner.hotkey,
                    format_time(miner.elimination_initiated_time_ms),
                    _number(miner.dd),
                    miner.reason or "",
                )
                for miner in eliminations
            ],
            f"{len(eliminations)} eliminations",
        ),
        as_json=as_json,
    )


def run_limit_orders(
    url: str | None, api_key_file: Path | None, hotkey: str, *, cancelled: bool, as_json: bool
) -> None:
    """Prints a miner's waiting orders, or the cancelled ones."""

    def table(orders: calls.MinerOrders) -> _Table:
        columns = "processed", "pair", "kind", "type", "leverage", "quantity"
        prices = "limit price", "stop loss", "take profit"
        rows = [
            (
                format_time(order.processed_ms),
                order.trade_pair_id,
                order.execution_type or "MARKET",
                order.order_type,
                format_leverage(order.leverage),
                *(_number(getattr(order, name)) for name in ("quantity", *_PRICES)),
                order.order_uuid,
            )
            for order in (*orders.unfilled, *orders.cancelled)
        ]
        return _Table((*columns, *prices, "order"), rows, f"{len(rows)} limit orders, oldest first")

    call = calls.limit_orders(hotkey, status="cancelled" if cancelled else "unfilled")
    _print(url, api_key_file, call, table, as_json=as_json)


def run_ledger(
    url: str | None, api_key_file: Path | None, kind: str, hotkey: str | None, *, as_json: bool
) -> None:
    """Prints a miner's ledger as JSON, or without a hotkey a summary of all debt ledgers."""
    if hotkey is None:
        if kind != "debt":
            raise SettingsError(f"the {kind} ledger needs a hotkey; only debt ledgers have a summary of all")
        columns = ("miner", "alpha", "TAO", "USD", "return", "score", "pnl", "fees", "updated")
        fields = ("alpha", "tao", "usd")
        _print(
            url,
            api_key_file,
            calls.debt_ledgers(),
            lambda ledgers: _Table(
                columns,
                [
                    (
                        miner,
                        *(_number(getattr(ledger, f"cumulative_emissions_{unit}")) for unit in fields),
                        _number(ledger.portfolio_return),
                        *(_number(value) for value in (ledger.weighted_score, ledger.net_pnl)),
                        _number(ledger.total_fees),
                        format_time(ledger.latest_checkpoint_ms),
                    )
                    for miner, ledger in ledgers.items()
                ],
                f"{len(ledgers)} debt ledgers",
            ),
            as_json=as_json,
        )
        return
    routes: dict[str, Callable[[str], Call[Any]]] = {
        "perf": calls.perf_ledger,
        "debt": calls.debt_ledger,
        "emissions": calls.emissions_ledger,
        "penalty": calls.penalty_ledger,
    }
    with open_client(url, api_key_file) as client:
        body, _ = fetch(client, routes[kind](hotkey))
    print_document(body if as_json else msgspec.json.format(body))


def run_account(
    url: str | None, api_key_file: Path | None, hotkey: str, *, limit: int, as_json: bool
) -> None:
    """Prints a miner's account hour by hour."""
    _print(
        url,
        api_key_file,
        calls.account_snapshots(hotkey, limit=limit),
        lambda account: _Table(
            ("hour", "account size", "balance", "equity", "return"),
            [
                (
                    format_time(hour.snapshot_ms),
                    *(f"{amount:.2f}" for amount in (hour.account_size, hour.balance, hour.equity)),
                    format_return(hour.equity_return),
                )
                for hour in account.snapshots
            ],
            f"{account.count} hours, oldest first, in USD",
        ),
        as_json=as_json,
    )


def run_collateral(
    url: str | None, api_key_file: Path | None, *, hotkey: str | None, most_recent: bool, as_json: bool
) -> None:
    """Prints the account sizes of all miners, or of one."""
    _print(
        url,
        api_key_file,
        calls.collateral(hotkey=hotkey, most_recent=most_recent),
        lambda sizes: _Table(
            ("miner", "account size", "theta", "updated"),
            [
                (
                    miner,
                    _number(record.get("account_size")),
                    _number(record.get("account_size_theta")),
                    format_time(record.get("update_time_ms")),
                )
                for miner, records in sizes.data.items()
                for record in records
            ],
            f"{sizes.total_records} account sizes of {sizes.miner_count} miners, in USD",
        ),
        as_json=as_json,
    )


def run_challenge_period(url: str | None, api_key_file: Path | None, hotkey: str, *, as_json: bool) -> None:
    """Prints a miner's buckets, the present one last."""
    _print(
        url,
        api_key_file,
        calls.challenge_period(hotkey, history=True),
        lambda period: _Table(
            ("since", "bucket", "reason"),
            [
                (format_time(entry.start_time_ms), entry.bucket, entry.reason or "")
                for entry in period.history or [period.challenge_period]
            ],
            f"buckets of {hotkey}, the present one last",
        ),
        as_json=as_json,
    )


def run_selections(url: str | None, api_key_file: Path | None, *, as_json: bool) -> None:
    _print(
        url,
        api_key_file,
        calls.miner_selections(),
        lambda selections: _Table(("miner", "asset class"), [*selections.items()]),
        as_json=as_json,
    )


def run_entities(url: str | None, api_key_file: Path | None, *, hotkey: str | None, as_json: bool) -> None:
    """Prints one row per subaccount, of all entities or of one."""
    columns = ("entity", "subaccount", "status", "asset class", "account size", "created")

    def table(entities: Mapping[str, Any]) -> _Table:
        rows = [
            (
                entity_hotkey,
                *(str(account.get(name) or "") for name in ("synthetic_hotkey", "status", "asset_class")),
                _number(account.get("account_size")),
                format_time(account.get("created_at_ms")),
            )
            for entity_hotkey, entity in entities.items()
            for account in entity.get("subaccounts", {}).values()
        ]
        return _Table(columns, rows, f"{len(rows)} subaccounts of {len(entities)} entities")

    if hotkey is None:
        _print(url, api_key_file, calls.entities(), table, as_json=as_json)
    else:
        _print(url, api_key_file, calls.entity(hotkey), lambda one: table({hotkey: one}), as_json=as_json)


def run_trade_pairs(
    url: str | None, api_key_file: Path | None, *, asset_class: str | None, as_json: bool
) -> None:
    """Prints the trade pairs, the disabled ones last."""
    columns = ("id", "pair", "category", "source", "smallest", "largest", "state")

    def table(pairs: calls.TradePairs) -> _Table:
        rows = [
            (
                pair.trade_pair_id,
                pair.trade_pair,
                pair.trade_pair_category,
                pair.trade_pair_source,
                f"{pair.min_leverage:g}",
                f"{pair.max_leverage:g}",
                state,
            )
            for state, listed in (("", pairs.allowed), ("disabled", pairs.disabled))
            for pair in listed
        ]
        return _Table(columns, rows, f"{len(rows)} trade pairs, with their leverages")

    _print(url, api_key_file, calls.trade_pairs(asset_class), table, as_json=as_json)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else ""


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
