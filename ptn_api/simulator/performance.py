"""A miner's performance over time, computed from its positions: perf ledger, statistics, account snapshots.

The portfolio's return is the product of its positions' returns, as in `/miner-positions`; the equity is the
account with realized and unrealized profit, fees and dividends, in USD.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from itertools import accumulate, groupby, pairwise
from operator import mul
from typing import Any

import msgspec

from ptn_api.simulator.market import Market
from ptn_api.simulator.position import TodaysPosition

__all__ = [
    "CHECKPOINT_MS",
    "Performance",
    "daily_returns",
    "date_of",
    "drawdowns",
    "measure",
    "perf_ledger",
    "ranked",
    "scores",
    "snapshots",
    "times_until",
]

CHECKPOINT_MS = 43_200_000
_WINDOW_MS = 180 * 86_400_000
_SAMPLE_MS = 4 * 3_600_000
_DAYS_A_YEAR = 365
_RUINED = 1e-9
"""Stands for a return of 0, which has no logarithm."""


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """An account at each of `times`; amounts in USD. `open` counts the positions that are open."""

    account_size: float
    times: Sequence[int]
    returns: Sequence[float]
    realized: Sequence[float]
    unrealized: Sequence[float]
    fees: Sequence[float]
    dividends: Sequence[float]
    open: Sequence[int]

    def balance(self, place: int) -> float:
        return self.account_size + self.realized[place] + self.dividends[place] - self.fees[place]

    def equity(self, place: int) -> float:
        return self.balance(place) + self.unrealized[place]


def times_until(now_ms: int, first_ms: int, checkpoints: int) -> list[int]:
    """Returns the times that a ledger of at most that many checkpoints samples; the last one is now."""
    last = now_ms // CHECKPOINT_MS
    first = max(first_ms // CHECKPOINT_MS, last - checkpoints + 1) * CHECKPOINT_MS
    return [*range(first, now_ms, _SAMPLE_MS), now_ms]


def measure(
    positions: Iterable[TodaysPosition], account_size: float, market: Market, times: Sequence[int]
) -> Performance:
    """Returns the performance at these ascending times; positions that are open at the last one as marked."""
    size = len(times)
    closed, held = [1.0] * size, [1.0] * size
    booked, realized, unrealized = [0.0] * size, [0.0] * size, [0.0] * size
    fees, dividends, count = [0.0] * size, [0.0] * size, [0] * size
    for position in positions:
        states = position.history()
        order_times = [at_ms for at_ms, _ in states]
        close_ms = position.state.close_ms
        end = size if close_ms is None else bisect_left(times, close_ms)
        for place in range(bisect_left(times, position.state.open_ms), end):
            at_ms = times[place]
            state = states[bisect_right(order_times, at_ms) - 1][1]
            pnl, gain = position.marked(state, market, at_ms)
            if close_ms is None and place == size - 1:
                pnl, gain = position.state.unrealized_pnl or 0.0, position.state.current_return
            realized[place] += state.realized_pnl or 0.0
            unrealized[place] += pnl
            held[place] *= gain
            count[place] += 1
        if end < size:
            booked[end] += position.state.realized_pnl or 0.0
            closed[end] *= position.state.return_at_close
        for amounts, events in ((fees, position.fee_amounts()), (dividends, position.dividend_amounts())):
            for at_ms, amount in events:
                if (place := bisect_left(times, at_ms)) < size:
                    amounts[place] += amount
    return Performance(
        account_size=account_size,
        times=times,
        returns=[a * b for a, b in zip(accumulate(closed, mul), held, strict=True)],
        realized=[a + b for a, b in zip(accumulate(booked), realized, strict=True)],
        unrealized=unrealized,
        fees=list(accumulate(fees)),
        dividends=list(accumulate(dividends)),
        open=count,
    )


# --- the perf ledger --------------------------------------------------------------------------------------


def perf_ledger(performance: Performance) -> dict[str, Any]:
    """Returns a ledger with a checkpoint for every 12 hours; the last one ends now."""
    checkpoints = []
    times = performance.times
    before, peak = 0, performance.returns[0]
    for cell, group in groupby(range(1, len(times)), key=lambda place: (times[place] - 1) // CHECKPOINT_MS):
        places = list(group)
        checkpoint, peak = _checkpoint(performance, before, places, peak)
        checkpoint["accum_ms"] = times[places[-1]] - cell * CHECKPOINT_MS
        checkpoints.append(checkpoint)
        before = places[-1]
    return {
        "initialization_time_ms": times[0],
        "max_return": peak,
        "target_cp_duration_ms": CHECKPOINT_MS,
        "target_ledger_window_ms": _WINDOW_MS,
        "cps": checkpoints,
    }


def _checkpoint(
    performance: Performance, before: int, places: list[int], peak: float
) -> tuple[dict[str, Any], float]:
    """Returns the checkpoint of these places, and the highest return until then."""
    last = places[-1]
    returns = [performance.returns[place] for place in (before, *places)]
    changes = [math.log(max(after, _RUINED) / max(value, _RUINED)) for value, after in pairwise(returns)]
    drawdown = 1.0
    for value in returns[1:]:
        peak = max(peak, value)
        drawdown = min(drawdown, value / peak)
    accumulated = performance.times[last] - performance.times[before]
    share_open = sum(performance.open[place] > 0 for place in places) / len(places)
    checkpoint = {
        "last_update_ms": performance.times[last],
        "prev_portfolio_ret": performance.returns[last],
        "prev_portfolio_realized_pnl": performance.realized[last],
        "prev_portfolio_unrealized_pnl": performance.unrealized[last],
        "accum_ms": accumulated,
        "open_ms": int(accumulated * share_open),
        "n_updates": int(accumulated * share_open) // 60_000,
        "gain": sum(change for change in changes if change > 0),
        "loss": sum(change for change in changes if change < 0),
        "mdd": drawdown,
        "mpv": max(returns),
        "realized_pnl": performance.realized[last] - performance.realized[before],
        "unrealized_pnl": performance.unrealized[last] - performance.unrealized[before],
        "equity_ret": performance.equity(last) / performance.account_size,
        "cumulative_fees_usd": performance.fees[last],
    }
    return checkpoint, peak


# --- statistics -------------------------------------------------------------------------------------------


def daily_returns(ledger: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the change of each UTC day in percent."""
    days = groupby(ledger["cps"], key=lambda cp: date_of(cp["last_update_ms"] - 1))
    return [
        {"date": day, "value": 100 * (math.exp(sum(cp["gain"] + cp["loss"] for cp in cps)) - 1)}
        for day, cps in days
    ]


