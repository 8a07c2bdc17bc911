"""The commands that print the server's documents: statistics, eliminations, ledgers, accounts and others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ptn_api.cli.client import fetch, open_client
from ptn_api.cli.row_options import View
from ptn_api.cli.show.choices import chosen_hotkey, matching_hotkey
from ptn_api.cli.show.table import (
    AMOUNT,
    COUNT,
    DAY_AND_TIME,
    IDENTITY,
    LEVERAGE,
    LOST,
    NUMBER,
    RETURN,
    SIDE,
    TIME,
    Column,
    Kind,
    Table,
    format_number,
    format_time,
    print_document,
    print_table,
    shortened,
)
from ptn_api.client import calls
from ptn_api.client.calls import Call
from ptn_api.client.rest import PTNClient
from ptn_api.errors import SettingsError
from ptn_api.model.documents import LEDGER_COLUMNS, AccountSnapshots, ChallengePeriod, Collateral
from ptn_api.summary import flattened

__all__ = [
    "run_account",
    "run_challenge_period",
    "run_checkpoint",
    "run_collateral",
    "run_eliminations",
    "run_entities",
    "run_ledger",
    "run_limit_orders",
    "run_selections",
    "run_statistics",
    "run_trade_pairs",
]

T = TypeVar("T")

_SCORES = {
    "weight": ("weight",),
    "omega": ("scores.omega",),
    "sharpe": ("scores.sharpe",),
    "sortino": ("scores.sortino",),
    "volatility": ("volatility.annual",),
    "max_drawdown": ("drawdowns.instantaneous_max_drawdown", "drawdowns.ledger_max_drawdown"),
}
"""By column: where the number may be. Validators' versions differ; the first path that exists is used."""


def run_statistics(
    url: str | None, api_key_file: Path | None, view: View, *, hotkey: str | None, checkpoints: bool
) -> None:
    """Prints every miner's scores, the largest weight first, or one miner's complete element as JSON."""
    with open_client(url, api_key_file) as client:
        if hotkey is not None:
            hotkey = chosen_hotkey(client, hotkey)
            body, _ = fetch(client, calls.miner_statistics(hotkey, checkpoints=checkpoints))
            print_document(msgspec.json.format(body) if view.output == "table" else body)
            return
        body, document = fetch(client, calls.statistics(checkpoints=checkpoints))
    rows: list[list[Any]] = []
    for miner in document.data:
        scores = [_score(miner, *paths) for paths in _SCORES.values()]
        period = miner.challengeperiod
        rows.append([miner.hotkey, *scores, period.get("status") if isinstance(period, Mapping) else None])
    rows.sort(key=lambda row: (-(row[1] or 0), row[0]))
    columns = (
        Column("rank", "rank", COUNT),
        Column("miner_hotkey", "miner", IDENTITY),
        *(Column(name, name, _SCORE) for name in [*_SCORES][:-1]),
        Column("max_drawdown", "lost", _LOST_FACTOR),
        Column("phase", "phase"),
    )
    made = format_time(document.created_timestamp_ms) or document.created_date
    table = Table(
        columns,
        [(rank, *row) for rank, row in enumerate(rows, 1)],
        f"miners, the largest weight first; statistics of {made}",
        "weight: share of the incentive. volatility: annual. lost: largest loss from a high (drawdown; "
        "programs get the factor that remained).",
    )
    if view.limit:  # the document in the table's order
        kept = {row[0] for row in rows[: view.limit]}
        content = msgspec.json.decode(body)
        content["data"] = [miner for miner in content["data"] if miner.get("hotkey") in kept]
        body = msgspec.json.encode(content)
    print_table(table, view, body=body, lists=[("data",)])


def _score(miner: Any, *paths: str) -> float | None:
    """The number at the first path that has one, possibly as an object's `value`."""
    for path in paths:
        first, *keys = path.split(".")
        value: Any = getattr(miner, first)
        for key in (*keys, "value"):
            value = value.get(key) if isinstance(value, Mapping) else value
        if isinstance(value, (int, float)):
            return value
    return None


_SCORE = Kind(lambda score: f"{score:.5g}", right=True)
_LOST_FACTOR = Kind(lambda factor: LOST.show(max(0.0, 1 - factor)), right=True)
"""From the factor that remained."""


_LOST_PERCENT = Kind(lambda dd: LOST.show(1 - dd if 0 < dd <= 1 else abs(dd) / 100), right=True)
"""From `dd`: a percentage, or a factor that remained (up to 1); the validators differ."""


