"""What is traded: orders, positions, trade pairs, miners, and the network's rules for them. Pure.

`accounting` and `fees` say how a position's state follows from its orders, `tiers` and `shown` what each tier
sees of it and in which words, `miner` what a miner's positions add up to, `checksum` whether two holders of
the same positions agree. The formulas are those of docs/accounting.md.
"""

from ptn_api.model.accounting import Replay, replay, replay_each
from ptn_api.model.miner import Aggregates, MinerEntry, Outcome
from ptn_api.model.order import Order, OrderSource, OrderType, PriceSource
from ptn_api.model.position import Position, PositionState, PositionText, parse_position
from ptn_api.model.statistics import (
    Elimination,
    Eliminations,
    MinerStatistics,
    PerfCheckpoint,
    PerfLedger,
    Statistics,
)
from ptn_api.model.trade_pair import TRADE_PAIRS, Category, TradePair, category_and_rate, pair_id

__all__ = [
    "TRADE_PAIRS",
    "Aggregates",
    "Category",
    "Elimination",
    "Eliminations",
    "MinerEntry",
    "MinerStatistics",
    "Order",
    "OrderSource",
    "OrderType",
    "Outcome",
    "PerfCheckpoint",
    "PerfLedger",
    "Position",
    "PositionState",
    "PositionText",
    "PriceSource",
    "Replay",
    "Statistics",
    "TradePair",
    "category_and_rate",
    "pair_id",
    "parse_position",
    "replay",
    "replay_each",
]
