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
    """A span of a perf ledger, about 12 hours.

    Older ledgers lack the amounts in USD, newer ones the spread and carry fees.
    """

    last_update_ms: int | None = None
    """End of the span so far. Unit: epoch ms. Null: malformed."""
    prev_portfolio_ret: float | None = None
    """Return at the end of the span. Unit: factor (1.0 = unchanged). Null: malformed."""
    prev_portfolio_realized_pnl: float | None = None
    """Realized profit until the end of the span. Unit: USD. Null: absent in older ledgers. Since: 2026."""
    prev_portfolio_unrealized_pnl: float | None = None
    """Unrealized profit at the end of the span. Unit: USD. Null: absent in older ledgers. Since: 2026."""
    prev_portfolio_spread_fee: float | None = None
    """Spread fees until the end of the span. Unit: factor (1.0 = none). Null: absent since 2026."""
    prev_portfolio_carry_fee: float | None = None
    """Carry fees until the end of the span. Unit: factor (1.0 = none). Null: absent since 2026."""
    accum_ms: int | None = None
    """Length of the span so far. Unit: ms. Null: malformed."""
    open_ms: int | None = None
    """Time within the span with an open position. Unit: ms. Null: malformed."""
    n_updates: int | None = None
    """Price updates in the span. Unit: count. Null: malformed."""
    gain: float | None = None
    """Sum of the upward moves, >= 0. Unit: logarithm of a factor. Null: malformed."""
    loss: float | None = None
    """Sum of the downward moves, <= 0. Unit: logarithm of a factor. Null: malformed."""
    spread_fee_loss: float | None = None
    """Part of `loss` that is spread fees, <= 0. Unit: logarithm of a factor. Null: absent since 2026."""
    carry_fee_loss: float | None = None
    """Part of `loss` that is carry fees, <= 0. Unit: logarithm of a factor. Null: absent since 2026."""
    mdd: float | None = None
    """Lowest return in the span as a share of the highest one until then: 0.97 = a drawdown of 3 %.

    Unit: fraction. Null: malformed.
    """
    mpv: float | None = None
    """Highest return in the span. Unit: factor (1.0 = unchanged). Null: malformed."""
    realized_pnl: float | None = None
    """Profit realized in the span. Unit: USD. Null: absent in older ledgers. Since: 2026."""
    unrealized_pnl: float | None = None
    """Change of the unrealized profit in the span. Unit: USD. Null: absent in older ledgers. Since: 2026."""
    equity_ret: float | None = None
    """Equity, fees included, relative to the account size.

    Unit: factor (1.0 = unchanged). Null: absent in older ledgers. Since: 2026.
    """
    cumulative_fees_usd: float | None = None
    """Fees until the end of the span. Unit: USD. Null: absent in older ledgers. Since: 2026."""