def _print(
    url: str | None,
    api_key_file: Path | None,
    view: View,
    call: Callable[[PTNClient], Call[T]],
    table: Callable[[T], Table],
    *lists: Sequence[str],
) -> None:
    """Prints a document as a table, or as the server sends it; `lists` are the places of its rows."""
    with open_client(url, api_key_file) as client:
        body, document = fetch(client, call(client))
    print_table(table(document), view, body=body, lists=lists)


_ELIMINATIONS = (
    Column("miner_hotkey", "miner", IDENTITY),
    Column("eliminated", "eliminated", TIME),
    Column("drawdown", "lost", _LOST_PERCENT),
    Column("reason", "reason"),
)


def run_eliminations(url: str | None, api_key_file: Path | None, view: View) -> None:
    def table(eliminations: Sequence[Any]) -> Table:
        rows = [
            (miner.hotkey, miner.elimination_initiated_time_ms, miner.dd or None, miner.reason)
            for miner in eliminations
        ]
        notes = (
            "lost: largest loss from a high (drawdown; programs get the validator's number). Times are UTC."
        )
        return Table(_ELIMINATIONS, rows, "eliminated miners", notes)

    _print(url, api_key_file, view, lambda _: calls.eliminations(), table, ("eliminations",))


_LIMIT_ORDERS = (
    Column("time", "time (UTC)", DAY_AND_TIME),
    Column("trade_pair", "pair"),
    Column("execution_type", "kind"),
    Column("order_type", "type", SIDE),
    Column("leverage", "leverage", LEVERAGE),
    Column("quantity", "quantity", NUMBER),
    Column("limit_price", "limit", NUMBER),
    Column("stop_loss", "stop", NUMBER),
    Column("take_profit", "profit", NUMBER),
    Column("order_uuid", "order", IDENTITY, spare=True),
)


def run_limit_orders(
    url: str | None, api_key_file: Path | None, view: View, hotkey: str, *, cancelled: bool
) -> None:
    """Prints a miner's waiting orders, or the cancelled ones."""

    def table(orders: calls.MinerOrders) -> Table:
        rows = [
            (
                order.processed_ms,
                order.trade_pair_id,
                order.execution_type or "MARKET",
                order.order_type,
                order.leverage,
                order.quantity,
                order.limit_price,
                order.stop_loss,
                order.take_profit,
                order.order_uuid,
            )
            for order in (*orders.unfilled, *orders.cancelled)
        ]
        kind = "cancelled" if cancelled else "waiting"
        notes = (
            "leverage: multiples of the account. limit, stop (loss) and (take) profit are prices in the "
            "pair's quote currency."
        )
        return Table(_LIMIT_ORDERS, rows, f"{kind} orders, oldest first", notes)

    _print(
        url,
        api_key_file,
        view,
        lambda client: calls.limit_orders(
            chosen_hotkey(client, hotkey), status="cancelled" if cancelled else "unfilled"
        ),
        table,
        ("unfilled",),
        ("cancelled",),
    )


_DEBT_LEDGERS = (
    Column("miner_hotkey", "miner", IDENTITY),
    Column("cumulative_emissions_alpha", "alpha", NUMBER),
    Column("cumulative_emissions_tao", "TAO", NUMBER),
    Column("cumulative_emissions_usd", "USD", NUMBER),
    Column("portfolio_return", "return", RETURN),
    Column("weighted_score", "score", _SCORE),
    Column("net_pnl", "pnl", NUMBER),
    Column("total_fees", "fees", NUMBER),
    Column("updated", "updated", TIME, spare=True),
)


