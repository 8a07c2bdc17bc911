"""Tables by column, before a library makes a data frame of them.

Polars and pandas are imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from ptn_api.client.arguments import check_literal
from ptn_api.errors import ClientError
from ptn_api.model.documents import ListedTradePair
from ptn_api.model.limit_order import ListedOrder
from ptn_api.model.miner import LeaderboardEntry
from ptn_api.model.order import Order, OrderRow
from ptn_api.model.position import Position
from ptn_api.model.statistics import Elimination, MinerStatistics, PerfCheckpoint, PerfLedger
from ptn_api.summary import flattened

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]
    import polars

    from ptn_api.client.message import PTNWebSocketMessage

__all__ = [
    "Rows",
    "Table",
    "eliminations",
    "history",
    "leaderboard",
    "ledgers",
    "listed_orders",
    "messages",
    "order_rows",
    "orders",
    "positions",
    "positions_or_orders",
    "records",
    "statistics",
    "trade_pairs",
]

T = TypeVar("T")

Rows = Literal["positions", "orders"]
"""The rows of a table of positions."""

_Kind = Literal["text", "side", "float", "int", "bool", "time"]
_Columns = dict[str, tuple[_Kind, Sequence[Any]]]


class Table:
    """Columns of one length, each with its kind.

    In a data frame, integers beyond 64 bits and times beyond year 9999 are null: nothing can print those.
    """

    def __init__(self, columns: _Columns) -> None:
        self.columns = columns

    def to_polars(self) -> polars.DataFrame:
        """Raises ClientError with code `no_polars` without Polars."""
        try:
            import polars as pl
        except ImportError:
            raise ClientError(
                "tables need Polars: pip install 'ptn-api[dataframe]'", code="no_polars"
            ) from None

        def times(ms: polars.Series) -> polars.Series:
            return ms.set(~ms.is_between(*_TIMES), None).cast(pl.Datetime("ms", "UTC"))

        side = pl.Enum(_SIDES)
        series: dict[_Kind, Callable[[str, Sequence[Any]], polars.Series]] = {
            "text": lambda name, values: pl.Series(name, values, pl.String),
            "side": lambda name, values: pl.Series(name, values, side),
            "float": lambda name, values: pl.Series(name, values, pl.Float64, strict=False),
            "int": lambda name, values: pl.Series(name, values, pl.Int64),
            "bool": lambda name, values: pl.Series(name, values, pl.Boolean),
            "time": lambda name, values: times(pl.Series(name, values, pl.Int64)),
        }
        return pl.DataFrame(
            [_made(partial(series[kind], name), values) for name, (kind, values) in self.columns.items()]
        )

    def to_pandas(self) -> pandas.DataFrame:
        """Raises ClientError with code `no_pandas` without pandas."""
        try:
            import pandas as pd  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ImportError:
            raise ClientError(
                "these tables need pandas: pip install 'ptn-api[pandas]'", code="no_pandas"
            ) from None
        dtypes: dict[_Kind, Any] = {
            "text": "string",
            "side": pd.CategoricalDtype(_SIDES),
            "float": "float64",
            "int": "Int64",
            "bool": "boolean",
        }

        def series(kind: _Kind, values: Sequence[Any]) -> pandas.Series:
            if kind != "time":
                return pd.Series(pd.array(values, dtype=dtypes[kind]))
            times = pd.Series(pd.array(values, dtype="Int64"))
            return times.where(times.between(*_TIMES)).astype("datetime64[ms]").dt.tz_localize("UTC")

        return pd.DataFrame(
            {name: _made(partial(series, kind), values) for name, (kind, values) in self.columns.items()}
        )


_SIDES = ["LONG", "SHORT", "FLAT"]
_TIMES = (-62_135_596_800_000, 253_402_300_799_999)
"""The years that Python knows, 1 to 9999. Unit: epoch ms."""


def _made(make: Callable[[Sequence[Any]], T], values: Sequence[Any]) -> T:
    try:
        return make(values)
    except (OverflowError, TypeError):  # odd values of a validator
        large = 1 << 63
        return make([None if isinstance(v, int) and not -large <= v < large else v for v in values])


def positions(found: Iterable[Position]) -> Table:
    """Returns one row per position."""
    rows = list(found)
    columns: _Columns = {
        "miner_hotkey": ("text", [p.miner_hotkey for p in rows]),
        "position_uuid": ("text", [p.position_uuid for p in rows]),
        "trade_pair": ("text", [p.trade_pair_id for p in rows]),
        "position_type": ("side", [p.position_type for p in rows]),
        "is_closed_position": ("bool", [p.is_closed_position for p in rows]),
        "opened_at": ("time", [p.open_ms for p in rows]),
        "closed_at": ("time", [p.close_ms if p.is_closed_position else None for p in rows]),
    }
    for name in (
        "net_leverage",
        "net_value",
        "net_quantity",
        "average_entry_price",
        "cumulative_entry_value",
        "realized_pnl",
        "unrealized_pnl",
        "current_return",
        "return_at_close",
    ):
        columns[name] = ("float", [getattr(p, name) for p in rows])
    columns["n_orders"] = ("int", [len(p.orders) for p in rows])
    return Table(columns)


def orders(found: Iterable[Position]) -> Table:
    """Returns one row per order, with its position's keys; `place` is its index in the position, from 1."""
    rows = [(p, place, o) for p in found for place, o in enumerate(p.orders, 1)]
    position: _Columns = {
        "miner_hotkey": ("text", [p.miner_hotkey for p, _, _ in rows]),
        "position_uuid": ("text", [p.position_uuid for p, _, _ in rows]),
        "trade_pair": ("text", [p.trade_pair_id for p, _, _ in rows]),
        "place": ("int", [place for _, place, _ in rows]),
    }
    return Table(position | _order_columns([o for _, _, o in rows]))