@summarised
class PerfLedger(msgspec.Struct, kw_only=True):
    """A miner's return over time, for the portfolio; in older files also per trade pair.

    - tp_id: Trade pair of the ledger, or `portfolio`. Null: absent in most files.
    """

    initialization_time_ms: int | None = None
    """Start of the ledger. Unit: epoch ms. Null: malformed."""
    max_return: float | None = None
    """Highest return so far. Unit: factor (1.0 = unchanged). Null: malformed."""
    target_cp_duration_ms: int | None = None
    """Intended length of a checkpoint: 43200000, 12 hours. Unit: ms. Null: malformed."""
    target_ledger_window_ms: int | None = None
    """How far the ledger reaches back: 180 days today. Unit: ms. Null: malformed."""
    last_known_prices: Any = None
    """By trade pair, [price, epoch ms] of the last price used.

    Type: list of number by key. Unit: quote currency, epoch ms. Null: absent in older files. Since: 2026.
    """
    cps: list[PerfCheckpoint] = msgspec.field(default_factory=list)
    """The checkpoints, oldest first."""

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
    """A miner's element of the statistics, as the validator wrote it.

    Keys without a fixed shape are kept unchanged, and any may be missing.

    - pnl_info: Profits, by kind. Null: absent in older files. Since: 2026.
    - pnl_info.*.value: The profit. Unit: USD.
    - pnl_info.*.rank: Place among the miners, from 1. Unit: place.
    - pnl_info.*.percentile: Standing among the miners, from 0 to 100. Unit: percent.
    - account_size_info: History of the account. Null: absent in older files. Since: 2026.
    - account_size_info.account_sizes: Account sizes, oldest first.
    - account_size_info.account_sizes.account_size: The account's size. Unit: USD.
    - account_size_info.account_sizes.timestamp_ms: Since when. Unit: epoch ms.
    - asset_class_performance: Figures by asset class. Null: absent in older files. Since: 2026.
    - asset_class_performance.*.n_positions: Positions in the class. Unit: count.
    - asset_class_performance.*.pnl: Profit in the class. Unit: USD.
    """

    hotkey: str
    """The miner."""
    challengeperiod: Any = None
    """The miner's place in the challenge period. Null: not computed.

    - status: testing, success and others.
    - start_time_ms: When the bucket was entered. Unit: epoch ms. Null: absent in some files.
    - remaining_time_ms: Time left in the challenge period; 0 once passed. Unit: ms. Null: absent in some
      files.
    """
    scores: Any = None
    """By measure (calmar, sharpe, omega, sortino, statistical_confidence, return), the miner's score. Null:
    not computed.

    - *.value: The measure. Unit: ratio.
    - *.rank: Place among the miners, from 1. Unit: place.
    - *.percentile: Standing among the miners; a percentage in files of today, a fraction in some older ones.
      Unit: percent.
    - *.overall_contribution: Part of the total score. Unit: fraction. Null: absent in some files.
    """
    augmented_scores: Any = None
    """As `scores`, with recent days weighted more. Null: not computed.

    - *.value: The measure. Unit: ratio.
    - *.rank: Place among the miners, from 1. Unit: place.
    - *.percentile: Standing among the miners, as in `scores`. Unit: percent.
    - *.overall_contribution: Part of the total score. Unit: fraction. Null: absent in some files.
    """
    daily_returns: Any = None
    """Return of each day, oldest first. Null: not computed.

    - date: The UTC day. Unit: YYYY-MM-DD.
    - value: The return: 0.2 = 0.2 % gained. Unit: percent.
    """
    volatility: Any = None
    """Standard deviation of the daily returns, annualised. Null: not computed.

    - annual: Of all days. Unit: fraction per year.
    - annual_downside: Of the days with a loss. Unit: fraction per year.
    """
    drawdowns: Any = None
    """Deepest drawdowns of the portfolio, as the share that was left: 0.97 = 3 % lost. `/miners` has the loss
    itself, as `drawdown`. Null: not computed.

    - instantaneous_max_drawdown: Lowest return as a share of the highest one before, at any time. Unit:
      fraction.
    - daily_max_drawdown: The same, at the ends of days. Unit: fraction.
    """
    plagiarism: Any = None
    """Similarity with other miners, from 0 to 1. Unit: fraction. Null: not computed."""
    engagement: Any = None
    """How much the miner trades. Null: not computed.

    - n_checkpoints: Checkpoints of the perf ledger. Unit: count.
    - n_positions: Positions. Unit: count. Null: absent in some files.
    - position_duration: Average duration of a position. Type: number. Unit: ms. Null: absent in some files.
    - checkpoint_durations: Total length of the checkpoints. Unit: ms. Null: absent in some files.
    """
    risk_profile: Any = None
    """How risky the miner trades. Null: not computed.

    - risk_profile_score: The score, 0 = not risky. Unit: ratio. Null: absent in some files.
    - risk_profile_penalty: The penalty that follows from it. Unit: factor (1.0 = none). Null: absent in some
      files.
    """
    penalties: Any = None
    """Penalties on the score, by kind. Null: not computed.

    - *: The penalty; `total` is their product. Unit: factor (1.0 = none).
    """
    weight: Any = None
    """The weight that the validator sets for the miner. Null: not computed.

    - value: The weight. Unit: fraction of all weights.
    - rank: Place among the miners, from 1. Unit: place.
    - percentile: Standing among the miners, as in `scores`. Unit: percent.
    """
    checkpoints: list[PerfCheckpoint] | None = None
    """The portfolio's perf ledger. Absent: with `checkpoints=false`."""

    def _summary(self) -> Summary:
        return Summary(f"MinerStatistics({self.hotkey}, weight {_value_of(self.weight)})")


@summarised
class Statistics(msgspec.Struct, kw_only=True):
    """The validator's statistics of all miners, `minerstatistics.json`.

    - network_data: Figures of the network; the shape is not fixed. Type: object. Null: absent in older files.
      Since: 2026.
    """

    version: Any = None
    """Version of the validator's software. Type: text. Null: absent in some files."""
    created_timestamp_ms: int | None = None
    """When the validator computed it. Unit: epoch ms. Null: absent in some files."""
    created_date: str | None = None
    """The same, as UTC date and time. Unit: YYYY-MM-DD HH:MM:SS. Null: absent in some files."""
    data: list[MinerStatistics] = msgspec.field(default_factory=list)
    """An element for each miner."""
    constants: Any = None
    """The network's configuration, by name; `SET_WEIGHT_LOOKBACK_RANGE_DAYS` is the lookback of
    `thirty_day_returns`. Null: absent in some files.

    - *: The constant. Type: anything.
    """

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
    """A miner that was excluded from the competition."""

    hotkey: str
    """The miner."""
    elimination_initiated_time_ms: int | None = None
    """When. Unit: epoch ms. Null: unknown."""
    dd: float | None = None
    """Drawdown that led to it: 8.5 percent, or 0.915 as the share that was left; validators differ.

    Unit: percent or fraction. Null: another reason.
    """
    reason: str | None = None
    """ZOMBIE, PLAGIARISM, MAX_TOTAL_DRAWDOWN, LIQUIDATED, FAILED_CHALLENGE_PERIOD_TIME and others; an open
    set.

    Null: unknown.
    """
    price_info: Any = None
    """Prices that the positions were closed at, by trade pair. Null: absent in older files. Since: 2026.

    - *: The price. Unit: quote currency.
    """
    return_info: Any = None
    """Returns at the elimination; the shape is not fixed.

    Type: object. Null: absent in older files. Since: 2026.
    """

    def _summary(self) -> Summary:
        when = time_text(self.elimination_initiated_time_ms)
        return Summary(f"Elimination({self.hotkey}, {self.reason}, {when})")


class Eliminations(msgspec.Struct, kw_only=True):
    """The eliminations document, as in the validator's `eliminations.json`."""

    eliminations: list[Elimination] = msgspec.field(default_factory=list)
    """The eliminated miners, oldest first."""