def run_ledger(url: str | None, api_key_file: Path | None, view: View, kind: str, hotkey: str | None) -> None:
    """Prints a miner's newest checkpoints, or without a hotkey a summary of all debt ledgers."""
    if hotkey is None:
        if kind != "debt":
            raise SettingsError(f"the {kind} ledger needs a hotkey; only debt ledgers have a summary of all")

        def table(ledgers: Mapping[str, Any]) -> Table:
            rows = [
                (
                    miner,
                    ledger.cumulative_emissions_alpha,
                    ledger.cumulative_emissions_tao,
                    ledger.cumulative_emissions_usd,
                    ledger.portfolio_return,
                    ledger.weighted_score,
                    ledger.net_pnl,
                    ledger.total_fees,
                    ledger.latest_checkpoint_ms,
                )
                for miner, ledger in ledgers.items()
            ]
            notes = "alpha, TAO, USD: all emissions until now, in that unit. pnl, fees: in USD."
            return Table(_DEBT_LEDGERS, rows, "debt ledgers", notes)

        _print(url, api_key_file, view, lambda _: calls.debt_ledgers(), table, ())
        return
    routes: dict[str, Callable[[str], Call[Any]]] = {
        "perf": calls.perf_ledger,
        "debt": calls.debt_ledger,
        "emissions": calls.emissions_ledger,
        "penalty": calls.penalty_ledger,
    }
    with open_client(url, api_key_file) as client:
        hotkey = chosen_hotkey(client, hotkey)
        body, ledger = fetch(client, routes[kind](hotkey))
    points = {name: one.cps for name, one in ledger.items()} if kind == "perf" else {kind: ledger.checkpoints}
    newest = {name: listed[-view.limit :] for name, listed in points.items()}  # 0 is all of them
    total, count = (sum(map(len, listed.values())) for listed in (points, newest))
    rows = [
        ({"trade_pair": name} if kind == "perf" else {}) | flattened(msgspec.to_builtins(point))
        for name, listed in newest.items()
        for point in listed
    ]
    if count < total:
        body = _newest_checkpoints(body, view.limit)
    some = f"newest of {total:,} " if count < total else ""
    what = f"{some}checkpoints of the {kind} ledger of {shortened(hotkey)}, oldest first"
    print_table(_ledger_table(kind, rows, what), view._replace(limit=0), body=body)


def _newest_checkpoints(body: bytes, limit: int) -> bytes:
    """The document with the last checkpoints of each of its ledgers."""
    document = msgspec.json.decode(body)
    for ledger in (document, *document.values()):
        for name in ("cps", "checkpoints"):
            if isinstance(ledger, dict) and name in ledger:
                ledger[name] = ledger[name][-limit:]
    return msgspec.json.encode(document)


_CHECKPOINT_COLUMNS = {
    **LEDGER_COLUMNS,
    "perf": ("last_update_ms", "trade_pair", "prev_portfolio_ret", "gain", "loss", "mdd"),
}
"""By kind of ledger: the end of a checkpoint, and the values to show first."""
_CHECKPOINT_TIMES = {"chunk_start_ms", *(names[0] for names in _CHECKPOINT_COLUMNS.values())}
_VALUE = Kind(lambda value: value if isinstance(value, str) else format_number(value), right=True)


def _ledger_table(kind: str, rows: Sequence[Mapping[str, Any]], what: str) -> Table:
    first = _CHECKPOINT_COLUMNS[kind]
    names = list(dict.fromkeys((*first, *(name for row in rows for name in row))))
    columns = [
        Column(
            name.removesuffix("_ms") if name in _CHECKPOINT_TIMES else name,
            "until (UTC)" if name == first[0] else name.rpartition(".")[2] if name in first else name,
            DAY_AND_TIME if name in _CHECKPOINT_TIMES else _VALUE,
            spare=name not in first,
        )
        for name in names
    ]
    return Table(columns, [[row.get(name) for name in names] for row in rows], what)


_ACCOUNT = (
    Column("hour", "hour (UTC)", DAY_AND_TIME),
    Column("account_size", "account size", AMOUNT),
    Column("balance", "balance", AMOUNT),
    Column("equity", "equity", AMOUNT),
    Column("equity_return", "return", RETURN),
)


def run_account(url: str | None, api_key_file: Path | None, view: View, hotkey: str) -> None:
    """Prints a miner's account hour by hour."""

    def table(account: AccountSnapshots) -> Table:
        rows = [
            (hour.snapshot_ms, hour.account_size, hour.balance, hour.equity, hour.equity_return)
            for hour in account.snapshots
        ]
        return Table(_ACCOUNT, rows, "hours, oldest first", "Amounts are in USD.")

    _print(
        url,
        api_key_file,
        view._replace(limit=0),  # the server has chosen the latest
        lambda client: calls.account_snapshots(chosen_hotkey(client, hotkey), limit=view.limit),
        table,
    )


_COLLATERAL = (
    Column("miner_hotkey", "miner", IDENTITY),
    Column("account_size", "account size", AMOUNT),
    Column("account_size_theta", "theta", NUMBER),
    Column("updated", "updated", TIME),
)