def listed_orders(found: Mapping[str, Sequence[ListedOrder]]) -> Table:
    """Returns one row per order of `{status: orders}`."""
    rows = [(status, order) for status, listed in found.items() for order in listed]
    first: _Columns = {
        "status": ("text", [status for status, _ in rows]),
        "trade_pair": ("text", [order.trade_pair_id for _, order in rows]),
        "execution_type": ("text", [order.execution_type for _, order in rows]),
        "limit_price": ("float", [order.limit_price for _, order in rows]),
    }
    return Table(first | _order_columns([order for _, order in rows]))


def order_rows(found: Iterable[OrderRow]) -> Table:
    """Returns one row per order of all miners, with its position's names and its sequence."""
    rows = list(found)
    first: _Columns = {
        "miner_hotkey": ("text", [row.miner_hotkey for row in rows]),
        "position_uuid": ("text", [row.position_uuid for row in rows]),
        "trade_pair": ("text", [row.trade_pair for row in rows]),
        "sequence": ("int", [row.sequence for row in rows]),
    }
    return Table(first | _order_columns([row.order for row in rows]))


def messages(found: Iterable[PTNWebSocketMessage]) -> Table:
    """Returns one row per stream message: the new order, and its position's leverage and returns after it."""
    rows = list(found)
    message: _Columns = {
        "sequence": ("int", [m.sequence for m in rows]),
        "seen_at": ("time", [m.timestamp for m in rows]),
        "late": ("bool", [m.late for m in rows]),
        "replay": ("bool", [m.replay for m in rows]),
        "miner_hotkey": ("text", [m.position.miner_hotkey for m in rows]),
        "position_uuid": ("text", [m.position.position_uuid for m in rows]),
        "trade_pair": ("text", [str(m.new_order.trade_pair) for m in rows]),
    }
    after: _Columns = {
        "net_leverage": ("float", [m.position.net_leverage for m in rows]),
        "current_return": ("float", [m.position.current_return for m in rows]),
        "return_at_close": ("float", [m.position.return_at_close for m in rows]),
    }
    return Table(message | _order_columns([m.new_order for m in rows]) | after)


def statistics(found: Iterable[MinerStatistics]) -> Table:
    """Returns one row per miner; nested values become columns (`scores.omega.value`), lists are left out."""
    return Table(_inferred_columns([flattened(msgspec.structs.asdict(miner)) for miner in found]))


def records(found: Iterable[tuple[str, Any]]) -> Table:
    """Returns one row per (hotkey, object or struct); nested values become columns, times `..._at`."""
    built = ((hotkey, msgspec.to_builtins(record)) for hotkey, record in found)
    rows = [(hotkey, flattened(record)) for hotkey, record in built if isinstance(record, dict)]
    columns: _Columns = {"hotkey": ("text", [hotkey for hotkey, _ in rows])}
    for name, (kind, values) in _inferred_columns([record for _, record in rows]).items():
        if name.endswith("_ms") and kind in ("int", "float"):
            times = [None if value is None else round(value) for value in values]
            columns[f"{name.removesuffix('_ms')}_at"] = ("time", times)
        elif name != "hotkey":
            columns[name] = (kind, values)
    return Table(columns)


