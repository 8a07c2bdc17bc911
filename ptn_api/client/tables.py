"""Polars data frames of positions, orders, statistics and ledgers; `pip install 'ptn-api[dataframe]'`.

One row per position, order, miner or ledger checkpoint, with flat columns. Times are UTC datetimes
(`opened_at` from `open_ms`); missing values are null. Polars is imported on first use; every function raises
ClientError with code `no_polars` if it is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.errors import ClientError
from ptn_api.model.limit_order import ListedOrder
from ptn_api.model.order import Order, OrderRow
from ptn_api.model.position import Position
from ptn_api.model.statistics import MinerStatistics, PerfCheckpoint, PerfLedger
from ptn_api.model.trade_pair import pair_id

if TYPE_CHECKING:
    import polars

__all__ = [
    "Rows",
    "history",
    "ledgers",
    "listed_orders",
    "messages",
    "order_rows",
    "orders",
    "positions",
    "positions_or_orders",
    "statistics",
]

Rows = Literal["positions", "orders"]
"""The rows of a table of positions."""

_Kind = Literal["text", "side", "float", "int", "bool", "time"]
_Columns = dict[str, tuple[_Kind, Sequence[Any]]]


def positions(found: Iterable[Position]) -> polars.DataFrame:
    """Returns one row per position."""
    rows = list(found)
    columns: _Columns = {
        "miner_hotkey": ("text", [p.miner_hotkey for p in rows]),
        "position_uuid": ("text", [p.position_uuid for p in rows]),
        "trade_pair": ("text", [pair_id(p.trade_pair) for p in rows]),
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
    return _frame(columns)


def orders(found: Iterable[Position]) -> polars.DataFrame:
    """Returns one row per order, with its position's keys; `place` is its index in the position, from 1."""
    rows = [(p, place, o) for p in found for place, o in enumerate(p.orders, 1)]
    position: _Columns = {
        "miner_hotkey": ("text", [p.miner_hotkey for p, _, _ in rows]),
        "position_uuid": ("text", [p.position_uuid for p, _, _ in rows]),
        "trade_pair": ("text", [pair_id(p.trade_pair) for p, _, _ in rows]),
        "place": ("int", [place for _, place, _ in rows]),
    }
    return _frame(position | _order_columns([o for _, _, o in rows]))


def listed_orders(found: Mapping[str, Sequence[ListedOrder]]) -> polars.DataFrame:
    """Returns one row per order of `{status: orders}`."""
    rows = [(status, order) for status, listed in found.items() for order in listed]
    first: _Columns = {
        "status": ("text", [status for status, _ in rows]),
        "trade_pair": ("text", [order.trade_pair_id for _, order in rows]),
        "execution_type": ("text", [order.execution_type for _, order in rows]),
        "limit_price": ("float", [order.limit_price for _, order in rows]),
    }
    return _frame(first | _order_columns([order for _, order in rows]))


def order_rows(found: Iterable[OrderRow]) -> polars.DataFrame:
    """Returns one row per order of all miners, with its position's names and its sequence."""
    rows = list(found)
    first: _Columns = {
        "miner_hotkey": ("text", [row.miner_hotkey for row in rows]),
        "position_uuid": ("text", [row.position_uuid for row in rows]),
        "trade_pair": ("text", [row.trade_pair for row in rows]),
        "sequence": ("int", [row.sequence for row in rows]),
    }
    return _frame(first | _order_columns([row.order for row in rows]))


def messages(found: Iterable[PTNWebSocketMessage]) -> polars.DataFrame:
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
    return _frame(message | _order_columns([m.new_order for m in rows]) | after)


def statistics(found: Iterable[MinerStatistics]) -> polars.DataFrame:
    """Returns one row per miner; nested values become columns (`scores.omega.value`), lists are left out."""
    flat = [_flat(miner) for miner in found]
    names = list(dict.fromkeys(name for row in flat for name in row))
    return _frame({name: _inferred([row.get(name) for row in flat]) for name in names})


def ledgers(found: Mapping[str, Mapping[str, PerfLedger]]) -> polars.DataFrame:
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
    return _frame(columns)


def positions_or_orders(found: Iterable[Position], rows: Rows) -> polars.DataFrame:
    """Returns the table that `rows` names."""
    return positions(found) if rows == "positions" else orders(found)


def history(found: Iterable[tuple[int, Sequence[Position]]], rows: Rows) -> polars.DataFrame:
    """Returns one row per time (epoch ms) and position, or order, with the time as the first column, `at`."""
    entries = list(found)
    frame = positions_or_orders((position for _, listed in entries for position in listed), rows)
    times = [
        at_ms
        for at_ms, listed in entries
        for position in listed
        for _ in range(1 if rows == "positions" else len(position.orders))
    ]
    return frame.insert_column(0, _frame({"at": ("time", times)})["at"])


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


def _flat(miner: MinerStatistics) -> dict[str, Any]:
    """Returns the values by dotted name, without lists."""
    values: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}.{key}", inner)
        elif value is not None and not isinstance(value, list):
            values[name] = value

    for name in miner.__struct_fields__:
        add(name, getattr(miner, name))
    return values


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


def _frame(columns: _Columns) -> polars.DataFrame:
    try:
        import polars as pl
    except ImportError:
        raise ClientError("tables need Polars: pip install 'ptn-api[dataframe]'", code="no_polars") from None
    side = pl.Enum(["LONG", "SHORT", "FLAT"])
    series: dict[_Kind, Callable[[str, Sequence[Any]], polars.Series]] = {
        "text": lambda name, values: pl.Series(name, values, pl.String),
        "side": lambda name, values: pl.Series(name, values, side),
        "float": lambda name, values: pl.Series(name, values, pl.Float64, strict=False),
        "int": lambda name, values: pl.Series(name, values, pl.Int64),
        "bool": lambda name, values: pl.Series(name, values, pl.Boolean),
        "time": lambda name, values: pl.Series(name, values, pl.Int64).cast(pl.Datetime("ms", "UTC")),
    }
    return pl.DataFrame([series[kind](name, values) for name, (kind, values) in columns.items()])
