"""The validator's documents about miners: statistics, perf ledgers and eliminations.

For reading: every key is optional, unknown keys are ignored. Returns are factors, times epoch milliseconds.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "Elimination",
    "Eliminations",
    "MinerStatistics",
    "PerfCheckpoint",
    "PerfLedger",
    "Statistics",
]


class PerfCheckpoint(msgspec.Struct, kw_only=True):
    """A span of a perf ledger: `gain` (>= 0), `loss` and fee losses (<= 0) are logarithms of factors."""

    last_update_ms: int | None = None
    prev_portfolio_ret: float | None = None
    prev_portfolio_spread_fee: float | None = None
    prev_portfolio_carry_fee: float | None = None
    accum_ms: int | None = None
    open_ms: int | None = None
    n_updates: int | None = None
    gain: float | None = None
    loss: float | None = None
    spread_fee_loss: float | None = None
    carry_fee_loss: float | None = None
    mdd: float | None = None
    mpv: float | None = None


class PerfLedger(msgspec.Struct, kw_only=True):
    """A miner's return over time, for the portfolio or one trade pair."""

    initialization_time_ms: int | None = None
    max_return: float | None = None
    target_cp_duration_ms: int | None = None
    target_ledger_window_ms: int | None = None
    cps: list[PerfCheckpoint] = msgspec.field(default_factory=list)


class MinerStatistics(msgspec.Struct, kw_only=True):
    """A miner's element of the statistics; values without a fixed shape are kept unchanged."""

    hotkey: str
    challengeperiod: Any = None
    scores: Any = None
    augmented_scores: Any = None
    daily_returns: Any = None
    volatility: Any = None
    drawdowns: Any = None
    plagiarism: Any = None
    engagement: Any = None
    risk_profile: Any = None
    penalties: Any = None
    weight: Any = None
    checkpoints: list[PerfCheckpoint] | None = None


class Statistics(msgspec.Struct, kw_only=True):
    """The statistics document."""

    version: Any = None
    created_timestamp_ms: int | None = None
    created_date: str | None = None
    data: list[MinerStatistics] = msgspec.field(default_factory=list)
    constants: Any = None


class Elimination(msgspec.Struct, kw_only=True):
    """A miner that was excluded from the competition; `dd` is the drawdown, if that was the reason."""

    hotkey: str
    elimination_initiated_time_ms: int | None = None
    dd: float | None = None
    reason: str | None = None


class Eliminations(msgspec.Struct, kw_only=True):
    """The eliminations document."""

    eliminations: list[Elimination] = msgspec.field(default_factory=list)