def ledgers(found: Mapping[str, Mapping[str, PerfLedger]]) -> Table:
    """Returns one row per checkpoint of `{hotkey: {"portfolio" or trade pair: ledger}}`."""
    rows = [
        (hotkey, pair, checkpoint)
        for hotkey, by_pair in found.items()
        for pair, ledger in by_pair.items()
        for checkpoint in ledger.cps
    ]
    columns: _Columns = {
        "hotkey": ("text", [hotkey for hotkey, _, _ in rows]),
        "trade_pair": ("text", [pair for _, pair, _ in rows]),
        "updated_at": ("time", [c.last_update_ms for _, _, c in rows]),
    }
    for name in PerfCheckpoint.__struct_fields__[1:]:
        kind: _Kind = "int" if name in ("accum_ms", "open_ms", "n_updates") else "float"
        columns[name] = (kind, [getattr(c, name) for _, _, c in rows])
    return Table(columns)


def eliminations(found: Iterable[Elimination]) -> Table:
    """Returns one row per eliminated miner."""
    rows = list(found)
    return Table(
        {
            "hotkey": ("text", [e.hotkey for e in rows]),
            "eliminated_at": ("time", [e.elimination_initiated_time_ms for e in rows]),
            "reason": ("text", [e.reason for e in rows]),
            "dd": ("float", [e.dd for e in rows]),
        }
    )


def leaderboard(found: Iterable[LeaderboardEntry]) -> Table:
    """Returns one row per miner, without the curves; `net_leverage` is the sum over the trade pairs."""
    rows = list(found)
    return Table(
        {
            "rank": ("int", [r.rank for r in rows]),
            "hotkey": ("text", [r.hotkey for r in rows]),
            "thirty_day_returns": ("float", [r.thirty_day_returns for r in rows]),
            "all_time_returns": ("float", [r.all_time_returns for r in rows]),
            "n_positions": ("int", [r.n_positions for r in rows]),
            "percentage_profitable": ("float", [r.percentage_profitable for r in rows]),
            "drawdown": ("float", [r.drawdown for r in rows]),
            "open_positions": ("int", [r.open_positions for r in rows]),
            "net_leverage": ("float", [sum(r.net_leverage.values()) for r in rows]),
            "last_order_at": ("time", [r.last_order and r.last_order.processed_ms for r in rows]),
            "last_order_trade_pair": ("text", [r.last_order and r.last_order.trade_pair for r in rows]),
            "phase": ("text", [r.phase for r in rows]),
            "elimination": ("text", [r.elimination and r.elimination.reason for r in rows]),
        }
    )


def trade_pairs(allowed: Sequence[ListedTradePair], disabled: Sequence[ListedTradePair]) -> Table:
    """Returns one row per trade pair."""
    rows = [flattened(msgspec.to_builtins(pair)) for pair in (*allowed, *disabled)]
    states: _Columns = {"disabled": ("bool", [False] * len(allowed) + [True] * len(disabled))}
    return Table(_inferred_columns(rows) | states)


def positions_or_orders(found: Iterable[Position], rows: Rows) -> Table:
    """Returns the table that `rows` names. Raises SettingsError for another name."""
    check_literal(Rows, rows, "rows")
    return positions(found) if rows == "positions" else orders(found)


def history(found: Iterable[tuple[int, Sequence[Position]]], rows: Rows) -> Table:
    """Returns one row per time (epoch ms) and position, or order, with the time as the first column, `at`."""
    entries = list(found)
    table = positions_or_orders((position for _, listed in entries for position in listed), rows)
    times = [
        at_ms
        for at_ms, listed in entries
        for position in listed
        for _ in range(1 if rows == "positions" else len(position.orders))
    ]
    at: _Columns = {"at": ("time", times)}
    return Table(at | table.columns)


# --- columns ----------------------------------------------------------------------------------------------


def _order_columns(rows: Sequence[Order]) -> _Columns:
    columns: _Columns = {
        "order_uuid": ("text", [o.order_uuid for o in rows]),
        "processed_at": ("time", [o.processed_ms for o in rows]),
        "order_type": ("side", [o.order_type for o in rows]),
    }
    for name in ("leverage", "value", "quantity", "price", "bid", "ask", "slippage", "realized_pnl"):
        columns[name] = ("float", [getattr(o, name) for o in rows])
    return columns | {"src": ("int", [o.src for o in rows])}


def _inferred_columns(rows: Sequence[Mapping[str, Any]]) -> _Columns:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: _inferred([row.get(name) for row in rows]) for name in names}


def _inferred(values: list[Any]) -> tuple[_Kind, list[Any]]:
    """Returns the column of values whose types the validator does not guarantee."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "bool", values
    if kinds == {int}:
        return "int", values
    if kinds <= {int, float}:  # also without any value
        return "float", values
    return "text", [
        value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
        for value in values
    ]