def scores(ledger: dict[str, Any]) -> dict[str, float]:
    """Returns the measures by which miners are compared, and their volatility."""
    days = [day["value"] / 100 for day in daily_returns(ledger)] or [0.0]
    mean = statistics.fmean(days)
    deviation = statistics.pstdev(days)
    downside = math.sqrt(statistics.fmean(min(0.0, day) ** 2 for day in days))
    lost = -sum(day for day in days if day < 0)
    annual = mean * _DAYS_A_YEAR
    depth = 1 - drawdowns(ledger)["instantaneous_max_drawdown"]
    return {
        "calmar": annual / max(depth, 0.001),
        "sharpe": annual / max(deviation * math.sqrt(_DAYS_A_YEAR), 0.01),
        "omega": sum(day for day in days if day > 0) / max(lost, 0.0001),
        "sortino": annual / max(downside * math.sqrt(_DAYS_A_YEAR), 0.01),
        "statistical_confidence": mean / max(deviation, 0.0001) * math.sqrt(len(days)),
        "return": ledger["cps"][-1]["prev_portfolio_ret"] - 1 if ledger["cps"] else 0.0,
        "annual": deviation * math.sqrt(_DAYS_A_YEAR),
        "annual_downside": downside * math.sqrt(_DAYS_A_YEAR),
    }


def drawdowns(ledger: dict[str, Any]) -> dict[str, float]:
    """Returns the lowest fractions of an earlier peak, at any time and at the ends of days."""
    peak = lowest = 0.0
    deepest = 1.0
    for day in daily_returns(ledger):
        lowest += math.log(1 + day["value"] / 100)
        peak = max(peak, lowest)
        deepest = min(deepest, math.exp(lowest - peak))
    return {
        "instantaneous_max_drawdown": min((cp["mdd"] for cp in ledger["cps"]), default=1.0),
        "daily_max_drawdown": deepest,
    }


def ranked(values: dict[str, float]) -> dict[str, dict[str, float]]:
    """Returns each miner's value, rank (1 = highest) and percentile."""
    best_first = sorted(values, key=lambda hotkey: (-values[hotkey], hotkey))
    return {
        hotkey: {
            "value": values[hotkey],
            "rank": rank,
            "percentile": 100 * (len(best_first) - rank + 1) / len(best_first),
        }
        for rank, hotkey in enumerate(best_first, start=1)
    }


# --- account snapshots ------------------------------------------------------------------------------------


def snapshots(performance: Performance) -> list[dict[str, Any]]:
    """Returns the account at each time, as snapshots.jsonl lists it."""
    return [
        {
            "snapshot_ms": at_ms,
            "account_size": performance.account_size,
            "balance": performance.balance(place),
            "equity": performance.equity(place),
        }
        for place, at_ms in enumerate(performance.times)
    ]


def date_of(at_ms: int, form: str = "%Y-%m-%d") -> str:
    return datetime.fromtimestamp(at_ms / 1000, timezone.utc).strftime(form)
