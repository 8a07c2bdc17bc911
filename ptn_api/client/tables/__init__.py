"""Polars data frames of positions, orders, statistics and ledgers; `pip install 'ptn-api[dataframe]'`.

One row per position, order, miner or ledger checkpoint, with flat columns. Times are UTC datetimes
(`opened_at` from `open_ms`); missing values are null. Polars is imported on first use; every function raises
ClientError with code `no_polars` if it is not installed. Answers of the client also have `to_pandas()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import ptn_api.client.tables.columns as columns
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.tables.columns import Rows
from ptn_api.model.limit_order import ListedOrder
from ptn_api.model.position import Position
from ptn_api.model.statistics import MinerStatistics, PerfLedger

if TYPE_CHECKING:
    import polars

__all__ = [
    "Rows",
    "ledgers",
    "listed_orders",
    "messages",
    "orders",
    "positions",
    "positions_or_orders",
    "statistics",
]


def positions(found: Iterable[Position]) -> polars.DataFrame:
    """Returns one row per position."""
    return columns.positions(found).to_polars()


def orders(found: Iterable[Position]) -> polars.DataFrame:
    """Returns one row per order, with its position's keys; `place` is its index in the position, from 1."""
    return columns.orders(found).to_polars()


def listed_orders(found: Mapping[str, Sequence[ListedOrder]]) -> polars.DataFrame:
    """Returns one row per order of `{status: orders}`."""
    return columns.listed_orders(found).to_polars()


def messages(found: Iterable[PTNWebSocketMessage]) -> polars.DataFrame:
    """Returns one row per stream message: the new order, and its position's leverage and returns after it."""
    return columns.messages(found).to_polars()


def statistics(found: Iterable[MinerStatistics]) -> polars.DataFrame:
    """Returns one row per miner; nested values become columns (`scores.omega.value`), lists are left out."""
    return columns.statistics(found).to_polars()


def ledgers(found: Mapping[str, Mapping[str, PerfLedger]]) -> polars.DataFrame:
    """Returns one row per checkpoint of `{hotkey: {"portfolio" or trade pair: ledger}}`."""
    return columns.ledgers(found).to_polars()


def positions_or_orders(found: Iterable[Position], rows: Rows) -> polars.DataFrame:
    """Returns the table that `rows` names."""
    return columns.positions_or_orders(found, rows).to_polars()
