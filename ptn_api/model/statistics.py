"""The validator's documents about miners: statistics, perf ledgers and eliminations.

For reading: every key is optional, unknown keys are ignored. Returns are factors, times epoch milliseconds.
"""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import msgspec

from ptn_api.model.miner import DEFAULT_LOOKBACK_DAYS
from ptn_api.summary import Summary, number, summarised, time_text

__all__ = [
    "CURVE_POINTS",
    "Elimination",
    "Eliminations",
    "MinerStatistics",
    "PerfCheckpoint",
    "PerfLedger",
    "Performance",
    "Statistics",
    "lookback_days",
    "performance_of",
]


_MOST_DAYS = 100_000
"""More than any validator looks back; a larger number is an error."""


class PerfCheckpoint(msgspec.Struct, kw_only=True):
    """A span of a perf ledger: `gain` (>= 0), `loss` and fee losses (<= 0) are logarithms of factors.

    `realized_pnl`, `unrealized_pnl` and `cumulative_fees_usd` are in USD; older ledgers lack them.
    """

    last_update_ms: int | None = None
    prev_portfolio_ret: float | None = None
    prev_portfolio_realized_pnl: float | None = None
    prev_portfolio_unrealized_pnl: float | None = None
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
    realized_pnl: float | None = None
    unrealized_pnl: float | None = None
    equity_ret: float | None = None
    cumulative_fees_usd: float | None = None


@summarised
class PerfLedger(msgspec.Struct, kw_only=True):
    """A miner's return over time, for the portfolio or one trade pair.

    `last_known_prices` is {pair: [price, epoch ms]}.
    """

    initialization_time_ms: int | None = None
    max_return: float | None = None
    target_cp_duration_ms: int | None = None
    target_ledger_window_ms: int | None = None
    last_known_prices: Any = None
    cps: list[PerfCheckpoint] = msgspec.field(default_factory=list)

    def _summary(self) -> Summary:
        return Summary(
            f"perf ledger of {len(self.cps):,} checkpoints, oldest first",
            ("updated", "return", "gain", "loss", "drawdown factor"),
            (
                (
                    time_text(point.last_update_ms),
                    number(point.prev_portfolio_ret, ".5f"),
                    number(point.gain, ".5f"),
                    number(point.loss, ".5f"),
                    number(point.mdd, ".5f"),
                )
                for point in self.cps
            ),
            len(self.cps),
        )


CURVE_POINTS = 60
_DECIMALS = 5
"""Of drawdown and curve: all of them would double the size of the leaderboard."""


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """A perf ledger in brief, with the values of `LeaderboardEntry`."""

    drawdown: float | None = None
    curve: list[tuple[int, float]] | None = None


class _Point(msgspec.Struct):
    """The part of a checkpoint that enters a miner's performance."""

    last_update_ms: Annotated[float, msgspec.Meta(ge=0, lt=1 << 53)] | None = None
    prev_portfolio_ret: float | None = None
    mdd: float | None = None


class _Points(msgspec.Struct):
    cps: list[_Point] = []


class _RawPoints(msgspec.Struct):
    cps: list[msgspec.Raw] = []


_points = msgspec.json.Decoder(_Points)
_raw_points = msgspec.json.Decoder(_RawPoints)
_point = msgspec.json.Decoder(_Point)


def performance_of(ledger: bytes | msgspec.Raw) -> Performance:
    """Returns the performance in a ledger; malformed checkpoints are skipped.

    `mdd` is a checkpoint's lowest return as a share of the highest one until then.
    """
    points: list[_Point] = []
    try:
        points = _points.decode(ledger).cps
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            for raw in _raw_points.decode(ledger).cps:
                with contextlib.suppress(msgspec.ValidationError):
                    points.append(_point.decode(raw))
    lowest = min([point.mdd for point in points if point.mdd is not None], default=None)
    curve = sorted(
        [
            (point.last_update_ms, point.prev_portfolio_ret)
            for point in points
            if point.last_update_ms is not None and point.prev_portfolio_ret is not None
        ]
    )
    if len(curve) > CURVE_POINTS:
        last = len(curve) - 1
        curve = [curve[n * last // (CURVE_POINTS - 1)] for n in range(CURVE_POINTS)]
    return Performance(
        drawdown=None if lowest is None else round(min(max(1 - lowest, 0.0), 1.0), _DECIMALS),
        curve=[(int(ms), round(value, _DECIMALS)) for ms, value in curve] or None,
    )


@summarised
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

    def _summary(self) -> Summary:
        return Summary(f"MinerStatistics({self.hotkey}, weight {_value_of(self.weight)})")


@summarised
class Statistics(msgspec.Struct, kw_only=True):
    """The statistics document."""

    version: Any = None
    created_timestamp_ms: int | None = None
    created_date: str | None = None
    data: list[MinerStatistics] = msgspec.field(default_factory=list)
    constants: Any = None

    def _summary(self) -> Summary:
        return Summary(
            f"statistics of {len(self.data):,} miners, {time_text(self.created_timestamp_ms)}",
            ("miner", "weight", "omega", "sharpe"),
            (
                (
                    miner.hotkey,
                    _value_of(miner.weight),
                    *(_value_of(scores.get(name)) for name in ("omega", "sharpe")),
                )
                for miner in self.data
                for scores in [miner.scores if isinstance(miner.scores, dict) else {}]
            ),
            len(self.data),
        )


def _value_of(score: Any) -> str:
    value = score.get("value") if isinstance(score, dict) else score
    return number(value, ".5f") if isinstance(value, int | float) else ""


def lookback_days(constants: Any) -> float:
    """Returns the days that `thirty_day_returns` looks back, as the statistics' `constants` state them."""
    days = constants.get("SET_WEIGHT_LOOKBACK_RANGE_DAYS") if isinstance(constants, dict) else None
    if isinstance(days, int | float) and not isinstance(days, bool) and 0 < days < _MOST_DAYS:
        return days
    return DEFAULT_LOOKBACK_DAYS


@summarised
class Elimination(msgspec.Struct, kw_only=True):
    """A miner that was excluded from the competition.

    `dd` is the drawdown, if that was the reason: a percentage or a factor, the validators differ.
    """

    hotkey: str
    elimination_initiated_time_ms: int | None = None
    dd: float | None = None
    reason: str | None = None
    price_info: Any = None
    return_info: Any = None

    def _summary(self) -> Summary:
        when = time_text(self.elimination_initiated_time_ms)
        return Summary(f"Elimination({self.hotkey}, {self.reason}, {when})")


class Eliminations(msgspec.Struct, kw_only=True):
    """The eliminations document."""

    eliminations: list[Elimination] = msgspec.field(default_factory=list)