def run_collateral(
    url: str | None, api_key_file: Path | None, view: View, *, hotkey: str | None, most_recent: bool
) -> None:
    """Prints the account sizes of all miners, or of one."""

    def table(sizes: Collateral) -> Table:
        rows = [
            (
                miner,
                record.get("account_size"),
                record.get("account_size_theta"),
                record.get("update_time_ms"),
            )
            for miner, records in sizes.data.items()
            for record in records
        ]
        return Table(
            _COLLATERAL,
            rows,
            f"account sizes of {sizes.miner_count} miners",
            "account size: in USD. theta: collateral. Times are UTC.",
        )

    _print(
        url,
        api_key_file,
        view,
        lambda client: calls.collateral(
            hotkey=None if hotkey is None else chosen_hotkey(client, hotkey), most_recent=most_recent
        ),
        table,
        ("data", "*"),
    )


_PERIODS = (
    Column("since", "since (UTC)", DAY_AND_TIME),
    Column("bucket", "bucket"),
    Column("reason", "reason"),
)


def run_challenge_period(url: str | None, api_key_file: Path | None, view: View, hotkey: str) -> None:
    """Prints a miner's buckets, the present one last."""

    def table(period: ChallengePeriod) -> Table:
        history = period.history or [period.challenge_period]
        rows = [(entry.start_time_ms, entry.bucket, entry.reason) for entry in history]
        return Table(_PERIODS, rows, f"buckets of {shortened(period.hotkey)}, the present one last")

    _print(
        url,
        api_key_file,
        view,
        lambda client: calls.challenge_period(chosen_hotkey(client, hotkey), history=True),
        table,
        ("history",),
    )


_SELECTIONS = (Column("miner_hotkey", "miner", IDENTITY), Column("asset_class", "asset class"))


def run_selections(url: str | None, api_key_file: Path | None, view: View) -> None:
    def table(selections: Mapping[str, str]) -> Table:
        return Table(_SELECTIONS, [*selections.items()], "miners, with the asset class that each chose")

    _print(url, api_key_file, view, lambda _: calls.miner_selections(), table, ("miner_selections",))


_ENTITIES = (
    Column("entity_hotkey", "entity", IDENTITY),
    Column("synthetic_hotkey", "subaccount", IDENTITY),
    Column("status", "status"),
    Column("asset_class", "asset class"),
    Column("account_size", "account size", AMOUNT),
    Column("created", "created", TIME),
)


def run_entities(url: str | None, api_key_file: Path | None, view: View, *, hotkey: str | None) -> None:
    """Prints one row per subaccount, of all entities or of one."""

    def table(entities: Mapping[str, Any]) -> Table:
        fields = ("synthetic_hotkey", "status", "asset_class", "account_size", "created_at_ms")
        rows = [
            (entity_hotkey, *(account.get(name) for name in fields))
            for entity_hotkey, entity in entities.items()
            for account in entity.get("subaccounts", {}).values()
        ]
        notes = "account size: in USD. Times are UTC."
        return Table(_ENTITIES, rows, f"subaccounts of {len(entities)} entities", notes)

    if hotkey is None:
        _print(url, api_key_file, view, lambda _: calls.entities(), table, ("entities", "*", "subaccounts"))
        return
    with open_client(url, api_key_file) as client:
        whole = matching_hotkey(hotkey, lambda: [*client.entities()])
        body, entity = fetch(client, calls.entity(whole))
    print_table(table({whole: entity}), view, body=body, lists=[("entity", "subaccounts")])


_TRADE_PAIRS = (
    Column("trade_pair_id", "id"),
    Column("trade_pair", "pair"),
    Column("trade_pair_category", "class"),
    Column("trade_pair_source", "source"),
    Column("min_leverage", "smallest", NUMBER),
    Column("max_leverage", "largest", NUMBER),
    Column("state", "state"),
)


def run_trade_pairs(
    url: str | None, api_key_file: Path | None, view: View, *, asset_class: str | None
) -> None:
    """Prints the trade pairs, the disabled ones last."""

    def table(pairs: calls.TradePairs) -> Table:
        rows = [
            (
                pair.trade_pair_id,
                pair.trade_pair,
                pair.trade_pair_category,
                pair.trade_pair_source,
                pair.min_leverage,
                pair.max_leverage,
                state,
            )
            for state, listed in ((None, pairs.allowed), ("disabled", pairs.disabled))
            for pair in listed
        ]
        notes = "smallest, largest: leverage of a position, in multiples of the account."
        return Table(_TRADE_PAIRS, rows, "trade pairs", notes)

    _print(
        url, api_key_file, view, lambda _: calls.trade_pairs(asset_class), table, ("allowed",), ("disabled",)
    )


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
        print(f"ptn: {output}: {size:,} bytes", file=sys.stderr)
